"""Environments that are served together, as a file tells them.

Its form::

    environments:
      echo: {target: echo}
      cart:
        target: gymnasium
        params: {id: CartPole-v1}
        vector: 64
        max_sessions: 32
      code:
        target: coding
        workers: 2
        timeouts: {step: 20, idle: 600}

The name of each is its path. Settings that are left out are those of the command line.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any

import msgspec

from openenv_async.engine.options import EngineOptions
from openenv_async.errors import InvalidOption
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.discovery import find_target
from openenv_async.types import Timeouts

__all__ = ["ServedEnvironment", "from_file"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class ServedEnvironment(msgspec.Struct, forbid_unknown_fields=True, dict=True):
    """One environment and its settings.

    Attributes:
        target: as of ``openenv-async serve``.
        params: constructor arguments.
        vector: a session is a vector of so many.
        max_sessions, max_waiting, workers, max_threads: as of ``EngineOptions``.
        timeouts: seconds by the name of the deadline, 0 for none.
    """

    target: str
    params: dict[str, Any] = {}
    vector: Count | None = None
    max_sessions: Count | None = None
    max_waiting: Annotated[int, msgspec.Meta(ge=0)] | None = None
    workers: Count | None = None
    max_threads: Count | None = None
    timeouts: dict[str, Seconds] = {}

    @functools.cached_property
    def spec(self) -> EnvironmentSpec:
        """The environment itself.

        Raises:
            TargetNotFound, TypeError: there is none, or it cannot be served.
        """
        if self.vector is None:
            spec = find_target(self.target, self.params, run_apps=True)
        else:
            spec = find_target(self.target).vectorized(self.vector, self.params)
        spec.check()
        return spec

    def options(self, usual: EngineOptions) -> EngineOptions:
        """Return the engine's options: its own, else the usual ones.

        Raises:
            InvalidOption: there is no such deadline.
        """
        names = ("max_sessions", "max_waiting", "workers", "max_threads")
        own = {name: value for name in names if (value := getattr(self, name)) is not None}
        known = [field.name for field in dataclasses.fields(Timeouts)]
        for name in self.timeouts:
            if name not in known:
                raise InvalidOption(
                    f"no deadline is called {name!r:.80}: there are {', '.join(known)}",
                    option="timeouts",
                )
        deadlines = {name: seconds or None for name, seconds in self.timeouts.items()}
        timeouts = dataclasses.replace(usual.timeouts, **deadlines)
        return dataclasses.replace(usual, timeouts=timeouts, **own)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    environments: dict[str, ServedEnvironment]


def from_file(path: str | Path) -> dict[str, ServedEnvironment]:
    """Return the environments that a YAML file names, in its order.

    Raises:
        InvalidOption: it is not YAML of this form.
    """
    try:
        return msgspec.yaml.decode(Path(path).read_bytes(), type=_File).environments
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidOption(f"{path}: {exc}", option="config") from exc

"""Environments that are served together and the tokens of those who use them, as a file tells them.

Its form, in YAML or, where its name ends in ``.toml``, in TOML::

    environments:
      echo: {target: echo}
      cart:
        target: gymnasium
        params: {id: CartPole-v1}
        vector: 64
        max_sessions: 32
        labels: {tier: classic}
      code:
        target: coding
        isolation: process
        timeouts: {step: 20, idle: 600}
    tokens:
      red:
        digest: sha256:2f1c…
        environments: [echo, cart]
        max_sessions: 64
        steps_per_second: 1000
        labels: {group: research}
      ops: {digest: sha256:9b0e…, admin: true}

The name of each environment is its path. Settings that are left out are those of the command line.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import functools
import re
import tomllib
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from openenv_async.engine.callers import Caller, Quota
from openenv_async.engine.options import EngineOptions
from openenv_async.errors import InvalidOption
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.discovery import find_target
from openenv_async.types import Timeouts

__all__ = ["NamedToken", "ServedEnvironment", "ServerConfig", "from_file"]

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_LABEL: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN_LABELS: Final = frozenset({"environment", "token", "quota", "version", "le"})
_MAX_LABELS: Final = 8
_MAX_LABEL_SIZE: Final = 100
_MAX_TOKENS: Final = 1000
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(gt=0)]


class NamedToken(msgspec.Struct, forbid_unknown_fields=True):
    """A token, and what its holder may do.

    Attributes:
        digest: ``sha256:`` and 64 hex digits, as ``openenv-async token NAME`` prints it; several
            while it is being replaced by another.
        admin: may drain and reload the server, and sees all sessions.
        environments: names of those that it opens; all by default.
        max_sessions, steps_per_second, burst, bytes_per_second: as of ``Quota``.
        expires: a date, or a time with its zone.
        labels: in metrics.
    """

    digest: str | list[str]
    admin: bool = False
    environments: list[str] | None = None
    max_sessions: Count | None = None
    steps_per_second: Rate | None = None
    burst: Rate | None = None
    bytes_per_second: Rate | None = None
    expires: Any = None
    labels: dict[str, str] = {}

    def caller(self, name: str, environments: Mapping[str, Any]) -> Caller:
        """Return its holder.

        Args:
            name: of the token.
            environments: that are served.

        Raises:
            InvalidOption: a setting is wrong.
        """
        for each in self.environments or ():
            if environments and each not in environments:
                raise _wrong(
                    f"tokens.{name}.environments",
                    f"no environment {each!r:.80}{_near(each, environments)}",
                )
        if self.burst is not None and self.steps_per_second is None:
            raise _wrong(f"tokens.{name}.burst", "it belongs to steps_per_second, which is not set")
        _check_labels(f"tokens.{name}.labels", self.labels)
        quota = Quota(self.max_sessions, self.steps_per_second, self.burst, self.bytes_per_second)
        return Caller(
            name,
            is_admin=self.admin,
            environments=self.environments,
            quota=quota,
            labels=self.labels,
            expires_at=_expiry(f"tokens.{name}.expires", self.expires),
        )

    def digests(self, name: str) -> list[bytes]:
        """Return its digests, 32 bytes each.

        Raises:
            InvalidOption: one is none.
        """
        found = []
        for each in [self.digest] if isinstance(self.digest, str) else self.digest:
            match = _DIGEST.fullmatch(each)
            if match is None:
                raise _wrong(
                    f"tokens.{name}.digest",
                    "it must be sha256: and 64 hex digits, as `openenv-async token NAME` prints it"
                    " (the token itself is never in the file)",
                )
            found.append(bytes.fromhex(match[1]))
        return found


class ServedEnvironment(msgspec.Struct, forbid_unknown_fields=True, dict=True):
    """One environment and its settings.

    Attributes:
        target: as of ``openenv-async serve``.
        params: constructor arguments.
        vector: a session is a vector of so many.
        isolation: where its calls run, in place of what its class declares.
        labels: in metrics.
        max_sessions, max_waiting, workers, max_threads: as of ``EngineOptions``.
        timeouts: seconds by the name of the deadline, 0 for none.
    """

    target: str
    params: dict[str, Any] = {}
    vector: Count | None = None
    isolation: Literal["inline", "thread", "process"] | None = None
    labels: dict[str, str] = {}
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
            InvalidOption: its calls cannot run where they are to.
        """
        if self.vector is None:
            spec = find_target(self.target, self.params, run_apps=True)
        else:
            spec = find_target(self.target).vectorized(self.vector, self.params)
        if self.isolation is not None:
            spec.isolate(self.isolation)
        spec.check()
        return spec

    def fixed(self) -> dict[str, Any]:
        """Return the settings that hold for as long as it is served."""
        names = ("target", "params", "vector", "isolation", "workers", "max_threads")
        return {name: getattr(self, name) for name in names}

    def live(self) -> dict[str, Any]:
        """Return those that may change meanwhile."""
        return {name: getattr(self, name) for name in ("max_sessions", "max_waiting", "timeouts")}

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
                    f"no deadline is called {name!r:.80}{_near(name, known)}: there are"
                    f" {', '.join(known)}",
                    option="timeouts",
                )
        deadlines = {name: seconds or None for name, seconds in self.timeouts.items()}
        timeouts = dataclasses.replace(usual.timeouts, **deadlines)
        return dataclasses.replace(usual, timeouts=timeouts, **own)


class ServerConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file.

    Attributes:
        environments: by name.
        tokens: by name; where there are any, every request needs one of them.
    """

    environments: dict[str, ServedEnvironment] = {}
    tokens: dict[str, NamedToken] = {}

    def callers(self, environments: Mapping[str, Any]) -> list[tuple[Caller, list[bytes]]]:
        """Return the holders of the tokens with their digests.

        Args:
            environments: that are served.

        Raises:
            InvalidOption: a setting is wrong, or two tokens are the same.
        """
        if len(self.tokens) > _MAX_TOKENS:
            raise _wrong("tokens", f"there are {len(self.tokens)}, and may be {_MAX_TOKENS}")
        held = [
            (token.caller(name, environments), token.digests(name))
            for name, token in self.tokens.items()
        ]
        seen: dict[bytes, str | None] = {}
        for caller, digests in held:
            for digest in digests:
                if digest in seen:
                    raise _wrong(
                        f"tokens.{caller.name}.digest", f"it is also that of {seen[digest]!r:.80}"
                    )
                seen[digest] = caller.name
        labels = {name for caller, _ in held for name in caller.labels}
        if len(labels) > _MAX_LABELS:
            raise _wrong("tokens", f"they have {len(labels)} labels, and may have {_MAX_LABELS}")
        return held


def from_file(path: str | Path) -> ServerConfig:
    """Return what a YAML or TOML file says.

    Raises:
        InvalidOption: it cannot be read, or is not of this form.
    """
    path = Path(path)
    try:
        octets = path.read_bytes()
        raw: Any = (
            tomllib.loads(octets.decode())
            if path.suffix == ".toml"
            else msgspec.yaml.decode(octets)
        )
        if not isinstance(raw, dict):
            raise _wrong("", "it must be a map with `environments`, `tokens` or both")
        for problem in _unknown_keys(raw, ServerConfig, ""):
            raise problem
        config = msgspec.convert(raw, ServerConfig)
        for name, each in config.environments.items():
            _check_labels(f"environments.{name}.labels", each.labels)
    except InvalidOption as exc:
        raise InvalidOption(f"{path}: {exc.message}", option="config") from exc
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
        raise InvalidOption(f"{path}: {exc}", option="config") from exc
    return config


def _unknown_keys(raw: Any, kind: Any, place: str) -> Iterator[InvalidOption]:
    """The keys of a map that its kind does not have, each with the nearest one that it has."""
    if not isinstance(raw, dict):
        return
    if get_origin(kind) is dict:
        inner = get_args(kind)[1]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            for name, value in raw.items():
                yield from _unknown_keys(value, inner, f"{place}.{name}".lstrip("."))
        return
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return
    hints = get_type_hints(kind)
    known = kind.__struct_fields__
    for name, value in raw.items():
        if name not in known:
            yield _wrong(
                place,
                f"there is no key {name!r:.80}{_near(name, known)}: it may have {', '.join(known)}",
            )
        else:
            yield from _unknown_keys(value, hints[name], f"{place}.{name}".lstrip("."))


def _near(name: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(name), [*known], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _wrong(place: str, text: str) -> InvalidOption:
    return InvalidOption(f"{place}: {text}" if place else text, option="config")


def _check_labels(place: str, labels: Mapping[str, str]) -> None:
    """Check labels of metrics, whose number and size are bounded.

    Raises:
        InvalidOption: one cannot be had.
    """
    if len(labels) > _MAX_LABELS:
        raise _wrong(place, f"there are {len(labels)}, and may be {_MAX_LABELS}")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name) or name in _TAKEN_LABELS:
            raise _wrong(
                place,
                f"{name!r:.80} cannot be one: a label has small letters, digits and '_', and is"
                f" none of {', '.join(sorted(_TAKEN_LABELS))}",
            )
        if len(value) > _MAX_LABEL_SIZE:
            raise _wrong(place, f"the value of {name} is longer than {_MAX_LABEL_SIZE} characters")


def _expiry(place: str, told: Any) -> float:
    """Return when a token ends, in seconds since the epoch.

    Raises:
        InvalidOption: it is neither a date nor a time.
    """
    if told is None:
        return inf
    try:
        moment = datetime.datetime.fromisoformat(told) if isinstance(told, str) else told
    except ValueError:
        moment = None
    if isinstance(moment, datetime.date) and not isinstance(moment, datetime.datetime):
        moment = datetime.datetime(moment.year, moment.month, moment.day)
    if not isinstance(moment, datetime.datetime):
        raise _wrong(place, "it must be a date, 2027-01-31, or a time, 2027-01-31T12:00:00Z")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()

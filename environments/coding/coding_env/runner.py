"""The interface between the environment and the interpreters that run its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from coding_env.sandbox import Execution, Limits, Sandbox
from coding_env.sandbox.packages import locate
from openenv_async.errors import InvalidOption

__all__ = ["Interpreter", "Runner", "make_runner"]

Interpreter = Literal["cpython", "monty"]


class Runner(Protocol):
    """An interpreter that can be started again and again; ``sandbox.Sandbox`` is one."""

    usable: bool

    async def start(self, seed: int = 0) -> None:
        """A fresh interpreter."""

    async def execute(
        self, code: str, timeout: float = 30.0, *, stdin: str | None = None
    ) -> Execution:
        """Run code."""

    async def write(self, files: Mapping[str, str], timeout: float = 30.0) -> Execution:
        """Write files, by relative path."""

    async def read(self, names: Sequence[str], timeout: float = 30.0) -> Execution:
        """Read files; ``reply.files`` has those there are."""

    async def call(self, function: str, args: list[Any], timeout: float = 30.0) -> Execution:
        """Call a function; ``result`` has its value as canonical text."""

    async def aclose(self) -> None:
        """End it."""


def make_runner(interpreter: str, limits: Limits, packages: tuple[str, ...]) -> Runner:
    """A runner, not yet started.

    Raises:
        InvalidOption: there is no such interpreter or package, or it is not installed.
    """
    if interpreter == "cpython":
        locate(packages)
        return Sandbox(limits, packages=packages)
    if packages:
        raise InvalidOption("packages need interpreter='cpython': Monty imports none")
    if interpreter != "monty":
        raise InvalidOption(f"interpreter is {interpreter!r}: choose cpython or monty")
    try:
        from coding_env.monty import MontyRunner
    except ModuleNotFoundError as exc:
        raise InvalidOption(
            "interpreter='monty' needs the extra: pip install 'openenv-async-coding[monty]'"
        ) from exc
    return MontyRunner(limits)

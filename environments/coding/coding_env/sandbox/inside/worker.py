"""The worker: runs what it is sent, one request at a time, in one namespace.

The memory of this process belongs to the code that it runs, this module included: nothing here
protects the server, which believes none of it. Its work is to behave like an interpreter for code
that means no harm.
"""

from __future__ import annotations

import builtins
import gc
import io
import linecache
import os
import random
import signal
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, Final

from . import wire
from .canonical import canonical

__all__ = ["Interrupted", "Worker"]

_NAMES: Final = {
    "__builtins__": {},
    "nan": float("nan"),
    "inf": float("inf"),
    "set": set,
    "frozenset": frozenset,
}
"""Names in the ``repr`` of arguments that are not literals."""
_REPR: Final = 200
"""Characters of a variable's repr that are shown."""
_DEEP: Final = 2000
_SHOWN_FRAMES: Final = 50
"""Innermost frames of a traceback that is deeper than ``_DEEP``: each costs time."""


class Interrupted(BaseException):
    """Raised in code whose time is up."""


class Worker:
    """One interpreter.

    Args:
        folder: its private folder, which is also its working directory.
        seed: of the module ``random``, and of those in numpy and torch where packages have them.
        functions: names of what is answered by the server.
    """

    def __init__(self, folder: str, seed: int, functions: list[str]) -> None:
        self._running = False
        self._id = ""
        self._steps = 0
        self._reserve: bytearray | None = bytearray(1 << 18)
        self._main = types.ModuleType("__main__")
        self._main.__dict__["__builtins__"] = builtins
        for name in functions:
            setattr(self._main, name, self._remote(name))
        self._given = set(vars(self._main))
        sys.modules["__main__"] = self._main
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  # for as long as the process lives
        sys.stdout = self._out = _stream(1)
        sys.stderr = self._err = _stream(2)
        sys.argv = [""]
        sys.path.insert(0, folder)
        os.environ["HOME"] = os.environ["TMPDIR"] = folder
        _seed(seed)
        signal.signal(signal.SIGINT, self._interrupt)
        gc.enable()

    def serve(self) -> None:
        """Answer requests until the server lets go."""
        operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "exec": self._exec,
            "call": self._call,
            "set": self._set,
            "variables": self._variables,
        }
        while True:
            try:
                request = wire.receive()
            except EOFError:
                return
            self._id = request["id"]
            reply = operations[request["op"]](request)
            wire.send({"id": self._id, **reply})

    # -- operations --

    def _exec(self, request: dict[str, Any]) -> dict[str, Any]:
        hidden, code = request["hidden"], request["code"]
        self._steps += not hidden
        name = "<prelude>" if hidden else f"<step {self._steps}>"
        linecache.cache[name] = (len(code), None, f"{code}\n".splitlines(keepends=True), name)
        reply = self._guarded(lambda: exec(compile(code, name, "exec"), vars(self._main)))
        if hidden:
            self._given.update(vars(self._main))
        return reply

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call a function and give its result as text."""
        result = ""

        def call() -> None:
            nonlocal result
            function = vars(self._main)[request["function"]]
            result = canonical(function(*eval(request["args"], dict(_NAMES))))

        return {**self._guarded(call), "result": result}

    def _set(self, request: dict[str, Any]) -> dict[str, Any]:
        vars(self._main).update(request["values"])
        self._given.difference_update(request["values"])
        return {}

    def _variables(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the code's variables: the start of each repr, and those asked for whole."""
        found = vars(self._main)
        shown = {
            name: self._shown(found[name])
            for name in list(found)
            if name not in self._given and not name.startswith("_")
        }
        asked = {name: found[name] for name in request["names"] if name in found}
        texts: dict[str, Any] = {}

        def read() -> None:
            for name, value in asked.items():
                texts[name] = (
                    {str(k): str(v) for k, v in value.items()}
                    if (type(value) is dict)
                    else str(value)
                )

        return {**self._guarded(read), "variables": shown, "asked": texts}

    # -- how code is run --

    def _guarded(self, run: Callable[[], None]) -> dict[str, Any]:
        """Run it; what it raises goes to stderr, as in an interpreter."""
        exit_code, error = 0, ""
        try:
            try:
                self._running = True
                run()
            except SystemExit as exc:
                self._running = False
                exit_code, error = self._exited(exc.code)
            except Interrupted:
                self._running = False
                exit_code, error = -1, "Interrupted"
            except BaseException as exc:
                self._running = False
                self._reserve = None  # for the case that memory ran out
                exit_code, error = 1, type(exc).__name__
                self._print_exception(exc)
            finally:
                self._running = False
                self._flush()
        except BaseException as exc:  # the interrupt came late, or the code broke its own streams
            self._running = False
            exit_code, error = (
                (-1, "Interrupted")
                if isinstance(exc, Interrupted)
                else (exit_code or 1, error or type(exc).__name__)
            )
        return {"exit_code": exit_code, "error_type": error}

    def _exited(self, code: object) -> tuple[int, str]:
        if code is None or isinstance(code, int):
            return (int(code or 0) & 0xFF), "SystemExit" if code else ""
        print(code, file=self._err)
        return 1, "SystemExit"

    def _print_exception(self, exc: BaseException) -> None:
        """Print an exception as an interpreter does, but for the frames of this module."""
        try:
            limit = None if _depth(exc) < _DEEP else -_SHOWN_FRAMES
            told = traceback.TracebackException.from_exception(exc, limit=limit)
            chain: traceback.TracebackException | None = told
            for _ in range(20):
                if chain is None:
                    break
                kept = [frame for frame in chain.stack if frame.filename != __file__]
                chain.stack = traceback.StackSummary.from_list(kept)
                chain = chain.__cause__ or chain.__context__
            text = "".join(told.format())
        except Exception:  # of the code's own classes
            text = f"{type(exc).__name__}\n"
        self._err.write(text)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr, self._out, self._err):
            try:
                stream.flush()
            except Exception:  # the code's own stream, or one that it closed
                continue

    def _interrupt(self, number: int, frame: object) -> None:
        if self._running:
            raise Interrupted

    def _shown(self, value: object) -> str:
        try:
            text = repr(value)
        except BaseException as exc:  # of the code's own classes
            text = f"<{type(value).__name__}: {type(exc).__name__}>"
        return text if len(text) <= _REPR else text[:_REPR] + "…"

    def _remote(self, name: str) -> Callable[..., Any]:
        def function(*args: Any) -> Any:
            wire.send({"id": self._id, "call": name, "args": args})
            answer = wire.receive()
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']}")
            return answer["value"]

        function.__name__ = function.__qualname__ = name
        return function


def _seed(seed: int) -> None:
    """Begin the random numbers at the seed, also those of packages.

    A module that the zygote imported has one state for all workers that are forked from it.
    """
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % (1 << 32))
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed % (1 << 63))


def _depth(exc: BaseException) -> int:
    trace, depth = exc.__traceback__, 0
    while trace is not None and depth < _DEEP:
        trace, depth = trace.tb_next, depth + 1
    return depth


def _stream(fd: int) -> io.TextIOWrapper:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", newline="\n", closefd=False)

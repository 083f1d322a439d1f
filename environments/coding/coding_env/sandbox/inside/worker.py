"""The worker: runs what it is sent, one request at a time, in one namespace.

The memory of this process belongs to the code that it runs, this module included: nothing here
protects the server, which believes none of it. Its work is to behave like an interpreter for code
that means no harm.
"""

from __future__ import annotations

import ast
import base64
import builtins
import gc
import io
import json
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
from .objects import Objects

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
_VALUE: Final = 10_000
"""Characters of the repr of a last expression that are shown."""
_MAX_FILES_SIZE: Final = 1 << 19
"""Bytes of all files of a reply, as JSON: less than the server takes."""
_DATA: Final = "data:;base64,"
"""The start of a file's text that stands for bytes."""
_FLAGS: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_CO_COROUTINE: Final = 0x80
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
        self._folder = folder
        self._fed = False
        self._loop: Any = None
        self._main = types.ModuleType("__main__")
        self._main.__dict__["__builtins__"] = builtins
        for name in functions:
            setattr(self._main, name, self._remote(name))
        self._given = set(vars(self._main))
        self._objects = Objects(self._main, self._remote("_callback"), self._awaited)
        sys.modules["__main__"] = self._main
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
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
            "write": self._write,
            "read": self._read,
            "object": self._object,
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
        value = ""

        def run() -> None:
            nonlocal value
            self._feed(request["stdin"])
            value = self._run(code, name)

        reply = self._guarded(run)
        if hidden:
            self._given.update(vars(self._main))
            value = ""
        return {**reply, "value": value}

    def _run(self, code: str, name: str) -> str:
        """Run a module's text; gives the repr of its last expression, empty for None."""
        tree = compile(code, name, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        self._evaluated(compile(tree, name, "exec", _FLAGS, dont_inherit=True))
        if last is None:
            return ""
        value = self._evaluated(compile(last, name, "eval", _FLAGS, dont_inherit=True))
        if value is None:
            return ""
        text = repr(value).encode("utf-8", "backslashreplace").decode()
        return text if len(text) <= _VALUE else f"{text[:_VALUE]}…"

    def _evaluated(self, code: types.CodeType) -> Any:
        value = eval(code, vars(self._main))
        return self._awaited(value) if code.co_flags & _CO_COROUTINE else value

    def _awaited(self, coroutine: Any) -> Any:
        """Run a coroutine on the interpreter's loop, on which tasks live from step to step."""
        import asyncio  # by those alone who need it: it takes 50 ms

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()

        async def waiting() -> Any:
            return await coroutine

        task = self._loop.create_task(waiting())
        try:
            return self._loop.run_until_complete(task)
        finally:
            if not task.done():
                task.cancel()  # when the loop runs again

    def _feed(self, text: str | None) -> None:
        """Let standard input be this text, by descriptor too; nothing if there is none."""
        if text is None and not self._fed:
            return
        path = "/dev/null"
        if text is not None:
            path = os.path.join(self._folder, ".stdin")
            with open(path, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
                file.write(text)
        fd = os.open(path, os.O_RDONLY)
        os.dup2(fd, 0)
        os.close(fd)
        if text is not None:
            os.remove(path)
        self._fed = text is not None
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call a function and give its result as text."""
        result = ""

        def call() -> None:
            nonlocal result
            first, *rest = request["function"].split(".")
            function = vars(self._main)[first]
            for name in rest:  # a method of a class, whose instances take no arguments
                function = getattr(function(), name)
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

    def _write(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write files into the folder."""

        def write() -> None:
            for name, text in request["files"].items():
                path = os.path.join(self._folder, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(_bytes_of(text))
            for place in [*sys.path_importer_cache]:
                if place.startswith(self._folder):  # the library's own cannot be listed again
                    del sys.path_importer_cache[place]

        return self._guarded(write)

    def _read(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return files of the folder; those that are not there are left out."""
        files: dict[str, str] = {}

        def read() -> None:
            left = _MAX_FILES_SIZE
            for name in request["names"]:
                try:
                    with open(os.path.join(self._folder, name), "rb") as file:
                        data = file.read(_MAX_FILES_SIZE + 1)
                except OSError as exc:
                    print(f"read: {name}: {exc.strerror}", file=self._err)
                    continue
                text = _text_of(data)
                left -= len(json.dumps(text))
                if left < 0:
                    print(f"read: {name} is left out: {_MAX_FILES_SIZE} bytes", file=self._err)
                    return
                files[name] = text

        return {**self._guarded(read), "files": files}

    def _object(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one thing with an object, for tests that run elsewhere; the result is packed."""
        result = ""

        def do() -> None:
            nonlocal result
            result = self._objects.answer(request["request"])

        return {**self._guarded(do), "result": result}

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
                while kept and f"{os.sep}asyncio{os.sep}" in kept[0].filename:
                    del kept[0]
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


def _bytes_of(text: str) -> bytes:
    if text.startswith(_DATA):
        return base64.b64decode(text[len(_DATA) :])
    return text.encode("utf-8", "surrogatepass")


def _text_of(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = _DATA
    return _DATA + base64.b64encode(data).decode() if text.startswith(_DATA) else text


def _depth(exc: BaseException) -> int:
    trace, depth = exc.__traceback__, 0
    while trace is not None and depth < _DEEP:
        trace, depth = trace.tb_next, depth + 1
    return depth


def _stream(fd: int) -> io.TextIOWrapper:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", newline="\n", closefd=False)

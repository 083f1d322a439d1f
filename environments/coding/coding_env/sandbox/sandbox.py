"""A sandbox: one private folder and, in it, one interpreter after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from coding_env.sandbox import zygotes
from coding_env.sandbox.disk import make_folder, remove_folder
from coding_env.sandbox.interpreter import Function, Interpreter, Reply
from coding_env.sandbox.limits import Limits
from coding_env.sandbox.shell import run_command

__all__ = ["Execution", "Sandbox"]


@dataclass(frozen=True, slots=True)
class Execution:
    """The outcome of a call.

    Attributes:
        stdout, stderr: what was written, cut to ``Limits.max_output_size``.
        exit_code: 0: it went well. 1: it raised. N: it called ``sys.exit(N)``. -1: it ran out
            of time. Negative: its process was ended by that signal.
        error_type: the exception's class, or one of ``Timeout``, ``CPULimitExceeded``,
            ``OutputLimitExceeded``, ``DiskLimitExceeded``, ``InterpreterExited``,
            ``InterpreterCrashed``, ``ProtocolBreach``, of a command ``ProcessLimitExceeded``; empty
            if it went well.
        restarted: the interpreter had to be replaced: variables and files are gone.
        result: of ``call``: the value's canonical text.
        value: of ``execute``: the repr of its last expression, empty for None.
        reply: what else the worker said.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    error_type: str = ""
    restarted: bool = False
    result: str = ""
    reply: Reply | None = None
    value: str = ""


class Sandbox:
    """A sandbox for untrusted Python. One call at a time; everything on one event loop.

    Args:
        limits: of each interpreter.
        functions: async functions that code can call by these names. Arguments and results are
            what JSON can say; arguments are the code's and want checking.
        packages: names of installed packages that code may import; what they need has to be named
            as well.

    Cancelling a call ends the interpreter.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        functions: Mapping[str, Function] | None = None,
        packages: tuple[str, ...] = (),
    ) -> None:
        self.limits = limits or Limits()
        self._functions = dict(functions or {})
        self._packages = packages
        self._zygote: zygotes.Zygote | None = None
        self._interpreter: Interpreter | None = None
        self._folder = ""
        self._seed = 0
        self.usable = False

    @property
    def pid(self) -> int | None:
        """The process id of the interpreter."""
        return self._interpreter.pid if self._interpreter else None

    @property
    def folder(self) -> str:
        """The private folder."""
        return self._folder

    def cpu_time(self) -> float:
        """CPU seconds of the interpreter so far."""
        return self._interpreter.cpu_time() if self._interpreter else 0.0

    async def start(self, seed: int = 0) -> None:
        """A fresh interpreter in an empty folder, whatever was before.

        Raises:
            EnvironmentStartFailed: this machine cannot confine it.
            EnvironmentDied: the zygote died meanwhile; another call starts another.
        """
        self.usable = False
        await self._stop()
        self._seed = seed
        if self._zygote is not None and not self._zygote.alive:
            old, self._zygote = self._zygote, None
            await zygotes.release(old)
        if self._zygote is None:
            self._zygote = zygotes.acquire(self._packages)
        self._folder = make_folder()
        names = tuple(self._functions)
        spawned = await self._zygote.spawn(self._folder, self.limits, seed, names)
        self._interpreter = Interpreter(
            self._zygote, spawned, self._folder, self.limits, self._functions
        )
        await self._interpreter.ready()
        self.usable = True

    async def execute(
        self, code: str, timeout: float = 30.0, *, hidden: bool = False, stdin: str | None = None
    ) -> Execution:
        """Run code in the namespace; ``variables`` does not name what ``hidden`` code makes.

        A top-level ``await`` runs on a loop of the interpreter's own, which lives on.

        Raises:
            EnvironmentDied: the interpreter ended for a reason that is not the code's; the
                sandbox is not usable until it is started again.
        """
        return await self._ask("exec", timeout, code=code, hidden=hidden, stdin=stdin)

    async def call(self, function: str, args: list[Any], timeout: float = 30.0) -> Execution:
        """Call a function of the namespace; its result is compared with ``canonical``.

        Args:
            function: its name; ``Class.method`` for one of a new instance.
            args: values whose ``repr`` is a Python literal, or NaN, an infinity, an empty set.
            timeout: seconds.
        """
        return await self._ask("call", timeout, function=function, args=repr(list(args)))

    async def command(
        self, command: str, timeout: float = 30.0, *, stdin: str | None = None
    ) -> Execution:
        """Run a command of the shell in the folder; see ``shell.run_command``.

        Its processes may start others, which the interpreter may not: run it where the server is
        in a container (``shell.not_confined``).

        Raises:
            EnvironmentStartFailed: this machine cannot confine it.
            EnvironmentDied: its supervisor was lost.
        """
        if self._interpreter is None or not self.usable:
            raise RuntimeError("the sandbox is not started: call start() first")
        end = await run_command(command, self._folder, self.limits, timeout, stdin)
        is_full = end.why == "DiskLimitExceeded"
        if is_full:
            await self.start(self._seed)
        return Execution(end.stdout, end.stderr, end.exit_code, end.why, restarted=is_full)

    async def set(self, values: Mapping[str, Any]) -> None:
        """Put variables into the namespace: what JSON can say."""
        await self._ask("set", 60.0, values=values)

    async def write(self, files: Mapping[str, str], timeout: float = 30.0) -> Execution:
        """Write files into the folder: text by relative path, ``data:;base64,…`` for bytes."""
        return await self._ask("write", timeout, files=dict(files))

    async def read(self, names: Sequence[str], timeout: float = 30.0) -> Execution:
        """Read files of the folder, half a mebibyte in all; ``reply.files`` has those there are."""
        return await self._ask("read", timeout, names=list(names))

    async def ask_object(self, request: Mapping[str, Any], timeout: float = 30.0) -> Execution:
        """Do one thing with an object inside; see ``inside.objects``. ``result`` is packed."""
        return await self._ask("object", timeout, request=dict(request))

    async def variables(self, names: tuple[str, ...] = (), timeout: float = 5.0) -> Execution:
        """``reply.variables``: what the code made, shortened; ``reply.asked``: these, as str."""
        return await self._ask("variables", timeout, names=names)

    async def _ask(self, op: str, timeout: float, **fields: Any) -> Execution:
        interpreter = self._interpreter
        if interpreter is None or not self.usable:
            raise RuntimeError("the sandbox is not started: call start() first")
        self.usable = False
        try:
            reply, why = await interpreter.ask(op, timeout=timeout, **fields)
        except BaseException:
            interpreter.kill()  # it is busy with what nobody waits for
            raise
        if (
            reply is not None
            and not why
            and interpreter.disk_is_due()
            and interpreter.disk_is_full()
        ):
            reply, why = None, "DiskLimitExceeded"
            interpreter.condemn(why)
        stdout, stderr = interpreter.stdout.text(), interpreter.stderr.text()
        if reply is not None:
            self.usable = True
            exit_code, error = reply.exit_code, reply.error_type
            if why and error == "Interrupted":
                exit_code, error = -1, why
            return Execution(
                stdout, stderr, exit_code, error, False, reply.result, reply, reply.value
            )
        death = await interpreter.death()
        await self.start(self._seed)
        return Execution(stdout, stderr, death.exit_code, death.error_type, restarted=True)

    async def _stop(self) -> None:
        interpreter, self._interpreter = self._interpreter, None
        if interpreter is not None:
            await interpreter.aclose()
        if self._folder:
            await remove_folder(self._folder)
            self._folder = ""

    async def aclose(self) -> None:
        """End the interpreter and remove the folder. Idempotent."""
        self.usable = False
        try:
            await self._stop()
        finally:
            zygote, self._zygote = self._zygote, None
            if zygote is not None:
                await zygotes.release(zygote)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

"""The server's side of a shell command; ``inside.shell`` supervises it, a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from coding_env.sandbox.limits import Limits
from coding_env.sandbox.output import Output
from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import EnvironmentDied, EnvironmentStartFailed

__all__ = ["CommandEnd", "not_confined", "run_command"]

_HERE: Final = str(Path(__file__).parent)
_START: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from inside.shell import main; sys.path.pop(0);"
    " main(int(sys.argv[2]), int(sys.argv[3]))"
)
_MARKS: Final = ("/.dockerenv", "/run/.containerenv")
"""Files that Docker and Podman put into every container."""
_VARIABLE: Final = "KUBERNETES_SERVICE_HOST"
_GRACE: Final = 30.0
"""Seconds beyond its time in which a command's supervisor must have ended it."""
_FOLDERS: Final = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """The outcome of a command.

    Attributes:
        exit_code: of the shell; -1: it ran out of time; another negative one: the signal that
            ended it, SIGKILL where another limit was met.
        why: the limit that was met; empty if none.
        stdout, stderr: what was written, cut to ``Limits.max_output_size``.
    """

    exit_code: int
    why: str
    stdout: str
    stderr: str


def not_confined() -> str:
    """Return why commands are not run here, with what to do; empty if they are."""
    if not any(map(os.path.exists, _MARKS)) and _VARIABLE not in os.environ:
        return (
            "shell commands run in a container of the environment alone, and this is none: serve"
            " its image, as in `docker run openenv-async-coding`"
        )
    if not os.geteuid():
        return (
            "shell commands run as a user of their container without rights, and this server is"
            " root: leave the image's user, or say --user=10001:10001"
        )
    return ""


async def run_command(
    command: str, folder: str, limits: Limits, timeout: float, stdin: str | None = None
) -> CommandEnd:
    """Run a command of the shell in a folder, confined; nothing that it starts outlives it.

    Args:
        command: for ``sh -c``.
        folder: its working directory, which it may write.
        limits: memory, CPU time and files of each process; processes, output and disk of all.
        timeout: seconds.
        stdin: its standard input; ``None``: there is none.

    Raises:
        EnvironmentStartFailed: this machine cannot confine it.
        EnvironmentDied: its supervisor was lost.

    Cancelling it ends the command.
    """
    request: dict[str, Any] = {
        "command": command,
        "folder": folder,
        "timeout": timeout,
        "limits": asdict(limits),
        "environment": {
            "PATH": os.pathsep.join(dict.fromkeys((f"{sys.base_prefix}/bin", *_FOLDERS))),
            "HOME": folder,
            "TMPDIR": folder,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        },
    }
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        outputs = []
        theirs, inside = [], {}
        for name in ("stdout", "stderr"):
            reader, inside[name] = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, reader)
            theirs.append(stack.enter_context(os.fdopen(inside[name], "wb")))
            os.set_blocking(reader, False)
            outputs.append(Output(reader, limits.max_output_size))
        source = _file(stack, "" if stdin is None else stdin)
        theirs.append(source)
        server, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(server)
        stack.enter_context(peer)
        server.setblocking(False)
        request |= {**inside, "stdin": source.fileno()}
        asked = _file(stack, json.dumps(request))
        theirs.append(asked)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-P", "-B", "-c", _START, _HERE),
                *(str(peer.fileno()), str(asked.fileno())),
                pass_fds=[peer.fileno(), *(file.fileno() for file in theirs)],
                env={"PYTHONUTF8": "1", "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        except OSError as exc:
            raise EnvironmentStartFailed(f"a command's supervisor cannot start: {exc}") from exc
        flooded = False

        def read(output: Output) -> None:
            nonlocal flooded
            if not output.read():
                loop.remove_reader(output.fd)
            elif output.size > limits.max_flood_size and not flooded:
                flooded = True
                server.shutdown(socket.SHUT_WR)  # which ends the command

        try:
            peer.close()
            for file in theirs:
                file.close()
            for output in outputs:
                loop.add_reader(output.fd, read, output)
            answer = await _answer(loop, server, timeout)
        finally:
            server.close()
            await wait_uncancelled(loop.create_task(_ended(process)))
            for output in outputs:
                loop.remove_reader(output.fd)
        for output in outputs:
            output.read()  # less than a pipe holds: nobody writes any more
    if "error" in answer:
        raise EnvironmentStartFailed(f"the sandbox cannot confine a command: {answer['error']}")
    why = "OutputLimitExceeded" if flooded else answer["why"]
    exit_code = answer["exit_code"]
    if why:
        exit_code = -1 if why == "Timeout" else -signal.SIGKILL
    return CommandEnd(exit_code, why, *(output.text() for output in outputs))


def _file(stack: contextlib.ExitStack, text: str) -> Any:
    """Return a file without a name that holds a text, to be read from its start."""
    file = stack.enter_context(tempfile.TemporaryFile("w+b"))  # noqa: SIM115  # the stack closes it
    file.write(text.encode("utf-8", "surrogatepass"))
    file.seek(0)
    return file


async def _answer(
    loop: asyncio.AbstractEventLoop, server: socket.socket, timeout: float
) -> dict[str, Any]:
    try:
        async with asyncio.timeout(timeout + _GRACE):
            data = await loop.sock_recv(server, 1 << 16)
    except (TimeoutError, OSError):
        data = b""
    if not data:
        raise EnvironmentDied("a command's supervisor was lost: reset() begins a new episode")
    answer: dict[str, Any] = json.loads(data)
    return answer


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait for a supervisor whose socket is closed; it ends what it watches, then itself."""
    try:
        async with asyncio.timeout(_GRACE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

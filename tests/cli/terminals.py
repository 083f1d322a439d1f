"""The program on a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cli.commands import PROGRAM, ROOT
from tests.helpers import default_interrupt

__all__ = ["Terminal", "on_terminal", "terminal"]


class Terminal:
    """A process and the terminal that it has.

    Attributes:
        process: the program.
        sent: all that it sent so far.
    """

    def __init__(self, process: subprocess.Popen[bytes], main: int) -> None:
        self.process = process
        self.sent = ""
        self._main = main

    def read_until(self, text: str) -> None:
        """Read until a text was sent, or the end."""
        while text not in self.sent and (piece := self._read()):
            self.sent += piece

    def read_all(self) -> str:
        """Read to the end and return all that was sent."""
        while piece := self._read():
            self.sent += piece
        self.process.wait(60)
        return self.sent

    def type(self, keys: bytes) -> None:
        """Press keys; ``\\x03`` is Ctrl-C."""
        os.write(self._main, keys)

    def _read(self) -> str:
        if not select.select([self._main], [], [], 120)[0]:
            raise TimeoutError(f"the program sent nothing more after {self.sent[-500:]!r}")
        try:
            return os.read(self._main, 65_536).decode(errors="replace")
        except OSError:  # Linux says so when nobody has it open any more
            return ""


@contextmanager
def terminal(*arguments: str, **variables: str) -> Iterator[Terminal]:
    """Run the program on a terminal, which is its controlling one: Ctrl-C reaches it."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments], stdin=side, stdout=side, stderr=side, cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), **variables},
        start_new_session=True, preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(side)
    try:
        yield Terminal(process, main)
    finally:
        process.kill()
        process.wait(60)
        os.close(main)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    default_interrupt()


def on_terminal(*arguments: str, **variables: str) -> str:
    """Run the program on a terminal and return what that was sent."""
    with terminal(*arguments, **variables) as shown:
        return shown.read_all()

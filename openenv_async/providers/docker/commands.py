"""A shell command inside a container, as it is wrapped and as its output is read.

Rules:

- The output is one stream, standard error among it in order, read as it comes: a head and a tail of
  it are kept, whatever its length.
- A command has ended when its shell has, not when the last process that holds its output has: what
  it left in the background goes on.
- Beside the output the wrapper tells three things, between NUL bytes and after a random word that
  the caller makes for each command: its process group, the folder that the command ended in, and
  its exit code. A command that prints the same word deceives nobody but itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["CommandOutput", "CommandResult", "kill_arguments", "wrapped"]

_WRAPPER: Final = """\
printf '\\000%sp%s\\000' "$1" "$$"
cd -- "$2" 2>/dev/null || cd /
if command -v bash >/dev/null 2>&1; then shell=bash; else shell=sh; fi
"$shell" -c "$4" "$shell" "$1" "$3" 2>&1 </dev/null
printf '\\000%se%s\\000' "$1" "$?"
"""
"""Arguments: the word, the folder, the command, the inner script."""
_INNER: Final = """\
exec 9>&1
trap "printf '\\\\000%sd%s\\\\000' '$1' \\"\\$PWD\\" >&9" EXIT
eval "$2"
"""
"""Arguments: the word, the command."""
_LONGEST_MARK: Final = 5000
"""Bytes of the longest path that Linux knows, and the word."""


def wrapped(command: str, word: str, folder: str) -> list[str]:
    """Return the arguments of a process that runs a command.

    Args:
        command: for bash, or for sh where the container has no bash.
        word: letters and digits, made for this command alone.
        folder: that it begins in; ``/`` where that is gone.
    """
    return ["/bin/sh", "-c", _WRAPPER, "sh", word, folder, command, _INNER]


def kill_arguments(group: int) -> list[str]:
    """Return the arguments of a process that kills a command's process group."""
    return ["/bin/sh", "-c", 'kill -KILL "-$1"', "sh", str(group)]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The end of a command.

    Attributes:
        output: what it wrote, with a line in place of a middle that was cut.
        exit_code: of its shell; ``None`` if it was killed, or ran out of time.
        folder: that it ended in; ``None`` where it did not tell.
        timed_out: whether it was killed for its deadline.
        cut: bytes that are left out of the output.
    """

    output: str
    exit_code: int | None
    folder: str | None
    timed_out: bool
    cut: int


class CommandOutput:
    """The output of one wrapped command, as it is read.

    Args:
        word: of the command.
        limit: bytes that are kept, half of them from the beginning.
        take: is given all of it as it comes, too.
    """

    def __init__(
        self, word: str, limit: int, take: Callable[[bytes], object] | None = None
    ) -> None:
        self._take = take
        self._mark = b"\0" + word.encode()
        self._head_size = limit // 2
        self._tail_size = limit - self._head_size
        self._told: dict[bytes, bytes] = {}
        self._pending = b""
        self._head = bytearray()
        self._tail = bytearray()
        self._cut = 0

    @property
    def group(self) -> int | None:
        """The process group of the command, once it was told."""
        told = self._told.get(b"p", b"")
        return int(told) if told.isdigit() else None

    @property
    def ended(self) -> bool:
        """Return whether the command's shell has ended."""
        return b"e" in self._told

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        data = self._pending + data
        self._pending = b""
        while not self.ended:
            at = data.find(self._mark)
            if at < 0:
                kept = self._start_of_mark(data)
                self._keep(data[: len(data) - kept])
                self._pending = data[len(data) - kept :]
                return
            end = data.find(b"\0", at + len(self._mark))
            if end < 0 and len(data) - at <= _LONGEST_MARK:
                self._keep(data[:at])
                self._pending = data[at:]
                return
            body = data[at + len(self._mark) : end] if end >= 0 else b""
            if body[:1] in (b"p", b"d", b"e"):
                self._keep(data[:at])
                self._told[body[:1]] = body[1:]
            else:  # the command's own text
                self._keep(data[: max(end, at) + 1])
            data = data[max(end, at) + 1 :]

    def result(self, *, timed_out: bool = False) -> CommandResult:
        """Return the end of the command, from what was read."""
        self._keep(self._pending)
        self._pending = b""
        head, tail = bytes(self._head), bytes(self._tail)
        if self._cut:
            text = f"{_text(head)}\n… {self._cut} bytes cut …\n{_text(tail)}"
        else:
            text = _text(head + tail)
        code = self._told.get(b"e", b"")
        folder = self._told.get(b"d")
        return CommandResult(
            text,
            int(code) if code.isdigit() and not timed_out else None,
            _text(folder) if folder else None,
            timed_out,
            self._cut,
        )

    def _start_of_mark(self, data: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a mark."""
        for size in range(min(len(self._mark) - 1, len(data)), 0, -1):
            if data.endswith(self._mark[:size]):
                return size
        return 0

    def _keep(self, data: bytes) -> None:
        if self._take is not None and data:
            self._take(data)
        room = self._head_size - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if (over := len(self._tail) - self._tail_size) > 0:
            self._cut += over
            del self._tail[:over]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")

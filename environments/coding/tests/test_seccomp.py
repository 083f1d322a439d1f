"""The filter, run by an interpreter of its instructions: both architectures, every rule."""

from __future__ import annotations

import errno
import os
import platform
import struct
from types import SimpleNamespace

import pytest
from coding_env.sandbox.inside import seccomp, syscalls

ALLOW, KILL = 0x7FFF0000, 0x80000000
OWN = 4242


def verdict(program: bytes, arch: int, number: int, args: tuple[int, ...] = ()) -> int | str:
    """What the kernel would do: ``allow``, ``kill`` or the error number (0: it pretends)."""
    padded = (*args, *([0] * (6 - len(args))))
    data = struct.pack("=IIQ6Q", number, arch, 0, *(a & (1 << 64) - 1 for a in padded))
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        op, yes, no, value = code[at]
        at += 1
        match op:
            case 0x20:
                accumulator = int.from_bytes(data[value : value + 4], "little")
            case 0x54:
                accumulator &= value
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no
            case 0x06:
                if value in (ALLOW, KILL):
                    return "allow" if value == ALLOW else "kill"
                assert value >> 16 == 5
                return int(value & 0xFFFF)
            case other:
                raise AssertionError(f"unknown instruction {other:#x}")


CHECKED = [
    ("openat", (0, 0, os.O_RDONLY), "allow"),
    ("openat", (0, 0, os.O_WRONLY | os.O_TRUNC), "allow"),
    ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), errno.EPERM),
    ("kill", (OWN, 15), "allow"),
    ("kill", (OWN, 9), errno.EPERM),
    ("kill", (1, 15), errno.EPERM),
    ("kill", (-1, 15), errno.EPERM),
    ("tgkill", (OWN, OWN, 6), "allow"),
    ("tgkill", (OWN, OWN, 9), errno.EPERM),
    ("tgkill", (1, OWN, 6), errno.EPERM),
    ("ioctl", (0, 0x5401), "allow"),
    ("ioctl", (0, 0x5412), errno.EPERM),
    ("fcntl", (0, 4), "allow"),
    ("fcntl", (0, 8), errno.EPERM),
    ("prctl", (15,), "allow"),
    ("prctl", (1,), errno.EPERM),
    ("prlimit64", (0, 9, 0), "allow"),
    ("prlimit64", (0, 9, 1), errno.EPERM),
    ("prlimit64", (0, 9, 1 << 32), errno.EPERM),
    ("socketpair", (1,), "allow"),
    ("socketpair", (2,), errno.EPERM),
    ("sendto", (0, 0, 0, 0, 0), "allow"),
    ("sendto", (0, 0, 0, 0, 1 << 40), errno.EPERM),
    ("clone3", (), errno.ENOSYS),
    ("fchmodat", (), 0),
    ("setxattr", (), errno.ENOTSUP),
]
THREAD, PROCESS, NAMESPACES = 0x3D0F00, 0x1200011, 0x10010000


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_rule(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(seccomp, "_template", seccomp._template.__wrapped__)
    number, arch = syscalls.numbers(), syscalls.AUDIT_ARCH[machine]
    strict, loose = seccomp.build(OWN, threads=False), seccomp.build(OWN, threads=True)
    for name, args, expected in CHECKED:
        assert verdict(strict, arch, number[name], args) == expected, (name, args)
    for name in syscalls.ALLOWED:
        if name in number:
            assert verdict(strict, arch, number[name]) == "allow", name
    clone = number["clone"]
    assert [verdict(strict, arch, clone, (flags,)) for flags in (THREAD, PROCESS)] == [1, 1]
    assert verdict(loose, arch, clone, (THREAD,)) == "allow"
    assert verdict(loose, arch, clone, (PROCESS,)) == errno.EPERM
    assert verdict(loose, arch, clone, (THREAD | NAMESPACES,)) == errno.EPERM
    known = set(number.values())
    for other in set(range(600)) - known:
        assert verdict(strict, arch, other) == errno.EPERM, other
    assert verdict(strict, arch, 0x40000000 | number["read"]) == errno.EPERM
    assert verdict(strict, 0x40000003, number["read"]) == "kill"
    assert len(strict) // 8 < 4096  # the kernel's limit


def test_another_architecture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="riscv64"):
        syscalls.numbers()

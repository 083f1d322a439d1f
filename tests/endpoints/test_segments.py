"""Memory that two processes share: what each of them can do to it, and what is left of it."""

from __future__ import annotations

import fcntl
import gc
import logging
import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from openenv_async.endpoints.segments import Segment, map_segment

SIZE = 1 << 20
LIMIT = 1 << 30

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd is Linux's")


def made(size: int = SIZE) -> Segment:
    segment = Segment.create(size)
    assert segment is not None
    return segment


def test_what_the_server_writes_is_what_the_client_reads() -> None:
    segment = made()
    memory = map_segment([segment.take_fd()], LIMIT)
    assert memory is not None
    segment.memory[5:8] = b"abc"
    assert memory[5:8] == b"abc"
    assert memoryview(memory).readonly


def test_nobody_but_the_server_can_write_shrink_or_grow_it() -> None:
    segment = made()
    fd = segment.take_fd()
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)  # as a peer of the same user may
    for descriptor in (fd, again):
        for attempt in (
            lambda d=descriptor: os.pwrite(d, b"x", 0),
            lambda d=descriptor: os.ftruncate(d, 0),
            lambda d=descriptor: os.ftruncate(d, 2 * SIZE),
            lambda d=descriptor: mmap.mmap(d, SIZE),
            lambda d=descriptor: fcntl.fcntl(d, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        ):
            with pytest.raises(PermissionError):
                attempt()
    os.close(again)
    os.close(fd)
    segment.memory[0] = 1  # the server still does


def test_it_has_no_name_and_no_descriptor_once_both_are_gone() -> None:
    gc.collect()  # what tests before this one left
    before = len(os.listdir("/proc/self/fd"))
    names = set(os.listdir("/dev/shm"))
    segment = made()
    memory = map_segment([segment.take_fd()], LIMIT)
    unused = made()
    assert set(os.listdir("/dev/shm")) <= names
    del segment, memory, unused
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_mapping_outlives_the_server(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "import os, socket, sys\n"
        "from openenv_async.endpoints.segments import Segment\n"
        "segment = Segment.create(1 << 20)\n"
        "segment.memory[:4] = b'film'\n"
        "wire = socket.socket(fileno=int(sys.argv[1]))\n"
        "socket.send_fds(wire, [b'x'], [segment.take_fd()])\n"
        "wire.recv(1)\n"
    )
    import socket

    mine, theirs = socket.socketpair()
    server = subprocess.Popen(
        [sys.executable, str(script), str(theirs.fileno())], pass_fds=[theirs.fileno()]
    )
    theirs.close()
    _, descriptors, _, _ = socket.recv_fds(mine, 1, 1)
    memory = map_segment(descriptors, LIMIT)
    server.kill()
    server.wait()
    mine.close()
    assert memory is not None
    assert memory[:4] == b"film"


def test_no_segment_is_made_of_nothing_or_of_more_than_there_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "openenv_async.memory")
    assert Segment.create(0) is None
    assert not caplog.records
    assert Segment.create(1 << 62) is None
    [record] = caplog.records
    assert "payloads go by the socket" in record.message


def test_a_system_that_forbids_it_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(name: str, flags: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    caplog.set_level(logging.INFO, "openenv_async.memory")
    assert Segment.create(SIZE) is None
    [record] = caplog.records
    assert "memfd_create" in record.message


def test_what_could_shrink_or_is_too_large_is_not_mapped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "openenv_async.memory")
    plain = os.memfd_create("plain", os.MFD_ALLOW_SEALING)
    os.ftruncate(plain, SIZE)
    assert map_segment([plain], LIMIT) is None
    assert "sealed" in caplog.text
    with tempfile.TemporaryFile() as file:
        assert map_segment([os.dup(file.fileno())], LIMIT) is None
    assert map_segment([made().take_fd()], SIZE - 1) is None
    assert "Limits.max_shared_size" in caplog.text
    assert map_segment([], LIMIT) is None
    assert map_segment([made().take_fd(), made().take_fd()], LIMIT) is None
    before = len(caplog.records)
    assert map_segment([made().take_fd()], 0) is None  # not wanted: no word of it
    assert len(caplog.records) == before

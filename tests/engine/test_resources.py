"""Descriptors and memory: what is asked, how often, and what is refused."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path

import pytest

from openenv_async import EngineOptions
from openenv_async.engine.resources import (
    RESERVE,
    Resources,
    available_memory,
    free_descriptors,
    oom_kills,
    raise_descriptors,
)
from openenv_async.errors import ResourceLimit

MIB = 2**20


class System:
    """A system with as much left as the test says; counts how often it is asked."""

    def __init__(self, left: float) -> None:
        self.left = left
        self.asked = 0
        self.now = 100.0

    def __call__(self) -> float:
        self.asked += 1
        return self.left

    def clock(self) -> float:
        return self.now


def test_descriptors_are_refused_while_a_reserve_is_left() -> None:
    system = System(RESERVE + 10)
    resources = Resources(descriptors=system, clock=system.clock)
    resources.take_descriptors(10, "a test")
    with pytest.raises(ResourceLimit, match=r"a test: raise the limit of .*ulimit -n") as caught:
        resources.take_descriptors(1, "a test")
    assert caught.value.retryable
    assert caught.value.detail["limit"] == "RLIMIT_NOFILE"
    assert caught.value.detail["free"] == RESERVE
    assert resources.refused == 1
    assert resources.short
    assert system.asked == 1  # what was granted was subtracted
    system.now += 0.3
    resources.take_descriptors(1, "a test")
    assert system.asked == 2
    system.now += 10
    assert not resources.short


def test_a_burst_asks_the_system_once() -> None:
    system = System(10_000)
    resources = Resources(descriptors=system, clock=system.clock)
    for _ in range(1000):
        resources.take_descriptors(1, "a test")
    assert system.asked == 1


def test_what_the_system_does_not_say_is_not_refused() -> None:
    resources = Resources(1, descriptors=lambda: inf, memory=lambda: inf)
    resources.take_descriptors(10**9, "a test")
    resources.check_memory()


def test_memory_below_the_floor_is_refused() -> None:
    system = System(100 * MIB)
    resources = Resources(64 * MIB, memory=system, clock=system.clock)
    resources.check_memory()
    system.left = 63 * MIB
    resources.check_memory()  # not asked again yet
    system.now += 0.3
    with pytest.raises(ResourceLimit, match=r"63 MiB of memory are left and 64 MiB .*memory") as e:
        resources.check_memory()
    assert e.value.detail["setting"] == "min_free_memory"
    assert system.asked == 2
    Resources(0, memory=lambda: 0.0).check_memory()


def test_a_negative_floor_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="min_free_memory"):
        EngineOptions(min_free_memory=-1)


def test_descriptors_of_this_process_are_counted() -> None:
    before = free_descriptors()
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    try:
        assert free_descriptors() == before - 20
    finally:
        for file in files:
            os.close(file)
    assert free_descriptors() == before
    limit = raise_descriptors()
    assert limit is None or limit > before


def test_the_tightest_of_machine_and_cgroup_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    4096 kB\n")
    assert available_memory(tmp_path, meminfo) == 4 * MIB
    assert available_memory(tmp_path, tmp_path / "none") == inf

    def cgroup(most: str, used: int, reclaimable: int) -> float:
        (tmp_path / "memory.max").write_text(most + "\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {reclaimable}\n")
        return available_memory(tmp_path, meminfo)

    assert cgroup("max", 9 * MIB, 0) == 4 * MIB
    assert cgroup(str(10 * MIB), 9 * MIB, 0) == MIB
    assert cgroup(str(10 * MIB), 9 * MIB, 2 * MIB) == 3 * MIB
    assert cgroup(str(100 * MIB), 9 * MIB, 0) == 4 * MIB


def test_the_first_version_of_cgroups(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{10 * MIB}\n")
    (tmp_path / "memory/memory.usage_in_bytes").write_text(f"{9 * MIB}\n")
    (tmp_path / "memory/memory.stat").write_text(f"total_inactive_file {MIB}\n")
    assert available_memory(tmp_path, tmp_path / "none") == 2 * MIB


def test_kills_for_lack_of_memory_are_read_from_the_nearest_count(tmp_path: Path) -> None:
    own, vmstat = tmp_path / "own", tmp_path / "vmstat"

    def kills() -> int | None:
        return oom_kills(tmp_path, own, vmstat)

    assert kills() is None
    vmstat.write_text("pgfault 9\noom_kill 7\n")
    assert kills() == 7
    (tmp_path / "memory/job").mkdir(parents=True)
    (tmp_path / "memory/job/memory.oom_control").write_text("under_oom 0\noom_kill 3\n")
    own.write_text("4:memory:/job\n0::/unit\n")
    assert kills() == 3
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit/memory.events").write_text("oom 5\noom_kill 2\n")
    assert kills() == 2

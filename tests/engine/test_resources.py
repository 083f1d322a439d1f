"""Descriptors and memory: what is asked, how often, and what is refused."""

from __future__ import annotations

import os
import types
from math import inf
from pathlib import Path
from typing import Any

import pytest

from openenv_async import EngineOptions
from openenv_async.engine.resources import (
    RESERVE,
    Resources,
    available_memory,
    descriptor_limit,
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


# -- what a small change would break --------------------------------------------------------


def test_the_last_descriptor_before_the_reserve_is_given() -> None:
    system = System(RESERVE + 1)
    resources = Resources(descriptors=system, clock=system.clock)
    resources.take_descriptors(1, "a test")
    assert resources._descriptors == RESERVE
    assert not resources.short
    assert (resources.refused, RESERVE) == (0, 32)


@pytest.mark.parametrize(("seconds", "asked"), [(0.125, 1), (0.1875, 1), (0.25, 2)])
def test_the_system_is_asked_five_times_a_second(seconds: float, asked: int) -> None:
    for memory in (False, True):
        system = System(10_000)
        resources = Resources(1, descriptors=system, memory=system, clock=system.clock)
        for _ in range(2):
            if memory:
                resources.check_memory()
            else:
                resources.take_descriptors(1, "a test")
            system.now += seconds
        assert system.asked == asked
        resources.check_memory()


def test_a_negative_rest_is_told_as_none() -> None:
    resources = Resources(64 * MIB, descriptors=lambda: -5, memory=lambda: -5.0)
    with pytest.raises(ResourceLimit) as descriptors:
        resources.take_descriptors(1, "a test")
    with pytest.raises(ResourceLimit, match=r"^0 MiB of memory are left and 64 MiB") as memory:
        resources.check_memory()
    for caught in (descriptors, memory):
        assert caught.value.detail["free"] == 0
        assert caught.value.detail["retry_after"] == 1.0
    assert memory.value.detail["value"] == 64 * MIB
    assert resources.refused == 2


def test_memory_at_the_floor_is_enough() -> None:
    Resources(64 * MIB, memory=lambda: 64.0 * MIB).check_memory()


def test_memory_is_short_for_ten_seconds_after_a_refusal() -> None:
    system = System(0)
    resources = Resources(1, memory=system, clock=system.clock)
    with pytest.raises(ResourceLimit):
        resources.check_memory()
    for seconds, short in ((9.5, True), (0.5, False)):
        system.now += seconds
        assert resources.short == short


def test_a_limit_of_descriptors_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert descriptor_limit() == inf
    assert free_descriptors() == inf
    resources = Resources(descriptors=lambda: 0)
    with pytest.raises(ResourceLimit) as caught:
        resources.take_descriptors(1, "a test")
    assert caught.value.detail["value"] is None


def test_the_soft_limit_of_descriptors_is_raised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    limits = [(100, 500)]
    asked: list[tuple[int, int]] = []

    def put(_: int, pair: tuple[int, int]) -> None:
        asked.append(pair)
        if refuses:
            raise OSError("no")
        limits[0] = pair

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[0])
    monkeypatch.setattr(resource, "setrlimit", put)
    refuses = True
    assert raise_descriptors() == 100
    refuses = False
    assert [raise_descriptors() for _ in range(2)] == [500, 500]
    assert asked == [(500, 500)] * 2
    assert descriptor_limit() == 500


def test_descriptors_are_counted_where_the_system_lists_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The size of the folder since Linux 6.2, its entries before, those of /dev/fd elsewhere."""
    from openenv_async.engine import resources as module

    class Size:
        st_size = 7

    def gone(path: str) -> Any:
        raise OSError(path)

    monkeypatch.setattr(module, "descriptor_limit", lambda: 100)
    system = types.SimpleNamespace()  # pytest asks the real one
    system.stat = lambda _: Size()
    system.listdir = lambda path: ["x"] * (9 if path == "/dev/fd" else 8)
    monkeypatch.setattr(module, "os", system)
    assert free_descriptors() == 93
    Size.st_size = 0
    assert free_descriptors() == 92
    system.stat = gone
    assert free_descriptors() == 91
    system.listdir = gone
    assert free_descriptors() == inf


def test_a_kill_is_counted_for_the_whole_machine_of_a_container(tmp_path: Path) -> None:
    """In a container the folder of its own group is the root."""
    own, vmstat = tmp_path / "own", tmp_path / "vmstat"
    own.write_text("4:memory:/docker/x\n0::/docker/x\n")
    vmstat.write_text("oom_kill 9\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.oom_control").write_text("oom_kill 4\n")
    assert oom_kills(tmp_path, own, vmstat) == 4
    (tmp_path / "memory.events").write_text("oom_kill many\n")
    assert oom_kills(tmp_path, own, vmstat) == 4  # what cannot be read is passed over
    (tmp_path / "memory.events").write_text("oom_kill 3\n")
    assert oom_kills(tmp_path, own, vmstat) == 3

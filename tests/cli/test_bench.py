"""``openenv-async bench``: reports for people and as JSON, and the audit of ``--chaos``."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from openenv_async import serve
from openenv_async.benchmarking import Report, SweepReport
from openenv_async.rollouts import Trajectory, Transition, open_writer
from openenv_async.testing import BenchEnvironment


async def command(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "openenv_async.cli", "bench", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


FAST = ("--sessions", "4", "--seconds", "0.3", "--warmup", "0.1")


@pytest.mark.parametrize("kind", ["inline", "thread", "async"])
async def test_the_command_with_its_own_environment(kind: str) -> None:
    code, out, err = await command(
        *FAST, "--obs-bytes", "500", "--param", f"isolation={kind}", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert set(report) == set(Report.__dataclass_fields__)
    assert report["steps"] > 0
    assert "/proc" in report["server"]["measured_by"] or sys.platform != "linux"


async def test_the_command_for_people() -> None:
    async with serve(BenchEnvironment) as url:
        code, out, err = await command(url, *FAST)
    assert code == 0, err
    for words in ("steps/s", "p99", "100.00%", "µs CPU per step", "closed loop"):
        assert words in out


@pytest.mark.parametrize(
    "wrong",
    [
        ("--seconds", "0"),
        ("--param", "isolation=space"),
        ("echo", "--obs-bytes", "5"),
        ("--vector", "5"),
        ("--over", "unix"),
        ("--max-p99", "5"),
        ("--think", "0"),
        ("--sweep", "--chaos"),
        ("--sweep", "--connections", "2"),
        ("http://127.0.0.1:9", "--param", "a=1"),
    ],
)
async def test_what_the_command_refuses(wrong: tuple[str, ...]) -> None:
    code, _, err = await command(*wrong)
    assert code == 2
    assert len(err.strip().splitlines()) == 1


SWEEP = ("--sweep", "--sessions", "4", "--seconds", "0.1", "--warmup", "0.02")


async def test_a_sweep_for_people_and_as_json() -> None:
    async with serve(BenchEnvironment) as url:
        code, out, err = await command(url, *SWEEP)
        assert code == 0, err
        for words in ("← stands", "stands at least 4 sessions", "nothing broke", "100 ms"):
            assert words in " ".join(out.split())
        code, out, err = await command(url, *SWEEP, "--max-p99", "0.0001")
        assert code == 1
        assert "does not stand one session: p99" in err
        code, out, err = await command(url, *SWEEP, "--json")
    report = json.loads(out)
    assert set(report) == set(SweepReport.__dataclass_fields__)
    assert [level["sessions"] for level in report["levels"]] == [1, 2, 4]


async def test_a_recorded_trace_is_the_load(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with open_writer(trace) as writer:
        for index in range(2):
            steps = [
                Transition(t, 0, {"message": "hi"}, timings={"policy": 0.001}) for t in range(3)
            ]
            writer.write(Trajectory(index, "e", 1, steps, 0))
    async with serve(BenchEnvironment) as url:
        code, out, err = await command(url, *FAST, "--trace", str(trace), "--json")
        assert code == 0, err
        assert "think time" in json.loads(out)["method"]
        (tmp_path / "empty.jsonl").write_text("")
        code, _, err = await command(url, *FAST, "--trace", str(tmp_path / "empty.jsonl"))
    assert code == 2
    assert "no episode with a step" in err


@pytest.mark.parametrize(
    "flags", [(), ("--vector", "5"), ("--vector", "5", "--over", "unix", "--obs-bytes", "9000")]
)
async def test_the_audit_of_faults(flags: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openenv_async.cli", "bench", "--chaos", "--json"),
        *("--sessions", "20", "--seconds", "6", "--connections", "2", *flags),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    report = json.loads(out)
    assert process.returncode == 0, report
    assert report["passed"] is True
    assert report["vector"] == (5 if flags else None)
    assert report["faults"]["worker kills"] >= 1
    assert report["audit"]["typed_lost"]
    process._transport.close()  # type: ignore[attr-defined]  # else it warns when collected

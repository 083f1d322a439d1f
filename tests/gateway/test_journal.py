"""Tests of the journal: what is in it survives, and what is damaged is told."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from openenv_async.errors import JournalFailed
from openenv_async.gateway.calls import Answer, CallRecord, Delivery, SampledTokens
from openenv_async.gateway.journal import (
    FSYNC,
    Fsync,
    Journal,
    SessionFacts,
    read_journal,
)

TOOLS = [{"type": "function", "function": {"name": "run", "parameters": {}}}]


def record(session: str, number: int, *, deliveries: tuple[Delivery, ...] = ()) -> CallRecord:
    """Return a call of a conversation that goes on with each number."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "be brief " * 20}]
    prompt = list(range(40))
    for turn in range(number):
        messages += [
            {"role": "user", "content": f"{session} asks {turn}"},
            {"role": "assistant", "content": f"answer {turn}"},
        ]
        prompt += [1000 + turn, 2000 + turn, 3000 + turn]
    tokens = SampledTokens(
        prompt_ids=prompt, completion_ids=[1000 + number, 2000 + number], logprobs=[-0.5, -0.25]
    )
    return CallRecord(
        session=session,
        number=number,
        dialect="chat",
        messages=messages,
        tools=TOOLS,
        answer=Answer(text=f"answer {number}", tokens=tokens),
        deliveries=list(deliveries),
    )


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


async def write(folder: Path, sessions: int = 2, calls: int = 3, **settings: Any) -> None:
    async with Journal.open(folder, **settings) as journal:
        for name in map(str, range(sessions)):
            await journal.opened(SessionFacts(id=name, key_digest=f"digest of {name}"))
        for number in range(calls):
            for name in map(str, range(sessions)):
                await journal.answered(record(name, number))
                journal.leaving(name, number)


def expected(session: str, calls: int = 3) -> list[CallRecord]:
    return [record(session, number, deliveries=("whole",)) for number in range(calls)]


def test_each_policy_says_what_it_loses() -> None:
    assert set(FSYNC) == set(get_args(Fsync))


@pytest.mark.parametrize("fsync", list(FSYNC))
async def test_sessions_go_on_after_a_restart(tmp_path: Path, fsync: Fsync) -> None:
    await write(tmp_path, fsync=fsync)
    async with Journal.open(tmp_path, fsync=fsync) as journal:
        assert sorted(journal.recovered) == ["0", "1"]
        kept = journal.recovered["1"]
        assert kept.facts.key_digest == "digest of 1"
        assert kept.records == expected("1")
        await journal.answered(record("1", 3))
        journal.delivered("1", 3, "broken")
        await journal.ended("0")
    async with Journal.open(tmp_path, fsync=fsync) as journal:
        assert list(journal.recovered) == ["1"]
        assert journal.recovered["1"].records == [
            *expected("1"),
            record("1", 3, deliveries=("broken",)),
        ]
    contents = read_journal(tmp_path)  # the ended one too, for training
    assert contents.sessions["0"].records == expected("0")
    assert contents.sessions["0"].ended
    assert not contents.damage
    assert not contents.cut


async def test_a_later_record_replaces_an_earlier_one_of_its_number(tmp_path: Path) -> None:
    failed = record("0", 0)
    failed.answer, failed.error = None, ("engine_failed", "it failed")
    async with Journal.open(tmp_path) as journal:
        await journal.opened(SessionFacts(id="0"))
        await journal.answered(failed)
        journal.delivered("0", 0, "error")
        again = record("0", 0, deliveries=("error",))
        again.attempts = 2
        await journal.answered(again)
        journal.leaving("0", 0)
    (kept,) = read_journal(tmp_path).sessions["0"].records
    assert kept.attempts == 2
    assert kept.error is None
    assert kept.deliveries == ["error", "whole"]


async def test_a_delivery_that_broke_is_written_after_what_is_sent_in_the_same_turn(
    tmp_path: Path,
) -> None:
    loop = asyncio.get_running_loop()
    async with Journal.open(tmp_path) as journal:
        await journal.opened(SessionFacts(id="0"))
        await journal.answered(record("0", 0))
        size = journal.size
        sent = loop.create_future()
        journal.delivered("0", 0, "broken")
        loop.call_soon(lambda: sent.set_result(journal.size))  # event loops send at a turn's end
        assert journal.size == size
        assert await sent > size
        assert read_journal(tmp_path).sessions["0"].calls[0].deliveries == ["broken"]


async def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    await write(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}


async def test_a_second_process_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    async with Journal.open(tmp_path):
        with pytest.raises(JournalFailed, match=f"process {os.getpid()}"):
            Journal.open(tmp_path)
    await Journal.open(tmp_path).aclose()


async def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(JournalFailed, match=r"notes\.txt"):
        Journal.open(tmp_path)
    with pytest.raises(JournalFailed, match="no journal can be kept"):
        Journal.open(tmp_path / "notes.txt")
    with pytest.raises(JournalFailed, match="no journal"):
        read_journal(tmp_path / "none")
    with pytest.raises(JournalFailed, match="sometimes"):
        Journal.open(tmp_path / "new", fsync="sometimes")  # type: ignore[arg-type]


async def test_calls_of_sessions_that_are_not_there_are_refused(tmp_path: Path) -> None:
    async with Journal.open(tmp_path) as journal:
        with pytest.raises(JournalFailed, match="session 0 is not in"):
            await journal.answered(record("0", 0))
        await journal.opened(SessionFacts(id="0"))
        await journal.opened(SessionFacts(id="2"))
        await journal.ended("0")
        await journal.ended("0")
        journal.leaving("0", 0)  # its client read on
        with pytest.raises(JournalFailed, match="session 0 is not in"):
            await journal.answered(record("0", 0))
    with pytest.raises(JournalFailed, match="closed"):
        await journal.opened(SessionFacts(id="1"))
    with pytest.raises(JournalFailed, match="closed"):
        journal.leaving("2", 0)


async def test_what_leaves_is_noted_before_and_may_be_corrected(tmp_path: Path) -> None:
    def noted() -> list[Delivery]:
        [kept] = read_journal(tmp_path).sessions["0"].records
        return kept.deliveries

    async with Journal.open(tmp_path, fsync="never") as journal:
        await journal.opened(SessionFacts(id="0"))
        await journal.answered(record("0", 0))
        assert noted() == []
        for _ in range(2):
            journal.leaving("0", 0)
        assert noted() == ["whole", "whole"]
        journal.unread("0", 0, 0)
        journal.unread("0", 0, 7)  # of which the note was dropped
        journal.unread("none", 0, 0)
    assert noted() == ["broken", "whole"]


# -- damage -----------------------------------------------------------------------------------


async def test_any_cut_leaves_whole_calls_and_is_mended(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    await write(whole, sessions=1, calls=3)
    data = files(whole)[0].read_bytes()
    counts = set()
    for length in range(0, len(data), 7):
        cut = tmp_path / str(length)
        cut.mkdir()
        (cut / files(whole)[0].name).write_bytes(data[:length])
        journal = Journal.open(cut, fsync="never")
        await journal.aclose()
        kept = journal.recovered.get("0")
        found = [] if kept is None else kept.records
        for each in found:
            each.deliveries = ["whole"]
        assert found == expected("0")[: len(found)]
        counts.add(len(found))
        again = Journal.open(cut, fsync="never")  # nothing is left to be removed
        assert again.cut == 0
        await again.aclose()
    assert counts == {0, 1, 2, 3}


async def test_a_damaged_middle_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    await write(tmp_path, sessions=2, calls=4)
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    place = data.index(b"1 asks 2")
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(JournalFailed, match=rf"bytes \d+ to \d+ of {path.name}"):
        Journal.open(tmp_path)
    async with Journal.open(tmp_path, repair=True) as journal:
        assert journal.damage
        assert journal.recovered["0"].records == expected("0", 4)
        numbers = [each.number for each in journal.recovered["1"].records]
        assert numbers[:2] == [0, 1]
        assert 3 not in numbers[:2]
        await journal.answered(record("1", 4))
    assert path.read_bytes() == data
    contents = read_journal(tmp_path)
    assert contents.damage
    assert record("1", 4) in contents.sessions["1"].records


async def test_another_file_in_place_of_one_is_damage(tmp_path: Path) -> None:
    await write(tmp_path)
    (tmp_path / "calls-000000.journal").write_bytes(b"something else" * 100)
    async with Journal.open(tmp_path) as journal:  # it has no frame: all of it was cut
        assert journal.cut == 1400
        assert not journal.recovered


# -- a full disk ------------------------------------------------------------------------------


@pytest.fixture
def limit() -> Iterator[Any]:
    """A limit of the size of files, which is what a full disk is to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set_to(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield set_to
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("fsync", list(FSYNC))
async def test_a_full_disk_loses_nothing_that_was_answered(
    tmp_path: Path, limit: Any, fsync: Fsync
) -> None:
    answered = []
    async with Journal.open(tmp_path, fsync=fsync) as journal:
        await journal.opened(SessionFacts(id="0"))
        for number in range(3):
            await journal.answered(record("0", number))
            answered.append(number)
        limit(journal.size + 100)
        with pytest.raises(JournalFailed, match="make room"):
            await journal.answered(record("0", 3))
        journal.delivered("0", 2, "broken")
        limit(10)
        with pytest.raises(JournalFailed, match="make room"):
            journal.leaving("0", 1)
        limit(50)
        for _ in range(3):
            with pytest.raises(JournalFailed, match="cannot be written"):
                await journal.answered(record("0", 3))
        limit(resource.RLIM_INFINITY)
        await journal.answered(record("0", 3))
        await journal.answered(record("0", 4))
    contents = read_journal(tmp_path)
    assert not contents.damage
    assert not contents.cut
    records = contents.sessions["0"].records
    assert [each.number for each in records] == [0, 1, 2, 3, 4]
    assert records[1] == record("0", 1)
    assert records[2] == record("0", 2, deliveries=("broken",))
    assert records[3] == record("0", 3)


async def test_a_disk_that_cannot_sync_is_told_to_those_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Journal.open(tmp_path, fsync="answer") as journal:
        await journal.opened(SessionFacts(id="0"))
        real = os.fdatasync

        def failing(file: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", failing)
        results = await asyncio.gather(
            *(journal.answered(record("0", number)) for number in range(3)),
            return_exceptions=True,
        )
        assert [type(each) for each in results] == [JournalFailed] * 3
        monkeypatch.setattr(os, "fdatasync", real)
        await journal.answered(record("0", 3))
    assert len(files(tmp_path)) == 2


# -- files ------------------------------------------------------------------------------------


async def test_each_file_is_understood_alone(tmp_path: Path) -> None:
    await write(tmp_path, calls=6, segment_size=1500)
    paths = files(tmp_path)
    assert len(paths) > 2
    assert read_journal(tmp_path).sessions["1"].records == expected("1", 6)
    for path in [*paths[:1], *paths[2:]]:
        path.unlink()
    contents = read_journal(tmp_path)
    assert not contents.damage
    alone = [each for kept in contents.sessions.values() for each in kept.records]
    assert alone
    for each in alone:
        each.deliveries = ["whole"]
        assert each in expected(each.session, 6)


async def test_files_are_dropped_as_retention_says(tmp_path: Path) -> None:
    now = 1000.0
    settings: Any = {"segment_size": 1000, "retention": 60.0, "clock": lambda: now}
    async with Journal.open(tmp_path, **settings) as journal:
        for name in ("a", "b"):
            await journal.opened(SessionFacts(id=name))
            for number in range(4):
                await journal.answered(record(name, number))
        count = len(files(tmp_path))
        await journal.ended("b")  # the files of "a" are before it
        now += 100
        await journal.opened(SessionFacts(id="c"))
        await journal.ended("c")
        assert len(files(tmp_path)) >= count
        await journal.ended("a")
        now += 61
        await journal.opened(SessionFacts(id="d"))
        await journal.ended("d")
        assert len(files(tmp_path)) <= 2
        assert journal.size == sum(each.stat().st_size for each in files(tmp_path))
    journal = Journal.open(tmp_path)
    await journal.aclose()
    assert not journal.recovered


async def test_the_size_is_kept_and_an_open_session_moves(tmp_path: Path) -> None:
    max_size = 20_000
    async with Journal.open(tmp_path, segment_size=2000, max_size=max_size) as journal:
        await journal.opened(SessionFacts(id="long"))
        await journal.answered(record("long", 0))
        journal.leaving("long", 0)
        for name in map(str, range(60)):
            await journal.opened(SessionFacts(id=name))
            for number in range(4):
                await journal.answered(record(name, number))
            await journal.ended(name)
            assert journal.size < max_size + 6000
        await journal.answered(record("long", 1))
    assert sum(each.stat().st_size for each in files(tmp_path)) == journal.size
    again = Journal.open(tmp_path)
    await again.aclose()
    assert list(again.recovered) == ["long"]
    assert again.recovered["long"].records == [
        record("long", 0, deliveries=("whole",)),
        record("long", 1),
    ]


async def test_a_journal_full_of_open_sessions_says_so(tmp_path: Path) -> None:
    async with Journal.open(tmp_path, segment_size=2000, max_size=8000) as journal:
        await journal.opened(SessionFacts(id="0"))

        async def fill() -> None:
            for number in range(100):
                await journal.answered(record("0", number))

        with pytest.raises(JournalFailed, match="end sessions, or raise max_size"):
            await fill()
        await journal.ended("0") if journal._file is not None else None
    kept = read_journal(tmp_path).sessions["0"].records
    assert [each.number for each in kept] == list(range(len(kept)))


# -- kill -9 ----------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from openenv_async.gateway.journal import Journal, SessionFacts
from tests.gateway.test_journal import record

async def main(folder, fsync):
    journal = Journal.open(folder, fsync=fsync)
    await journal.opened(SessionFacts(id="0"))
    for number in range(10_000):
        await journal.answered(record("0", number % 50))
        print(number, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("fsync", ["never", "answer"])
def test_a_killed_process_loses_no_answered_call(tmp_path: Path, fsync: Fsync) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), fsync]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = -1
        for line in process.stdout:
            last = int(line)
            if last == 30:
                break
        process.send_signal(signal.SIGKILL)
        last = max([last, *map(int, process.stdout.read().split())])
    contents = read_journal(tmp_path)
    assert not contents.damage
    kept = [each.number for each in contents.sessions["0"].records]
    assert kept[: last + 1] == list(range(min(last + 1, 50)))
    assert contents.sessions["0"].records[30] == record("0", 30)

"""The contract of a provider, and the errors that name why a worker died."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from openenv_async.errors import WorkerDied
from openenv_async.providers.base import Provider, Worker, WorkerExit, new_lines, with_log_tail


class Plain(Worker):
    ended = 0

    async def aclose(self) -> None:
        self.ended += 1


class Maker(Provider):
    closed = 0

    async def start(self, *, timeout: float | None = None) -> Worker:
        return Plain("p-1", "http://127.0.0.1:1", token="secret")

    async def aclose(self) -> None:
        self.closed += 1


# -- the log's end ------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [None, "", " \n\n  "])
def test_without_a_log_the_message_stays(tail: str | None) -> None:
    assert with_log_tail("it died", tail) == "it died"


def test_the_last_three_lines_are_shown() -> None:
    told = with_log_tail("it died", "one\n\n two \nthree\nfour\n")
    assert told == "it died; its log ends with: two | three | four"


def test_long_lines_are_cut_at_their_beginning() -> None:
    exact = "x" * 600
    assert with_log_tail("m", exact) == f"m; its log ends with: {exact}"
    assert with_log_tail("m", "y" + exact) == f"m; its log ends with: …{exact}"


# -- workers ------------------------------------------------------------------------------


async def test_a_worker_as_it_is_made() -> None:
    worker = await Maker().start()
    assert (worker.name, worker.url, worker.token) == ("p-1", "http://127.0.0.1:1", "secret")
    assert (worker.container_id, worker.leaving, worker.exited.done()) == (None, False, False)
    assert await worker.log_tail() == ""
    assert Plain("p-2", "http://a").token is None


async def test_a_death_says_why() -> None:
    worker = Plain("p-1", "http://127.0.0.1:1")
    worker.container_id = "c0ffee"
    worker.exited.set_result(WorkerExit("exited with code 137", 137, True, "a\nlast line\n"))
    died = worker.died("step", env="Echo")
    assert isinstance(died, WorkerDied)
    assert str(died).startswith("the worker p-1 died: exited with code 137; its log ends with: a |")
    facts = (died.env, died.phase, died.container_id, died.exit_code, died.oom, died.log_tail)
    assert facts == ("Echo", "step", "c0ffee", 137, True, "a\nlast line\n")


def test_an_exit_is_a_value() -> None:
    plain = WorkerExit("gone")
    assert (plain.exit_code, plain.oom, plain.log_tail) == (None, None, None)
    assert pickle.loads(pickle.dumps(plain)) == plain
    with pytest.raises(AttributeError):
        plain.reason = "other"  # type: ignore[misc] # the test


# -- providers ----------------------------------------------------------------------------


async def test_leaving_the_block_closes_the_provider() -> None:
    async with Maker() as maker:
        assert await maker.room() is None
        assert maker.closed == 0
    assert maker.closed == 1
    with pytest.raises(RuntimeError, match="on purpose"):
        async with maker:
            raise RuntimeError("on purpose")
    assert maker.closed == 2


def test_a_provider_has_to_say_how() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Provider()  # type: ignore[abstract] # the test
    with pytest.raises(TypeError, match="abstract"):
        Worker("x", "http://a")  # type: ignore[abstract] # the test
    assert (Provider.name, Provider.owns_workers) == ("provider", True)


@pytest.mark.parametrize(
    ("seen", "now", "new"),
    [
        ([], ["a", "b"], ["a", "b"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b", "c"], ["b", "c", "d"], ["d"]),
        (["a", "a"], ["a", "a", "a"], ["a"]),
        (["a", "b"], ["x", "y"], ["… some lines are left out here", "x", "y"]),
        (["a"], [], []),
    ],
)
def test_new_lines_of_a_log_whose_end_is_seen(
    seen: list[str], now: list[str], new: list[str]
) -> None:
    assert new_lines(seen, now) == new


async def test_a_log_is_followed_to_the_end_of_its_worker() -> None:
    class Writing(Worker):
        lines = ("one", "two")

        async def log_tail(self) -> str:
            return "\n".join(self.lines)

        async def aclose(self) -> None: ...

    worker = Writing("w", "http://127.0.0.1:1")
    taken: list[str] = []
    done = asyncio.Event()

    def take(line: str) -> None:
        taken.append(line)
        if line == "last":
            done.set()

    async with worker.following(take):
        worker.exited.set_result(WorkerExit("it ended", log_tail="two\nlast"))
        await done.wait()
    assert taken in (["one", "two", "last"], ["two", "last"])

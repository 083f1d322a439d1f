"""Answers that agents can read are found, and those that stand there by accident are not."""

from __future__ import annotations

import pytest

from openenv_async.checks.certify.leaks import Seen, shown
from tests.checks.certify import broken
from tests.checks.certify.catching import certified, failed


@pytest.mark.parametrize(
    ("cls", "line", "place"),
    [
        (broken.ShowsItsState, "answers_stay_hidden", "the state shows the answer in 16 of 16"),
        (broken.TellsInTheInfo, "answers_stay_hidden", "the info shows the answer in 16 of 16"),
        (broken.LeavesItsTestsAbout, "files_hide_the_answer", "a file, as a probe reads it, shows"),
    ],
)
async def test_it_is_caught_by_name(cls: type[broken.Good], line: str, place: str) -> None:
    found = await failed(cls, line)
    assert list(found) == [line]
    assert found[line].startswith(place)


async def test_errors_are_read() -> None:
    class Complains(broken.Good):
        def step(self, action: broken.Answer) -> broken.Seen:
            raise broken.InvalidAction(f"{action.text!r} is not {self.answer}")

    found = await failed(Complains, "answers_stay_hidden")
    assert found["answers_stay_hidden"].startswith("an error shows the answer")


async def test_what_is_not_known_is_not_shown() -> None:
    class Public(broken.Good):
        tasks = broken.TaskTable({"train": lambda: broken.products("train")})

    certificate = await certified(Public, "answers_stay_hidden", "files_hide_the_answer")
    assert [result.status for result in certificate.results] == ["skipped"] * 2
    assert all("no secrets are known" in result.reason for result in certificate.results)


def episodes(*told: tuple[str, str]) -> list[Seen]:
    return [Seen([secret], {"an observation": text}) for secret, text in told]


def test_a_short_answer_that_stands_everywhere_is_no_finding() -> None:
    digits = "1 2 3 4 5 6 7 8 9"
    assert shown(episodes(*((str(n % 9 + 1), digits) for n in range(32)))) is None


def test_a_short_answer_that_stands_in_its_own_episode_alone_is_one() -> None:
    found = shown(episodes(*((str(n % 9 + 1), f"so {n % 9 + 1} it is") for n in range(32))))
    assert found is not None
    assert found.startswith("an observation shows the answer in 32 of 32 episodes")


def test_a_long_answer_is_found_once() -> None:
    told = [(f"correct-horse-{n}", "nothing") for n in range(31)]
    found = shown(episodes(*told, ("battery-staple", "it is battery-staple!")))
    assert found == "an observation shows the answer, such as 'battery-staple'"


def test_a_part_of_a_word_is_not_the_answer() -> None:
    assert shown(episodes(*((f"{n}77", f"x{n}778") for n in range(32)))) is None

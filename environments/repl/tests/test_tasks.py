"""The bundled tasks: any length, exact answers, two worlds apart."""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from typing import get_args

import pytest
from repl_env.tasks import MAX_LENGTH, MIN_LENGTH, TABLE, TASKS, WORLDS, Drawn, Split, draw
from repl_env.worlds import World

from openenv_async.errors import InvalidOption

FORMS = ("code", "reading", "order", "hop", "first", "second", "third", "filler")


@functools.cache
def pattern(form: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(form)), re.IGNORECASE)


def facts(world: World, text: str) -> dict[str, list[dict[str, str]]]:
    """The facts of the sentences, by kind, in their order; each must be of exactly one form."""
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in text.splitlines():
        said = [
            (kind, match.groupdict())
            for kind in FORMS
            for form in getattr(world, kind)
            if (match := pattern(form).fullmatch(line))
        ]
        assert len(said) == 1, line
        found[said[0][0]].append(said[0][1])
    return found


def solved(drawn: Drawn) -> str:
    """The answer, from the text and the question alone."""
    world = WORLDS[drawn.split]
    known = facts(world, drawn.context)
    match = pattern(world.questions[drawn.name]).fullmatch(drawn.task_prompt)
    assert match is not None
    asked = match.groupdict()

    def fitting(kind: str, *fields: str) -> list[dict[str, str]]:
        return [row for row in known[kind] if all(row[name] == asked[name] for name in fields)]

    match drawn.name:
        case "needle":
            [row] = fitting("code", "thing", "serial", "place")
            return row["number"]
        case "latest":
            return fitting("reading", "thing", "place")[-1]["number"]
        case "count":
            return str(len(fitting("order", "thing", "place")))
        case "distinct":
            return str(len({row["place"] for row in fitting("order", "thing")}))
        case "total":
            return str(sum(int(row["number"]) for row in fitting("order", "thing", "time")))
        case "busiest":
            sums: Counter[str] = Counter()
            for row in fitting("order", "thing"):
                sums[row["place"]] += int(row["number"])
            (best, most), (_, second) = sums.most_common(2)
            assert most > second
            return best
        case "chain":
            follows = {row["number"]: row["next"] for row in known["hop"]}
            assert len(follows) == len(known["hop"])
            here = asked["number"]
            for _ in range(int(asked["steps"])):
                here = follows[here]
            return here
        case _:
            here = asked["number"]
            for kind in ("first", "second", "third"):
                [row] = [row for row in known[kind] if row["number"] == here]
                here = row["next"]
            return here


@pytest.mark.parametrize("split", get_args(Split))
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    ("seeds", "lengths"),
    [
        (4, [MIN_LENGTH, 9_000]),
        pytest.param(60, [MIN_LENGTH, 16_000], marks=pytest.mark.heavy),
        pytest.param(1, [100_000, 1_000_000], marks=pytest.mark.heavy),
    ],
    ids=["few", "many", "long"],
)
def test_answers_are_exact(name: str, split: Split, seeds: int, lengths: list[int]) -> None:
    for length in lengths:
        for seed in range(seeds):
            drawn = draw(seed, name, split, length)
            assert length <= len(drawn.context) + 1 < length + 400
            assert solved(drawn) == drawn.expected_answer


def test_tasks_follow_the_seed_or_their_name() -> None:
    for name in TASKS:
        drawn = draw(3, name, "train")
        assert drawn == draw(3, name, "train")
        assert drawn.context != draw(4, name, "train").context
        named = draw(3, f"{name}/test/7", "train")
        assert named == draw(4, f"{name}/test/7", None)
        assert (named.name, named.split) == (name, "test")
    assert {draw(seed, None, None).split for seed in range(20)} == {"train", "test"}
    assert {draw(seed, None, "train").name for seed in range(100)} == {*TASKS}


def test_no_answer_is_usual() -> None:
    answers = [draw(seed, None, "train", 4_000).expected_answer for seed in range(800)]
    [(_, most)] = Counter(answers).most_common(1)
    assert most / len(answers) < 0.03


def test_worlds_have_nothing_in_common() -> None:
    train, test = (WORLDS[split] for split in get_args(Split))

    def names(world: World) -> set[str]:
        return {name.lower() for name in (*world.places, *world.things, *world.times)}

    def words(world: World) -> set[str]:
        forms = [form for kind in FORMS for form in getattr(world, kind)]
        return set(re.findall(r"\w+", " ".join([*forms, *world.questions.values()]).lower()))

    for world in (train, test):
        assert len(names(world)) == len(world.places) + len(world.things) + len(world.times)
        assert not names(world) & (words(train) | words(test))
        assert {*world.questions} == {*TASKS}
    assert not names(train) & names(test)
    for kind in FORMS:
        assert not {*getattr(train, kind)} & {*getattr(test, kind)}
    assert not {*train.questions.values()} & {*test.questions.values()}
    lines = {split: draw(0, None, split).context.splitlines() for split in get_args(Split)}
    assert not {*lines["train"]} & {*lines["test"]}


def test_what_is_listed_can_be_drawn_and_what_is_not_is_refused() -> None:
    assert [*TABLE.splits()] == ["train", "test"]
    for split in TABLE.splits():
        assert TABLE.count(split) == 200
        listed = [TABLE.get(split, number).data["task"] for number in range(200)]
        assert len({*listed}) == 200
        assert draw(0, listed[17], None).split == split
    for wrong, why in (("none", "choose one of needle"), ("count/other/1", "no task 'count/other")):
        with pytest.raises(InvalidOption, match=why):
            draw(0, wrong, None)
    with pytest.raises(InvalidOption, match="choose train or test"):
        draw(0, None, "none")  # type: ignore[arg-type]  # wrong on purpose
    for length in (MIN_LENGTH - 1, MAX_LENGTH + 1):
        with pytest.raises(InvalidOption, match="choose from 4,000 to 4,000,000 characters"):
            draw(0, None, None, length)

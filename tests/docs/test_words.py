"""The rules of wording hold, and the tool that keeps them finds each kind of breach."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT
from tests.docs.words import ALLOWED, AREAS, breaches, files, in_page, in_source


def areas() -> list[str]:
    """All that the rules hold for, the package and the environments room by room."""
    rooms = [
        path.relative_to(ROOT).as_posix()
        for area in ("openenv_async", "environments")
        for path in sorted((ROOT / area).iterdir())
        if path.suffix == ".py" or (path.is_dir() and not path.name.startswith(("_", ".")))
    ]
    return [area for area in AREAS if area not in ("openenv_async", "environments")] + rooms


@pytest.mark.parametrize("area", areas())
def test_nothing_breaks_the_rules(area: str) -> None:
    found = [str(breach) for path in files([area]) for breach in breaches(path)]
    assert not found, "\n".join(found)


def test_every_area_is_looked_at() -> None:
    looked_at = {path for area in areas() for path in files([area])}
    assert looked_at == set(files())
    assert len(looked_at) > 300


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ('"""What a step gave."""', "opening"),
        ('"""How long it takes."""', "opening"),
        ('"""As ``step``, twice."""', "opening"),
        ('"""The result. Whether it is one is told by ``done``."""', "opening"),
        ('"""A call.\n\nWho makes it waits.\n"""', "opening"),
        ('x: int\n"""Where it is."""', "opening"),
        ("# Where it was left, it goes on.\n", "opening"),
        ("# A step.\n# Whether it ends is\n# seen later.\n", "opening"),
        ('raise ValueError("What is given is wrong")', "opening"),
        ('"""Runs the checks."""', "verb"),
        ('"""Answers a call."""', "verb"),
        ('raise ValueError(f"{value!r} is no number")', "no"),
        ('raise ValueError("these are no numbers")', "no"),
        ("# which is no error\n", "no"),
        ('"""A caller and his session."""', "person"),
        ('"""Tell the caller that he may go on."""', "person"),
        ('"""A door to the engine."""', "word"),
        ('"""The call is cut off."""', "word"),
        ('f"the call was given up after {seconds} s"', "word"),
        ("# whoever waits is told\n", "word"),
        ("def close_door(): ...", "word"),
        ("class HttpDoor: ...", "word"),
        ("def f(seat): ...", "word"),
        ("f(keeper=1)", "word"),
        ("from a.crew import b", "word"),
        ("class Port: ...", "word"),
        ("self.doomed = True", "word"),
        ('"""The kill of a worker (R07)."""', "number"),
        ("# F12: read twice\n", "number"),
    ],
)
def test_a_breach_in_source_is_found(source: str, rule: str) -> None:
    assert rule in {found for _, found, _ in in_source(source)}


@pytest.mark.parametrize(
    "source",
    [
        '"""Return the step."""',
        '"""Raised when a step fails."""',
        '"""Seconds that a worker has to start."""',
        '"""Steps a second of one session."""',
        '"""A session that is no longer open."""',
        'raise ValueError("there is no folder here")',
        'raise ValueError("it is not a valid number")',
        '"""``What`` is a name."""',
        '"""The part of this: the other, whatever there is."""',
        "import socket\nport = 80\nseed = 1\n",
        "x = 'whatever'",
        "x = 'Say it. What is two plus two?'",
        "x = f'How many of {thing} are there?'",
        '__getattr__ = renamed_attributes(__name__, {"Crew": "Workers"})',
    ],
)
def test_what_is_right_is_left_alone(source: str) -> None:
    assert list(in_source(source)) == []


@pytest.mark.parametrize(
    ("page", "rule", "line"),
    [
        ("# What it is\n", "opening", 1),
        ("Text.\n\n- A point.\n- How it goes.\n", "opening", 4),
        ("| a | Whether it goes |\n", "opening", 1),
        ("It goes on. Who asks is told.\n", "opening", 1),
        ("It is no\nnumber.\n", "no", 1),
        ("Each [door](a.md) is open.\n", "word", 1),
        ("```python\nx = 1\n# the door\n```\n", "word", 3),
        ("See R12.\n", "number", 1),
    ],
)
def test_a_breach_in_a_page_is_found(page: str, rule: str, line: int) -> None:
    assert (line, rule) in {(number, found) for number, found, _ in in_page(page)}


def test_a_page_may_have_code_and_links() -> None:
    page = "# A page\n\nSee `What` and [this](doors.md).\n\n```\nWhat is it\n```\n"
    assert list(in_page(page)) == []


def test_every_exception_has_a_reason_and_a_use() -> None:
    for allowed in ALLOWED:
        assert allowed.reason
        assert (ROOT / allowed.path).exists()
        texts = [path.read_text() for path in files([allowed.path])]
        assert any(re.search(allowed.text, text) for text in texts), allowed

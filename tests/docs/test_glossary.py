"""The glossary has one line a term, and every public noun."""

from __future__ import annotations

import importlib
import inspect
import re
import types
from typing import Final

import pytest

from tests.docs.pages import DOCS

ROOMS: Final = (
    "openenv_async",
    "openenv_async.gateway",
    "openenv_async.integrations.gymnasium",
    "openenv_async.integrations.sb3",
    "openenv_async.integrations.sb3_contrib",
    "openenv_async.integrations.trl",
    "openenv_async.pool",
    "openenv_async.providers.docker",
    "openenv_async.responders",
    "openenv_async.rollouts",
)
TERMS: Final = (
    "dialect", "endpoint", "environment", "episode", "frame", "lease (of a pool)", "message",
    "observation", "rollout", "session", "step", "terminated", "truncated", "worker",
)  # fmt: skip


def tables() -> list[list[str]]:
    """The terms of each table, in the order of the page."""
    sections = (DOCS / "glossary.md").read_text().split("\n## ")[1:]
    return [
        [term.strip("`") for term in re.findall(r"^\| (.+?) \|", section, re.MULTILINE)[1:]]
        for section in sections
    ]


def test_each_term_has_one_line() -> None:
    found = [term for table in tables() for term in table]
    assert sorted({term for term in found if found.count(term) > 1}) == []
    lines = (DOCS / "glossary.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert [row for row in rows if row.count(" | ") != 1] == []


@pytest.mark.parametrize("number", range(6))
def test_terms_are_in_the_order_of_the_alphabet(number: int) -> None:
    terms = tables()[number]
    assert terms == sorted(terms, key=str.casefold)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_noun_is_there(room: str) -> None:
    module = importlib.import_module(room)
    nouns = {
        name
        for name in module.__all__
        if inspect.isclass(getattr(module, name)) or name[0].isupper()
    }
    assert not any(isinstance(getattr(module, name), types.ModuleType) for name in nouns)
    assert sorted(nouns - {term for table in tables() for term in table}) == []


def test_every_term_of_the_field_is_there() -> None:
    assert sorted(set(TERMS) - {term for table in tables() for term in table}) == []

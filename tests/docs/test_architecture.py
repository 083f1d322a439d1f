"""The page on architecture says what the contracts and the package say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
PACKAGE = ROOT / "openenv_async"


def block(heading: str) -> list[str]:
    """The lines of the first code block under a heading."""
    section = PAGE[PAGE.index(f"## {heading}\n") :]
    return section.split("```text\n", 1)[1].split("\n```", 1)[0].splitlines()


def layers() -> list[str]:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    [contract] = [each for each in tool["importlinter"]["contracts"] if each["type"] == "layers"]
    assert contract["exhaustive"]
    found: list[str] = contract["layers"]
    return found


def test_the_layers_are_those_that_are_enforced() -> None:
    assert block("Layers") == layers(), "\n".join(layers())


def test_every_room_is_in_a_layer() -> None:
    named = {name.strip(" ()") for layer in layers() for name in re.split("[|:]", layer)}
    rooms = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    rooms |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert named == rooms


TABLE = re.findall(r"^\| [^|]+ \| ((?:`[^`|]+`(?:, )?)+) \|", PAGE, flags=re.MULTILINE)
PLACES = sorted({place for cell in TABLE for place in re.findall("`([^`]+)`", cell)})


def test_the_table_of_parts_was_found() -> None:
    assert {"protocol/", "engine/session.py"} <= set(PLACES)


@pytest.mark.parametrize("place", [place for place in PLACES if "/" in place])
def test_the_places_of_the_parts_exist(place: str) -> None:
    assert (PACKAGE / place).exists()

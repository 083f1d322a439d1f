"""Pages of documentation as what can be checked in them: blocks, links, anchors.

A fenced block may be preceded by HTML comments, which readers do not see:

- ``<!-- file: game.py -->``: the block is a file of that name, which later blocks import.
- ``<!-- prints -->``: the block is what the python block before it prints; ``…`` stands for
  anything.
- ``<!-- not run: REASON -->``: the block is not run, and why.

``<!-- serves: TARGET -->`` on a line of its own: while the page is checked, a server of that
target runs, and stands for ``http://127.0.0.1:8000`` in every block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["ADDRESS", "DOCS", "PAGES", "REFERENCE", "ROOT", "Block", "Page", "matches", "read_page"]

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
REFERENCE: Final = DOCS / "reference"
"""Pages that the documentation site makes of docstrings."""
PAGES: Final = [
    ROOT / "README.md",
    *sorted(path for path in DOCS.rglob("*.md") if REFERENCE not in path.parents),
]
ADDRESS: Final = "http://127.0.0.1:8000"

_FENCE: Final = re.compile(r"^(`{3,})(\w*)\s*$")
_COMMENT: Final = re.compile(r"^<!--\s*(.*?)\s*-->$")
_HEADING: Final = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE_SPAN: Final = re.compile(r"`[^`]*`")


@dataclass
class Block:
    """A fenced block.

    Attributes:
        line: of its first line of text, from 1.
        marks: the comments before it, name and value.
        expected: what a ``prints`` block after it says that it prints.
    """

    language: str
    text: str
    line: int
    marks: dict[str, str] = field(default_factory=dict)
    expected: str | None = None


@dataclass
class Page:
    path: Path
    blocks: list[Block]
    links: list[tuple[int, str]]
    anchors: set[str]
    serves: str | None = None

    @property
    def name(self) -> str:
        return self.path.name


def read_page(path: Path) -> Page:
    page = Page(path, [], [], set())
    marks: dict[str, str] = {}
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if fence := _FENCE.match(line.strip()):
            block = _read_block(lines, fence, number + 1, marks)
            page.blocks.append(block)
            if "prints" in marks:
                before = [b for b in page.blocks[:-1] if b.language == "python"]
                assert before, f"{path.name}:{number}: no python block prints this"
                before[-1].expected = block.text
            marks = {}
        elif comment := _COMMENT.match(line.strip()):
            name, _, value = comment[1].partition(":")
            if name == "serves":
                page.serves = value.strip()
            else:
                marks[name.strip()] = value.strip()
        elif line.strip():
            marks = {}
            if heading := _HEADING.match(line):
                page.anchors.add(_slug(heading[1]))
            page.links += [(number, link) for link in _LINK.findall(_CODE_SPAN.sub("``", line))]
    return page


def _read_block(
    lines: Iterator[tuple[int, str]], fence: re.Match[str], first: int, marks: dict[str, str]
) -> Block:
    text: list[str] = []
    for _, line in lines:
        if line.strip() == fence[1]:
            break
        text.append(line)
    return Block(fence[2], "\n".join(text), first, marks)


def _slug(heading: str) -> str:
    """The anchor that code hosts make of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")


def matches(expected: str, actual: str) -> bool:
    """Whether ``actual`` is what a page shows, in which ``…`` stands for anything."""
    parts = [re.escape(part) for part in expected.strip().split("…")]
    return re.fullmatch(".*?".join(parts), actual.strip(), re.DOTALL) is not None

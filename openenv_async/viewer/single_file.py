"""Episodes as one HTML file, which needs no server and loads nothing.

The index and the records are compressed (zlib) and in base64, the records in blocks, so that the
page inflates only what is opened.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from openenv_async.errors import InvalidOption
from openenv_async.viewer.page import joined_page
from openenv_async.viewer.sources import EpisodeSource

__all__ = ["MAX_SIZE", "Written", "write_html"]

MAX_SIZE: Final = 100 * 1024 * 1024
"""Bytes of a file beyond which episodes are written without their steps."""
_BLOCK_SIZE: Final = 512 * 1024
"""Bytes of records after which a block ends."""
_LEVEL: Final = 9


class Written(NamedTuple):
    """The file that was written.

    Attributes:
        size: of it, in bytes.
        episodes: in it.
        without_steps: of these those whose records were left out.
    """

    size: int
    episodes: int
    without_steps: int


def write_html(
    sources: Sequence[EpisodeSource], out: str | Path, *, max_size: int = MAX_SIZE
) -> Written:
    """Write episodes as one HTML file; one that is there is replaced.

    Args:
        sources: of the episodes; they are read to their ends.
        out: path of the file.
        max_size: bytes of records, compressed; the episodes beyond have no steps in the file,
            which says so.

    Raises:
        OSError: the file cannot be written.
    """
    elements: list[str] = []
    blocks: list[list[int]] = []
    told: list[dict[str, Any]] = []
    episodes = left_out = size = 0
    for number, source in enumerate(sources):
        source.refresh()
        episodes += len(source.columns)
        index = source.columns.packed()
        elements.append(_element(f"index-{number}", index))
        firsts: list[int] = []
        missing = 0
        for first, lines in _blocks(source):
            element = _element(f"records-{number}-{len(firsts)}", b"\n".join(lines))
            if size + len(element) > max_size:
                missing = len(source.columns) - first
                break
            size += len(element)
            firsts.append(first)
            elements.append(element)
        blocks.append(firsts)
        told.append(source.described())
        if missing:
            left_out += missing
            told[-1]["notices"].append(
                f"{missing:,} episodes have no steps in this file, which would be larger than"
                f" {max_size / 1e6:,.0f} MB"
            )
    data = msgspec.json.encode({"sources": told, "blocks": blocks}).decode()
    for letter in "<>&":  # nothing in it looks like an element's end
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    elements.insert(0, f'<script type="application/json" id="viewer-data">{data}</script>')
    page = joined_page("\n".join(elements)).encode()
    Path(out).write_bytes(page)
    return Written(len(page), episodes, left_out)


def _blocks(source: EpisodeSource) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the records of a source in blocks, each with the number of its first row."""
    first, size = 0, 0
    lines: list[bytes] = []
    for row in range(len(source.columns)):
        try:
            line = source.line(row).strip()
        except InvalidOption:  # the file was changed meanwhile
            line = b""
        lines.append(line)
        size += len(line)
        if size >= _BLOCK_SIZE:
            yield first, lines
            first, lines, size = row + 1, [], 0
    if lines:
        yield first, lines


def _element(name: str, octets: bytes) -> str:
    text = base64.b64encode(zlib.compress(octets, _LEVEL)).decode()
    return f'<script type="text/plain" id="{name}">{text}</script>'

"""One HTML file: its size, its parts, and what is left out."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

from openenv_async.rollouts import open_writer
from openenv_async.viewer import open_source, write_html
from tests.viewer.samples import MARKUP, marked_episode, write_sample


def element(page: str, name: str) -> str:
    found = re.search(f'id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return found[1]


def told(page: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(element(page, "viewer-data"))
    return read


def test_records_are_in_the_file(tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    written = write_html([open_source(write_sample(tmp_path / "a.jsonl", 60))], out)
    assert (written.episodes, written.without_steps) == (60, 0)
    assert written.size == out.stat().st_size < 300_000
    page = out.read_text()
    [firsts] = told(page)["blocks"]
    blocks = [element(page, f"records-0-{number}") for number in range(len(firsts))]
    lines = [zlib.decompress(base64.b64decode(block)).split(b"\n") for block in blocks]
    assert [json.loads(line)["index"] for block in lines for line in block] == list(range(60))
    assert [json.loads(block[0])["index"] for block in lines] == firsts


def test_records_beyond_the_size_are_left_out_and_said(tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    written = write_html([open_source(write_sample(tmp_path / "a.jsonl", 8))], out, max_size=10)
    assert (written.episodes, written.without_steps) == (8, 8)
    page = told(out.read_text())
    assert page["blocks"] == [[]]
    assert "8 episodes have no steps in this file" in page["sources"][0]["notices"][0]


def test_markup_stays_data(tmp_path: Path) -> None:
    path = tmp_path / f"{'<b>' * 3}.jsonl"
    with open_writer(path, header={"run": MARKUP}) as writer:
        writer.write(marked_episode(0))
    write_html([open_source(path)], tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert told(page)["sources"][0]["facts"]["run"] == MARKUP
    assert MARKUP not in page

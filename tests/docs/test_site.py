"""The documentation site: every page is in it, and it builds and is read without network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import openenv_async
from tests.docs.pages import DOCS, REFERENCE, ROOT

pytestmark = pytest.mark.xdist_group("site")  # which is built once
BUILD_TIMEOUT: Final = 240.0
OFFLINE: Final = """
import socket, sys

def refuse(*args, **kwargs):
    raise OSError("the site is built without network")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse

from mkdocs.__main__ import cli

cli(sys.argv[1:])
"""
LOADED: Final = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("source", "src"),
    ("video", "src"),
    ("iframe", "src"),
    ("object", "data"),
}
"""Attributes by which a page has the browser fetch something."""


class Settings(yaml.SafeLoader):
    """A loader of the site's settings, whatever Python objects they name."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def navigation() -> list[str]:
    def pages(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        else:
            for each in part if isinstance(part, list) else part.values():
                yield from pages(each)

    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Settings)
    return list(pages(settings["nav"]))


def test_every_page_is_in_the_navigation_once() -> None:
    there = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    listed = navigation()
    missing = [f"      - {name}" for name in there if name not in listed]
    assert not missing, "add to a section of `nav` in mkdocs.yml:\n" + "\n".join(missing)
    assert sorted(listed) == there, "`nav` in mkdocs.yml names a page twice, or one that is gone"


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.md"))
    described = {line.rpartition(".")[2] for line in text.splitlines() if line.startswith("::: ")}
    public = {name for name in openenv_async.__all__ if not name.startswith("_")}
    # The module of the errors is there as a whole.
    assert public - described == {"OpenEnvError"}
    assert "::: openenv_async.errors" in text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
        check=False,
    )
    # Strict: a dead link or anchor fails it.
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


class Loads(HTMLParser):
    """Everything that a page has the browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") in {"canonical", "prev", "next"}:
            return
        self.found += [
            values[name] or "" for where, name in LOADED if where == tag and name in values
        ]


def elsewhere(text: str) -> list[str]:
    return [url for url in Loads(text).found if re.match(r"(https?:)?//", url)]


@pytest.mark.xdist_group("site")
def test_no_page_loads_from_another_host(site: Path) -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > len(navigation())
    assert {path.name: found for path, text in pages.items() if (found := elsewhere(text))} == {}
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert [found for text in styles for found in re.findall(r"url\(\"?(?:https?:)?//", text)] == []


@pytest.mark.xdist_group("site")
def test_the_reference_tells_what_docstrings_say(site: Path) -> None:
    text = (site / "reference" / "errors.html").read_text(encoding="utf-8")
    assert "SessionLost" in text
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert '"reference/rollouts.html#openenv_async.rollout"' in index


@pytest.mark.xdist_group("site")
def test_links_to_files_of_the_repository_lead_to_copies(site: Path) -> None:
    text = (site / "reliability.html").read_text(encoding="utf-8")
    assert 'href="files/tests/behaviours/test_resume.py.txt"' in text
    copy = site / "files" / "tests" / "behaviours" / "test_resume.py.txt"
    assert copy.read_text(encoding="utf-8").startswith('"""')


def test_what_another_host_would_serve_is_found() -> None:
    text = '<script src="//cdn.example/a.js"></script><img src="https://img.example/a.png">'
    assert len(elsewhere(text)) == 2
    assert (
        elsewhere('<link rel="stylesheet" href="assets/a.css"><a href="https://a.example">') == []
    )

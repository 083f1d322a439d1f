"""What the documentation shows works: its examples, its commands, its links, its tables."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from starlette.routing import Route, WebSocketRoute

import openenv_async
from openenv_async import HTTPEnvServer
from openenv_async.cli import main as command_line
from openenv_async.testing import BenchEnvironment
from tests.docs import check, tables
from tests.docs.pages import DOCS, PAGES, ROOT, Page, matches, read_page


def problems_of(page: Page, folder: Path) -> list[str]:
    check.write_files(page, folder)
    with check.serving(page, folder) as url:
        blocks = check.failing_blocks(page, folder, url)
        return blocks + check.failing_commands(page, folder, url)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_examples_run(path: Path, tmp_path: Path) -> None:
    problems = problems_of(read_page(path), tmp_path)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    problems = check.dead_links(read_page(path))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(("page", "name"), tables.TABLES, ids=lambda part: part.replace(" ", "_"))
def test_tables_are_those_of_the_code(page: str, name: str) -> None:
    stale = f"docs/{page} is behind the code: python -m tests.docs.tables"
    assert tables.found(DOCS / page, name) == tables.TABLES[page, name](), stale


def test_every_error_has_a_remedy_and_no_other() -> None:
    assert set(tables.REMEDIES) == {cls.__name__ for cls in tables.error_classes()}


def test_every_public_name_and_command_is_told_of() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    names = [name for name in openenv_async.__all__ if not name.startswith("_")]
    commands = [f"openenv-async {name}" for name in command_line.list_commands(None)]  # type: ignore[arg-type]  # it uses no context
    assert [word for word in names + commands if word not in text] == []


def test_every_route_is_told_of() -> None:
    text = (DOCS / "serving.md").read_text(encoding="utf-8")
    routes = HTTPEnvServer(BenchEnvironment).routes
    paths = [route.path for route in routes if isinstance(route, Route | WebSocketRoute)]
    assert len(paths) == len(routes)
    told = [path.replace(":path}", "}") for path in paths]
    assert [path for path in told if f"{path}`" not in text] == []


def test_every_behaviour_has_a_row() -> None:
    rows = (DOCS / "reliability.md").read_text(encoding="utf-8").partition("\n## ")[0]
    files = [path.name for path in (ROOT / "tests" / "behaviours").glob("test_*.py")]
    assert len(files) > 40
    assert [name for name in files if f"| [{name}](" not in rows] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_path_of_anybodys_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    folders = (str(ROOT), "/home/", "/root/", "/Users/", "/tmp/")
    assert [folder for folder in folders if folder in text] == []


# -- the checks can fail ------------------------------------------------------------------------


def page_of(folder: Path, text: str) -> Page:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return read_page(path)


PYTHON = "```python\n{}\n```\n"
BROKEN = {
    "raises": PYTHON.format("1 / 0"),
    "raises later": PYTHON.format("x = 1") + PYTHON.format("assert x == 2"),
    "awaits": PYTHON.format("import asyncio\nawait asyncio.sleep(0)\nraise ValueError"),
    "prints": PYTHON.format("print('one')") + "<!-- prints -->\n```text\ntwo\n```\n",
    "file": "<!-- file: mine.py -->\n" + PYTHON.format("x = 1") + PYTHON.format("import min"),
    "no reason": "<!-- not run: -->\n" + PYTHON.format("1 / 0"),
    "command": "```console\n$ echo one\ntwo\n```\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_example_is_found(text: str, tmp_path: Path) -> None:
    problems = problems_of(page_of(tmp_path, text), tmp_path)
    assert len(problems) == 1
    assert "page.md" in problems[0]


def test_a_working_page_has_no_problems(tmp_path: Path) -> None:
    text = "<!-- serves: echo -->\n<!-- file: mine.py -->\n" + PYTHON.format("x = 1")
    text += PYTHON.format("import asyncio, mine\nawait asyncio.sleep(0)")
    text += PYTHON.format("print('http://127.0.0.1:8000', mine.x)")
    text += "<!-- prints -->\n```text\nhttp://127.0.0.1:… 1\n```\n"
    text += "```console\n$ echo http://127.0.0.1:8000\nhttp://127.0.0.1:8000\n```\n"
    text += "<!-- not run: it would fail -->\n" + PYTHON.format("1 / 0")
    assert problems_of(page_of(tmp_path, text), tmp_path) == []


@pytest.mark.parametrize("link", ["gone.md", "page.md#gone", "#gone"])
def test_a_dead_link_is_found(link: str, tmp_path: Path) -> None:
    text = f"# A heading\n\n[dead]({link}) [alive](page.md#a-heading) [web](https://example.org)\n"
    assert len(check.dead_links(page_of(tmp_path, text))) == 1


def test_an_ellipsis_stands_for_anything() -> None:
    match = functools.partial(matches, "a … c")
    assert match("a b c")
    assert match("a b\nb c\n")
    assert not match("a b d")

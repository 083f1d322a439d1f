"""The tables of agents in the gateway's page name tests that there are, and the tested releases."""

from __future__ import annotations

import re

from tests.agents import test_agents
from tests.agents.clients import AGENTS
from tests.docs.pages import DOCS


def section() -> str:
    page = (DOCS / "gateway.md").read_text(encoding="utf-8")
    return page.split("\n## Agents\n")[1].split("\n## ")[0]


def test_each_row_names_a_test() -> None:
    rows = section().split("### Rows of a task")[1].split("###")[0]
    named = re.findall(r"\| `(test_\w+)` \|$", rows, re.MULTILINE)
    assert len(named) == len([line for line in rows.splitlines() if line.startswith("| ")]) - 1
    there = {name for name in vars(test_agents) if name.startswith("test_")}
    assert set(named) == there


def test_the_releases_are_those_that_are_tested() -> None:
    told = dict(re.findall(r"^\| ([\w-]+) \| (\d[\d.]*) \|", section(), re.MULTILINE))
    tested = {}
    for known in AGENTS.values():
        packages = [known.packages] if isinstance(known.packages, str) else known.packages
        for package in packages:
            name, _, release = package.replace("==", "@").rpartition("@")
            tested[re.sub(r"^@.*/|\[.*", "", name)] = release
    names = {"opencode": "opencode-ai", "pi": "pi-coding-agent"}
    assert {names.get(name, name): release for name, release in told.items()} == tested

"""The page's parts, joined into one file and apart."""

from __future__ import annotations

import base64
import hashlib
import re

from openenv_async.viewer.page import STATIC, joined_page, linked_page, static_file


def test_the_linked_page_refers_to_files_that_are_served() -> None:
    named = re.findall(r'(?:src|href)="static/([^"]+)"', linked_page())
    assert named
    assert set(named) <= set(STATIC)
    imported = {
        name
        for file in STATIC
        if file.endswith(".js")
        for name in re.findall(r'from "\./([^"]+)"', static_file(file))
    }
    assert imported
    assert imported <= set(STATIC)


def test_the_joined_page_loads_nothing_and_runs_only_its_scripts() -> None:
    page = joined_page("<b>data</b>")
    assert "<b>data</b>" in page
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in page
    assert not re.search(r"^(import|export)\b", scripts[1], re.MULTILINE)
    assert not re.search(r"(src|href)=\"(?!#)", page.split("<script")[0])


def test_top_level_names_differ() -> None:
    names = [
        name
        for file in STATIC
        if file.endswith(".js") and "vendor" not in file
        for name in re.findall(
            r"^(?:export )?(?:async )?(?:function|const|class|let) (\w+)",
            static_file(file),
            re.MULTILINE,
        )
    ]
    assert sorted(names) == sorted(set(names))


def test_no_script_makes_elements_of_text() -> None:
    for file in STATIC:
        if "vendor" not in file:
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", static_file(file)
            )

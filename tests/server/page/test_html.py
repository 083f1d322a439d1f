"""HTML of the page: what is text stays text."""

from __future__ import annotations

from openenv_async.server.page import html
from openenv_async.server.page.words import FieldInWords

MARK = '<b id="mark">&amp;</b>"'
SHOWN = "&lt;b id=&quot;mark&quot;&gt;&amp;amp;&lt;/b&gt;&quot;"


def test_all_parts_escape_their_texts() -> None:
    field = FieldInWords(MARK, MARK, MARK, MARK, MARK)
    parts = [
        html.paragraphs(f"{MARK}\n\n{MARK}"),
        html.field_table([field], MARK),
        html.facts([(MARK, "")]),
        html.section("name", MARK, ""),
        html.login_form(MARK, MARK, MARK, "./", MARK),
        html.document(MARK, "", csrf=MARK),
        html.table([MARK], [[""]], name=MARK, empty=""),
        html.table([], [], name="", empty=MARK),
    ]
    for part in parts:
        assert "<b " not in part
        assert SHOWN in part


def test_double_backticks_are_code() -> None:
    assert html.prose("``<i>`` or ``x`` `y`") == ("<code>&lt;i&gt;</code> or <code>x</code> `y`")


def test_only_columns_that_say_anything_are_shown() -> None:
    shown = html.field_table([FieldInWords("", "integer", "", "", "what for")], "Fields")
    assert ">Range<" not in shown
    assert ">Default<" not in shown
    assert ">Description<" in shown


def test_a_page_without_requests_of_its_own_has_no_script() -> None:
    assert "<script" not in html.document("t", "")
    assert '<script src="./page.js"' in html.document("t", "", csrf="s")
    for part in (html.document("t", "", csrf="s"), html.login_form("t", "a", None, "./", "")):
        assert " style=" not in part
        assert " onclick=" not in part

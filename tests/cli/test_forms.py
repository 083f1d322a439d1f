"""Forms: fields that are asked for until what was typed fits."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.cli.forms import ask, kind_of

NESTED = {
    "type": "object",
    "properties": {
        "tool": {"enum": ["add", "submit"]},
        "flag": {"type": "boolean", "default": False},
        "item": {"$ref": "#/$defs/Item"},
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    },
    "required": ["tool", "item"],
    "additionalProperties": False,
    "$defs": {"Item": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}


def test_a_form_asks_until_it_fits() -> None:
    answers = iter(["mul", "add", "yes", "true", "seven", '{"n": 7}', '["a"]', ""])
    said: list[str] = []
    prompts: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        return next(answers)

    assert ask(NESTED, read, said.append) == {
        "tool": "add",
        "flag": True,
        "item": {"n": 7},
        "tags": ["a"],
    }
    assert prompts[0] == 'tool ("add" | "submit"): '
    assert "tags (array of string, empty for []): " in prompts
    assert len(said) == 3


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 3}, "integer 0 to 3"),
        ({"type": "number", "minimum": 0}, "number from 0"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"x-ndarray": {"dtype": "<f4", "shape": [2, 3]}}, "array <f4 2×3"),
        ({"const": 4}, "4"),
        ({}, "anything"),
    ],
)
def test_a_kind_in_a_few_words(schema: dict[str, Any], kind: str) -> None:
    assert kind_of(schema, schema) == kind

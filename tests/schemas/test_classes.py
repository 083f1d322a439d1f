"""Classes made from a schema send what they were given, and leave the rest to the server."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import msgspec
import pydantic
import pytest

from openenv_async import AutoAction, AutoEnv, Environment, serve
from openenv_async.models import FORMATS, PayloadCodec, json_schema, to_builtins
from openenv_async.schemas.classes import model_from_schema


class Inner(pydantic.BaseModel):
    a: int = 1


class Act(pydantic.BaseModel):
    message: str
    metadata: dict[str, Any] = pydantic.Field(default_factory=dict)
    number: int = 3
    maybe: int | None = None
    lazy: int = None  # type: ignore[assignment] # as authors write it
    tags: list[int] = [1]
    inner: Inner = Inner(a=2)
    ratio: float = pydantic.Field(default_factory=lambda: 0.5)


class Strict(pydantic.BaseModel, extra="forbid"):
    metadata: dict[str, Any] = pydantic.Field(default_factory=dict)
    verbose: bool = False


@dataclasses.dataclass
class Plain:
    x: int
    when: list[int] = dataclasses.field(default_factory=lambda: [4])
    limit: int = 7


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_given_is_left_to_the_server(name: Any) -> None:
    made = model_from_schema(json_schema(Act), "Act").type
    value = made("hi")
    for codec in (PayloadCodec[Any](made, name), PayloadCodec[Any](Any, name)):
        assert PayloadCodec[Any](Act, name).decode(codec.encode(value)) == Act(message="hi")
    sent = to_builtins(value)
    assert {"metadata", "number", "maybe", "lazy", "ratio"}.isdisjoint(sent)
    assert None not in sent.values()


def test_defaults_can_be_read_and_given() -> None:
    made = model_from_schema(json_schema(Act), "Act").type
    value = made("hi")
    assert (value.number, value.maybe, value.tags) == (3, None, [1])
    assert value.metadata is msgspec.UNSET
    assert value.lazy is msgspec.UNSET
    assert made("hi") == value
    value.tags.append(2)
    assert made("hi").tags == [1]
    given = made("hi", {"k": 1}, number=3, maybe=None)
    assert to_builtins(given) == {
        "message": "hi",
        "metadata": {"k": 1},
        "number": 3,
        "maybe": None,
        "tags": [1],
        "inner": {"a": 2},
    }
    value.number = 9
    assert to_builtins(value)["number"] == 9
    assert to_builtins(dataclasses.replace(value, number=4))["number"] == 4
    with pytest.raises(TypeError):
        made()


@pytest.mark.parametrize("kind", [Act, Plain, Strict])
def test_every_combination_of_given_fields_fits_the_model(kind: Any) -> None:
    made = model_from_schema(json_schema(kind), "Made").type
    values = {"message": "m", "metadata": {"a": 1}, "number": 2, "x": 1, "when": [], "limit": 0}
    names = [field.name for field in dataclasses.fields(made) if field.name in values]
    needed = {name for name in ("message", "x") if name in names}
    for chosen in range(1 << len(names)):
        given = {name for i, name in enumerate(names) if chosen >> i & 1} | needed
        sent = PayloadCodec[Any](made, "json").encode(
            made(**{name: values[name] for name in given})
        )
        arrived = PayloadCodec[Any](kind, "json").decode(sent)
        assert arrived == kind(**{name: values[name] for name in given})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/Gone"},
        {"$ref": 5},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere/at/all", "default": None}}},
        {"type": "object", "properties": {"a": True, "b": {"type": ["string", "null"]}}},
    ],
)
def test_an_odd_schema_makes_a_class_all_the_same(schema: Any) -> None:
    made = model_from_schema(schema, "Odd")
    assert to_builtins(made.read({"a": 1})) == {"a": 1}


class Told(Environment[Strict, dict[str, Any], dict[str, Any]]):
    isolation = "inline"

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: Strict) -> dict[str, Any]:
        return {"told": action.model_dump()}


async def test_auto_action_of_a_server_is_taken_by_it() -> None:
    async with serve(Told) as url:
        action_type = await asyncio.to_thread(AutoAction.from_env, base_url=url)
        async with await AutoEnv.afrom_env(base_url=url) as env:
            await env.reset()
            for action, told in (
                (action_type(), {"metadata": {}, "verbose": False}),
                (action_type(verbose=True), {"metadata": {}, "verbose": True}),
                (action_type({"k": 1}), {"metadata": {"k": 1}, "verbose": False}),
            ):
                assert (await env.step(action)).observation["told"] == told

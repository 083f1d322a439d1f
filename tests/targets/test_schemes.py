"""Targets of a scheme: one table, text from the operator, modules that are loaded on use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from openenv_async.errors import InvalidOption, TargetNotFound
from openenv_async.hosts import HostedText
from openenv_async.pool.sources import installed_client
from openenv_async.targets import schemes
from openenv_async.targets.auto import _classes
from openenv_async.targets.discovery import find_target, is_address, looks_like_path
from openenv_async.targets.naming import NamedTarget, read_name
from openenv_async.targets.resolve import resolve
from openenv_async.targets.schemes import SCHEMES, Scheme, scheme_of, told_target
from tests.targets.environments import Move, Tiny

HOST = "a_host_of_numbers"
LONG = "many:" + "word/" * 80


def host_of(text: str) -> HostedText:
    """Host ``many:N``, as the module of a scheme does."""
    if not text.isdigit():
        raise InvalidOption(f"{text!r} is not a number")
    return HostedText(Tiny, {"goal": int(text)}, "many")


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with a scheme that has a module, and one whose module is missing."""
    found = {
        "many": Scheme(HOST, "many:NUMBER"),
        "lacking": Scheme("no_such_module_of_ours", "lacking:THING", extra="fast"),
        "broken": Scheme("no_such_module_of_ours", "broken:THING"),
    }
    monkeypatch.setattr(schemes, "SCHEMES", found)
    module = ModuleType(HOST)
    module.host_of = host_of  # type: ignore[attr-defined]  # it has no class of its own
    monkeypatch.setitem(sys.modules, HOST, module)


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("many:3", "many"),
        ("many: 3", "many"),
        ("many:", "many"),
        ("many://host", None),
        ("many", None),
        ("./many:3", None),
        ("Many:3", None),
        ("other:3", None),
        ("", None),
    ],
)
def test_which_texts_are_of_a_scheme(text: str, scheme: str | None) -> None:
    assert scheme_of(text) == scheme


@pytest.mark.parametrize(
    "text", ["many:3", "many:8000", "many:CartPole-v1", "many:a/b -c ./d", LONG]
)
def test_a_scheme_wins_over_all_that_its_text_looks_like(text: str) -> None:
    assert read_name(text) == NamedTarget("scheme", text)
    assert resolve(text).kind == "named"
    assert resolve(text, params={"a": 1}).starts_server
    assert not is_address(text)
    assert not looks_like_path(text)
    with pytest.raises(TargetNotFound, match=r"from_spec\(\) takes module:Class"):
        installed_client(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("many:3", "many:3"),
        ("many:server --key secret", "many:server …"),
        ("many:https://user:secret@host:1/mcp?key=secret", "many:https://host:1/mcp"),
    ],
)
def test_what_messages_say_of_one_has_no_secret(text: str, told: str) -> None:
    assert told_target(text) == told
    assert resolve(text).label == told


def test_its_environment_has_the_arguments_of_the_text() -> None:
    spec = find_target("many: 3 ")
    assert (spec.cls, spec.name, spec.params) == (Tiny, "many", {"goal": 3})
    assert resolve("many:3").spec().build().goal == 3
    client, action = _classes(resolve("many:3"))
    assert (client.__name__, action) == ("ManyEnv", Move)


def test_its_environment_takes_other_arguments() -> None:
    with pytest.raises(InvalidOption, match="'goal' is what the target itself says: leave it out"):
        find_target("many:3", {"goal": 4})
    with pytest.raises(InvalidOption, match="cannot be built with the argument 'color'"):
        find_target("many:3", {"color": 4})


@pytest.mark.parametrize("find", [read_name, find_target, resolve])
def test_a_scheme_alone_names_nothing(find: Callable[[str], object]) -> None:
    with pytest.raises(TargetNotFound, match="'many: ' names nothing: write many:NUMBER"):
        find("many: ")


def test_what_hosts_it_is_loaded_when_it_is_served() -> None:
    assert read_name("lacking:x").kind == "scheme"
    with pytest.raises(TargetNotFound, match=r"pip install 'openenv-async\[fast\]'"):
        find_target("lacking:x")
    with pytest.raises(ModuleNotFoundError):
        find_target("broken:x")


def test_the_rows_of_the_table_are_whole() -> None:
    root = Path(schemes.__file__).parents[2]
    for name, scheme in SCHEMES.items():
        module = root.joinpath(*scheme.module.split("."))
        assert module.with_suffix(".py").is_file() or (module / "__init__.py").is_file(), name
        assert scheme.forms.startswith(f"{name}:")

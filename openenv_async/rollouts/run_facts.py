"""The facts of a run that must be the same when it goes on: policy, tasks, settings, environment.

A policy is known by its import path and its source, and by its plain attributes; one with a method
``describe`` tells its facts itself. Weights are not among them: a trainer that goes on has others.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from openenv_async.errors import error_text
from openenv_async.models import to_builtins
from openenv_async.rollouts.run_journal import digest_of

__all__ = ["environment_facts", "policy_facts", "settings_facts", "tasks_facts"]

_PLAIN: Final = (bool, int, float, str, type(None))
_MOST_ROWS: Final = 50_000
"""Rows of a sequence that are looked at, evenly spread."""


def policy_facts(policy: Any) -> dict[str, Any]:
    """Return what a policy is."""
    describe = getattr(policy, "describe", None)
    if callable(describe) and not inspect.isclass(policy):
        return {"policy": _path_of(type(policy)), **describe()}
    if isinstance(policy, functools.partial):
        arguments = _plain({str(n): each for n, each in enumerate(policy.args)} | policy.keywords)
        return {**policy_facts(policy.func), "arguments": arguments}
    if isinstance(policy, types.MethodType):
        return {**policy_facts(policy.__self__), "method": policy.__name__}
    if inspect.isroutine(policy) or inspect.isclass(policy):
        return {"policy": _path_of(policy), "source": _source_digest(policy)}
    cls = type(policy)
    facts: dict[str, Any] = {"policy": _path_of(cls), "source": _source_digest(cls)}
    inner = getattr(policy, "policy", None)
    if callable(inner):  # a wrapper, such as one with a version
        facts["inner"] = policy_facts(inner)
        return facts
    attributes = _attributes(policy)
    return {**facts, "attributes": attributes} if attributes else facts


def _path_of(thing: Any) -> str:
    module = getattr(thing, "__module__", None) or type(thing).__module__
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    return f"{module}:{name}"


def _source_digest(thing: Any) -> str | None:
    """Return a digest of its source, or of its code; ``None`` where neither is to be had."""
    try:
        text = inspect.getsource(thing)
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        return None if code is None else digest_of(_code(code))
    return digest_of(inspect.cleandoc(text))


def _code(code: types.CodeType) -> list[Any]:
    """The instructions of a function, without the places that it was compiled at."""
    constants = [_code(each) if inspect.iscode(each) else repr(each) for each in code.co_consts]
    return [code.co_code, list(code.co_names), constants]


def _attributes(thing: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        names = [field.name for field in dataclasses.fields(thing)]
        found = {name: getattr(thing, name, None) for name in names}
    else:
        found = dict(getattr(thing, "__dict__", {}))
    return _plain(found)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are plain: numbers, texts, and short lists of them."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, _PLAIN):
            kept[str(name)] = value
        elif isinstance(value, list | tuple) and all(isinstance(each, _PLAIN) for each in value):
            kept[str(name)] = list(value) if len(value) <= 16 else digest_of(list(value))
    return kept


def tasks_facts(tasks: Any, size: int | None = None) -> dict[str, Any]:
    """Return what tells tasks from others, as far as it is known without playing them.

    Files and lists are read: call it in a thread. Of an iterable that is read as it goes only the
    kind is known; that each of its tasks is the one of before is checked when it comes.

    Args:
        tasks: as ``collect`` takes them.
        size: episodes of a group.
    """
    facts: dict[str, Any] = {"group_size": size} if size is not None else {}
    if isinstance(tasks, str | os.PathLike):
        path = Path(tasks)
        if not path.is_file():
            return {**facts, "split": str(tasks)}
        return {**facts, "file": path.name, "digest": _file_digest(path)}
    if hasattr(tasks, "parts"):  # a set of tasks, or a mixture of several
        rows = [_part_facts(part) for part in tasks.parts()]
        if rows and tasks.kind == "tasks":
            return {**facts, **rows[0]}
        return {**facts, "parts": rows, **tasks.order}
    if hasattr(tasks, "__len__") and hasattr(tasks, "__getitem__"):  # a data set too
        return {**facts, "rows": len(tasks), "digest": _rows_digest(tasks)}
    return {**facts, "kind": type(tasks).__name__}


def _part_facts(part: Any) -> dict[str, Any]:
    reading = {name: value for name, value in part.reading.items() if value}
    return {**tasks_facts(part.given), **reading, **part.order}


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as exc:  # read again where it is an error
        return error_text(exc)


def _rows_digest(rows: Any) -> str | None:
    made = hashlib.sha256()
    try:
        for number in range(0, len(rows), 1 + len(rows) // _MOST_ROWS):
            made.update(digest_of(to_builtins(rows[number])).encode())
    except Exception:  # a row that is not a task is told when it is drawn
        return None
    return made.hexdigest()[:16]


def settings_facts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that an episode's result depends on; long ones as digests."""
    facts: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, _PLAIN):
            facts[name] = value
            continue
        plain = to_builtins(value)
        is_long = isinstance(plain, list) and len(plain) > 16
        facts[name] = {"digest": digest_of(plain), "length": len(plain)} if is_long else plain
    return facts


def environment_facts(client: Any, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what an environment is, as its server told the client that is open.

    Args:
        client: of the environment.
        params: constructor arguments that it was given here.
    """
    inner = getattr(client, "client", client)
    connection = getattr(inner, "connection", None)
    server: Mapping[str, Any] = getattr(connection, "server", None) or {}
    facts = {
        "name": server.get("environment"),
        "version": server.get("environment_version"),
        "schema": server.get("schema_hash"),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    if not known:
        known = {"client": _path_of(type(inner))}
    if params:
        known["params"] = _plain(params)
    return known

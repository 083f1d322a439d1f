"""Environments of other projects as folders of this one: ``openenv-async import``.

A kind is a function that looks at a source and returns an ``Imported``: which class plays it, with
which arguments, and what is copied. The folder that is written has no code but that class with
those arguments, so that it goes on to work with later releases.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from openenv_async.building.scaffold import check_name, filled_files
from openenv_async.endpoints.addresses import told_url
from openenv_async.errors import InvalidOption
from openenv_async.hosts import HostedText

__all__ = ["KINDS", "Imported", "import_environment"]

_MODELS: Final = ("Action", "Observation", "State")
"""Ends of the names of an environment's types."""
_LEFT_OUT: Final = shutil.ignore_patterns(".git", "__pycache__", "*.pyc")


@dataclass(frozen=True, slots=True)
class Imported:
    """A source that was looked at.

    Attributes:
        base: the environment class, ``module:Class``.
        models: its action, observation and state types, as ``module:Name``.
        description: one line.
        about: what a README says of it, in Markdown.
        params: constructor arguments that the folder fixes; they can be written as JSON.
        copied: folders that are copied, by the argument that gets their path.
        validation: the manifest's section of that name.
        extra: of this distribution, which the class needs.
    """

    base: str
    models: tuple[str, str, str]
    description: str
    about: str
    params: Mapping[str, Any] = field(default_factory=dict)
    copied: Mapping[str, Path] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    extra: str | None = None


def _harbor(source: str, params: Mapping[str, Any]) -> Imported:
    """A folder of Harbor tasks, which is copied."""
    from openenv_async.compat.harbor.environment import HarborEnvironment
    from openenv_async.compat.harbor.folders import read_folder

    folder = Path(source).expanduser()
    tasks = read_folder(folder, skip_unsupported=bool(params.get("skip_unsupported", False)))
    HarborEnvironment(**{"folder": str(folder), **params})  # refuses wrong arguments
    names = ", ".join(f"`{task.id}`" for task in tasks[:10])
    more = f" and {len(tasks) - 10} more" if len(tasks) > 10 else ""
    models = "openenv_async.compat.harbor.models"
    return Imported(
        base="openenv_async.compat.harbor.environment:HarborEnvironment",
        models=(f"{models}:HarborAction", f"{models}:HarborObservation", f"{models}:HarborState"),
        description=f"{len(tasks)} Harbor task{'s' if len(tasks) > 1 else ''}: shell commands in a"
        " container, graded by tests",
        about=(
            f"The tasks are {names}{more}, in `tasks/`. Each episode has a container of its own, so"
            " the server needs a Docker Engine: in a container, mount its socket"
            " (`-v /var/run/docker.sock:/var/run/docker.sock`) and let the server's user use it."
        ),
        params=params,
        copied={"folder": folder},
        validation={
            "params": {"max_steps": 4},
            "actions": [{"command": "pwd"}, {"command": "echo hello"}, {"submit": True}],
        },
    )


def _openreward(source: str, params: Mapping[str, Any]) -> Imported:
    """An environment of an Open Reward Standard server, which goes on to be that server's."""
    from openenv_async.hosts.openreward import API_KEY, host_of

    given, base, models = _hosted(host_of(source), params)
    name = given.get("environment")
    return Imported(
        base,
        models,
        description=f"The {f'environment {name}' if name else 'first environment'} of an Open"
        " Reward server",
        about=(
            f"It is played at {told_url(given['url'])}, which has to run. A server that asks for a"
            f" key gets the one of the environment variable `{API_KEY}`."
        ),
        params=given,
    )


def _verifiers(source: str, params: Mapping[str, Any]) -> Imported:
    """A taskset of verifiers, which goes on to run in its own interpreter."""
    from openenv_async.hosts.verifiers import PYTHON, host_of

    given, base, models = _hosted(host_of(source), params)
    return Imported(
        base,
        models,
        description=f"The taskset {source} of verifiers",
        about=(
            "The taskset runs in an interpreter that has `verifiers` and the taskset: the argument"
            f" `python`, or the environment variable `{PYTHON}`, names it."
        ),
        params=given,
        validation={"actions": [{"content": "1"}, {"content": "I do not know."}]},
    )


def _hosted(
    text: HostedText, params: Mapping[str, Any]
) -> tuple[dict[str, Any], str, tuple[str, str, str]]:
    """Return the arguments of a text's host, and its class and types as an ``Imported`` has them.

    Raises:
        InvalidOption, TypeError: it does not take the arguments.
    """
    given, host = {**text.params, **params}, text.source
    host(**given)
    types = f"{host.__module__}:{host.__name__.removesuffix('Host')}"
    action, observation, state = (f"{types}{end}" for end in _MODELS)
    return given, f"{host.__module__}:{host.__name__}", (action, observation, state)


KINDS: Final[Mapping[str, Callable[[str, Mapping[str, Any]], Imported]]] = {
    "harbor": _harbor,
    "ors": _openreward,
    "verifiers": _verifiers,
}
"""The kinds of sources, with a function for each."""


def import_environment(
    kind: str, source: str, into: Path, params: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write a folder for an environment of another project.

    Args:
        kind: one of ``KINDS``.
        source: a folder, a name or a URL, by its kind.
        into: the folder that is made; its name is that of the package.
        params: constructor arguments that the folder fixes.

    Returns:
        The files written, but for those that are copied.

    Raises:
        InvalidOption: the kind, the name or an argument will not do, or the folder exists; nothing
            was written.
        TargetNotFound, InvalidTasks: there is nothing at the source, or it cannot be played here.
    """
    if kind not in KINDS:
        raise InvalidOption(f"there is no kind {kind!r}: there are {', '.join(KINDS)}")
    name = into.resolve().name
    check_name(name)
    if into.exists() or into.is_symlink():
        raise InvalidOption(f"{into} exists already: name another folder")
    try:
        imported = KINDS[kind](source, dict(params or {}))
    except TypeError as exc:
        raise InvalidOption(f"{kind} cannot be imported so: {exc}") from exc
    texts = filled_files("imported", _words(kind, name, imported))
    try:
        return _written(into, texts, imported)
    except OSError as exc:
        shutil.rmtree(into, ignore_errors=True)  # so that it can be tried again
        raise InvalidOption(f"{into} cannot be written: {exc}; name another folder") from exc


def _written(into: Path, texts: Mapping[str, str], imported: Imported) -> list[Path]:
    """Write the folder's files, and return them.

    Raises:
        OSError: they cannot be written, or what is copied cannot be read.
    """
    written = []
    for path, text in texts.items():
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        written.append(target)
    for argument, folder in imported.copied.items():
        shutil.copytree(folder, into / _place(argument), symlinks=True, ignore=_LEFT_OUT)
    return written


def _place(argument: str) -> str:
    """Return the name of a copied folder: no module of the package has it."""
    return "tasks" if argument == "folder" else f"{argument}_files"


def _words(kind: str, name: str, imported: Imported) -> dict[str, str]:
    stem = name.removesuffix("_env") or name
    module, _, cls = imported.base.partition(":")
    title = "".join(part.capitalize() for part in stem.split("_"))
    lines = []
    for model, end in zip(imported.models, _MODELS, strict=True):
        home, _, found = model.partition(":")
        lines.append(f"from {home} import {found} as {title}{end}")
    copied = {argument: _place(argument) for argument in imported.copied}
    data = ["openenv.yaml", "py.typed", *(f"{place}/**" for place in copied.values())]
    return {
        "package": name,
        "stem": stem,
        "entry": stem.replace("_", "-"),
        "Class": title,
        "kind": kind,
        "description": imported.description,
        "description_json": json.dumps(imported.description),
        "about": imported.about,
        "base_module": module,
        "base_name": cls,
        "model_imports": "\n".join(lines),
        "arguments": json.dumps(dict(imported.params), indent=4),
        "copied": json.dumps(copied),
        "package_data": json.dumps(data),
        "validation": json.dumps(dict(imported.validation)),
        "extra": f"[{imported.extra}]" if imported.extra else "",
    }

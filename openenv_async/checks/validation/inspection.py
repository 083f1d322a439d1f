"""Inspection of an environment's modules, in its own process: ``python -m …inspection TARGET``.

Importing them here would leave them behind in the validator, and a module that hangs or exits
would take it along. Prints one line of JSON: problems by check.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openenv_async.client.models import ModelHooks
from openenv_async.spec import EnvironmentSpec, model_types
from openenv_async.targets import manifest
from openenv_async.targets.discovery import (
    GROUP,
    EnvironmentEntry,
    find_entry,
    find_target,
    folder_prefix,
    import_object,
    is_installed,
    object_path,
    upstream_app,
)
from openenv_async.targets.schemes import scheme_of
from openenv_async.tasks import TaskBook

__all__ = ["look"]

_KINDS = ("action", "observation", "state")


def look(target: str, params: dict[str, Any]) -> dict[str, list[str]]:
    """Return problems by check; no key for a check that could not be made."""
    folder = Path(target)
    found: dict[str, list[str]] = {"modules_import": []}
    spec = _attempt(found["modules_import"], lambda: find_target(target, params, run_apps=True))
    if not isinstance(spec, EnvironmentSpec):
        return found
    if spec.tasks is not None:
        found["private_columns"] = _private_columns(spec.tasks)
    if scheme_of(target) is None and (folder / manifest.MANIFEST).is_file():
        about = manifest.load(folder)
        if upstream_app(folder, about) is not None:  # it has been run, and names the types itself
            return found
        prefix = folder_prefix(folder)
        client = None
        if about.client is not None and about.client.class_name is not None:
            path = f"{prefix}{about.client.module}:{about.client.class_name}"
            client = _attempt(found["modules_import"], lambda: import_object(path))
        app = about.app or ("server.app:app" if (folder / "server/app.py").is_file() else None)
        if app is not None:
            _attempt(found["modules_import"], lambda: import_object(prefix + app))
        named = {
            kind: import_object(object_path(prefix, path))
            for kind in _KINDS
            if (path := getattr(about.models, kind)) is not None
        }
        found["models_agree"] = list(_disagreements(spec, named, client))
        found["entry_point_resolves"] = list(_entry_problems(folder, spec))
    elif is_installed(target):
        entry = find_entry(target)
        client = _attempt(found["modules_import"], entry.client_class)
        action = _attempt(found["modules_import"], entry.action_class)
        named = {} if action is None else {"action": action}
        found["models_agree"] = list(_disagreements(spec, named, client))
    return found


def _private_columns(book: TaskBook) -> list[str]:
    """The names of the private columns of the first task of each split."""
    names: set[str] = set()
    for split in book.splits:
        for task in _attempt([], functools.partial(book.page, split, 0, 1)) or ():
            names.update(task.private)
    return sorted(names)


def _attempt(problems: list[str], call: Any) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as exc:  # a module may raise anything
        problems.append(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)
        return None


def _disagreements(spec: EnvironmentSpec, named: dict[str, Any], client: Any) -> Iterator[str]:
    own = dict(zip(_KINDS, model_types(spec.cls), strict=True))
    for kind, model in named.items():
        if own[kind] is not Any and own[kind] is not model:
            yield f"{kind}: the environment says {_name(own[kind])}, not {_name(model)}"
    if client is None:
        return
    if not (inspect.isclass(client) and issubclass(client, ModelHooks)):
        yield f"the client {_name(client)} is not an EnvClient"
        return
    for kind, model in zip(_KINDS, client.model_types(), strict=True):
        wanted = named.get(kind, own[kind])
        if Any not in (model, wanted) and model != wanted:
            yield f"{kind}: the client says {_name(model)}, not {_name(wanted)}"


def _entry_problems(folder: Path, spec: EnvironmentSpec) -> Iterator[str]:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    points = project.get("project", {}).get("entry-points", {}).get(GROUP, {})
    serves_it = False
    for name, path in points.items():
        problems: list[str] = []
        entry = _attempt(problems, lambda path=path: import_object(path))
        if isinstance(entry, EnvironmentEntry):
            made = _attempt(problems, entry.environment_class)
            _attempt(problems, entry.client_class)
            _attempt(problems, entry.action_class)
            serves_it |= made is spec.cls
        elif inspect.isclass(entry):
            serves_it |= entry is spec.cls
        elif entry is not None:
            problems.append(f"{path} is not an EnvironmentEntry")
        yield from (f"{name}: {problem}" for problem in problems)
    if points and not serves_it:
        yield f"none of {', '.join(points)} is the environment of the manifest"


def _name(model: Any) -> str:
    return getattr(model, "__name__", None) or str(model)


def main() -> None:
    """Print what was found in the target of the command line."""
    target, params = sys.argv[1], json.loads(sys.argv[2])
    sys.path.insert(0, os.getcwd())
    out, sys.stdout = sys.stdout, sys.stderr  # what the modules print is not a finding
    importlib.invalidate_caches()
    found = look(target, params)
    out.write(json.dumps(found) + "\n")
    out.flush()
    os._exit(0)  # a thread that a module left behind must not keep this process


if __name__ == "__main__":
    main()

"""Checks of the folder: manifest, layout, and what ``inspection`` found in the modules."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async.checks.registry import CheckFailed, Skipped, check, require
from openenv_async.checks.validation.candidate import Candidate
from openenv_async.errors import TargetNotFound
from openenv_async.targets import manifest
from openenv_async.targets.discovery import GROUP

__all__ = ["dockerfile"]

_ALMOST: Final = 0.8


def _folder(candidate: Candidate) -> Path:
    if candidate.folder is None:
        raise Skipped("only of a folder with an openenv.yaml")
    return candidate.folder


def _manifest(candidate: Candidate) -> manifest.Manifest:
    if candidate.manifest is None:
        raise Skipped("there is no valid manifest")
    return candidate.manifest


@check("folder", remedy="see openenv_async/targets/manifest.py for the manifest's form")
async def manifest_is_valid(candidate: Candidate) -> None:
    """The manifest has the keys and types that it must have, and none that is misspelt."""
    folder = _folder(candidate)
    try:
        manifest.load(folder)
    except TargetNotFound as exc:
        raise CheckFailed(exc.message) from exc
    misspelt = list(_misspelt(manifest.read(folder), manifest.Manifest))
    require(not misspelt, "; ".join(misspelt))


def _misspelt(data: Any, cls: Any, path: str = "") -> list[str]:
    """Return unknown keys that are nearly a known one; others are other tools'."""
    if not isinstance(data, dict):
        return []
    known = {each.encode_name: each.type for each in msgspec.structs.fields(cls)}
    found = []
    for key, value in data.items():
        if key in known:
            for inner in (known[key], *getattr(known[key], "__args__", ())):
                if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                    found += _misspelt(value, inner, f"{path}{key}.")
            continue
        near = difflib.get_close_matches(str(key), set(known) - set(data), 1, _ALMOST)
        if near:
            found.append(f"{path}{key} is not known: did you mean {path}{near[0]}?")
    return found


@check("folder", remedy="`openenv-async init` shows the layout; the manifest names what differs")
async def files_are_there(candidate: Candidate) -> None:
    """README.md, pyproject.toml and the Dockerfile that the manifest names are there."""
    folder, about = _folder(candidate), _manifest(candidate)
    missing = [name for name in ("README.md", "pyproject.toml") if not (folder / name).is_file()]
    if dockerfile(folder, about) is None:
        missing.append(about.server.dockerfile)
    require(not missing, f"missing: {', '.join(missing)}")


def dockerfile(folder: Path, about: manifest.Manifest) -> Path | None:
    """Return the environment's Dockerfile; upstream's form does not name it."""
    for name in (about.server.dockerfile, "server/Dockerfile"):
        if (folder / name).is_file():
            return folder / name
    return None


@check("folder", remedy="make EXPOSE and the manifest's port agree, and give it a command")
async def dockerfile_fits_the_manifest(candidate: Candidate) -> None:
    """The Dockerfile exposes the manifest's port and has a command."""
    folder, about = _folder(candidate), _manifest(candidate)
    path = dockerfile(folder, about)
    if path is None:
        raise Skipped("there is no Dockerfile")
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8", errors="replace"))
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    words = {parts[0].upper() for parts in lines}
    require("FROM" in words, f"{path.name} has no FROM")
    require(words & {"CMD", "ENTRYPOINT"}, f"{path.name} has neither CMD nor ENTRYPOINT")
    exposed = [parts[1] for parts in lines if parts[0].upper() == "EXPOSE" and len(parts) > 1]
    ports = {port.partition("/")[0] for line in exposed for port in line.split()}
    known = all(port.isdecimal() for port in ports)
    if ports and known:
        wanted = str(about.serving_port)
        require(
            wanted in ports, f"it exposes {', '.join(sorted(ports))}, the manifest says {wanted}"
        )


@check("folder", remedy="run `python -c 'import …'` of what it names and mend that")
async def modules_import(candidate: Candidate) -> None:
    """The environment, the client, the models and the application can be imported."""
    _found(candidate, "modules_import")


@check("folder", remedy="name the same types in manifest, environment and client")
async def models_agree(candidate: Candidate) -> None:
    """Manifest, environment and client name the same action, observation and state types."""
    _found(candidate, "models_agree")


def _found(candidate: Candidate, name: str) -> None:
    if name not in candidate.findings:
        raise Skipped("only of a folder or an installed environment whose modules were looked at")
    problems = candidate.findings[name]
    require(not problems, "; ".join(problems))


@check("folder", remedy=f'declare it in pyproject.toml under [project.entry-points."{GROUP}"]')
async def entry_point_resolves(candidate: Candidate) -> None:
    """The entry point that pyproject.toml declares names an EnvironmentEntry that is whole."""
    folder = _folder(candidate)
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Skipped("there is no pyproject.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise CheckFailed(f"pyproject.toml cannot be read: {exc}") from exc
    points = project.get("project", {}).get("entry-points", {}).get(GROUP, {})
    if not points:
        raise Skipped("it declares none: AutoEnv finds this environment by its folder only")
    _found(candidate, "entry_point_resolves")

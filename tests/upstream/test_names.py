"""The table of names has every public one of upstream's package."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

from openenv_async.compat.upstream.names import MODULES, REFUSED


def modules(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


def public(path: Path) -> set[str]:
    """Return the classes and functions that a module defines for others."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {n.name for n in body if isinstance(n, kinds) and not n.name.startswith("_")}


def test_every_module_and_name_is_there_or_refused(upstream_python: str) -> None:
    where = "import importlib.util as u; print(u.find_spec('openenv').origin)"
    found = subprocess.run(
        [upstream_python, "-c", where], capture_output=True, text=True, check=True, timeout=60
    )
    missing = []
    for module, path in modules(Path(found.stdout.strip()).parent):
        parents = [module.rsplit(".", n)[0] for n in range(module.count(".") + 1)]
        if any(parent in REFUSED for parent in parents):
            continue
        names = MODULES.get(module)
        if names is None:
            missing.append(module)
        else:
            missing += [f"{module}.{name}" for name in public(path) if name not in names]
    assert not missing

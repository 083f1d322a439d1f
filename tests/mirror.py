"""Product modules and the test files of their names: ``python -m tests.mirror`` lists gaps.

``openenv_async/pool/sync.py`` is tested by ``tests/pool/test_sync.py``. Short modules, which are
tested with what uses them, and packages' ``__init__`` need no file of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["LONGEST_WITHOUT", "modules_without", "test_file"]

ROOT: Final = Path(__file__).parent.parent
LONGEST_WITHOUT: Final = 60
"""Lines up to which a module needs no test file of its name."""


def test_file(module: Path) -> Path:
    """The path of the test file of a module; both are relative to the repository."""
    folder = module.parent.relative_to("openenv_async")
    return Path("tests", folder, f"test_{module.stem.strip('_')}.py")


test_file.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def modules_without(root: Path = ROOT) -> Iterator[tuple[Path, int]]:
    """Yield each module that has no test file of its name, with its number of lines."""
    for path in sorted((root / "openenv_async").rglob("*.py")):
        module = path.relative_to(root)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        long = lines > LONGEST_WITHOUT and module.name != "__init__.py"
        if long and not (root / test_file(module)).is_file():
            yield module, lines


if __name__ == "__main__":
    gaps = list(modules_without())
    for gap, length in gaps:
        sys.stdout.write(f"{gap} ({length} lines) has no {test_file(gap)}\n")
    sys.exit(bool(gaps))

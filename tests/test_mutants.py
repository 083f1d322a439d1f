"""The list of mutations fits the tree, and mutations drawn at random can be compiled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.generate import changes_of, drawn
from tests.mutants.mutations import MUTATIONS, Mutation
from tests.mutants.running import ROOMS, Copy, room_of

ROOT = Path(__file__).resolve().parents[1]


def test_the_list_is_long_enough_and_covers_every_room() -> None:
    assert len(MUTATIONS) >= 60
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    counts = Counter(room_of(mutation.file) for mutation in MUTATIONS)
    assert set(counts) == set(ROOMS)
    assert min(counts.values()) >= 8


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_applies_and_compiles(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_bytes()
    mutated = mutation.apply(source)
    assert mutated != source
    compile(mutated, mutation.file, "exec")


def test_a_text_that_is_not_there_just_once_is_an_error() -> None:
    mutation = Mutation("m", "openenv_async/engine/x.py", "a", "b")
    for source in (b"", b"aa"):
        with pytest.raises(ValueError, match="times"):
            mutation.apply(source)


def test_mutations_are_drawn_alike_by_a_seed_and_none_is_of_a_docstring() -> None:
    drawn_once = drawn(ROOT, "pool", 20, seed=3)
    assert drawn_once == drawn(ROOT, "pool", 20, seed=3)
    assert drawn_once != drawn(ROOT, "pool", 20, seed=4)
    for change in drawn_once:
        assert change.apply((ROOT / change.file).read_bytes()) != (ROOT / change.file).read_bytes()


def test_every_kind_of_mutation_is_made(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text(
        "from typing import Final\n"
        "LIMIT: Final = 3\n"
        "def f(a: int, b: int) -> bool:\n"
        "    '''Text.'''\n"
        "    log.info('x')\n"
        "    if a < b and not a == 1:\n"
        "        g(a)\n"
        "        raise ValueError(f'{a}')\n"
        "    return True\n"
    )
    made = sorted(change.what for change in changes_of(tmp_path, module))
    assert made == sorted(
        [
            "3 + 1",
            "< -> <=",
            "and -> or",
            "not x -> x",
            "== -> !=",
            "1 + 1",
            "delete: g(a)",
            "delete: raise ValueError(f'{a}')",
            "delete: return True",
            "True -> False",
        ]
    )


def test_a_mutation_is_killed_by_a_test_or_survives(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for name, text in {
        "openenv_async/__init__.py": "",
        "openenv_async/pool/__init__.py": "",
        "openenv_async/pool/adding.py": "def add(a, b):\n    return a + b\n",
        "tests/pool/test_adding.py": (
            "from openenv_async.pool.adding import add\n\n"
            "def test_sum():\n    assert add(2, 3) == 5\n"
        ),
        "pyproject.toml": (
            "[tool.pytest.ini_options]\nmarkers = ['docker: x', 'heavy: x', 'browser: x']\n"
        ),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    copy = Copy(root, tmp_path / "copy", 60.0, names)
    copy.check("pool")
    file = "openenv_async/pool/adding.py"
    killed = copy.try_out(file, lambda source: source.replace(b"+", b"-"))
    assert (killed.killed, killed.by) == (True, "tests/pool/test_adding.py::test_sum")
    survived = copy.try_out(file, lambda source: source.replace(b"a + b", b"b + a"))
    assert (survived.killed, survived.by) == (False, "all tests passed")
    assert (root / file).read_text() == (copy.folder / file).read_text()
    (copy.folder / "tests/pool/test_adding.py").write_text("def test_no():\n    assert False\n")
    with pytest.raises(RuntimeError, match="fails without any mutation"):
        copy.check("pool")

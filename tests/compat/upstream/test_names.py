"""The table of upstream's names: each is where it says."""

from __future__ import annotations

import importlib

import pytest

from openenv_async.compat.upstream import names
from openenv_async.compat.upstream.names import MODULES, REFUSED, Refused, home_of


def test_every_name_is_in_the_module_that_the_table_says() -> None:
    for module, row in MODULES.items():
        for name, home in row.items():
            if isinstance(home, Refused):
                assert len(home.reason) > 20, (module, name)
            else:
                found = home_of(module, name)
                assert found is not None
                assert hasattr(importlib.import_module(found), name), (module, name)


def test_every_module_has_the_package_that_it_is_in() -> None:
    for module in MODULES:
        parent = module.rpartition(".")[0]
        assert not parent or parent in MODULES, module
        assert module not in REFUSED


def test_a_refused_name_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"Portal": Refused("it needs a portal: open one")}
    monkeypatch.setattr(names, "MODULES", {"openenv.core": row})
    with pytest.raises(ImportError, match=r"openenv\.core\.Portal .* needs a portal: open one"):
        home_of("openenv.core", "Portal")

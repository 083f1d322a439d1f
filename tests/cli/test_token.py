"""``openenv-async token``: what it prints is a token and its line in the file."""

from __future__ import annotations

import json
from pathlib import Path

from openenv_async.server.callers import digest_of
from openenv_async.targets.config import from_file
from tests.cli.commands import invoke


def test_its_line_goes_into_the_file(tmp_path: Path) -> None:
    result = invoke("token", "red team", "--admin")
    assert result.exit_code == 0
    made = next(line for line in result.stdout.splitlines() if line.startswith("oe_"))
    (tmp_path / "a.yaml").write_text("tokens:" + result.stdout.partition("tokens:")[2])
    ((caller, digests),) = from_file(tmp_path / "a.yaml").callers({})
    assert (caller.name, caller.is_admin, digests) == ("red team", True, [digest_of(made)])


def test_as_json() -> None:
    one, other = (json.loads(invoke("token", "a", "--json").stdout) for _ in range(2))
    assert one["token"] != other["token"]
    assert one["digest"] == f"sha256:{digest_of(one['token']).hex()}"

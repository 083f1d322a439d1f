"""Credentials that ``docker login`` wrote, or that a helper program gives."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from openenv_async.building import credentials
from openenv_async.building.credentials import registry_credentials
from openenv_async.errors import ProviderError


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def helper(folder: Path, name: str, script: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!{sys.executable}\n{script}\n")
    path.chmod(0o755)


async def test_credentials_come_from_file_or_helper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await registry_credentials("a.test") is None
    helper(
        tmp_path,
        "good",
        "import json, sys\nserver = sys.stdin.read()\n"
        "print(json.dumps({'Username': server, 'Secret': sys.argv[1]}))",
    )
    helper(tmp_path, "empty", "raise SystemExit(1)")
    helper(tmp_path, "odd", "print('what?')")
    config = {
        "auths": {
            "https://a.test": {"auth": base64.b64encode(b"me:a:b").decode()},
            "token.test": {"identitytoken": "t"},
            "bad.test": {"auth": "%%%"},
            "blank.test": {},
        },
        "credHelpers": {"b.test": "good", "c.test": "empty", "d.test": "odd", "e.test": "none"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert await registry_credentials("a.test") == {"username": "me", "password": "a:b"}
    assert await registry_credentials("token.test") == {"identitytoken": "t"}
    assert await registry_credentials("blank.test") is None
    assert await registry_credentials("unknown.test") is None
    assert await registry_credentials("b.test") == {"username": "b.test", "password": "get"}
    assert await registry_credentials("c.test") is None
    for registry_host, words in (
        ("bad.test", "log in again"),
        ("d.test", "not answer with a credential"),
        ("e.test", "cannot be run"),
    ):
        with pytest.raises(ProviderError, match=words):
            await registry_credentials(registry_host)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ProviderError, match="cannot be read"):
        await registry_credentials("a.test")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("registry", ["docker.io", "index.docker.io", "registry-1.docker.io"])
async def test_the_hub_has_one_entry_under_three_names(folder: Path, registry: str) -> None:
    config = {"auths": {"https://index.docker.io/v1/": auth("me:secret")}}
    (folder / "config.json").write_text(json.dumps(config))
    found = await registry_credentials(registry)
    assert found == {"username": "me", "password": "secret"}
    assert await registry_credentials("ghcr.io") is None


@pytest.mark.parametrize("scheme", ["", "http://", "https://"])
async def test_an_entry_may_have_a_scheme(folder: Path, scheme: str) -> None:
    config = {"auths": {f"{scheme}a.test": auth("me:")}}
    (folder / "config.json").write_text(json.dumps(config))
    assert await registry_credentials("a.test") == {"username": "me", "password": ""}


async def test_a_store_for_all_is_asked_unless_a_registry_has_its_own(folder: Path) -> None:
    script = "import json; print(json.dumps({{'Username': '{0}', 'Secret': 's'}}))"
    helper(folder, "store", script.format("of-store"))
    helper(folder, "own", script.format("of-own"))
    config = {
        "auths": {"a.test": auth("of:file")},
        "credsStore": "store",
        "credHelpers": {"b.test": "own"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for registry, user in (("a.test", "of-store"), ("b.test", "of-own")):
        assert await registry_credentials(registry) == {"username": user, "password": "s"}


async def test_a_helper_that_hangs_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_HELPER_TIMEOUT", 0.2)
    helper(folder, "slow", "import time; time.sleep(60)")
    started = []
    start = asyncio.create_subprocess_exec

    async def noted(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*args, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    (folder / "config.json").write_text(json.dumps({"credsStore": "slow"}))
    with pytest.raises(ProviderError, match=r"docker-credential-slow did not answer in 0\.2 s"):
        await registry_credentials("a.test")
    assert [process.returncode for process in started] == [-signal.SIGKILL]


async def test_the_home_folder_is_looked_at_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".docker").mkdir()
    config = {"auths": {"a.test": auth("me:x")}}
    await asyncio.to_thread((tmp_path / ".docker" / "config.json").write_text, json.dumps(config))
    assert await registry_credentials("a.test") == {"username": "me", "password": "x"}

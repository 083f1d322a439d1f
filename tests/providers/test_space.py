"""Hugging Face Spaces: addresses, images and tokens; a server of ours stands for the Space."""

from __future__ import annotations

from pathlib import Path

import pytest

from openenv_async import serve
from openenv_async.errors import ProviderError, Unauthorized
from openenv_async.pool import EnvPool
from openenv_async.providers.space import (
    SpaceProvider,
    find_huggingface_token,
    space_image,
    space_url,
)
from openenv_async.server import create_app
from tests.pool.workers import CountingEnv
from tests.rollouts.environments import Counting, Seen


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token of the user who runs this."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def test_the_address_and_image_of_a_space() -> None:
    assert space_url("OpenEnv/echo_env.v2") == "https://openenv-echo-env-v2.hf.space"
    assert space_image("openenv/echo") == "registry.hf.space/openenv-echo:latest"
    for wrong in ("echo", "a/b/c", "https://x/y", ""):
        with pytest.raises(ValueError, match="write owner/name"):
            space_url(wrong)


def test_the_token_is_where_huggingface_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere"
    path.write_text("in-a-file\n")
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("at-home\n")
    assert find_huggingface_token({"HF_HOME": str(home)}) == "at-home"
    assert find_huggingface_token({"HF_HOME": str(home), "HF_TOKEN_PATH": str(path)}) == "in-a-file"
    assert find_huggingface_token({"HF_TOKEN": " given ", "HF_HOME": str(home)}) == "given"
    assert find_huggingface_token({"HF_HOME": str(tmp_path)}) is None


async def test_a_space_is_played_on_like_any_server() -> None:
    async with (
        serve(Counting) as url,
        EnvPool.from_space("owner/name", url=url, client=CountingEnv) as pool,
        pool.session() as env,
    ):
        assert (await env.reset(seed=1)).observation == Seen(0, 1)
        assert not pool.providers[0].owns_workers


async def test_only_a_private_space_gets_the_users_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProviderError, match="set HF_TOKEN"):
        SpaceProvider("owner/name", private=True)
    monkeypatch.setenv("HF_TOKEN", "users")
    async with serve(create_app(Counting, token="users")) as url:
        async with EnvPool.from_space("owner/name", url=url, private=True) as pool:
            assert pool.statistics().ready == 1
        with pytest.raises((Unauthorized, ProviderError)):
            async with EnvPool.from_space("owner/name", url=url):
                pass


def test_options_of_containers_need_containers() -> None:
    with pytest.raises(TypeError, match="'memory' is an option of containers"):
        SpaceProvider("owner/name", memory="1g")

"""The provider: its settings, and the death and removal of its containers."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from openenv_async.errors import ProviderError
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.worker import DockerWorker
from tests.providers.docker.fake_engine import FakeEngine, attached


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="no option 'size'"):
        DockerProvider("image", size="1g")


def test_a_provider_shows_no_secret_and_pickles() -> None:
    made = DockerProvider("image", secrets={"KEY": "hush-hush"}, cpus=1.5)
    assert "hush" not in repr(made) + repr(made.options)
    again = pickle.loads(pickle.dumps(made))
    assert again.options == made.options
    assert again.image == "image"


async def test_a_closed_provider_starts_nothing() -> None:
    made = DockerProvider("image")
    await made.aclose()
    with pytest.raises(ProviderError, match="closed"):
        await made.start()


@pytest.mark.parametrize("option", ["owner_lease", "start_timeout", "max_starts", "max_calls"])
def test_settings_are_positive(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}.* positive"):
        DockerProvider("image", **{option: 0})  # type: ignore[arg-type] # one of several


def test_what_a_provider_is_called() -> None:
    made = DockerProvider("image", secrets={"KEY": "hush-hush"})
    assert repr(made) == "DockerProvider('image')"
    assert (made.name, made.owns_workers, made.reaper_pid) == ("docker", True, None)


def worker_of(made: DockerProvider, id: str = "c1") -> DockerWorker:
    worker = DockerWorker(made, f"openenv-{id}", "http://127.0.0.1:1", "t", id, "http://a")
    made._workers[worker.name] = worker
    return worker


STATES: list[tuple[dict[str, Any], bool]] = [
    ({"Running": True}, False),
    ({"Restarting": True}, False),
    ({"Running": False, "ExitCode": 3}, True),
]


@pytest.mark.parametrize(("state", "ended"), STATES)
async def test_looking_at_a_container_decides(state: dict[str, Any], ended: bool) -> None:
    made, engine = DockerProvider("image"), FakeEngine()
    async with attached(made, engine) as at:
        worker = worker_of(made)
        at.watch.ids.add("c1")
        engine.states[worker.name] = state
        await made._confirm("c1")
        assert worker.exited.done() is ended
        assert ("c1" in at.watch.ids) is not ended
        if ended:
            assert worker.exited.result().exit_code == 3
            assert worker.exited.result().log_tail == "the log"
        await made._confirm("c2")


async def test_a_container_that_is_gone_was_removed_by_another() -> None:
    made, engine = DockerProvider("image"), FakeEngine()
    async with attached(made, engine):
        worker = worker_of(made)
        await made._confirm("c1")
        assert worker.exited.result().reason == "its container was removed by somebody else"


async def test_an_engine_that_fails_decides_nothing() -> None:
    made, engine = DockerProvider("image"), FakeEngine()
    async with attached(made, engine):
        worker = worker_of(made)
        engine.failure = ProviderError("busy")
        await made._confirm("c1")
        assert not worker.exited.done()


async def test_only_a_stray_container_is_removed() -> None:
    made, engine = DockerProvider("image"), FakeEngine()
    async with attached(made, engine) as at:
        worker = worker_of(made)
        with at.start_of("openenv-starting"):
            for name in (worker.name, "openenv-starting", "openenv-stray", "openenv-stray"):
                made._stray(name)
        await at.removals.all()
        assert engine.removed == ["openenv-stray"]
        made._closed = True
        made._stray("openenv-late")
        await asyncio.sleep(0)
        assert engine.removed == ["openenv-stray"]

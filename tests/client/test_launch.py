"""What a client with a container of its own tells of it when a call fails."""

from __future__ import annotations

from openenv_async.client.launch import OwnedContainer
from openenv_async.errors import DeadlineExceeded, ProviderError
from openenv_async.providers.base import Provider, Worker


class Mute(Worker):
    """Its last lines cannot be had."""

    container_id = "c0ffee"

    async def log_tail(self) -> str:
        raise ProviderError("the Engine does not answer")

    async def aclose(self) -> None:
        """Nothing is held."""


class Mutes(Provider):
    name = "mute"

    async def start(self, *, timeout: float | None = None) -> Worker:
        return Mute("mute", "http://127.0.0.1:1")

    async def aclose(self) -> None:
        """Nothing is held."""


async def test_a_log_that_cannot_be_had_hides_no_error() -> None:
    provider = Mutes()
    container = OwnedContainer(provider)
    container._worker = await provider.start()
    error = DeadlineExceeded("it did not answer in time")
    assert await container.explain(error) is error
    assert (error.container_id, error.log_tail) == ("c0ffee", None)
    await container.aclose()

"""Clients that own the server that was started for them."""

from __future__ import annotations

import os
from typing import Any, Final, Self, SupportsIndex

from openenv_async.client.env import EnvClient
from openenv_async.client.models import ModelHooks
from openenv_async.client.sync import SyncEnvClient
from openenv_async.providers.base import Provider, Worker

__all__ = ["AutoEnvClient", "owning_class"]

_HOOKS: Final = ("_serialize_action", "_parse_observation", "_parse_state")


class _Owning(EnvClient[Any, Any, Any]):
    """An environment's client, together with the server that was started for it.

    Attributes:
        provider: ``process``, ``docker``, ``space`` or ``url``.
        provider_reason: why that one.
        worker: the server, where one was started.
    """

    provider: str = "url"
    provider_reason: str = ""
    worker: Worker | None = None
    _plain: Any = None
    _provider: Provider | None = None
    _owner: int = 0

    async def close(self) -> None:
        """Close the session, and end the server that was started for it."""
        try:
            await super().close()
        finally:
            worker, self.worker = self.worker, None
            provider, self._provider = self._provider, None
            if self._owner != os.getpid():
                worker = provider = None  # forked: they are the parent's
            if worker is not None:
                await worker.aclose()
            if provider is not None:
                await provider.aclose()

    def __repr__(self) -> str:
        return (
            f"<{self._plain.__name__} at {self.base_url} ({self.provider}: {self.provider_reason})>"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Pickled, it is a plain client of the same server, which stays with its owner."""
        state = {k: v for k, v in self.__getstate__().items() if k not in _OWN}
        return (_unpickled, (self._plain,), state)


_OWN: Final = ("provider", "provider_reason", "worker", "_provider", "_owner", "_plain")


def _unpickled(cls: Any) -> Any:
    return cls.__new__(cls)


def owning_class(cls: Any) -> Any:
    """``cls`` as a client that owns its server; a blocking or HTTP one by its types and hooks."""
    if not issubclass(cls, EnvClient):
        body = dict(
            zip(("action_type", "observation_type", "state_type"), cls.model_types(), strict=True)
        )
        body |= {
            h: getattr(cls, h) for h in _HOOKS if getattr(cls, h) is not getattr(ModelHooks, h)
        }
        cls = type(cls.__name__, (EnvClient,), body)
    types = dict(
        zip(("action_type", "observation_type", "state_type"), cls.model_types(), strict=True)
    )
    return type(cls.__name__, (_Owning, cls), types | {"_plain": cls, "__doc__": cls.__doc__})


class AutoEnvClient(SyncEnvClient[Any, Any, Any]):
    """What ``AutoEnv.from_env`` gives: blocking calls, and the server that was started for them.

    Attributes:
        provider: ``process``, ``docker``, ``space`` or ``url``.
        provider_reason: why that one.
    """

    @classmethod
    def of(cls, client: EnvClient[Any, Any, Any]) -> Self:
        """A blocking view of an async client that is not used otherwise."""
        made = cls.__new__(cls)
        made._made = client
        return made

    @property
    def provider(self) -> str:
        return str(getattr(self._client, "provider", "url"))

    @property
    def provider_reason(self) -> str:
        return str(getattr(self._client, "provider_reason", ""))

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return self._client.base_url

    def __repr__(self) -> str:
        return f"<AutoEnvClient of {self._client!r}>"

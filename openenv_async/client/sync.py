"""SyncEnvClient: the same client for code without an event loop, or inside a running one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, NoReturn, Self, Unpack

from openenv_async.client.arguments import refuse_unknown
from openenv_async.client.env import EnvClient
from openenv_async.client.loop_thread import background_loop, close_blocking
from openenv_async.client.models import ModelHooks
from openenv_async.client.settings import SETTINGS, ClientKeywords, ClientSettings
from openenv_async.client.tasks import SyncServedTasks
from openenv_async.types import ActT, EpisodeInfo, ObsT, StateT, StepResult, Tool

__all__ = ["SyncEnvClient"]


class SyncEnvClient(ModelHooks[ActT, ObsT, StateT], Generic[ActT, ObsT, StateT]):
    """One session of a served environment, as blocking calls.

    It works straight from its constructor: the first call connects. All blocking clients of a
    process share one background I/O thread, so it also works in a notebook's running loop and
    from many threads (one call at a time per client, as everywhere).

    Args:
        base_url, options: as for ``EnvClient``.

    ``SyncEnvClient[A, O, S]`` subclasses and ``MyEnv(url).sync()`` are typed; the plain class
    takes and gives dicts.
    """

    def __init__(self, base_url: str, **options: Unpack[ClientKeywords]) -> None:
        unknown = [name for name in options if name not in SETTINGS]
        if unknown:
            refuse_unknown(type(self).__name__, unknown, SETTINGS)
        settings = EnvClient(base_url, **options).settings  # a wrong one is told here
        self._made: EnvClient[ActT, ObsT, StateT] | None = None
        self._given = (base_url, settings)
        self._container: tuple[str, int, dict[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a pickled client opens a session of its own when it is used."""
        remade = {"_made": None} if "_given" in self.__dict__ else {}
        return {**self.__dict__, **remade}

    @property
    def _client(self) -> EnvClient[ActT, ObsT, StateT]:
        # Not in __init__: SyncEnvClient[A, O, S](url) learns its types after it.
        if self._made is None:
            make = self._client_class()
            if self._container is None:
                self._made = make.with_settings(*self._given)
            else:
                image, port, options = self._container
                self._made = make.from_docker_image(image, port, **options)
        return self._made

    @classmethod
    def wrap(cls, client: EnvClient[ActT, ObsT, StateT]) -> SyncEnvClient[ActT, ObsT, StateT]:
        """A blocking view of an async client that is not used otherwise."""
        made: SyncEnvClient[ActT, ObsT, StateT] = SyncEnvClient.__new__(SyncEnvClient)
        made._made = client
        return made

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ClientKeywords]) -> Self:
        """The same as calling the class."""
        return cls(url, **options)

    @classmethod
    def with_settings(cls, url: str, settings: ClientSettings) -> Self:
        """Return a client of the server at ``url`` with another client's settings."""
        return cls(url, **settings.arguments())

    @classmethod
    def from_docker_image(cls, image: str, port: int = 8000, **options: Any) -> Self:
        """Make a client with a container of its own, which ``close`` removes."""
        made = cls("http://127.0.0.1")
        made._container = (image, port, options)
        return made

    def _client_class(self) -> type[EnvClient[Any, Any, Any]]:
        """An EnvClient with this client's types and hooks."""
        cls = type(self)
        action, observation, state = self.instance_types()
        body: dict[str, Any] = {
            "action_type": action,
            "observation_type": observation,
            "state_type": state,
        }
        for hook in ("_serialize_action", "_parse_observation", "_parse_state"):
            if getattr(cls, hook) is not getattr(ModelHooks, hook):
                body[hook] = getattr(cls, hook)
        return type(cls.__name__, (EnvClient,), body)

    @property
    def client(self) -> EnvClient[ActT, ObsT, StateT]:
        """The async client behind; its calls belong to the background loop."""
        return self._client

    @property
    def base_url(self) -> str:
        """The address of the server."""
        return self._client.base_url

    @property
    def settings(self) -> ClientSettings:
        """All that this client was made with but the address."""
        return self._client.settings

    @property
    def episode(self) -> EpisodeInfo | None:
        """The episode's id, seed and options."""
        return self._client.episode

    @property
    def session_id(self) -> str | None:
        """The session's id."""
        return self._client.session_id

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(
            f"{name} blocks: write `with {name}(…) as env` and call it without await, or take"
            " an EnvClient for `async with`"
        )

    async def __aexit__(self, *exc: object) -> None:
        """Make ``async with`` reach ``__aenter__``, which tells what to write."""

    def open(self) -> Self:
        """Connect and open the session now."""
        background_loop().run(self._client.open())
        return self

    connect = open

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        reset_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> StepResult[ObsT]:
        """Begin an episode; see ``EnvClient.reset``."""
        return background_loop().run(
            self._client.reset(
                seed=seed,
                episode_id=episode_id,
                timeout=timeout,
                reset_options=reset_options,
                **options,
            )
        )

    def step(self, action: ActT, *, timeout: float | None = None) -> StepResult[ObsT]:
        """Take one step; see ``EnvClient.step``."""
        return background_loop().run(self._client.step(action, timeout=timeout))

    def stream_step(
        self, action: ActT, *, timeout: float | None = None
    ) -> Iterator[StepResult[ObsT]]:
        """Take one step and yield its observations; see ``EnvClient.stream_step``."""
        run = background_loop().run
        stream = self._client.stream_step(action, timeout=timeout)

        async def following() -> StepResult[ObsT] | None:
            return await anext(stream, None)

        try:
            while (result := run(following())) is not None:
                yield result
        finally:
            close_blocking(stream.aclose())

    def state(self, *, timeout: float | None = None) -> StateT:
        """Return the environment's state; see ``EnvClient.state``."""
        return background_loop().run(self._client.state(timeout=timeout))

    def render(self, *, timeout: float | None = None) -> Any:
        """Return a picture of what is; see ``EnvClient.render``."""
        return background_loop().run(self._client.render(timeout=timeout))

    def list_tools(self) -> list[Tool]:
        """Return the tools that agents may call; see ``EnvClient.list_tools``."""
        return background_loop().run(self._client.list_tools())

    def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        **more: Any,
    ) -> StepResult[Any]:
        """Take the step that a call of a tool is; see ``EnvClient.call_tool``."""
        return background_loop().run(
            self._client.call_tool(name, arguments, timeout=timeout, **more)
        )

    def tasks(self) -> SyncServedTasks:
        """Return the environment's own tasks; see ``EnvClient.tasks``."""
        return SyncServedTasks(background_loop().run(self._client.tasks()))

    def close(self) -> None:
        """Close the session; see ``EnvClient.close``."""
        close_blocking(self._client.close())

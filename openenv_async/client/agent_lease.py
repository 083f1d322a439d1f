"""A session lent to an agent: the environment's side, and a model's where a gateway gives it one.

Rules:

- The agent takes steps over MCP, or by ``step`` where it runs in this process. Both are in
  ``taken`` in the order in which they were answered, each once.
- Its holder begins the episodes. A session that ``reset`` moved to another server gets an address
  there.
- It ends with what it opened: the model's key first, then the address over MCP. Neither opens
  anything afterwards.
- A failure to learn of steps is the lease's ``failure``: its record has a hole from there on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, Self

from openenv_async.client.env import EnvClient
from openenv_async.client.sharing import AgentStep, Mistakes, SharedSession
from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import (
    CallerError,
    ConnectionLost,
    InvalidAction,
    InvalidModel,
    OpenEnvError,
    OperationUnsupported,
    SessionClosed,
    SessionLost,
)
from openenv_async.types import ActT, ObsT, StepResult, Task

__all__ = ["AgentLease", "ModelAccess", "ModelGateway", "ToolAccess"]

log = logging.getLogger("openenv_async.client")

_PAUSES: Final = (0.2, 1.0)
"""Seconds before the end of a model's side is tried again."""
_PATIENCE: Final = 10.0
"""Seconds to wait for the last steps of an agent when its lease ends."""


class ModelAccess(Protocol):
    """The model's side of a lease: a key of a gateway, and the addresses at which it is good."""

    @property
    def id(self) -> str:
        """The session's id in the gateway."""
        ...

    @property
    def key(self) -> str:
        """The key to show as that of an API."""
        ...

    @property
    def openai_base_url(self) -> str:
        """The base URL of clients of OpenAI's APIs; it ends in ``/v1``."""
        ...

    @property
    def anthropic_base_url(self) -> str:
        """The base URL of clients of Anthropic's API."""
        ...


class ModelGateway(Protocol):
    """A gateway as leases see it; ``openenv_async.gateway`` has one."""

    async def open(self, *, budget: Any = None) -> ModelAccess:
        """Return a session with a key of its own."""
        ...

    async def end(self, session: Any) -> None:
        """End a session: its key opens nothing any more."""
        ...


@dataclass(frozen=True, slots=True)
class ToolAccess:
    """The environment's side of a lease as an agent reaches it.

    Attributes:
        url: address of an MCP server.
        token: to be shown there as ``Authorization: Bearer``; it opens this session's tools alone.
    """

    url: str
    token: str = field(repr=False)


class AgentLease(Generic[ObsT, ActT]):
    """A session of an environment, its address over MCP, and a key for a model.

    ``async with pool.lease(gateway=gateway) as lease:``

    Args:
        env: the session's client.
        gateway: opens the model's side; ``None``: there is none.
        budget: of the model's side, as the gateway takes it.
        owned: whether the client is closed with the lease.

    Attributes:
        env: the session's client.
        model: the model's side; ``None`` without a gateway.
        mcp: how an agent reaches the environment; ``None`` for a session in this process, which has
            no address.
        taken: steps of the agent since the last ``reset``, in order.
        task: which task the episode is about, without its private part; ``None`` where it has none.
        last: what ``reset`` or the last step gave; ``None`` before the first reset.
        failure: why later steps are not known; ``None`` while all are.
    """

    def __init__(
        self,
        env: EnvClient[ActT, ObsT, Any],
        *,
        gateway: ModelGateway | None = None,
        budget: Any = None,
        owned: bool = True,
    ) -> None:
        self.env = env
        self.model: ModelAccess | None = None
        self.mcp: ToolAccess | None = None
        self.taken: list[AgentStep[ObsT, ActT]] = []
        self._own_mistakes = Mistakes()
        self._earlier_mistakes = Mistakes()
        self.task: Task | None = None
        self.last: StepResult[ObsT] | None = None
        self._is_settled = False
        self._is_model_ended = False
        self.failure: BaseException | None = None
        self._gateway = gateway
        self._budget = budget
        self._owned = owned
        self._shared: SharedSession[ObsT] | None = None
        self._shared_session: str | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def open(self) -> Self:
        """Open the session and lend it, and have a key made.

        Raises:
            OpenEnvError: a side of it cannot be had; then nothing stays open.
        """
        if self._closing is not None:
            raise SessionClosed("this lease has ended: take another one")
        try:
            if hasattr(self.env, "open"):
                await self.env.open()
            if self._gateway is not None and self.model is None:
                self.model = await self._gateway.open(budget=self._budget)
            await self._lend()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _lend(self) -> None:
        """Have an address for the session, which may be another one than before."""
        session = getattr(self.env, "session_id", None)
        if self._shared is not None and session == self._shared_session:
            return
        await self._take_back()
        share = getattr(self.env, "share", None)
        with contextlib.suppress(OperationUnsupported):
            self._shared = None if share is None else await share()
        if self._shared is None:
            return  # it has no address: agents of this process play it
        self._shared_session = session
        self._earlier_mistakes = self._shared.mistakes
        self.mcp = ToolAccess(self._shared.url, self._shared.token)

    async def _take_back(self) -> None:
        self._own_mistakes = self.mistakes
        shared, self._shared, self.mcp = self._shared, None, None
        await self._stop_reading()
        if shared is not None:
            try:
                await shared.aclose()
            except (OpenEnvError, OSError) as exc:
                self.failure = self.failure or exc  # of a session that is gone

    # -- the episode ----------------------------------------------------------------------------

    async def reset(self, **arguments: Any) -> StepResult[ObsT]:
        """Begin an episode, whose steps ``taken`` will have.

        Args:
            arguments: of the client's ``reset``.
        """
        await self._stop_reading()
        result = await self.env.reset(**arguments)
        await self._lend()
        self.follow(result)
        return result

    def follow(self, result: StepResult[ObsT]) -> None:
        """Note what the client's own ``reset`` gave, and the agent's steps from now on."""
        self.taken, self.last = [], result
        self._own_mistakes = Mistakes()
        if self._shared is not None:
            self._earlier_mistakes = self._shared.mistakes
        self._is_settled = False
        if self._shared is not None and self._reading is None and not result.done:
            self._reading = asyncio.create_task(self._read(self._shared), name="openenv-lease")

    async def step(self, action: ActT) -> StepResult[ObsT]:
        """Take a step for an agent that runs in this process.

        Raises:
            SessionClosed: the episode is no longer the agent's: see ``settle``.
            OpenEnvError: as the client's ``step``.
        """
        if self._is_settled:
            raise SessionClosed("the agent may take no more steps: its episode was ended")
        return await self.finish(action)

    async def finish(self, action: ActT) -> StepResult[ObsT]:
        """Take a step for the lease's holder, such as one that finishes what the agent left open.

        Raises:
            OpenEnvError: as the client's ``step``.
        """
        try:
            result = await self.env.step(action)
        except (InvalidAction, InvalidModel):
            self._own_mistakes += Mistakes(1)
            raise
        except CallerError:
            raise
        except Exception as exc:  # the environment's, where it is one without a server
            self.failure = self.failure or exc
            self._news.set()
            raise
        self._add(AgentStep(action, result, time.time()))
        return result

    @property
    def mistakes(self) -> Mistakes:
        """The agent's mistakes in this episode as far as known; ``settle`` learns of all."""
        shared = self._shared
        if shared is None:
            return self._own_mistakes
        return self._own_mistakes + shared.mistakes - self._earlier_mistakes

    @property
    def is_over(self) -> bool:
        """True once the episode has ended, or nothing more can be learnt of it."""
        return self.failure is not None or (self.last is not None and self.last.done)

    async def changed(self, known: int) -> None:
        """Return when more steps than ``known`` were taken, or there will be no more."""
        while len(self.taken) <= known and not self.is_over:
            self._news.clear()
            await self._news.wait()

    async def settle(self) -> Sequence[AgentStep[ObsT, ActT]]:
        """Take the address back, and return all steps of the episode: the agent takes no more.

        A step that still runs is cancelled, and is none of them.

        Raises:
            OpenEnvError: they cannot be learnt.
        """
        self._is_settled = True
        await self._stop_reading()
        shared = self._shared
        if shared is not None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    for step in () if self.is_over else await shared.rest():
                        self._add(step)
            except TimeoutError as exc:
                raise ConnectionLost(
                    f"the last steps of an agent did not come within {_PATIENCE:g} s", phase="step"
                ) from exc
            self.failure = self.failure or shared.failure
        await self._take_back()
        if self.failure is not None:
            raise self.failure
        return self.taken

    def _add(self, step: AgentStep[ObsT, ActT]) -> None:
        self.taken.append(step)
        self.last = step.result
        self._news.set()

    async def _read(self, shared: SharedSession[ObsT]) -> None:
        try:
            async for step in shared.taken():
                self._add(step)
            if not self.is_over:
                self.failure = SessionLost("the session ended, or its address was taken back")
        except (OpenEnvError, OSError) as exc:
            self.failure = exc
        finally:
            self._news.set()

    async def _stop_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await wait_uncancelled(reading)

    # -- its end --------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End the key and the address, and the session where it is the lease's; idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="openenv-lease-end")
        await wait_uncancelled(self._closing)
        self._closing.result()

    async def end_model(self) -> None:
        """End the model's side, with the calls that run; what was sampled can still be read.

        A failure that may pass is tried again, three times in all.

        Raises:
            OpenEnvError, OSError: it cannot be ended, which is logged: its key stays good. It is
                not tried again.
        """
        model, gateway = self.model, self._gateway
        if model is None or gateway is None or self._is_model_ended:
            return
        for pause in (*_PAUSES, None):
            try:
                await gateway.end(model)
            except (OpenEnvError, OSError) as exc:
                if pause is None or not getattr(exc, "retryable", True):
                    self._is_model_ended = True
                    log.warning(
                        "session %s of the gateway could not be ended: its key is good until it was"
                        " unused for the gateway's session_ttl, or until it is ended there: %s",
                        model.id,
                        exc,
                    )
                    raise
            else:
                break
            await asyncio.sleep(pause)
        self._is_model_ended = True

    async def _close(self) -> None:
        try:
            await self.end_model()
        finally:
            try:
                await self._take_back()
            finally:
                if self._owned:
                    await self.env.close()

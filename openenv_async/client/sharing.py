"""A session that its client lends to agents, which play it over MCP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Generic, Self

import msgspec

from openenv_async.client.endpoint import MEDIA, Endpoint, ResultReply, read_reply
from openenv_async.client.models import WireModels
from openenv_async.client.refusals import Problem
from openenv_async.client.settings import ClientSettings
from openenv_async.errors import DeadlineExceeded, InvalidModel, OpenEnvError, PayloadTooLarge
from openenv_async.types import ActT, ObsT, StepResult

__all__ = ["AgentStep", "Mistakes", "SharedSession"]

_WAIT: Final = 20.0
"""Seconds that the server waits for a result before it says that there is none."""
_TIMEOUT: Final = 30.0
_LATE: Final = 3
"""Times in a row that the server may be late."""


class _Lent(msgspec.Struct):
    path: str
    token: str


class _Results(msgspec.Struct):
    first: int
    results: list[ResultReply]
    is_over: bool
    actions: list[msgspec.Raw] = []
    ages: list[float] = []
    mistakes: int = 0
    unreadable: int = 0
    failure: Problem | None = None


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The number of an agent's mistakes: the environment is where it was before each.

    Attributes:
        count: actions that the environment refused, or that are none.
        unreadable: those among them that are none.
    """

    count: int = 0
    unreadable: int = 0

    def __add__(self, more: Mistakes) -> Mistakes:
        return Mistakes(self.count + more.count, self.unreadable + more.unreadable)

    def __sub__(self, less: Mistakes) -> Mistakes:
        return Mistakes(self.count - less.count, self.unreadable - less.unreadable)


@dataclass(frozen=True, slots=True)
class AgentStep(Generic[ObsT, ActT]):
    """A step that an agent took in a session that was lent to it.

    Attributes:
        action: what it did; ``None`` where the server, an older one, does not tell.
        result: what that gave, with the reward.
        taken_at: when it was answered, as Unix time in seconds by this machine's clock.
    """

    action: ActT | None
    result: StepResult[ObsT]
    taken_at: float


class SharedSession(Generic[ObsT]):
    """The address by which agents play in a session, and what their steps gave. Made by ``share``.

    Attributes:
        url: the address of an MCP server, for agents.
        token: what agents show there, if the server asks for a token: it plays this session over
            MCP, and opens nothing else of the server.
        mistakes: of agents, as far as results were asked for since.
        failure: what the environment, or what carries it, failed with first in a step of an agent,
            as far as results were asked for since; agents are told and may go on.
    """

    def __init__(
        self, base_url: str, settings: ClientSettings, name: str, models: WireModels
    ) -> None:
        self._endpoint = Endpoint(base_url, settings)
        about = {"X-OpenEnv-Session": name, "Content-Type": MEDIA}
        self._headers = {**self._endpoint.headers, **about}
        self._models = models
        self._next = 0
        self.url = ""
        self.token = ""
        self.mistakes = Mistakes()
        self.failure: OpenEnvError | None = None

    async def open(self) -> Self:
        """Have the server make the address.

        Raises:
            OpenEnvError: it does not, such as one that has no such route.
        """
        try:
            lent = await self._ask("POST", "/share", _Lent)
        except BaseException:
            await self._endpoint.aclose()
            raise
        self.url, self.token = self._endpoint.url + lent.path, lent.token
        return self

    async def results(self) -> list[StepResult[ObsT]]:
        """Return what steps of agents gave since the last time, rewards and all.

        Raises:
            PayloadTooLarge: results were dropped because nobody asked for them in time; asked
                again, it returns those that are kept.
        """
        return [step.result for step in (await self._page(0.0))[0]]

    async def rest(self) -> list[AgentStep[ObsT, Any]]:
        """Return all steps of agents since the last time, however many, with their actions.

        Raises:
            PayloadTooLarge: as by ``results``.
        """
        steps: list[AgentStep[ObsT, Any]] = []
        while page := (await self._page(0.0))[0]:
            steps += page
        return steps

    async def steps(self) -> AsyncIterator[StepResult[ObsT]]:
        """Yield what each step of an agent gives, as it comes, until an episode or the share ends.

        Raises:
            PayloadTooLarge: as by ``results``.
        """
        async for step in self.taken():
            yield step.result

    async def taken(self) -> AsyncIterator[AgentStep[ObsT, Any]]:
        """Yield each step of an agent as it comes, until an episode or the share ends.

        A server that is late is asked again: steps are numbered, and none is lost by it.

        Raises:
            DeadlineExceeded: it was late three times in a row.
            PayloadTooLarge: as by ``results``.
        """
        is_over, late = False, 0
        while not is_over:
            try:
                found, is_over = await self._page(_WAIT)
            except DeadlineExceeded:
                late += 1
                if late == _LATE:
                    raise
                continue
            late = 0
            for number, step in enumerate(found):
                yield step
                if step.result.done:
                    self._next -= len(found) - number - 1
                    return

    async def aclose(self) -> None:
        """Take the address back: it opens nothing any more. The session goes on. Idempotent."""
        try:
            if self.url:
                self.url = ""
                await self._ask("DELETE", "/share", dict)
        finally:
            await self._endpoint.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _page(self, wait: float) -> tuple[list[AgentStep[ObsT, Any]], bool]:
        path = f"/share?after={self._next}&wait={wait:g}"
        page = await self._ask("GET", path, _Results)
        if page.first > self._next:
            dropped, self._next = page.first - self._next, page.first
            raise PayloadTooLarge(
                f"{dropped} results of shared steps were dropped: read them while"
                " agents play, or raise Limits.max_retained_size of the server",
                field="max_retained_size",
            )
        self.mistakes = Mistakes(page.mistakes, page.unreadable)
        if page.failure is not None and self.failure is None:
            self.failure = page.failure.made()
        now = time.time()
        self._next += len(page.results)
        steps = []
        for number, reply in enumerate(page.results):
            observation, info = memoryview(reply.observation), memoryview(reply.info)
            result = self._models.result(reply, observation, info)
            action, age = None, 0.0
            if number < len(page.actions) and number < len(page.ages):
                action, age = self._action(page.actions[number]), page.ages[number]
            steps.append(AgentStep(action, result, now - age))
        return steps, page.is_over

    def _action(self, data: msgspec.Raw) -> Any:
        try:
            return self._models.decode_action(memoryview(data))
        except InvalidModel:  # the server's model took it, this client's is another
            return self._models.decode_any(memoryview(data))

    async def _ask(self, method: str, path: str, reply: Any) -> Any:
        response, body = await self._endpoint.exchange(method, path, None, self._headers, _TIMEOUT)
        return read_reply(self._endpoint.url, response, body, reply)

"""The environment that is validated, as a folder, a running server or both, and play on it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from openenv_async.checks.conformance.episodes import comparable, without
from openenv_async.checks.conformance.suite import describe
from openenv_async.checks.registry import CheckFailed, Skipped
from openenv_async.client.env import EnvClient
from openenv_async.client.settings import ClientSettings
from openenv_async.client.websocket import dial
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    InvalidAction,
    InvalidModel,
    InvalidObservation,
    OpenEnvError,
    ServerBusy,
)
from openenv_async.protocol.frames import Close
from openenv_async.schemas.legal import sample_legal
from openenv_async.targets.manifest import Manifest
from openenv_async.types import StepResult, Timeouts

__all__ = ["Candidate", "Session", "Turn", "play"]

_TRIES: Final = 20
"""Actions drawn at least before an environment is taken for one that refuses them all."""

Turn = tuple[Any, float | str | None, bool, bool]
"""Observation and reward in a form that can be compared, terminated, truncated."""


class Session(EnvClient[Any, Any, Any]):
    """A client that knows no types, and tells what closing brought about."""

    async def close_openly(self) -> None:
        """Close, and raise what the environment's ``close`` raised."""
        channel, self._channel = self._channel, None
        assert channel is not None
        seconds = self.timeouts.close or 0.0
        frame = Close(channel.number, channel.next_seq(), channel.acked, seconds)
        try:
            await channel.call(frame, seconds)
        finally:
            channel.connection.forget(channel)
            await self._give_back(channel.connection)


@dataclass
class Candidate:
    """An environment that is validated.

    Attributes:
        folder, manifest: of the environment, where there is one.
        findings: what ``inspection`` found in its modules, by check.
        url, token: of the running server.
        pid: of the server's process, where it is one that was started here.
        schema: JSON Schemas of action, observation, state and reset.
        is_upstream: it speaks upstream's dialect only.
        actions: to choose from; drawn from the schema when empty.
        varying: names of fields that are left out when episodes are compared.
        timeout: seconds for one call.
        max_observation_size: bytes.
        sessions: how many at once are tried.
        reset_options: of each episode that is played.
    """

    folder: Path | None = None
    manifest: Manifest | None = None
    findings: dict[str, list[str]] = field(default_factory=dict)
    url: str = ""
    token: str | None = None
    pid: int | None = None
    schema: dict[str, Any] = field(default_factory=dict)
    is_upstream: bool = False
    actions: tuple[Any, ...] = ()
    varying: frozenset[str] = frozenset()
    timeout: float = 10.0
    max_observation_size: int = 16 * 1024 * 1024
    sessions: int = 16
    reset_options: dict[str, Any] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def session(self, **timeouts: float | None) -> AsyncIterator[Session]:
        """Open a session, closed at the end.

        Raises:
            Skipped: the server has no room for another.
        """
        seconds = max(self.timeout, 0.001)
        of_calls = {"reset": seconds, "step": seconds, "state": seconds, "close": seconds}
        client = Session(
            self.url,
            token=self.token,
            timeouts=Timeouts(open=max(60.0, seconds), **(of_calls | timeouts)),
            subprotocol="upstream" if self.is_upstream else None,
        )
        try:
            await client.open()
        except ServerBusy as exc:
            raise _no_room(exc) from exc
        except OpenEnvError as exc:
            raise CheckFailed(f"no session could be opened: {exc.message}") from exc
        try:
            yield client
        finally:
            await client.close()

    async def look(self) -> None:
        """Find out what the server at the address is: its schemas, and its dialect.

        Raises:
            ConnectFailed: nothing answers there.
        """
        _, schema = await describe(self.url, self.token)
        self.schema = schema or {}
        connection = await dial(self.url, ClientSettings(token=self.token))
        try:
            self.is_upstream = connection.server.get("dialect") == "upstream"
        finally:
            await connection.aclose()

    def action(self, rng: random.Random, info: Mapping[str, Any] | None = None) -> Any:
        """Return an action that fits, a legal one where the info before it tells them.

        Raises:
            Skipped: none can be made.
        """
        if self.actions:
            return rng.choice(self.actions)
        if "action" not in self.schema:
            raise Skipped("the server gives no action schema (GET /schema)")
        with contextlib.suppress(InvalidObservation):  # a mask that does not fit has its own check
            return self._drawn(rng, info)
        return self._drawn(rng, None)

    def _drawn(self, rng: random.Random, info: Mapping[str, Any] | None) -> Any:
        try:
            return sample_legal(self.schema["action"], info, rng)
        except (ValueError, InvalidModel) as exc:
            raise Skipped(f"no action can be drawn from the schema: {exc}") from exc

    def turn(self, result: StepResult[Any]) -> Turn:
        """Return the part of a result that is compared."""
        seen = without(result.observation, self.varying)
        reward = "NaN" if result.reward != result.reward else result.reward  # equal to itself
        return comparable(seen), reward, result.terminated, result.truncated

    def state(self, state: Any) -> Any:
        """Return the part of a state that is compared; episode ids and counts are the server's."""
        plain = without(state, self.varying | {"episode_id", "step_count"})
        return comparable(plain)


_ILLEGAL: Final = (
    ": if that action is not a legal one, raise InvalidAction for it, or name legal ones in"
    " validation.actions of openenv.yaml"
)


async def play(
    candidate: Candidate, env: Session, *, seed: int, steps: int, choices: int = 99
) -> AsyncIterator[tuple[str, StepResult[Any]]]:
    """Play one episode of drawn actions: ``("reset", result)``, then ``("step", result)`` for each.

    An action that the environment refuses as illegal is left out.

    Args:
        candidate: what is played on.
        env: an open session.
        seed: of the episode.
        steps: at most.
        choices: seed of the actions.

    Raises:
        CheckFailed: a call failed.
        Skipped: the environment refuses every action.
    """
    rng = random.Random(choices)
    options = candidate.reset_options
    yield "reset", (result := await answered(env, "reset", **{**options, "seed": seed}))
    taken, refused = 0, ""
    for _ in range(max(steps, _TRIES) if steps else 0):
        if result.done or taken == steps:
            return
        action = candidate.action(rng, result.info)
        try:
            result = await answered(env, "step", action)
        except InvalidAction as exc:
            refused = exc.message
            continue
        taken += 1
        yield "step", result
    if steps and not taken and not result.done:
        raise Skipped(
            "the environment refuses every action that is drawn from its schema: give some in"
            f" validation.actions of the manifest, or actions= ({refused:.200})"
        )


async def answered(env: Session, call: str, *arguments: Any, **options: Any) -> StepResult[Any]:
    """Return the result of a call.

    Raises:
        InvalidAction: the environment refuses the action.
        CheckFailed: anything else went wrong.
    """
    shown = f"step({arguments[0]!r:.120})" if call == "step" else f"{call}()"
    try:
        result: StepResult[Any] = await getattr(env, call)(*arguments, **options)
    except InvalidAction:
        raise
    except DeadlineExceeded as exc:
        raise CheckFailed(f"{shown} did not answer: {exc.message}") from exc
    except EnvironmentFailure as exc:
        hint = _ILLEGAL if call == "step" else ""
        raise CheckFailed(f"{shown} failed: {exc.message}{hint}") from exc
    except ServerBusy as exc:  # an upstream server says so when it is first asked for something
        raise _no_room(exc) from exc
    except OpenEnvError as exc:
        raise CheckFailed(f"{shown}: {type(exc).__name__}: {exc.message}") from exc
    return result


def _no_room(error: ServerBusy) -> Skipped:
    return Skipped(f"the server has no room for another session: {error.message}")

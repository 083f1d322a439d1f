"""Episodes over every transport, their ends and rewards, and the environment's own schemas."""

from __future__ import annotations

import contextlib
import math
import random
from typing import Any, Final

from openenv_async.checks.registry import CheckFailed, Skipped, check, require
from openenv_async.checks.transports import Transport, network_transports
from openenv_async.checks.upstream_client import UpstreamError
from openenv_async.checks.validation.candidate import Candidate, Session, answered, play
from openenv_async.errors import EpisodeEnded, InvalidAction, OpenEnvError
from openenv_async.models import PayloadCodec
from openenv_async.schemas.fit import misfit

_FLOW = "look at what reset, step and state raise or wait for"
_STATELESS = "an upstream server's HTTP routes have no episode: each request builds an environment"
_LONG: Final = 200
"""Steps after which an episode is taken for one that does not end by random actions."""


def _transport(candidate: Candidate, name: str) -> Transport:
    if candidate.is_upstream and name != "upstream":
        why = _STATELESS if name == "http" else "an upstream server speaks no other dialect"
        raise Skipped(why)
    [found] = [
        each for each in network_transports(candidate.url, candidate.token) if each.name == name
    ]
    return found


async def _an_episode(candidate: Candidate, name: str) -> None:
    rng = random.Random(5)
    transport = _transport(candidate, name)
    try:
        async with transport.session() as env:
            result = await env.reset(seed=5, timeout=candidate.timeout)
            for _ in range(5):
                if result.done:
                    break
                action = transport.sendable(candidate.action(rng))
                with contextlib.suppress(InvalidAction):
                    result = await env.step(action, timeout=candidate.timeout)
            await env.state()
    except (CheckFailed, Skipped):
        raise
    except Exception as exc:  # a transport may raise its own; whatever it is, it is the finding
        if isinstance(exc, UpstreamError) and exc.code == InvalidAction.upstream_code:
            return
        text = exc.message if isinstance(exc, OpenEnvError) else str(exc)
        raise CheckFailed(f"{type(exc).__name__}: {text}") from exc


@check("behaviour", remedy=_FLOW)
async def episodes_run_over_native_msgpack(candidate: Candidate) -> None:
    """Reset, steps and state all answer over a WebSocket in MessagePack."""
    await _an_episode(candidate, "native msgpack")


@check("behaviour", remedy=_FLOW)
async def episodes_run_over_native_json(candidate: Candidate) -> None:
    """Reset, steps and state all answer over a WebSocket in JSON."""
    await _an_episode(candidate, "native json")


@check("behaviour", remedy=_FLOW)
async def episodes_run_over_http(candidate: Candidate) -> None:
    """Reset, steps and state all answer over plain HTTP."""
    await _an_episode(candidate, "http")


@check("behaviour", remedy=_FLOW)
async def episodes_run_over_upstream(candidate: Candidate) -> None:
    """Reset, steps and state all answer in upstream's dialect."""
    await _an_episode(candidate, "upstream")


@check("behaviour", remedy="reset must clear what the last episode left, its end most of all")
async def the_end_is_respected(candidate: Candidate) -> None:
    """A reset begins an episode that is not over; after its end no step is taken until a reset."""
    async with candidate.session() as env:
        for episode in range(3):
            result = None
            async for kind, result in play(candidate, env, seed=episode, steps=_LONG):
                require(kind == "step" or not result.done, "the episode is over after reset()")
            if result is not None and result.done:
                if not candidate.is_upstream:
                    await _refuses_a_step(candidate, env)
                again = await answered(env, "reset", seed=episode)
                require(not again.done, "the episode is over after a reset() that follows its end")


async def _refuses_a_step(candidate: Candidate, env: Session) -> None:
    try:
        await env.step(candidate.action(random.Random(1)))
    except EpisodeEnded:
        return
    except OpenEnvError as exc:
        raise CheckFailed(
            f"a step after the end raised {type(exc).__name__}, not EpisodeEnded"
        ) from exc
    raise CheckFailed("a step after the end was taken")


@check("behaviour", remedy="return a finite number, or None where there is no reward")
async def rewards_are_numbers(candidate: Candidate) -> None:
    """Every reward is a finite number or None; none is text, NaN or infinite."""
    async with candidate.session() as env:
        for seed in range(2):
            async for kind, result in play(candidate, env, seed=seed, steps=30):
                reward = result.reward
                good = reward is None or math.isfinite(reward)
                require(good, f"{kind}() gave the reward {reward!r:.80}")


@check("behaviour", remedy="make the declared type and what is returned agree; see also schemas()")
async def observations_fit_the_schema(candidate: Candidate) -> None:
    """Every observation, of reset and of step, is what the schema declares."""
    schema = candidate.schema.get("observation")
    if not schema:
        raise Skipped("the server declares no observation schema")
    async with candidate.session() as env:
        for seed in range(2):
            async for kind, result in play(candidate, env, seed=seed, steps=20):
                problem = misfit(result.observation, schema)
                require(problem is None, f"{kind}() gave what is not declared: {problem}")


@check("behaviour", remedy="make the declared state type and what state() returns agree")
async def states_fit_the_schema(candidate: Candidate) -> None:
    """The state, before and after steps, is what the schema declares."""
    schema = candidate.schema.get("state")
    if not schema:
        raise Skipped("the server declares no state schema")
    async with candidate.session() as env:
        async for kind, _ in play(candidate, env, seed=1, steps=3):
            state = await answered(env, "state")
            problem = misfit(_own_state(state, schema), schema)
            require(problem is None, f"state() after {kind}() is not as declared: {problem}")


def _own_state(state: Any, schema: Any) -> Any:
    """A state without what the client adds."""
    told = str(schema)
    if not isinstance(state, dict):
        return state
    added = {"episode_id", "step_count"}
    return {k: v for k, v in state.items() if k not in added or f"'{k}'" in told}


@check("behaviour", remedy="send less: crop, downscale, keep images encoded, or page long text")
async def observations_are_small_enough(candidate: Candidate) -> None:
    """No observation is larger than what every transport takes (--max-observation-size)."""
    codec: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")
    most = candidate.max_observation_size
    async with candidate.session() as env:
        async for kind, result in play(candidate, env, seed=2, steps=10):
            size = len(codec.encode(result.observation))
            require(size <= most, f"{kind}() gave an observation of {size:,} bytes, over {most:,}")


@check("behaviour", remedy="declare the action's type: the runtime then refuses what is not of it")
async def wrong_actions_are_refused(candidate: Candidate) -> None:
    """An action that does not fit is refused as such, and the episode goes on."""
    schema = candidate.schema.get("action")
    wrong = {"no_such_field_": [1, {}]}
    if not schema or misfit(wrong, schema) is None:
        raise Skipped("the action schema takes anything")
    async with candidate.session() as env:
        await answered(env, "reset", seed=3)
        try:
            await env.step(wrong)
        except InvalidAction:
            pass
        except OpenEnvError as exc:
            raise CheckFailed(
                f"{wrong} raised {type(exc).__name__}, not InvalidAction: {exc.message}"
            ) from exc
        else:
            raise CheckFailed(f"step({wrong}) was taken")
        with contextlib.suppress(InvalidAction):
            await answered(env, "step", candidate.action(random.Random(3)))

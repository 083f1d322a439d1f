"""An environment's failures are logged once and counted by code, wherever it runs."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
from typing import Any

import pytest

from openenv_async import Environment
from openenv_async.engine import Engine, EngineOptions
from openenv_async.errors import (
    EpisodeNotStarted,
    InvalidAction,
    InvalidObservation,
    OpenEnvError,
)
from openenv_async.server.metrics import LoopWatch, prometheus_text, read_stats
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.served import connect
from openenv_async.telemetry.logs import JsonFormatter, TextFormatter, log_failure


class Fragile(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Sync, in threads; its fifth step of each episode raises."""

    def reset(self) -> dict[str, Any]:
        self.count = 0
        return {}

    def step(self, action: dict[str, Any]) -> Any:
        self.count += 1
        if "refuse" in action:
            raise InvalidAction("not now")
        if "bad" in action:
            return 5
        if self.count == 5:
            self.fail_in_the_fifth()
        return {}

    def fail_in_the_fifth(self) -> None:
        sys.stdout.write("about to fail\n")
        sys.stdout.flush()
        raise ZeroDivisionError("fifth")


class InlineFragile(Fragile):
    isolation = "inline"


class ProcessFragile(Fragile):
    isolation = "process"


class AsyncFragile(Fragile):
    async def step(self, action: dict[str, Any]) -> Any:
        return super().step(action)


PLACES: dict[str, tuple[type, int | None]] = {
    "inline": (InlineFragile, None),
    "threads": (Fragile, None),
    "task": (AsyncFragile, None),
    "process": (ProcessFragile, None),
    "workers": (Fragile, 1),
}


def told(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [r for r in caplog.records if r.name == "openenv_async.environment"]


def counted(engine: Engine, name: str) -> dict[str, float]:
    text = prometheus_text({None: read_stats(engine, LoopWatch(engine))})[0].decode()
    found = re.findall(rf'^{name}(?:{{code="(\w+)"}})? (\S+)$', text, re.M)
    return {code: float(value) for code, value in found}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("debug", [False, True])
async def test_each_failure_is_logged_once_and_counted(
    caplog: pytest.LogCaptureFixture, place: str, debug: bool
) -> None:
    cls, workers = PLACES[place]
    engine = Engine(EnvironmentSpec(cls), EngineOptions(workers=workers, debug=debug))
    episodes, errors = [], []
    caplog.set_level(logging.INFO, "openenv_async")
    try:
        async with connect(engine) as env:
            for _ in range(3):
                await env.reset()
                assert env.episode is not None
                episodes.append(env.episode.episode_id)
                for _ in range(4):
                    await env.step({})
                with pytest.raises(OpenEnvError) as caught:
                    await env.step({})
                errors.append(caught.value)
            for action, kind in (({"refuse": 1}, InvalidAction), ({"bad": 1}, InvalidObservation)):
                with pytest.raises(kind):
                    await env.step(action)
    finally:
        await engine.aclose()
    records = told(caplog)
    assert [record.episode_id for record in records] == [*episodes, episodes[-1]]
    assert len({record.session_id for record in records}) == 1
    for record in records[:3]:
        assert record.exc_text.count("in fail_in_the_fifth") == 1
        assert record.exc_text.rstrip().endswith("ZeroDivisionError: fifth")
    assert "the declared observation type is" in records[3].getMessage()
    for error in errors:
        assert ("traceback" in error.detail) == debug
    assert counted(engine, "openenv_errors_total") == {
        "environment_raised": 3,
        "invalid_action": 1,
        "invalid_observation": 1,
    }
    assert engine.stats.steps == 3 * 5 + 2
    assert counted(engine, "openenv_steps_total") == {"": 17}
    if place in ("process", "workers"):
        prints = [r for r in caplog.records if "about to fail" in r.getMessage()]
        assert [record.name for record in prints] == ["openenv_async.worker"] * 3


class Everywhere(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Fails in the call that its constructor is told."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.fail("constructor")

    def fail(self, here: str) -> None:
        if here == self.at:
            raise ZeroDivisionError(here)

    def reset(self) -> dict[str, Any]:
        self.fail("reset")
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        self.fail("state")
        return {}

    def close(self) -> None:
        self.fail("close")


class ProcessEverywhere(Everywhere):
    isolation = "process"


@pytest.mark.parametrize("cls", [Everywhere, ProcessEverywhere])
@pytest.mark.parametrize("at", ["constructor", "reset", "state", "close"])
async def test_every_call_that_fails_is_logged(
    caplog: pytest.LogCaptureFixture, cls: type, at: str
) -> None:
    engine = Engine(EnvironmentSpec(cls, params={"at": at}))
    try:
        with contextlib.suppress(OpenEnvError):
            async with connect(engine) as env:
                await env.reset()
                await env.state()
    finally:
        await engine.aclose()
    [record] = told(caplog)
    assert record.exc_text.endswith(f"ZeroDivisionError: {at}")
    assert "in fail" in record.exc_text
    code = "environment_start_failed" if at == "constructor" else "environment_raised"
    assert engine.stats.errors == {code: 1}


async def test_callers_mistakes_are_counted_and_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Engine(EnvironmentSpec(InlineFragile))
    async with connect(engine) as env:
        with pytest.raises(EpisodeNotStarted):
            await env.step({})
    await engine.aclose()
    assert engine.stats.errors == {"episode_not_started": 1}
    assert not told(caplog)


class AuthorsError(OpenEnvError):
    code = "tests_authors_error"


def test_codes_that_are_not_known_share_a_label() -> None:
    engine = Engine(EnvironmentSpec(InlineFragile))
    for number in range(5):
        engine.count_error(f"made up {number}")
    engine.count_error(AuthorsError.code)
    assert engine.stats.errors == {"other": 5, "tests_authors_error": 1}


def test_both_formats_show_the_traceback_and_the_ids() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.Logger("openenv_async.environment")
    logger.addHandler(handler)
    traceback = "Traceback (most recent call last):\nValueError: bad"
    facts = {"session_id": "s1", "episode_id": "e1", "env": None}
    handler.setFormatter(TextFormatter())
    log_failure(logger, "step() raised 100 %s", traceback, **facts)
    assert "step() raised 100 %s session_id=s1 episode_id=e1\nTraceback" in stream.getvalue()
    stream.truncate(0)
    stream.seek(0)
    handler.setFormatter(JsonFormatter())
    log_failure(logger, "step() raised", traceback, **facts)
    entry = json.loads(stream.getvalue())
    assert entry["exception"] == traceback
    assert (entry["session_id"], entry["episode_id"]) == ("s1", "e1")
    assert "env" not in entry

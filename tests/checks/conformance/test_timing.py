"""The checks of time and streams: kept over every transport, and broken by a runtime that lies."""

from __future__ import annotations

import pytest

from openenv_async.checks.conformance import timing
from tests.checks.conformance.over import caught, passes, promises


@promises(timing)
async def test_it_is_kept_over(name: str, transport: str) -> None:
    await passes(name, transport)


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        ("ignores deadlines", "a_deadline_ends_the_call"),
        ("ignores deadlines", "a_cancelled_call_is_stopped"),
        ("ignores deadlines", "closing_stops_what_runs"),
        ("drops the last of a stream", "a_stream_ends_with_its_result"),
        ("drops the last of a stream", "a_plain_step_is_a_stream_of_one"),
        ("repeats what it streams", "a_stream_ends_with_its_result"),
        ("repeats what it streams", "a_plain_step_is_a_stream_of_one"),
        ("repeats what it streams", "an_error_ends_a_stream"),
    ],
)
async def test_a_broken_runtime_is_caught_by_name(lie: str, check: str) -> None:
    assert (await caught(lie, check)).reason

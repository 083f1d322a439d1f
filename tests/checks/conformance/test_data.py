"""The checks of data: kept over every transport, and broken by a runtime that changes it."""

from __future__ import annotations

import pytest

from openenv_async.checks.conformance import data
from tests.checks.conformance.over import caught, passes, promises


@promises(data)
async def test_it_is_kept_over(name: str, transport: str) -> None:
    await passes(name, transport)


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        ("shifts replies", "plain_data_comes_back"),
        ("shifts replies", "every_float_comes_back"),
        ("gives lists for arrays", "arrays_come_back_bit_by_bit"),
        ("gives lists for arrays", "an_array_the_environment_made"),
        ("cuts text", "large_messages_come_back"),
        ("ignores the limits", "a_reply_over_the_limit_fails_alone"),
        ("ignores the limits", "a_request_over_the_limit_fails_alone"),
    ],
)
async def test_a_broken_runtime_is_caught_by_name(lie: str, check: str) -> None:
    assert (await caught(lie, check)).reason

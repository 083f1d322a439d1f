"""The checks of frames: kept over both formats, and broken by a server that sends others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openenv_async.checks.conformance import CHECKS, frames
from openenv_async.checks.raw_connection import RawConnection
from openenv_async.protocol.frames import (
    Closed,
    Failed,
    Observation,
    Opened,
    Partial,
    StateIs,
    Welcome,
)
from tests.checks.conformance.over import caught_in_frames, passes, promises


@promises(frames)
async def test_it_is_kept_over(name: str, transport: str) -> None:
    await passes(name, transport)


def greets_without_facts(connection: RawConnection, frame: Any) -> Any:
    connection.server = {}
    return frame


def says_another_code(connection: RawConnection, frame: Any) -> Any:
    return msgspec.structs.replace(frame, code="internal") if isinstance(frame, Failed) else frame


def says_another_channel(connection: RawConnection, frame: Any) -> Any:
    return msgspec.structs.replace(frame, channel=77) if isinstance(frame, Failed) else frame


def answers_another_request(connection: RawConnection, frame: Any) -> Any:
    if isinstance(frame, Observation):
        return msgspec.structs.replace(frame, seq=frame.seq + 1)
    return frame


def changes_the_text(connection: RawConnection, frame: Any) -> Any:
    if isinstance(frame, Observation):
        value = connection.value(frame.payload) | {"text": "another"}
        return msgspec.structs.replace(frame, payload=connection.payload(value))
    return frame


def counts_a_step_too_many(connection: RawConnection, frame: Any) -> Any:
    if isinstance(frame, Observation):
        value = connection.value(frame.payload)
        value["steps"] += 1
        return msgspec.structs.replace(frame, payload=connection.payload(value))
    return frame


def shows_partials_out_of_order(connection: RawConnection, frame: Any) -> Any:
    if isinstance(frame, Partial):
        return msgspec.structs.replace(frame, index=frame.index + 1)
    return frame


def says_closed_for_state(connection: RawConnection, frame: Any) -> Any:
    return Closed(frame.channel, frame.seq) if isinstance(frame, StateIs) else frame


def closes_another_request(connection: RawConnection, frame: Any) -> Any:
    return msgspec.structs.replace(frame, seq=9) if isinstance(frame, Closed) else frame


def resumes_without_saying_so(connection: RawConnection, frame: Any) -> Any:
    return msgspec.structs.replace(frame, resumed=False) if isinstance(frame, Opened) else frame


def greets_no_more(connection: RawConnection, frame: Any) -> Any:
    return Closed(0, 0) if isinstance(frame, Welcome) else frame


LIES = [
    (greets_without_facts, "the_server_greets"),
    (greets_no_more, "an_older_version_is_refused"),
    (greets_no_more, "partials_keep_to_the_credit"),
    (says_another_code, "an_older_version_is_refused"),
    (says_another_code, "another_request_under_a_number_is_refused"),
    (says_another_code, "a_gap_is_refused"),
    (says_another_code, "a_stale_request_is_refused"),
    (says_another_code, "a_busy_session_refuses_on_the_wire"),
    (says_another_code, "a_cancelled_request_is_answered"),
    (says_another_code, "a_bad_frame_costs_only_itself"),
    (says_another_code, "a_bad_message_costs_only_itself"),
    (says_another_code, "a_channel_without_a_session_fails_alone"),
    (says_another_code, "a_session_needs_its_secret"),
    (says_another_code, "a_number_out_of_bounds_costs_its_frame"),
    (says_another_channel, "a_channel_without_a_session_fails_alone"),
    (answers_another_request, "a_duplicate_gets_the_same_reply"),
    (answers_another_request, "a_duplicate_joins_the_running_one"),
    (changes_the_text, "a_duplicate_joins_the_running_one"),
    (counts_a_step_too_many, "a_duplicate_gets_the_same_reply"),
    (counts_a_step_too_many, "a_gap_is_refused"),
    (counts_a_step_too_many, "a_stale_request_is_refused"),
    (counts_a_step_too_many, "another_request_under_a_number_is_refused"),
    (counts_a_step_too_many, "a_session_can_be_resumed"),
    (resumes_without_saying_so, "a_session_can_be_resumed"),
    (shows_partials_out_of_order, "partials_keep_to_the_credit"),
    (says_closed_for_state, "a_cancel_of_nothing_is_ignored"),
    (says_closed_for_state, "a_newer_peers_fields_are_ignored"),
    (says_closed_for_state, "a_bad_frame_costs_only_itself"),
    (says_closed_for_state, "a_session_needs_its_secret"),
    (closes_another_request, "closing_frees_the_channel"),
]


@pytest.mark.parametrize(("lie", "check"), LIES, ids=lambda case: getattr(case, "__name__", case))
async def test_a_server_that_sends_other_frames_is_caught_by_name(lie: Any, check: str) -> None:
    assert (await caught_in_frames(lie, check)).reason


def test_every_check_of_frames_catches_a_lie() -> None:
    of_frames = {name for name, each in CHECKS.items() if each.call.__module__ == frames.__name__}
    assert of_frames == {check for _, check in LIES}

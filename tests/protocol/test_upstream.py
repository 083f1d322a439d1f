"""Upstream's JSON shapes: what is read of its messages, and what our replies look like in them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from openenv_async.errors import (
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    InvalidModel,
    InvalidOption,
    PayloadTooLarge,
    ServerBusy,
)
from openenv_async.protocol.frames import Begun, Observation, StateIs
from openenv_async.protocol.upstream import (
    Call,
    Refusal,
    error_message,
    problems,
    read_fields,
    read_message,
    read_reset,
    result_body,
    result_message,
    state_body,
    state_message,
)
from openenv_async.types import MAX_DEPTH

GREATEST_SEED = 2**64 - 1


def plain(value: Any) -> Any:
    """A body as any reader of JSON has it."""
    return json.loads(msgspec.json.encode(value))


def read(message: Any) -> Call:
    call = read_message(message if isinstance(message, str) else json.dumps(message))
    assert isinstance(call, Call), call
    return call


def refused(message: Any, **limits: Any) -> dict[str, Any]:
    """The error that a message is answered with."""
    text = message if isinstance(message, str | None) else json.dumps(message)
    refusal = read_message(text, **limits)
    assert isinstance(refusal, Refusal), refusal
    answer = json.loads(refusal.encode())
    assert answer["type"] == "error"
    data: dict[str, Any] = answer["data"]
    return data


def fields(**values: Any) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in values.items()}


def packed(**values: Any) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.msgpack.encode(value)) for name, value in values.items()}


# -- messages -------------------------------------------------------------------------------


def test_requests_are_read() -> None:
    assert read({"type": "state"}) == Call("state")
    assert read({"type": "close"}) == Call("close")
    assert read({"type": "reset"}) == Call("reset")
    step = read('{"type": "step", "data": {"a": [1, 2]}}')
    assert (step.kind, step.payload) == ("step", b'{"a": [1, 2]}')
    reset = read({"type": "reset", "data": {"seed": 7, "episode_id": "e", "level": 3}})
    assert (reset.kind, reset.seed, reset.episode_id) == ("reset", 7, "e")
    assert {name: bytes(raw) for name, raw in reset.options.items()} == {"level": b"3"}


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (None, "SESSION_ERROR", "a message must be text"),
        ("[]", "SESSION_ERROR", "must be a JSON object"),
        ("3", "SESSION_ERROR", "must be a JSON object"),
        ("{", "INVALID_JSON", "Invalid JSON: "),
        ('{"type": "step", "data": {}}x', "INVALID_JSON", "Invalid JSON: "),
        ('"\ud800"', "INVALID_JSON", "Invalid JSON: "),
        ("{}", "UNKNOWN_TYPE", "Unknown message type: "),
        ({"type": None}, "UNKNOWN_TYPE", "Unknown message type: "),
        ({"type": 3}, "UNKNOWN_TYPE", "Unknown message type: 3"),
        ({"type": "fly"}, "UNKNOWN_TYPE", "Unknown message type: fly"),
        ({"type": ["step"]}, "UNKNOWN_TYPE", "Unknown message type: []"),
        ({"type": "step"}, "VALIDATION_ERROR", "Invalid message: data: Field required"),
        ({"type": "step", "data": 3}, "VALIDATION_ERROR", "data: Input should be a valid dict"),
        ({"type": "step", "data": None}, "VALIDATION_ERROR", "data: Input should be a valid dict"),
        ({"type": "reset", "data": []}, "VALIDATION_ERROR", "data: Input should be a valid dict"),
        ({"type": "state", "data": {}}, "VALIDATION_ERROR", "data: Extra inputs are not"),
        ({"type": "close", "data": {}}, "VALIDATION_ERROR", "data: Extra inputs are not"),
        ({"type": "step", "data": {}, "x": 1}, "VALIDATION_ERROR", "x: Extra inputs are not"),
        ({"type": "reset", "data": {"seed": "x"}}, "VALIDATION_ERROR", "seed must be an integer"),
    ],
)
def test_messages_are_refused(message: Any, code: str, text: str) -> None:
    data = refused(message)
    assert data["code"] == code
    assert text in data["message"]
    assert ("errors" in data) == (code == "VALIDATION_ERROR")


def test_a_message_without_a_type_has_none() -> None:
    for message in ({}, {"type": None}):
        assert refused(message)["message"] == "Unknown message type: "


def test_all_that_is_too_much_is_listed() -> None:
    data = refused({"type": "state", "x": 1, "y": 2})
    assert data["errors"] == [
        {"type": "extra_forbidden", "loc": [name], "msg": "Extra inputs are not permitted"}
        for name in ("x", "y")
    ]
    assert data["message"] == (
        "Invalid message: x: Extra inputs are not permitted; y: Extra inputs are not permitted"
    )


def test_a_request_of_json_rpc_is_moved_as_it_is() -> None:
    request = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
    call = read_message(json.dumps({"type": "mcp", "data": request}))
    assert isinstance(call, Call)
    assert call.kind == "mcp"
    assert json.loads(call.payload) == request
    assert refused({"type": "mcp"})["errors"][0]["loc"] == ["data"]
    assert refused({"type": "mcp", "data": [1]})["errors"][0]["type"] == "dict_type"


def test_depth_and_containers_of_a_message_are_bounded() -> None:
    def nested(depth: int) -> str:
        return '{"type": "step", "data": ' + '{"a": ' * depth + "1" + "}" * depth + "}"

    assert read(nested(MAX_DEPTH)).kind == "step"
    assert read(nested(MAX_DEPTH + 1)).kind == "step"  # with the envelope's own it is the most
    assert refused(nested(MAX_DEPTH + 2))["code"] == "INVALID_JSON"
    many = {"type": "step", "data": {"a": [[], [], []]}}
    assert isinstance(read_message(json.dumps(many), 6), Call)
    assert refused(many, max_containers=5)["code"] == "VALIDATION_ERROR"


# -- bodies ---------------------------------------------------------------------------------


def test_an_empty_body_and_null_are_no_fields() -> None:
    for body in (b"", b"null", b" null\n"):
        assert read_fields(body, "plain") == {}
        assert read_fields(body, "json") == {}
    assert read_fields(b"", "msgpack") == {}
    assert read_fields(b"\xc0", "msgpack") == {}


def test_the_top_level_of_a_body_is_read() -> None:
    got = read_fields(b'{"a": [1], "b": null}', "plain")
    assert {name: bytes(raw) for name, raw in got.items()} == {"a": b"[1]", "b": b"null"}
    got = read_fields(msgspec.msgpack.encode({"a": 1}), "msgpack")
    assert {name: bytes(raw) for name, raw in got.items()} == {"a": b"\x01"}


@pytest.mark.parametrize(
    ("body", "format", "kind", "text"),
    [
        (b"[]", "plain", "model_attributes_type", "the body must be an object"),
        (b"3", "json", "model_attributes_type", "the body must be an object"),
        (b"\x90", "msgpack", "model_attributes_type", "the body must be an object"),
        (b"{", "plain", "json_invalid", "the body is not valid JSON: "),
        (b"\xc0", "plain", "json_invalid", "the body is not valid JSON: "),
        (b"\x81", "msgpack", "json_invalid", "the body is not valid MessagePack: "),
        (b"[" * 500 + b"]" * 500, "plain", "json_invalid", "the body is not valid JSON: "),
    ],
)
def test_a_body_that_is_no_object(body: bytes, format: Any, kind: str, text: str) -> None:
    with pytest.raises(InvalidModel) as raised:
        read_fields(body, format)
    assert raised.value.message.startswith(text)
    assert raised.value.detail["type"] == kind
    assert raised.value.detail["loc"] == ["body"]


def test_containers_of_a_body_are_bounded() -> None:
    value: dict[str, Any] = {"a": [[], []]}
    for body, format in (
        (json.dumps(value).encode(), "plain"),
        (msgspec.msgpack.encode(value), "msgpack"),
    ):
        assert list(read_fields(body, format, 4)) == ["a"]  # type: ignore[arg-type]
        with pytest.raises(PayloadTooLarge):
            read_fields(body, format, 3)  # type: ignore[arg-type]


# -- resets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**63, GREATEST_SEED, None])
def test_seeds_from_nought_to_the_greatest(seed: int | None) -> None:
    assert read_reset(fields(seed=seed), "plain")[0] == seed
    assert read_reset(packed(seed=seed), "msgpack")[0] == seed


@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        (-1, "greater_than_equal"),
        (GREATEST_SEED + 1, "less_than_equal"),
        (1.0, "int_type"),
        (True, "int_type"),
        ("1", "int_type"),
        ([1], "int_type"),
    ],
)
def test_seeds_that_are_refused(seed: Any, kind: str) -> None:
    with pytest.raises(InvalidOption, match="seed must be an integer of 0 to") as raised:
        read_reset(fields(seed=seed), "plain")
    assert raised.value.detail["type"] == kind
    assert raised.value.detail["option"] == "seed"


def test_episode_ids_of_one_to_255_characters() -> None:
    for name in ("x", "x" * 255, None):
        assert read_reset(fields(episode_id=name), "plain")[1] == name
    for wrong, kind in (
        ("", "string_length"),
        ("x" * 256, "string_length"),
        (3, "string_type"),
        ({}, "string_type"),
    ):
        with pytest.raises(InvalidOption, match="a string of 1 to 255 characters") as raised:
            read_reset(fields(episode_id=wrong), "plain")
        assert raised.value.detail["type"] == kind
        assert raised.value.detail["option"] == "episode_id"


def test_what_is_left_of_a_reset_are_the_environments_own_options() -> None:
    seed, episode, rest = read_reset(fields(seed=1, episode_id="e", level=2), "plain")
    assert (seed, episode, list(rest)) == (1, "e", ["level"])
    assert read_reset({}, "msgpack") == (None, None, {})


@pytest.mark.parametrize("value", [[], [1], {}, {"a": 1}])
def test_a_container_is_never_decoded_where_a_scalar_is_wanted(value: Any) -> None:
    for given, format in ((fields(seed=value), "plain"), (packed(seed=value), "msgpack")):
        with pytest.raises(InvalidOption, match=r"got \[\]"):
            read_reset(given, format)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [5, -1, 127, 128, 2**40, "text", "x" * 31, "x" * 32, "x" * 300, 1.5, True, False]
)
def test_every_scalar_of_msgpack_is_decoded(value: Any) -> None:
    if type(value) is int and value >= 0:
        assert read_reset(packed(seed=value), "msgpack")[0] == value
        return
    with pytest.raises(InvalidOption) as raised:
        read_reset(packed(seed=value), "msgpack")
    assert repr(value)[:20] in raised.value.message


@pytest.mark.parametrize("count", [0, 15, 16, 70_000])
def test_containers_of_msgpack_of_every_length_are_told_from_scalars(count: int) -> None:
    containers: list[Any] = [list(range(count)), {str(n): 1 for n in range(count)}]
    for value in containers:
        with pytest.raises(InvalidOption, match=r"got \[\]"):
            read_reset(packed(seed=value), "msgpack")


def test_a_scalar_that_is_malformed_is_refused() -> None:
    with pytest.raises(InvalidOption, match="seed"):
        read_reset({"seed": msgspec.Raw(b"nul")}, "plain")
    with pytest.raises(InvalidOption, match="seed"):
        read_reset({"seed": msgspec.Raw(b"\xcd\x01")}, "msgpack")


# -- results --------------------------------------------------------------------------------


def observed(value: Any, **more: Any) -> Observation:
    return Observation(1, 2, json.dumps(value).encode(), **more)


def test_a_plain_result_has_metadata_reward_and_done_beside_the_observation() -> None:
    frame = observed(
        {"x": 1, "reward": 0.5, "done": True, "metadata": {"m": 1}}, reward=0.5, terminated=True
    )
    assert plain(result_body(frame, "plain")) == {
        "observation": {"x": 1},
        "reward": 0.5,
        "done": True,
        "terminated": True,
        "truncated": False,
        "metadata": {"m": 1},
    }


def test_tagged_results_carry_the_observation_whole() -> None:
    value = {"x": 1, "reward": 0.5, "metadata": {"m": 1}}
    body = plain(result_body(observed(value, reward=0.5, truncated=True), "json"))
    assert body["observation"] == value
    assert (body["done"], body["terminated"], body["truncated"]) == (True, False, True)
    assert "metadata" not in body
    assert "info" not in body
    assert "seed" not in body


def test_a_reward_that_json_lacks_is_text_but_in_msgpack() -> None:
    for format, reward in (("plain", "Infinity"), ("json", "Infinity"), ("msgpack", float("inf"))):
        body = result_body(observed({}, reward=float("inf")), format)  # type: ignore[arg-type]
        assert body["reward"] == reward


@pytest.mark.parametrize(
    ("reward", "beside", "stays"),
    [
        (None, 1.0, False),
        (False, 1.0, False),
        (1.0, 1.0, False),
        (1, 1.0, False),
        (1.0000001, 1.0, False),  # a float32 of it
        (1.001, 1.0, True),
        (2.0, 1.0, True),
        (1.0, None, True),
        ("Infinity", float("inf"), False),
        ("-Infinity", float("inf"), True),
        ("high", 1.0, True),
        ([1.0], 1.0, True),
    ],
)
def test_a_field_of_that_name_stays_unless_it_repeats_the_reward(
    reward: Any, beside: float | None, stays: bool
) -> None:
    body = plain(result_body(observed({"reward": reward}, reward=beside), "plain"))
    assert ("reward" in body["observation"]) == stays


@pytest.mark.parametrize(
    ("done", "flags", "stays"),
    [
        (True, {"terminated": True}, False),
        (True, {"truncated": True}, False),
        (True, {}, True),
        (False, {}, False),
        (False, {"terminated": True}, False),
        (None, {"terminated": True}, False),
        (1, {"terminated": True}, False),
        ("true", {"terminated": True}, True),
    ],
)
def test_a_field_of_that_name_stays_unless_it_repeats_done(
    done: Any, flags: dict[str, bool], stays: bool
) -> None:
    body = plain(result_body(observed({"done": done}, **flags), "plain"))
    assert ("done" in body["observation"]) == stays


@pytest.mark.parametrize("metadata", [{}, None, []])
def test_metadata_that_says_nothing_is_left_out_of_the_body(metadata: Any) -> None:
    body = plain(result_body(observed({"metadata": metadata}), "plain"))
    assert "metadata" not in body
    assert body["observation"] == {}


def test_a_begun_episode_tells_its_id_and_seed() -> None:
    begun = Begun(1, 2, b'{"x": 1}', "episode", 7, info=b'{"i": 1}')
    body = plain(result_body(begun, "plain"))
    assert (body["episode_id"], body["seed"], body["info"]) == ("episode", 7, {"i": 1})
    assert body["done"] is False


def test_an_observation_that_is_no_object_is_carried_whole() -> None:
    for value in (3, [1, 2], "text", None):
        assert plain(result_body(observed(value), "plain"))["observation"] == value
        assert json.loads(result_message(observed(value)))["data"]["observation"] == value


def test_a_result_on_the_socket() -> None:
    frame = observed({"x": 1, "metadata": {"m": 1}}, reward=2.0, terminated=True)
    assert json.loads(result_message(frame)) == {
        "type": "observation",
        "data": {
            "observation": {"x": 1, "metadata": {"m": 1}},
            "reward": 2.0,
            "done": True,
            "metadata": {"m": 1},
        },
    }
    assert json.loads(result_message(observed({"x": 1}, truncated=True))) == {
        "type": "observation",
        "data": {"observation": {"x": 1, "metadata": {}}, "reward": None, "done": True},
    }


@pytest.mark.parametrize("metadata", [{}, [], None])
def test_empty_metadata_stands_in_the_observation_and_not_beside_it(metadata: Any) -> None:
    data = json.loads(result_message(observed({"metadata": metadata})))["data"]
    assert "metadata" not in data
    assert data["observation"]["metadata"] == ({} if metadata is None else metadata)


def test_info_is_merged_into_the_metadata_which_has_the_last_word() -> None:
    def beside(info: bytes, value: Any) -> Any:
        return json.loads(result_message(observed(value, info=info)))["data"].get("metadata")

    assert beside(b'{"a": 1, "b": 1}', {"metadata": {"b": 2}}) == {"a": 1, "b": 2}
    assert beside(b'{"a": 1}', {}) == {"a": 1}
    assert beside(b'{"a": 1}', {"metadata": None}) == {"a": 1}
    assert beside(b"[1]", {"metadata": {"b": 2}}) == {"b": 2}
    assert beside(b'{"a": 1}', {"metadata": [2]}) == [2]
    assert beside(b"[1]", {}) is None
    assert beside(b'{"a": 1}', 3) == {"a": 1}


# -- states ---------------------------------------------------------------------------------


def state(value: Any, **more: Any) -> StateIs:
    facts = {"episode_id": "e", "seed": 7, "step_count": 3, **more}
    return StateIs(1, 2, json.dumps(value).encode(), **facts)


def test_a_plain_state_is_flat_and_the_environments_own_facts_hold() -> None:
    assert plain(state_body(state({"x": 1}), "plain")) == {
        "x": 1,
        "episode_id": "e",
        "step_count": 3,
    }
    own = {"x": None, "episode_id": "own", "step_count": None}
    assert plain(state_body(state(own), "plain")) == {
        "x": None,
        "episode_id": "own",
        "step_count": 3,
    }
    assert plain(state_body(state([1]), "plain")) == {
        "episode_id": "e",
        "step_count": 3,
        "state": [1],
    }


def test_a_tagged_state_stands_beside_the_engines_facts() -> None:
    assert plain(state_body(state({"x": 1}), "json")) == {
        "state": {"x": 1},
        "episode_id": "e",
        "step_count": 3,
        "seed": 7,
    }
    assert json.loads(state_message(state({"x": 1}))) == {
        "type": "state",
        "data": {"x": 1, "episode_id": "e", "step_count": 3},
    }


# -- errors ---------------------------------------------------------------------------------


def told(error: Any) -> dict[str, Any]:
    answer = json.loads(error_message(error))
    assert answer["type"] == "error"
    data: dict[str, Any] = answer["data"]
    return data


def test_errors_on_the_socket() -> None:
    busy = told(ServerBusy("all taken", active=4, limit=4))
    assert busy["code"] == "CAPACITY_REACHED"
    assert (busy["active_sessions"], busy["max_sessions"]) == (4, 4)
    assert busy["message"] == (
        "Server at capacity: 4/4 sessions active. Cannot accept new connections: all taken"
    )
    raised = told(EnvironmentRaised("step() raised ValueError: no", text="no"))
    assert (raised["code"], raised["message"]) == ("EXECUTION_ERROR", "no")
    assert told(EnvironmentRaised("step() raised"))["message"] == "step() raised"
    started = told(EnvironmentStartFailed("it cannot", env="Maze"))
    assert (started["code"], started["factory_name"]) == ("FACTORY_ERROR", "Maze")
    wrong = told(InvalidAction("no number - at `$.moves[2].count`"))
    assert wrong["code"] == "VALIDATION_ERROR"
    assert wrong["message"].startswith("Invalid message: no number")
    assert wrong["errors"][0]["loc"] == ["moves", 2, "count"]


def test_problems_have_a_place_and_a_kind() -> None:
    def one(message: str, *prefix: str, **detail: Any) -> dict[str, Any]:
        [problem] = problems(InvalidModel(message, **detail), prefix)
        return problem

    assert one("odd", type="int_type", loc=["a", 1]) == {
        "type": "int_type",
        "loc": ["a", 1],
        "msg": "odd",
    }
    assert one("odd", "body", option="seed") == {
        "type": "value_error",
        "loc": ["body", "seed"],
        "msg": "odd",
    }
    assert one("Object missing required field `b` - at `$.a`") == {
        "type": "missing",
        "loc": ["a", "b"],
        "msg": "Field required",
    }
    assert one("Object contains unknown field `b`") == {
        "type": "extra_forbidden",
        "loc": ["b"],
        "msg": "Extra inputs are not permitted",
    }
    assert one("odd") == {"type": "value_error", "loc": [], "msg": "odd"}

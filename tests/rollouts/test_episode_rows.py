"""Rows: fixed types are made, values are plain, secrets stay out, and a row is an episode again."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from openenv_async import Outcome, OutcomeStatus
from openenv_async.endpoints.redaction import Redactor
from openenv_async.errors import InvalidModel
from openenv_async.rollouts import StreamedEpisode, Trajectory, Transition
from openenv_async.rollouts.episode_rows import EPISODE, STEP, Row, encoded, from_row
from openenv_async.types import Mistake, ModelCall

REDACTOR = Redactor({"SOME_KEY": "hunter2hunter2"})


def row_of(episode: Any, run: str | None = None) -> Row:
    return encoded(episode, lambda row: row, REDACTOR, run)


def as_dict(row: Row) -> dict[str, Any]:
    """The row as files give it back."""

    def with_extra(values: dict[str, Any]) -> dict[str, Any]:
        return values | (values.pop("extra") or {})

    made = dict(zip(EPISODE, row.episode, strict=True))
    made["transitions"] = [with_extra(dict(zip(STEP, step, strict=True))) for step in row.steps]
    return with_extra(made)


@dataclass
class Seen:
    x: Any


CALL = ModelCall(
    messages=[{"role": "user", "content": "hi"}],
    reply={"role": "assistant", "content": "ho"},
    prompt_ids=[1, 2],
    completion_ids=[3],
    logprobs=[-0.5],
    mask=[1],
    finish_reason="stop",
    model="m",
    weight_version=3,
    seconds=0.5,
    extra={"usage": 3},
)


def test_a_row_is_an_episode_again() -> None:
    trajectory: Trajectory[Any, Any] = Trajectory(
        3,
        episode_id="a",
        seed=5,
        transitions=[
            Transition(
                0,
                {"x": 1},
                "a",
                1.0,
                True,
                False,
                {"k": 1},
                {"mine": 1},
                Mistake("refused_action", "no", "invalid_action", -1.0),
                (CALL,),
                np.array([1, 0], np.int8),
                "picture.png",
                {"policy": 0.5},
            )
        ],
        status=OutcomeStatus.COMPLETED,
        environment={"name": "maze"},
        task_id="t",
        task={"question": "?"},
        reset_options={"size": 3},
        group=1,
        member=2,
        policy_versions=(1, 2),
        started_at=1.5,
        run="r",
        extra={"note": "mine", "seed": "theirs", "transitions": 3},
    )
    read = from_row(as_dict(row_of(trajectory)))
    mask, masked = read.transitions[0].action_mask, trajectory.transitions[0].action_mask
    assert mask is masked
    read.transitions[0].action_mask = trajectory.transitions[0].action_mask = None
    assert read == trajectory


def test_fields_of_a_fixed_type_have_it() -> None:
    given: Any = {"index": np.int64(3), "seed": np.int64(4), "episode_return": np.float32(1.5)}
    trajectory: Any = Trajectory(**given)
    trajectory.policy_versions = [np.int64(1)]
    trajectory.transitions = [
        Transition(np.int64(2), 0, 0, np.float32(0.5), np.True_, 0)  # type: ignore[arg-type]
    ]
    ids: Any = {"prompt_ids": np.arange(2), "logprobs": [np.float32(0.5), 1]}
    call = ModelCall(**ids, seconds=1)
    trajectory.transitions[0].model_calls = (call,)
    trajectory.transitions[0].timings = {"policy": np.float64(0.5)}
    row = row_of(trajectory)
    fixed = [type(row.get(name)) for name in ("index", "seed", "episode_return")]
    assert fixed == [int, int, float]
    step = dict(zip(STEP, row.steps[0], strict=True))
    types = [type(step[name]) for name in ("t", "reward", "terminated", "truncated")]
    assert types == [int, float, bool, bool]
    assert step["model_calls"][0]["prompt_ids"] == [0, 1]
    assert list(map(type, step["model_calls"][0]["logprobs"])) == [float, float]
    assert type(step["timings"]["policy"]) is float
    assert row.get("policy_versions") == [1]


def test_values_are_plain_and_what_is_plain_is_not_copied() -> None:
    plain = {"x": np.zeros(2), "y": 1}
    nested = {"deep": {"x": (1, 2)}}
    steps: list[Transition[Any, Any]] = [
        Transition(0, plain, Seen(3)),
        Transition(1, nested, [1, "a"]),
    ]
    row = row_of(Trajectory(0, transitions=steps))
    first, second = (dict(zip(STEP, step, strict=True)) for step in row.steps)
    assert first["observation"] is plain
    assert first["action"] == {"x": 3}
    assert second["observation"] == nested
    assert second["action"] is steps[1].action


def test_secrets_stay_out_of_errors_options_and_parameters() -> None:
    environment = {"name": "maze", "params": {"api_key": "x", "url": "http://a:b@h"}}
    trajectory = Trajectory(0, environment=environment, reset_options={"token": "x", "size": 3})
    trajectory.error_message = "cannot reach http://u:p@h with hunter2hunter2"
    trajectory.error_detail = {"traceback": "f('hunter2hunter2')"}
    mistake = Mistake("refused_action", "hunter2hunter2", "invalid_action")
    call = ModelCall(error="Bearer abcdefgh12 refused")
    trajectory.transitions = [Transition(0, "hunter2hunter2", 0, mistake=mistake)]
    trajectory.transitions[0].model_calls = (call,)
    trajectory.transitions[0].render = "https://a:b@h/frames/0.png"
    row = row_of(trajectory)
    assert row.get("environment") == {
        "name": "maze",
        "params": {"api_key": "***", "url": "http://***@h"},
    }
    assert row.get("reset_options") == {"token": "***", "size": 3}
    assert row.get("error_message") == "cannot reach http://***@h with ***"
    assert row.get("error_detail") == {"traceback": "f('***')"}
    step = dict(zip(STEP, row.steps[0], strict=True))
    assert step["mistake"]["message"] == "***"
    assert step["model_calls"][0]["error"] == "Bearer *** refused"
    assert step["render"] == "https://***@h/frames/0.png"
    assert step["observation"] == "hunter2hunter2"  # what the environment shows is data
    assert trajectory.environment is environment
    assert row_of(trajectory).get("environment") is row.get("environment")  # looked at once


def test_the_run_of_an_episode_is_that_of_the_file_unless_it_has_its_own() -> None:
    assert row_of(Trajectory(0), "r").get("run") == "r"
    assert row_of(Trajectory(0, run="mine"), "r").get("run") == "mine"
    assert row_of(Trajectory(0)).get("run") is None


def test_every_kind_of_episode_has_a_row() -> None:
    outcome = Outcome(5, OutcomeStatus.CANCELLED)
    assert row_of(outcome).get("status") == "cancelled"
    outcome.trajectory = Trajectory(5)
    streamed = row_of(StreamedEpisode(outcome, 2, 1, (3, 4), stale=True))
    assert (streamed.get("group"), streamed.get("policy_versions")) == (2, [3, 4])
    assert streamed.get("extra") == {"stale": True}
    with pytest.raises(TypeError, match="takes an Outcome"):
        row_of({"index": 1})


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("transitions[1].reward", lambda t: setattr(t.transitions[1], "reward", "much")),
        ("transitions[0].action", lambda t: setattr(t.transitions[0], "action", object())),
        ("transitions[0].t", lambda t: setattr(t.transitions[0], "t", "one")),
        ("extra", lambda t: t.extra.update(a=object())),
        ("task", lambda t: setattr(t, "task", {"a": object()})),
        ("seed", lambda t: setattr(t, "seed", "one")),
        ("policy_versions", lambda t: setattr(t, "policy_versions", ["one"])),
    ],
)
def test_what_has_no_form_is_told_with_its_place(place: str, change: Any) -> None:
    trajectory = Trajectory(7, transitions=[Transition(0, 0, 0), Transition(1, 0, 0)])
    change(trajectory)
    with pytest.raises(InvalidModel, match="episode 7 cannot be written") as caught:
        row_of(trajectory)
    assert f" {place}: " in str(caught.value)


def test_an_encoder_that_fails_costs_the_episode_alone() -> None:
    with pytest.raises(InvalidModel, match="episode 3 cannot be written: it: "):
        encoded(Trajectory(3), operator.itemgetter("a"), REDACTOR)


def test_keys_of_a_newer_release_are_kept() -> None:
    row = {
        "index": 0,
        "status": None,
        "news": 1,
        "task": "a text",
        "transitions": [
            {
                "t": 0,
                "observation": 0,
                "action": 0,
                "news": 2,
                "mistake": {"kind": "a", "message": "b", "code": "c", "news": 3},
                "model_calls": [{"model": "m", "news": 4, "extra": {"usage": 5}}],
            }
        ],
    }
    read = from_row(row)
    assert read.extra == {"news": 1, "task": "a text"}
    [step] = read.transitions
    assert step.extra == {"news": 2}
    assert step.mistake == Mistake("a", "b", "c")
    assert step.model_calls == (ModelCall(model="m", extra={"usage": 5, "news": 4}),)

"""Episodes as rows of a batch: generated together, failures masked, sources closed."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from openenv_async import Timeouts
from openenv_async.errors import ConnectionLost, InvalidOption, SessionClosed
from openenv_async.integrations.trl import (
    ChatFormat,
    SharedSessions,
    TextFormat,
    close_all,
    make_rollout_func,
    reset_from_json,
    rollout_reward,
    usable_only,
)
from openenv_async.pool import EnvPool, SyncEnvPool
from tests.integrations.serving import served
from tests.integrations.trl.episodes import (
    END,
    TRAINER,
    Letters,
    Row,
    Scripted,
    as_action,
    prompts_of,
    talking,
    text_of,
)
from tests.integrations.trl_worlds import CutClient, Dying, Talk


def test_episodes_become_rows(talk: str) -> None:
    rollouts = talking(talk)
    out = rollouts(prompts_of({"seed": 3}, {"seed": 4}), TRAINER)
    rollouts.close()
    assert bytes(out["prompt_ids"][1]).decode() == "seed 4:"
    ids, mask = out["completion_ids"][0], out["env_mask"][0]
    assert ids == [*b"abc", END, *b"\n<abc>\n", *b"de", END]
    assert text_of(ids, mask, 1) == "abcde"
    assert text_of(ids, mask, 0) == "\n<abc>\n"
    assert out["logprobs"][0] == [-0.5 if m else 0.0 for m in mask]
    assert out["env_reward"] == [5.0, 5.0]
    assert out["env_status"] == ["completed", "completed"]
    assert out["env_failed"] == [False, False]
    assert out["env_steps"] == [2, 2]
    assert rollout_reward([], [], env_reward=out["env_reward"]) == [5.0, 5.0]


def test_a_batch_is_generated_together_in_the_callers_thread(talk: str) -> None:
    rollouts = talking(talk, batch_wait=30.0)
    out = rollouts(prompts_of(*({"seed": i} for i in range(32))), TRAINER)
    rollouts.close()
    assert [len(batch) for batch in rollouts.generate.batches] == [32, 32]
    assert rollouts.generate.threads == {threading.get_ident()}
    assert [bytes(ids).decode() for ids in out["prompt_ids"]] == [f"seed {i}:" for i in range(32)]
    assert rollouts.summary.episodes == 32


def test_batches_are_bounded_and_wait_for_nobody_in_particular(talk: str) -> None:
    rollouts = talking(talk, max_batch=3, concurrency=5, batch_wait=0.0)
    out = rollouts(prompts_of(*({"seed": i} for i in range(8))), TRAINER)
    rollouts.close()
    assert max(len(batch) for batch in rollouts.generate.batches) <= 3
    assert out["env_reward"] == [5.0] * 8


def test_an_episode_without_room_is_truncated_and_kept(talk: str) -> None:
    rollouts = talking(talk, "abcdefgh", max_completion_length=12)
    out = rollouts(prompts_of({"turns": 5}), TRAINER)
    rollouts.close()
    assert out["env_status"] == ["truncated"]
    assert out["env_reward"] == [8.0]
    assert len(out["completion_ids"][0]) == 9
    assert out["env_mask"][0] == [1] * 9

    rollouts = talking(talk, "abcdefgh", max_turn_tokens=4)
    out = rollouts(prompts_of({}), TRAINER)
    rollouts.close()
    assert text_of(out["completion_ids"][0], out["env_mask"][0], 1) == "abcd" * 2


def test_the_same_prompt_is_the_same_episode_by_default(talk: str) -> None:
    rollouts = make_rollout_func(talk, format=TextFormat(as_action), generate=Scripted("a"))
    out = rollouts(["one", "one", "two"], TRAINER)
    rollouts.close()
    first, second, third = (bytes(ids).decode() for ids in out["prompt_ids"])
    assert first == second
    assert first.startswith("oneseed ")
    assert first.removeprefix("one") != third.removeprefix("two")


FAULTS = {
    "raises": "env_error",
    "reset raises": "env_error",
    "bad observation": "env_error",
    "hangs": "timeout",
    "cut": "infra_error",
    "dies": "env_error",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_masked_row_and_no_zero(fault: str) -> None:
    env = Dying if fault == "dies" else Talk
    good: Row = {"seed": 1}
    bad: Row = {"seed": 1, "fault": fault}
    with served(env) as url:
        timeouts = Timeouts(step=1.0 if fault == "hangs" else 60.0)
        source = functools.partial(CutClient, url, timeouts=timeouts)
        rollouts = talking(source)
        out = rollouts(prompts_of(good, bad, good, good), TRAINER)
    assert out["env_status"] == ["completed", FAULTS[fault], "completed", "completed"]
    assert out["env_reward"] == [5.0, None, 5.0, 5.0]
    assert out["env_failed"] == [False, True, False, False]
    assert set(out["env_mask"][1]) == {0}
    assert out["prompt_ids"][1]
    for name in ("completion_ids", "logprobs", "env_mask"):
        assert len(out[name][1]) == len(out["completion_ids"][1]) >= 1
    assert all(1 in mask for index, mask in enumerate(out["env_mask"]) if index != 1)


def test_what_the_deadline_cuts_off_is_masked(talk: str) -> None:
    rollouts = talking(talk, deadline=1.5)
    out = rollouts(prompts_of({}, {"fault": "hangs"}), TRAINER)
    rollouts.close()
    assert out["env_status"] == ["completed", "cancelled"]
    assert out["env_reward"] == [5.0, None]
    assert set(out["env_mask"][1]) == {0}


def test_a_tokenizer_that_is_not_the_models_is_told() -> None:
    seen = {"tokens": [*b"hello"], "response": "hello", "response_tokens": [END, 65]}
    format = ChatFormat()
    assert format.begin("", seen, Letters()) == [*b"hello"]
    assert format.follow(seen, [], Letters()) == [END, 65]
    assert format.action("x", [1, 2]) == {"tokens": [1, 2]}
    with pytest.raises(InvalidOption, match="CHAT_TOKENIZER"):
        format.begin("", {**seen, "tokens": [*b"olleh"]}, Letters())


def test_no_reward_is_no_failure_and_truncation_counts(talk: str) -> None:
    rollouts = talking(talk)
    out = rollouts(prompts_of({"fault": "unrewarded"}, {"fault": "truncates"}), TRAINER)
    rollouts.close()
    assert out["env_status"] == ["completed", "truncated"]
    assert out["env_reward"] == [None, 4.0]
    assert out["env_failed"] == [False, False]
    assert all(1 in mask for mask in out["env_mask"])


def test_other_rewards_leave_failures_out() -> None:
    @usable_only
    def brief(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    @usable_only
    async def slow(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        return [2.0] * len(completions)

    failed = {"env_failed": [False, True]}
    assert brief(["p"] * 2, ["c"] * 2, **failed) == [1.0, None]
    instances = [SimpleNamespace(_unusable=bad) for bad in (True, False)]
    assert brief(["p"] * 2, ["c"] * 2, environments=instances) == [None, 1.0]
    assert brief(["p"] * 2, ["c"] * 2) == [1.0, 1.0]
    assert inspect.iscoroutinefunction(slow)
    assert asyncio.run(slow(["p"] * 2, ["c"] * 2, **failed)) == [2.0, None]
    assert brief.__name__ == "brief"


def test_what_is_wrong_with_the_call_is_raised_and_nothing_stays_open(talk: str) -> None:
    rollouts = talking(talk)
    with pytest.raises(InvalidOption):
        rollouts(prompts_of({"color": "red"}, {}), TRAINER)

    def broken(trainer: Any, prompt_ids: Any, most: int) -> Any:
        raise MemoryError("out of memory")

    working, rollouts.generate = rollouts.generate, broken
    with pytest.raises(MemoryError, match="out of memory"):
        rollouts(prompts_of({}, {}), TRAINER)
    rollouts.generate = working
    assert rollouts(prompts_of({}), TRAINER)["env_reward"] == [5.0]
    assert rollouts([], TRAINER)["prompt_ids"] == []
    rollouts.close()
    with pytest.raises(SessionClosed):
        rollouts(prompts_of({}), TRAINER)


def test_what_is_not_closed_in_time_is_told_beside_what_went_wrong(
    talk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trainer: Any, prompt_ids: Any, most: int) -> Any:
        raise MemoryError("out of memory")

    rollouts = talking(talk)
    rollouts.generate = broken
    with pytest.raises(MemoryError) as caught:
        rollouts(prompts_of({}, {}), TRAINER)
    assert not hasattr(caught.value, "__notes__")
    monkeypatch.setattr("openenv_async.integrations.trl.rollouts._CLOSE_PATIENCE", 0.0)
    with pytest.raises(MemoryError) as caught:
        rollouts(prompts_of({}, {}), TRAINER)
    assert "not closed within 0 s" in caught.value.__notes__[0]
    rollouts.close()


def test_a_source_that_does_not_close_keeps_no_other_open(
    talk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck:
        def close(self) -> None:
            raise ConnectionLost("the network is gone")

    source = SharedSessions(talk)
    monkeypatch.setattr(
        "openenv_async.integrations.trl.shared._open", {"": Stuck(), source.key: source}
    )
    with pytest.raises(ConnectionLost):
        close_all()
    with pytest.raises(SessionClosed):
        source.client()


def test_pools_are_taken_and_stay_their_givers(talk: str) -> None:
    with SyncEnvPool.from_url(talk, sessions_per_worker=2) as pool:
        rollouts = talking(pool)
        out = rollouts(prompts_of({}, {}, {}, {}), TRAINER)
        assert out["env_reward"] == [5.0] * 4
        rollouts.close()
        assert pool.statistics().sessions == 0
        assert pool.statistics().ready == 1
    rollouts = talking(EnvPool.from_url(talk))
    assert rollouts(prompts_of({}), TRAINER)["env_reward"] == [5.0]


def test_a_message_that_is_no_action_costs_its_own_row_and_no_other(
    talk: str, caplog: pytest.LogCaptureFixture
) -> None:
    def picky(text: str) -> Any:
        if not text.startswith("abc"):
            raise ValueError(f"{text!r} is no move")
        return {"text": text} if text != "abcd" else {"nonsense": object()}

    rollouts = make_rollout_func(
        talk,
        format=TextFormat(picky),
        reset=reset_from_json,
        generate=Scripted("abc"),
        on_mistake="end",
    )
    prompts = prompts_of({"seed": 1}, {"seed": 2}, {"seed": 3})
    words = iter(["abc", "no", "abcd", "abc", "abc"])
    rollouts.generate = lambda trainer, ids, most: (
        [[*next(words).encode(), END] for _ in ids],
        [[-0.5] * 9 for _ in ids],
    )
    rollouts.concurrency = 1
    out = rollouts(prompts, TRAINER)
    assert out["env_status"] == ["invalid_action", "invalid_action", "completed"]
    assert out["env_mistakes"] == [1, 1, 0]
    assert out["env_failed"] == [True, True, False]
    assert out["env_reward"] == [None, None, 6.0]
    assert [1 in mask for mask in out["env_mask"]] == [False, False, True]
    rollouts.concurrency = None
    rollouts.generate = Scripted("never")
    out = rollouts(prompts, TRAINER)
    assert out["env_status"] == ["invalid_action"] * 3
    assert "in every episode of this batch" in caplog.text
    rollouts.close()


def test_the_model_is_told_its_mistakes_and_asked_again(talk: str) -> None:
    def picky(text: str) -> Any:
        if text == "no":
            raise ValueError("say abc")
        return {"text": text} if text != "abcd" else {"nonsense": object()}

    rollouts = make_rollout_func(
        talk,
        format=TextFormat(picky),
        reset=reset_from_json,
        generate=Scripted("no", "abcd", "abc", "de"),
        max_completion_length=2000,
    )
    out = rollouts(prompts_of({"seed": 1}), TRAINER)
    assert out["env_status"] == ["completed"]
    assert (out["env_mistakes"], out["env_steps"], out["env_failed"]) == ([2], [2], [False])
    told = Letters().decode(
        [i for i, m in zip(out["completion_ids"][0], out["env_mask"][0], strict=True) if not m]
    )
    assert told.startswith("\nThat was not a valid action: say abc\n\nThat was not a valid")
    said = [i for i, m in zip(out["completion_ids"][0], out["env_mask"][0], strict=True) if m]
    assert Letters().decode(said) == "noabcdabcde"
    rollouts.generate = Scripted("no")
    out = rollouts(prompts_of({"seed": 1}), TRAINER)
    assert (out["env_status"], out["env_mistakes"]) == (["invalid_action"], [3])
    assert (out["env_reward"], out["env_mask"][0].count(1)) == ([None], 0)
    rollouts.invalid_actions = "keep"
    assert rollouts(prompts_of({"seed": 1}), TRAINER)["env_failed"] == [False]
    with pytest.raises(InvalidOption, match="ChatFormat cannot tell the model its mistakes"):
        make_rollout_func(talk, on_mistake="tell")
    rollouts.close()


def test_a_mistake_for_which_no_tokens_are_left_ends_the_episode(talk: str) -> None:
    def picky(text: str) -> Any:
        raise ValueError("say " + "abc" * 20)

    rollouts = make_rollout_func(
        talk,
        format=TextFormat(picky),
        reset=reset_from_json,
        generate=Scripted("no"),
        max_completion_length=40,
    )
    out = rollouts(prompts_of({"seed": 1}), TRAINER)
    assert (out["env_status"], out["env_mistakes"]) == (["invalid_action"], [3])
    assert len(out["completion_ids"][0]) <= 40
    rollouts.close()


def test_what_the_format_raises_in_every_row_is_a_bug_and_raised(talk: str) -> None:
    def broken(observation: Any) -> str:
        raise KeyError("txt")

    rollouts = talking(talk)
    rollouts.format = TextFormat(as_action, to_text=broken)
    with pytest.raises(KeyError, match="txt"):
        rollouts(prompts_of({}, {}), TRAINER)
    rollouts.close()

"""The TRL adapters: episodes as rows, failures masked, environments as tools.

One pool for TRL's environments: ``tests/behaviours/test_trl_factory.py``.

Most need no TRL: its contract is small. The last ones run TRL's own trainer on a tiny model.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
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
    episode_rows,
    make_environment_factory,
    make_reward_func,
    make_rollout_func,
    reset_from_json,
    rollout_reward,
    usable_only,
)
from openenv_async.pool import EnvPool, SyncEnvPool
from tests.integrations.serving import served
from tests.integrations.trl_worlds import CutClient, Dying, Talk, say

ROOT = Path(__file__).resolve().parents[2]
END = 256
Row = dict[str, Any]


class Letters:
    """A tokenizer of bytes, with an end token."""

    eos_token_id = pad_token_id = END
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return bytes(i for i in ids if i != END).decode()


TRAINER = SimpleNamespace(processing_class=Letters(), max_completion_length=64)


class Scripted:
    """Says one word after the other in every episode; notes what it was asked."""

    def __init__(self, *words: str) -> None:
        self.words = [[*word.encode(), END] for word in words]
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()

    def __call__(
        self, trainer: Any, prompt_ids: list[list[int]], most: int
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        self.threads.add(threading.get_ident())
        self.batches.append([Letters().decode(ids) for ids in prompt_ids])
        said = [self.words[min(ids.count(END), len(self.words) - 1)] for ids in prompt_ids]
        return said, [[-0.5] * len(ids) for ids in said]


def as_action(text: str) -> Any:
    return {"text": text}


def prompts_of(*options: Row) -> list[Any]:
    return [row["prompt"][0]["content"] for row in episode_rows(options)]


def talking(source: Any, *words: str, **options: Any) -> Any:
    """A rollout function for ``Talk``, whose prompts say how to reset it."""
    format = TextFormat(as_action)
    # The row's prompt only names the episode: it is not shown.
    hidden = SimpleNamespace(
        begin=lambda prompt, seen, tokenizer: format.begin("", seen, tokenizer),
        action=format.action,
        follow=format.follow,
    )
    return make_rollout_func(
        source,
        format=hidden,
        reset=reset_from_json,
        generate=Scripted(*(words or ("abc", "de"))),
        **options,
    )


@pytest.fixture
def talk() -> Iterator[str]:
    with served(Talk) as url:
        yield url


def text_of(ids: list[int], mask: list[int], kind: int) -> str:
    return bytes(i for i, m in zip(ids, mask, strict=True) if m == kind and i != END).decode()


# -- rollouts -----------------------------------------------------------------------------------


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
        talk, format=TextFormat(picky), reset=reset_from_json, generate=Scripted("abc")
    )
    prompts = prompts_of({"seed": 1}, {"seed": 2}, {"seed": 3})
    words = iter(["abc", "no", "abcd", "abc", "abc"])
    rollouts.generate = lambda trainer, ids, most: (
        [[*next(words).encode(), END] for _ in ids],
        [[-0.5] * 9 for _ in ids],
    )
    rollouts.concurrency = 1
    out = rollouts(prompts, TRAINER)
    assert out["env_status"] == ["policy_error", "policy_error", "completed"]
    assert out["env_failed"] == [True, True, False]
    assert out["env_reward"] == [None, None, 6.0]
    assert [1 in mask for mask in out["env_mask"]] == [False, False, True]
    rollouts.concurrency = None
    rollouts.generate = Scripted("never")
    out = rollouts(prompts, TRAINER)
    assert out["env_status"] == ["policy_error"] * 3
    assert "not one message" in caplog.text
    rollouts.close()


def test_what_the_format_raises_in_every_row_is_a_bug_and_raised(talk: str) -> None:
    def broken(observation: Any) -> str:
        raise KeyError("txt")

    rollouts = talking(talk)
    rollouts.format = TextFormat(as_action, to_text=broken)
    with pytest.raises(KeyError, match="txt"):
        rollouts(prompts_of({}, {}), TRAINER)
    rollouts.close()


# -- tools --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["raises", "reset raises", "cut"])
def test_a_tool_whose_environment_failed_has_no_reward(fault: str) -> None:
    with served(Talk) as url:
        factory = make_environment_factory(functools.partial(CutClient, url), tools=[say])
        env = factory()
        env.reset(fault=fault)
        if fault != "reset raises":
            env.say("abc")
        with pytest.raises(Exception, match=r"broken|network|stop calling"):
            env.say("abc")
        assert env.get_reward() is None
        with pytest.raises(Exception, match="stop calling"):
            env.say("abc")
        env.reset()
        env.say("abc")
        assert env.get_reward() == 3.0
        factory.close()


def test_a_call_that_does_not_fit_is_told_and_costs_nothing(talk: str) -> None:
    factory = make_environment_factory(talk, tools=[say], unplayed_reward=-1.0)
    env = factory()
    env.reset()
    assert env.get_reward() == -1.0
    with pytest.raises(TypeError):
        env.say(words="x")
    env.say("ab")
    assert env.get_reward() == 2.0
    with pytest.raises(InvalidOption):
        make_environment_factory(talk, tools=[say], reset=lambda row: {"color": 1})().reset()
    factory.close()


def test_a_factory_travels_to_another_process(talk: str, tmp_path: Path) -> None:
    factory = make_environment_factory(talk, tools=[say])
    factory().reset()
    data = tmp_path / "factory"
    data.write_bytes(pickle.dumps(factory))
    code = (
        "import pickle, sys; env = pickle.load(open(sys.argv[1], 'rb'))();"
        "print(env.reset(seed=9), env.say(text='abcd'), env.get_reward())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    factory.close()
    assert done.stdout.split("\n")[0] == "seed 9: <abcd> 4.0", done.stderr
    assert done.stderr == ""


def nameless(text: str) -> Any:
    return {}


def unhinted(text) -> Any:  # type: ignore[no-untyped-def]  # wrong on purpose
    """Say.

    Args:
        text: What.
    """
    return {}


def undescribed(text: str) -> Any:
    """Say."""
    return {}


def reset(text: str) -> Any:
    """Say.

    Args:
        text: What.
    """
    return {}


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ([nameless], "docstring"),
        ([unhinted], "type hint of 'text'"),
        ([undescribed], "line for 'text'"),
        ([reset], "cannot be named"),
        ([say, say], "two tools"),
    ],
)
def test_a_tool_that_a_model_could_not_use(talk: str, tools: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make_environment_factory(talk, tools=tools)


async def later(text: str) -> Any:
    """Say something, after a while.

    Args:
        text: What to say.
    """
    await asyncio.sleep(0)
    return {"text": text}


@functools.wraps(later)
def decorated(*args: Any, **kwargs: Any) -> Any:
    return later(*args, **kwargs)


async def refusing(text: str) -> Any:
    """Say nothing.

    Args:
        text: What not to say.
    """
    raise ValueError("not this")


async def yielding(text: str) -> Any:
    """Say something, piece by piece.

    Args:
        text: What to say.
    """
    yield {"text": text}


@pytest.mark.parametrize("tool", [later, decorated])
def test_a_tool_may_be_async(talk: str, tool: Any) -> None:
    factory = make_environment_factory(talk, tools=[tool, refusing])
    env = factory()
    env.reset()
    assert env.later("abc") == "<abc>"
    with pytest.raises(ValueError, match="not this"):
        env.refusing("x")
    assert env.later(text="de") == "<de>\n(The episode is over.)"
    assert env.get_reward() == 5.0
    with pytest.raises(ValueError, match="yields"):
        make_environment_factory(talk, tools=[yielding])
    with pytest.raises(ValueError, match="public name"):
        make_environment_factory(talk, tools=[functools.partial(say)])
    factory.close()


# -- rewards ------------------------------------------------------------------------------------


def completion_action(completion: Any, ids: Any) -> Any:
    return {"text": completion}


@pytest.mark.parametrize("blocking", [True, False])
def test_completions_are_scored_by_an_environment(talk: str, blocking: bool) -> None:
    def by_column(row: Any) -> Any:
        return {"fault": row["fault"]}

    reward = make_reward_func(talk, completion_action, reset=by_column, blocking=blocking)
    assert inspect.iscoroutinefunction(reward) is not blocking
    assert reward.__name__ == "environment"
    columns = {"fault": ["", "reset raises", "unrewarded"], "trainer_state": object()}
    call: Callable[[], Any] = functools.partial(
        reward, prompts=["p"] * 3, completions=["a", "bb", "c"], completion_ids=None, **columns
    )
    assert (call() if blocking else asyncio.run(call())) == [1.0, None, None]


# -- with TRL itself ----------------------------------------------------------------------------


def test_a_light_import() -> None:
    code = "import openenv_async.integrations.trl, sys; print(*{'trl', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Row:
    """What TRL's own trainer made of it, on tiny models; once for all tests."""
    if importlib.util.find_spec("trl") is None and not os.environ.get("CI"):
        pytest.skip("needs the extra trl")
    script = Path(__file__).with_name("trl_steps.py")
    with served(Talk) as url:
        done = subprocess.run(
            [sys.executable, str(script), url, str(tmp_path_factory.mktemp("trl"))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", ["trl_grpo.py", "trl_environment_factory.py"])
def test_the_examples_run(steps: Row, name: str) -> None:
    assert steps[name]["steps"] == 2
    assert len(steps[name]["rewards"]) == 2


@pytest.mark.parametrize("functions", ["with", "beside"])
def test_the_baseline_is_the_survivors(steps: Row, functions: str) -> None:
    seen = steps["baseline"][functions]
    rewards = [row["reward"] for row in seen]
    assert rewards.count(None) == 2
    survivors = [row for row in seen if row["reward"] is not None]
    mean = sum(row["reward"] for row in survivors) / len(survivors)
    spread = (sum((row["reward"] - mean) ** 2 for row in survivors) / (len(survivors) - 1)) ** 0.5
    for row in seen:
        wanted = 0.0 if row["reward"] is None else (row["reward"] - mean) / (spread + 1e-4)
        assert row["advantage"] == pytest.approx(wanted, abs=1e-3)
    assert len({row["advantage"] for row in survivors}) > 1


def test_a_batch_that_failed_as_a_whole_moves_nothing(steps: Row) -> None:
    wanted = {"advantages": [0.0] * 4, "finite": True, "moved": False}
    assert steps["baseline"]["all failed"] == wanted


@pytest.mark.parametrize(
    ("functions", "rows"),
    [
        ("environments", [1]),
        ("environments, other first", [1]),
        ("rollout_func", [1]),
        ("scored", [1]),
        ("scored last", [1]),
        ("scored later", [1]),
        ("infinite", [2]),
        ("nothing failed", []),
    ],
)
def test_a_failed_episode_is_left_out_of_every_reward_function(
    steps: Row, functions: str, rows: list[int]
) -> None:
    assert steps["masked"][functions] == rows


def test_the_log_probabilities_are_the_models(steps: Row) -> None:
    assert steps["baseline"]["logprobs gap"] < 1e-3

"""Language policies: conversations, tools, mistakes and what is recorded of the model's calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from openenv_async import (
    EnvClient,
    Environment,
    GenericEnvClient,
    Outcome,
    OutcomeStatus,
    StepResult,
    connect_in_process,
    rollout,
    serve,
)
from openenv_async.errors import (
    InvalidAction,
    InvalidCompletion,
    ResponderRateLimited,
    UnreadableReply,
)
from openenv_async.responders import OpenAIResponder, Reply, ScriptedResponder
from openenv_async.rollouts import (
    LanguagePolicy,
    ResponderPolicy,
    Turn,
    collect_all,
    open_writer,
    read_trajectories,
)
from openenv_async.types import Mistake, ModelCall
from tests.model_server import ModelServer, called


class Look(msgspec.Struct, tag="look", tag_field="kind"):
    """Look at a shelf."""

    shelf: int


class Take(msgspec.Struct, tag="take", tag_field="kind"):
    """Take a book; this ends the episode."""

    title: str


class Library(Environment[Look | Take, dict[str, Any], dict[str, Any]]):
    """Shelf 3 has the book."""

    isolation = "inline"

    def reset(self, seed: int = 0) -> dict[str, Any]:
        return {"text": "Find the book."}

    def step(self, action: Look | Take) -> StepResult[dict[str, Any]]:
        if isinstance(action, Take):
            return StepResult({"text": "bye"}, float(action.title == "Emma"), True)
        if not 0 < action.shelf < 9:
            raise InvalidAction(f"there is no shelf {action.shelf}")
        return StepResult({"text": "Emma" if action.shelf == 3 else "nothing"}, 0.0)


def last(messages: Sequence[Mapping[str, Any]]) -> Any:
    return messages[-1]["content"]


def reader(messages: Sequence[Mapping[str, Any]], body: Any) -> Any:
    """A model that looks at one shelf after the other and takes the book that it sees."""
    if last(messages) == "Emma":
        return called("take", title="Emma")
    return called("look", shelf=sum(message["role"] == "assistant" for message in messages) + 1)


async def played(server: ModelServer, **options: Any) -> Outcome:
    policy = LanguagePolicy(
        responder(server, **options.pop("settings", {})), Look | Take, **options
    )
    try:
        async with connect_in_process(Library) as client:
            return await rollout(client, policy)
    finally:
        await policy.aclose()


def responder(server: ModelServer, **settings: Any) -> OpenAIResponder:
    return OpenAIResponder("m", server.url, **{"retry_interval": 0.001, **settings})


def calls_of(outcome: Outcome) -> list[ModelCall]:
    assert outcome.trajectory is not None
    return [call for step in outcome.trajectory.transitions for call in step.model_calls]


async def test_an_episode_is_a_conversation_with_tools() -> None:
    async with ModelServer(reader, shape="vllm") as server:
        outcome = await played(server, settings={"tokens": "vllm"})
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("completed", 1.0, 4)
    asked = server.calls[-1].messages
    assert [message["role"] for message in asked] == [
        "system",
        "user",
        *("assistant", "tool") * 3,
    ]
    assert asked[1]["content"] == "Find the book."
    assert asked[-1]["tool_call_id"] == asked[-2]["tool_calls"][0]["id"]
    assert [message["content"] for message in asked if message["role"] == "tool"] == [
        "nothing",
        "nothing",
        "Emma",
    ]
    names = [tool["function"]["name"] for tool in server.calls[0].body["tools"]]
    assert sorted(names) == ["look", "take"]


async def test_every_call_is_recorded_as_it_was() -> None:
    async with ModelServer(reader, shape="vllm") as server:
        outcome = await played(server, settings={"tokens": "vllm"}, seed=5)
    recorded = calls_of(outcome)
    assert len(recorded) == len(server.calls) == 4
    prompt: list[Any] = []
    for call, served in zip(recorded, server.calls, strict=True):
        assert call.extra["id"] == served.id
        assert call.completion_ids == served.completion_ids
        assert call.logprobs == served.logprobs
        assert call.prompt_ids == served.prompt_ids
        assert (call.finish_reason, call.model) == ("tool_calls", "scripted-1")
        assert call.seconds is not None
        assert call.extra["usage"]["completion_tokens"] == len(served.completion_ids or ())
        assert call.continues == bool(prompt)
        prompt = [*prompt, *call.messages]
        assert prompt == served.messages  # the messages of the calls add up to the prompt
        prompt.append(call.reply)
    assert len({served.seed for served in server.calls}) == 4
    assert outcome.trajectory is not None
    timings = outcome.trajectory.transitions[0].timings
    assert timings is not None
    assert timings["model"] > 0
    assert timings["queue"] >= 0


async def test_seeds_do_not_depend_on_the_process() -> None:
    async with ModelServer(reader) as server:
        await played(server, seed=5)
    assert [served.seed for served in server.calls[:2]] == [1516983166, 975466322]


async def test_a_mistake_is_told_where_the_model_expects_it() -> None:
    script = [
        called("look", shelf=99),  # refused by the environment
        "I wonder.",  # unreadable
        called("fly"),  # there is no such tool
        called("look", shelf="three"),  # not of the type
        called("look", shelf=3),
        called("take", title="Emma"),
    ]
    async with ModelServer(lambda messages, body: script.pop(0)) as server:
        outcome = await lenient(server)
    assert (outcome.status, outcome.mistakes, outcome.steps) == ("completed", 4, 2)
    told = [(served.messages[-1]["role"], last(served.messages)) for served in server.calls[1:5]]
    assert [role for role, _ in told] == ["tool", "user", "tool", "tool"]
    for (_, text), expected in zip(
        told,
        ["there is no shelf 99", "call one of the tools", "there is no tool 'fly'", "shelf"],
        strict=True,
    ):
        assert expected in text
        assert text.endswith("Nothing was done: choose again.")
    assert outcome.trajectory is not None
    steps = outcome.trajectory.transitions
    assert [step.mistake and step.mistake.kind for step in steps] == [
        "refused_action",
        *["unreadable_reply"] * 3,
        None,
        None,
    ]
    assert steps[1].action == "I wonder."
    assert json.loads(steps[2].action)["name"] == "fly"
    assert [len(step.model_calls) for step in steps] == [1] * 6


async def lenient(server: ModelServer, **options: Any) -> Outcome:
    policy = LanguagePolicy(responder(server), Look | Take, **options)
    async with connect_in_process(Library) as client:
        try:
            return await rollout(client, policy, max_mistakes=9)
        finally:
            await policy.aclose()


def several(*calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    made = [called(name, **arguments)["tool_calls"][0] for name, arguments in calls]
    return {"role": "assistant", "content": "both", "tool_calls": made}


async def test_several_calls_are_several_actions_one_after_the_other() -> None:
    script = [
        several(("look", {"shelf": 1}), ("look", {"shelf": 99}), ("look", {"shelf": 3})),
        called("take", title="Emma"),
    ]
    async with ModelServer(lambda messages, body: script.pop(0)) as server:
        outcome = await lenient(server)
    assert (outcome.status, outcome.mistakes, outcome.steps) == ("completed", 1, 3)
    assert len(server.calls) == 2
    first, *results = server.calls[1].messages[-4:]
    assert [each["tool_call_id"] for each in results] == [
        call["id"] for call in first["tool_calls"]
    ]
    assert [each["content"].partition("\n")[0] for each in results] == [
        "nothing",
        "there is no shelf 99",
        "Emma",
    ]
    assert outcome.trajectory is not None
    assert [len(step.model_calls) for step in outcome.trajectory.transitions] == [1, 0, 0, 1]


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_a_window_never_begins_with_a_result_whose_call_is_gone(most: int) -> None:
    shelves = iter(range(1, 9))

    def answer(messages: Any, body: Any) -> Any:
        seen = last(messages) == "Emma"
        return called("take", title="Emma") if seen else called("look", shelf=next(shelves))

    async with ModelServer(answer) as server:
        outcome = await played(server, max_turns=most)
    assert outcome.episode_return == 1.0
    for served in server.calls:
        roles = [message["role"] for message in served.messages]
        assert roles[0] == "system"
        assert roles.count("assistant") <= most - 1
        known = {
            call["id"] for message in served.messages for call in message.get("tool_calls") or ()
        }
        assert all(m["tool_call_id"] in known for m in served.messages if m["role"] == "tool")
    assert len(server.calls[-1].messages) == 2 * most
    calls = calls_of(outcome)
    whole = [call for call in calls if not call.continues]
    assert whole[-1].messages == server.calls[-1].messages


async def test_a_model_without_tools_is_told_to_write_json() -> None:
    heard: list[Any] = []

    class Plain:
        async def respond(
            self,
            messages: Any,
            *,
            max_tokens: Any = None,
            temperature: Any = None,
            seed: Any = None,
            stop: Any = None,
        ) -> Reply:
            heard.append(messages)
            return Reply('Sure:\n```json\n{"kind": "take", "title": "Emma"}\n```')

        async def aclose(self) -> None:
            """Nothing is held."""

    async with connect_in_process(Library) as client:
        outcome = await rollout(client, LanguagePolicy(Plain(), Look | Take))
        assert outcome.episode_return == 1.0
        assert '"Look at a shelf."' in heard[0][0]["content"]
        assert heard[0][0]["content"].count("\n") == 2  # a line for each tool
        without = LanguagePolicy(Plain(), Look | Take, tools=[], system="Just play.")
        await rollout(client, without)
        assert heard[1][0] == {"role": "system", "content": "Just play."}
        silent = LanguagePolicy(Plain(), Look | Take, system="")
        await rollout(client, silent)
        assert [message["role"] for message in heard[2]] == ["user"]


@dataclass
class Move:
    n: int


async def asked(policy: LanguagePolicy, observation: Any = "seen", **options: Any) -> Any:
    return await policy(observation, Turn(0, 0, None, StepResult(observation), **options))


async def test_parsers_and_prompts_are_the_callers() -> None:
    said: list[Any] = []

    def answer(messages: Any) -> str:
        said.append(messages)
        return "I move 3 up"

    def third(text: str) -> Move:
        return Move(int(text.split()[2]))

    def shown(observation: Any, turn: Turn) -> Any:
        return [{"type": "text", "text": f"{turn.index}: {observation}"}]

    responder = ScriptedResponder(function=answer)
    policy = LanguagePolicy(responder, Move, parser=third, prompt=shown)
    assert await asked(policy) == Move(3)
    assert said[-1] == [{"role": "user", "content": [{"type": "text", "text": "0: seen"}]}]
    policy = LanguagePolicy(responder, parser=lambda text: int(text))
    with pytest.raises(UnreadableReply, match="no action can be read from this: invalid lit") as e:
        await asked(policy)
    assert e.value.detail["reply"] == "I move 3 up"

    def broken(text: str) -> Any:
        raise AttributeError("a bug")

    with pytest.raises(AttributeError, match="a bug"):
        await asked(LanguagePolicy(responder, parser=broken))


async def test_actions_are_of_the_type_that_is_wanted() -> None:
    responder = ScriptedResponder(['{"n": 3}'])
    assert await asked(LanguagePolicy(responder, Move)) == Move(3)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert await asked(LanguagePolicy(responder, schema)) == {"n": 3}
    assert await asked(LanguagePolicy(responder, schema, action_type=Move)) == Move(3)
    assert await asked(LanguagePolicy(responder)) == {"n": 3}
    assert await asked(LanguagePolicy(responder, dict[str, Any])) == {"n": 3}
    with pytest.raises(UnreadableReply, match=r"this is not a valid action: .*n"):
        await asked(LanguagePolicy(ScriptedResponder(['{"n": "x"}']), Move))


async def test_pictures_of_a_tools_result_follow_as_the_users() -> None:
    heard: list[Any] = []

    def answer(messages: Any) -> Reply:
        heard.append(list(messages))
        made = called("act", n=len(heard))["tool_calls"][0]
        return Reply("", tool_calls=[{**made, "id": f"c{len(heard)}"}])

    decide = LanguagePolicy(ScriptedResponder(function=answer), Move).for_episode(0)
    picture = np.zeros((16, 16, 3), np.uint8)
    for t in range(2):
        seen = {"screen": picture, "t": t}
        assert await decide(seen, Turn(0, t, None, StepResult(seen))) == Move(t + 1)
    first, second = heard
    assert [block["type"] for block in first[-1]["content"]] == ["text", "image_url"]
    assert [message["role"] for message in second[-2:]] == ["tool", "user"]
    assert second[-2]["content"] == '{"screen": "<picture 1>", "t": 1}'
    assert [block["type"] for block in second[-1]["content"]] == ["image_url"]


class LibraryEnv(EnvClient[Look | Take, dict[str, Any], dict[str, Any]]):
    pass


async def test_a_policy_for_a_client_has_its_servers_schema_and_its_types() -> None:
    async with ModelServer(reader) as server, serve(Library) as url:
        for client, kind in ((LibraryEnv(url), Take), (GenericEnvClient(url), dict)):
            async with client as env:
                policy = await LanguagePolicy.for_client(env, responder(server), seed=3)
                outcome = await rollout(env, policy)
                await policy.aclose()
            assert outcome.episode_return == 1.0
            assert outcome.trajectory is not None
            assert isinstance(outcome.trajectory.transitions[-1].action, kind)
    assert server.calls[0].body["tools"] == server.calls[-1].body["tools"]
    assert server.calls[0].body["seed"] is not None


# -- failures of the model's server --------------------------------------------------------------


async def test_what_failed_for_good_costs_its_own_episode_and_is_recorded(tmp_path: Any) -> None:
    async with ModelServer(reader, faults={"schema": 0.1}, seed=1) as server:
        policy = LanguagePolicy(responder(server, max_concurrency=8), Look | Take, seed=3)
        outcomes = await collect_all(Library, policy, episodes=40, concurrency=16)
        await policy.aclose()
    failed = [o for o in outcomes if o.status is OutcomeStatus.POLICY_ERROR]
    assert len(failed) == server.counts["schema"] > 0
    assert {o.status for o in outcomes} == {OutcomeStatus.POLICY_ERROR, OutcomeStatus.COMPLETED}
    with open_writer(tmp_path / "runs.jsonl") as writer:
        for outcome in outcomes:
            writer.write(outcome)
    read = {each.index: each for each in read_trajectories(tmp_path / "runs.jsonl")}
    assert len(read) == 40
    for outcome in failed:
        assert isinstance(outcome.error, InvalidCompletion)
        for trajectory in (outcome.trajectory, read[outcome.index]):
            assert trajectory is not None
            assert trajectory.error_detail is not None
            [call] = trajectory.error_detail["model_calls"]
            assert call["error"] == outcome.error.message
            assert call["extra"]["call"] == outcome.error.detail["call"]
            assert call["reply"] is None


async def test_faults_that_pass_cost_no_episode() -> None:
    faults = {"cut": 0.05, "busy": 0.05, "broken": 0.05}
    async with ModelServer(reader, faults=faults) as server:
        policy = LanguagePolicy(responder(server, max_attempts=20), Look | Take, seed=3)
        outcomes = await collect_all(Library, policy, episodes=50)
        await policy.aclose()
    assert [o.episode_return for o in outcomes] == [1.0] * 50
    recorded = [call for o in outcomes for call in calls_of(o)]
    assert sum(call.extra["attempts"] for call in recorded) == len(server.calls)
    assert server.counts["answer"] == len(recorded) == 200
    assert all(server.counts[fault] for fault in faults)


async def test_one_that_is_limited_for_good_says_so() -> None:
    async with ModelServer(faults={"busy": 1.0}) as server:
        policy = LanguagePolicy(responder(server, max_attempts=2), Look | Take)
        async with connect_in_process(Library) as client:
            with pytest.raises(ResponderRateLimited):
                await rollout(client, policy)
        await policy.aclose()


async def test_a_call_that_a_deadline_ends_is_recorded_with_its_error() -> None:
    never = asyncio.Event()

    async def hang(messages: Any) -> str:
        await never.wait()
        return ""

    policy = LanguagePolicy(ScriptedResponder(function=hang), Look | Take)
    async with connect_in_process(Library) as client:
        outcome = await rollout(client, policy, timeout=0.1)
    assert outcome.status is OutcomeStatus.TIMEOUT
    assert outcome.trajectory is not None
    assert outcome.trajectory.error_detail is not None
    [call] = outcome.trajectory.error_detail["model_calls"]
    assert call["error"] == "CancelledError"
    assert call["seconds"] >= 0.05


# -- arguments -------------------------------------------------------------------------------------


def test_arguments_that_make_no_sense_are_refused() -> None:
    responder = ScriptedResponder(["x"])
    wrong: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (
            ValueError,
            "max_turns must be at least 1",
            lambda: LanguagePolicy(responder, max_turns=0),
        ),
        (TypeError, "has respond", lambda: LanguagePolicy("openai:gpt")),
        (
            ValueError,
            "tools or a parser",
            lambda: LanguagePolicy(responder, parser=str, tools=[called("x")]),
        ),
    ]
    for kind, why, make in wrong:
        with pytest.raises(kind, match=why):
            make()


@pytest.mark.parametrize("name", ["prompt", "parser"])
def test_functions_that_would_give_a_coroutine_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must give its value at once, .* sleep"):
        LanguagePolicy(ScriptedResponder(["up"]), **{name: asyncio.sleep})  # type: ignore[arg-type]


async def test_the_old_class_is_one_of_these() -> None:
    policy = ResponderPolicy(ScriptedResponder(["up"]), str.upper)
    assert isinstance(policy, LanguagePolicy)
    assert policy.corrects_mistakes is True
    assert await asked(policy) == "UP"
    mistake = Mistake("refused_action", "not up", "invalid_action")
    heard: list[Any] = []

    def answer(messages: Any) -> str:
        heard.append(messages)
        return "x"

    policy = ResponderPolicy(ScriptedResponder(function=answer), str)
    await asked(policy, mistake=mistake)
    assert heard[0][-1]["content"] == "not up\nNothing was done: choose again."

"""Chains of calls and their relations, on the histories that agents make."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from openenv_async.gateway.calls import CallRecord, Level, Message
from openenv_async.gateway.graph import Chain, chains
from tests.gateway.recorded import (
    Recorder,
    answer_of,
    asked,
    decoded,
    says,
    system,
    tool,
    tools,
    user,
)

START = [system("You are an agent."), user("Fix the bug in parser.py, please")]
LEVELS: list[Level] = ["tokens", "logprobs", "text"]


def seen(records: list[CallRecord]) -> list[tuple[str, list[int]]]:
    return [(chain.relation, chain.calls) for chain in chains(records)]


def kinds(found: list[Chain]) -> list[str | None]:
    return [None if chain.difference is None else chain.difference.kind for chain in found]


def turn(recorder: Recorder, history: list[Message], number: int, **fields: Any) -> list[Message]:
    """Play one call of a tool; return the history with its result."""
    answer = asked(id=f"c{number}", arguments=f'{{"command": "step {number}"}}')
    message = recorder.call(history, answer, **fields)
    return [*history, message, tool(f"done {number}", f"c{number}")]


@pytest.mark.parametrize("level", LEVELS)
def test_turns_of_one_conversation_are_one_chain(level: Level) -> None:
    recorder = Recorder(level)
    history = START
    for number in range(3):
        history = turn(recorder, history, number)
    recorder.call(history, answer_of("It is fixed."))
    (chain,) = chains(recorder.records)
    assert (chain.relation, chain.calls, chain.parent, chain.difference) == (
        "main",
        [0, 1, 2, 3],
        None,
        None,
    )


def test_records_may_come_in_any_order_and_of_one_session_alone() -> None:
    recorder = Recorder()
    turn(recorder, turn(recorder, START, 0), 1)
    one, other = recorder.records
    assert seen([other, one]) == [("main", [0, 1])]
    with pytest.raises(ValueError, match="twice"):
        chains([one, one])
    strange = copy.copy(one)
    strange.session = "t"
    with pytest.raises(ValueError, match="several sessions"):
        chains([strange, other])


def test_calls_without_an_answer_are_in_no_chain() -> None:
    recorder = Recorder()
    history = turn(recorder, START, 0)
    recorder.call(history, None, error=("responder_failed", "the engine is gone"))
    turn(recorder, history, 2)
    assert seen(recorder.records) == [("main", [0, 2])]
    assert chains([]) == []


@pytest.mark.parametrize("level", ["logprobs", "text"])
def test_without_ids_the_spelling_of_arguments_does_not_matter(level: Level) -> None:
    recorder = Recorder(level)
    recorder.call(START, asked(id="c0", arguments='{"command":  "ls", "n": 1}'))
    back = says("", calls=[("c0", "bash", '{"n":1,"command":"ls"}')])
    recorder.call([*START, back, tool("parser.py", "c0")], answer_of("done"))
    assert seen(recorder.records) == [("main", [0, 1])]


def test_with_ids_an_argument_in_another_spelling_ends_the_chain() -> None:
    recorder = Recorder()
    recorder.call(START, asked(id="c0", arguments='{"command":  "ls"}'))
    back = says("", calls=[("c0", "bash", '{"command":"ls"}')])
    history = turn(recorder, [*START, back, tool("parser.py", "c0")], 1)
    recorder.call(history, answer_of("done"))
    main, rest = chains(recorder.records)
    assert (main.relation, main.calls) == ("main", [0])
    assert (rest.relation, rest.calls, rest.parent) == ("continuation", [1, 2], 0)
    difference = rest.difference
    assert difference is not None
    assert (difference.kind, difference.call, difference.sample, difference.message) == (
        "arguments_respelled",
        1,
        0,
        2,
    )
    answer = recorder.records[1].answer
    assert answer is not None
    ids = answer.tokens.prompt_ids or []
    assert decoded(ids[: difference.token]).endswith('<bash {"command":')


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("sampled", "back", "kind"),
    [
        (answer_of("I look"), says("I look around"), "text_joined"),
        (answer_of("I look around"), says("I look"), "text_cut"),
        (answer_of("I look"), says("You look"), "text_changed"),
        (answer_of("x", reasoning="think"), says("x"), "reasoning_left_out"),
        (answer_of("x", reasoning="think"), says("x", reasoning="thin"), "reasoning_changed"),
        (
            asked(id="c", arguments='{"command": "rm'),
            says("", calls=[("c", "bash", '{"command": "rm"}')]),
            "arguments_changed",
        ),
        (
            asked(id="c", arguments='{"command": "rm'),
            says("", calls=[("c", "invalid", "{}")]),
            "tool_calls_changed",
        ),
    ],
)
def test_a_sample_that_comes_back_in_another_form_ends_the_chain(
    level: Level, sampled: Any, back: Message, kind: str
) -> None:
    recorder = Recorder(level)
    history = turn(recorder, START, 0)
    recorder.call(history, copy.deepcopy(sampled))
    history = turn(recorder, [*history, back, user("go on")], 2)
    recorder.call(history, answer_of("done"))
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
        ("main", [0, 1], None),
        ("continuation", [2, 3], 1),
    ]
    assert kinds(found) == [None, kind]


@pytest.mark.parametrize("level", LEVELS)
def test_a_turn_that_nobody_sampled_ends_the_chain(level: Level) -> None:
    """A stream that broke leaves an empty turn, or a cut call, before the answer to the retry."""
    for ghost in (
        [says("")],
        [says("", calls=[("g", "bash", "{}")]), tool("Tool execution aborted", "g")],
    ):
        recorder = Recorder(level)
        history = turn(recorder, START, 0)
        answer = recorder.call(history, asked(id="c1"), deliveries=["broken", "whole"])
        history = [*history, *ghost, answer, tool("done", "c1")]
        history = turn(recorder, history, 2)
        recorder.call(history, answer_of("done"))
        found = chains(recorder.records)
        assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
            ("main", [0, 1], None),
            ("continuation", [2, 3], 1),
        ]
        assert kinds(found) == [None, "extra_turn"]


def test_a_cut_text_that_is_resumed_and_joined_later() -> None:
    """The agent shows the part it got, asks to go on, and later has both parts as one turn."""
    recorder = Recorder()
    recorder.call(START, answer_of("The parser fails since it"), deliveries=["broken"])
    resumed = [*START, says("The parser"), user("Go on from there.")]
    recorder.call(resumed, answer_of(" fails at the end."))
    joined = [*START, says("The parser fails at the end."), user("And now?")]
    recorder.call(joined, answer_of("Now it works."))
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls) for chain in found] == [
        ("main", [0]),
        ("continuation", [1]),
        ("continuation", [2]),
    ]
    assert kinds(found) == [None, "text_cut", "text_joined"]


@pytest.mark.parametrize("level", LEVELS)
def test_an_answer_that_is_left_out_is_dropped(level: Level) -> None:
    """An agent that needs a tool call leaves out a reply without one, and says so."""
    recorder = Recorder(level)
    history = turn(recorder, START, 0)
    recorder.call(history, answer_of("I think about it"))
    history = turn(recorder, [*history, user("No tool call was found")], 2)
    recorder.call(history, answer_of("done"))
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
        ("main", [0, 2, 3], None),
        ("dropped", [1], 0),
    ]
    assert kinds(found) == [None, "left_out"]
    recorder = Recorder(level)
    recorder.call(START, answer_of("I think about it"))
    recorder.call([*START, user("No tool call was found")], answer_of("done"))
    assert seen(recorder.records) == [("dropped", [0]), ("main", [1])]


def test_an_answer_that_is_left_out_after_a_difference() -> None:
    recorder = Recorder()
    recorder.call(START, asked(id="c0", arguments='{"command":  "ls"}'))
    back = says("", calls=[("c0", "bash", '{"command":"ls"}')])
    history = [*START, back, tool("parser.py", "c0")]
    recorder.call(history, answer_of("hm"))
    recorder.call([*history, user("No tool call was found")], answer_of("done"))
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
        ("main", [0], None),
        ("dropped", [1], 0),
        ("continuation", [2], 0),
    ]
    assert kinds(found) == [None, "left_out", "arguments_respelled"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("used", [0, 1])
def test_of_two_samples_of_one_request_the_used_one_is_in_the_chain(
    level: Level, used: int
) -> None:
    recorder = Recorder(level)
    history = turn(recorder, START, 0)
    both = [recorder.call(history, asked(id=f"r{each}"), ambiguous=each and 1) for each in range(2)]
    recorder.call([*history, both[used], tool("ok", f"r{used}")], answer_of("done"))
    expected = [("main", [0, 1 + used, 3])]
    expected.insert(1, ("second_sample" if used == 0 else "dropped", [2 - used]))
    assert seen(recorder.records) == expected


@pytest.mark.parametrize("level", LEVELS)
def test_of_two_samples_at_the_end_the_first_is_in_the_chain(level: Level) -> None:
    recorder = Recorder(level)
    history = turn(recorder, START, 0)
    recorder.call(history, answer_of("one"))
    recorder.call(history, answer_of("two"))
    assert seen(recorder.records) == [("main", [0, 1]), ("second_sample", [2])]
    recorder = Recorder(level)
    recorder.call(START, answer_of("one"))
    recorder.call(START, answer_of("two"))
    assert seen(recorder.records) == [("main", [0]), ("second_sample", [1])]


@pytest.mark.parametrize("level", LEVELS)
def test_a_branch_is_a_fork_with_its_own_turns(level: Level) -> None:
    recorder = Recorder(level)
    history = turn(recorder, START, 0)
    branch = turn(recorder, [*history, user("try this")], 1)
    turn(recorder, branch, 2)
    kept = turn(recorder, [*history, user("rather that")], 3)
    recorder.call(kept, answer_of("done"))
    assert seen(recorder.records) == [("main", [0, 3, 4]), ("fork", [1, 2])]


@pytest.mark.parametrize("level", LEVELS)
def test_a_tool_result_that_is_shortened_later_ends_the_chain(level: Level) -> None:
    recorder = Recorder(level)
    history = turn(recorder, turn(recorder, START, 0), 1)
    shortened = [*history[:3], tool("[cleared]", "c0"), *history[4:]]
    recorder.call(shortened, answer_of("done"))
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
        ("main", [0, 1], None),
        ("continuation", [2], 1),
    ]
    assert kinds(found) == [None, "history_changed"]


def test_a_template_that_makes_other_tokens_ends_the_chain() -> None:
    recorder = Recorder()
    history = turn(recorder, START, 0)
    turn(recorder, history, 1)
    answer = recorder.records[0].answer
    assert answer is not None
    assert answer.tokens.completion_ids is not None
    answer.tokens.completion_ids.append(32)  # the engine's stop token is not the template's
    found = chains(recorder.records)
    assert kinds(found) == [None, "retokenized"]
    assert [chain.relation for chain in found] == ["main", "continuation"]


@pytest.mark.parametrize("level", LEVELS)
def test_tools_that_change_end_the_chain(level: Level) -> None:
    recorder = Recorder(level)
    history = turn(recorder, START, 0)
    turn(recorder, history, 1, tools=tools("bash", "web_fetch"))
    assert kinds(chains(recorder.records)) == [None, "tools_changed"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_system_text_that_changes_ends_the_chain(level: Level) -> None:
    recorder = Recorder(level)
    history = turn(recorder, START, 0)
    turn(recorder, [system("It is noon."), *history[1:]], 1)
    found = chains(recorder.records)
    assert [chain.relation for chain in found] == ["main", "continuation"]
    assert kinds(found) == [None, "system_changed"]


def test_an_engine_that_stops_to_tell_ids_ends_the_chain() -> None:
    recorder = Recorder()
    history = turn(recorder, START, 0)
    recorder.level = "text"
    turn(recorder, history, 1)
    assert kinds(chains(recorder.records)) == [None, "level_changed"]


# -- relations by agent ---------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_marked_sub_agents_with_equal_requests_at_the_same_time(level: Level) -> None:
    recorder = Recorder(level, offered=("Agent", "Bash"))
    run = {"x-claude-code-session-id": "run"}
    task = "Count the files in src"
    given = [(f"t{n}", "Agent", f'{{"prompt": "{task}"}}') for n in range(2)]
    started = recorder.call(START, answer_of(calls=given), thread=run)
    first = [system("You are a sub-agent."), user(task)]
    marks = [run | {"x-claude-code-agent-id": f"a{n}"} for n in range(2)]
    histories = [turn(recorder, first, 7, thread=marks[n]) for n in range(2)]
    for n in (1, 0):
        recorder.call(histories[n], answer_of("There are 12."), thread=marks[n])
    history = [*START, started, tool("There are 12.", "t0"), tool("There are 12.", "t1")]
    recorder.call(history, answer_of("12 each"), thread=run)
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
        ("main", [0, 5], None),
        ("subagent", [1, 4], 0),
        ("subagent", [2, 3], 0),
    ]


@pytest.mark.parametrize("level", LEVELS)
def test_sub_agents_without_a_mark_are_known_by_their_task(level: Level) -> None:
    recorder = Recorder(level, offered=("agent", "read_file"))
    task = "Count the files in src"
    given = [(f"t{n}", "agent", f'{{"prompt": "{task}", "n": {n}}}') for n in range(2)]
    started = recorder.call(START, answer_of(calls=given))
    first = [system("You are a sub-agent."), user("# Environment"), user(task)]
    histories = [turn(recorder, first, 7) for _ in range(2)]
    for history in histories:
        recorder.call(history, answer_of("There are 12."))
    history = [*START, started, tool("There are 12.", "t0"), tool("There are 12.", "t1")]
    recorder.call(history, answer_of("12 each"))
    found = chains(recorder.records)
    assert sorted((chain.relation, chain.parent) for chain in found[1:]) == [
        ("subagent", 0),
        ("subagent", 0),
    ]
    assert (found[0].relation, found[0].calls) == ("main", [0, 5])
    assert sorted(len(chain.calls) for chain in found[1:]) == [2, 2]


def test_names_of_the_other_agents_mark_sub_agents_too() -> None:
    for own, other in (
        (
            {"session-id": "r", "thread-id": "r"},
            {"session-id": "r", "thread-id": "t", "x-openai-subagent": "collab_spawn"},
        ),
        ({"x-session-id": "r"}, {"x-session-id": "t", "x-parent-session-id": "r"}),
    ):
        recorder = Recorder()
        history = turn(recorder, START, 0, thread=own)
        below = turn(recorder, history, 1, thread=other)  # it begins with its parent's history
        recorder.call(history, answer_of("done"), thread=own)
        recorder.call(below, answer_of("found"), thread=other)
        assert seen(recorder.records) == [("main", [0, 2]), ("subagent", [1, 3])]


@pytest.mark.parametrize("level", LEVELS)
def test_a_title_and_a_side_call_are_told_from_the_main_conversation(level: Level) -> None:
    recorder = Recorder(level)
    words = [system("You write a title for a conversation."), user("Title of this:"), START[1]]
    recorder.call(words, answer_of("Parser bug"), tools=[])
    history = turn(recorder, START, 0)
    history = [*history, recorder.call(history, answer_of("It is fixed."))]
    facts = [system("Which facts are worth a note?"), *history[1:], user("Name them.")]
    recorder.call(facts, answer_of("none"), tools=tools("write_note"))
    assert seen(recorder.records) == [("title", [0]), ("main", [1, 2]), ("side", [3])]


def test_the_call_at_a_step_limit_is_a_side_call_of_an_agent_without_tools() -> None:
    recorder = Recorder("tokens", offered=())
    history = [*START, recorder.call(START, answer_of("<code>ls()</code>")), user("parser.py")]
    history = [*history, recorder.call(history, answer_of("<code>cat()</code>")), user("…")]
    final = [system("An agent got stuck."), *history[1:], user("Give the final answer")]
    recorder.call(final, answer_of("Line 3"))
    assert seen(recorder.records) == [("main", [0, 1]), ("side", [2])]


@pytest.mark.parametrize("level", LEVELS)
def test_a_summary_and_the_conversation_that_begins_with_it(level: Level) -> None:
    recorder = Recorder(level)
    history = turn(recorder, turn(recorder, START, 0), 1)
    summary = "<summary>\nThe bug is in line 3 of parser.py, a missing case.\n</summary>"
    recorder.call([*history, user("Write down the state of the work")], answer_of(summary))
    begins = user(f"This is where we were:\n{summary[10:-11]}\nGo on.")
    after = turn(recorder, [START[0], begins], 3)
    recorder.call(after, answer_of("done"))
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
        ("main", [0, 1], None),
        ("summary", [2], 1),
        ("continuation", [3, 4], 2),
    ]
    assert kinds(found) == [None, None, "compacted"]


def test_a_summary_by_a_call_of_its_own_and_a_history_that_keeps_the_task() -> None:
    recorder = Recorder()
    history = turn(recorder, START, 0)
    request = [system("You sum up."), user("The conversation: …"), user("Sum it up.")]
    text = "parser.py has a missing case in line 3"
    recorder.call(request, answer_of(text), tools=[])
    recorder.call([*START, user(f"So far: {text}")], answer_of("done"))
    assert len(history) == 4
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
        ("main", [0], None),
        ("summary", [1], None),
        ("continuation", [2], 1),
    ]


def test_a_summary_that_comes_back_as_the_assistants_own() -> None:
    """The agent asks itself for the state of the work, and goes on from the answer."""
    recorder = Recorder()
    history = turn(recorder, turn(recorder, START, 0), 1)
    request = [system("You sum up conversations."), *history[1:], user("Sum it up.")]
    summary = recorder.call(request, answer_of("Line 3 of parser.py has a bug"), tools=[])
    kept = [START[0], user("The state so far?"), summary, *history[4:], user("Go on.")]
    recorder.call(kept, answer_of("done"))
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
        ("main", [0, 1], None),
        ("summary", [2], 1),
        ("continuation", [3], 2),
    ]
    assert kinds(found) == [None, "system_changed", "compacted"]


def test_a_history_as_one_text_is_not_a_sub_agents_task() -> None:
    recorder = Recorder()
    command = "grep -n missing_case parser.py"
    history = [
        *START,
        recorder.call(START, asked(id="c0", arguments=f'{{"command": "{command}"}}')),
    ]
    recorder.call([*history, tool("3", "c0")], answer_of("done"))
    told = f"The conversation:\nassistant ran {command}\ntool: 3\nassistant: done\nWhat is left?"
    recorder.call([system("Write a summary."), user(told)], answer_of("Nothing"), tools=[])
    assert seen(recorder.records) == [("main", [0, 1]), ("summary", [2])]


def test_a_request_under_another_system_text_takes_no_turn_of_the_conversation() -> None:
    recorder = Recorder()
    history = turn(recorder, turn(recorder, START, 0), 1)
    other = [system("Take notes."), *history[1:]]
    recorder.call([*other, user("Notes?")], answer_of("none"), tools=[])
    respelled = [*history[:-2], says("", calls=[("c1", "bash", '{"command":"step 1"}')])]
    recorder.call([*respelled, tool("done 1", "c1")], answer_of("done"))
    found = chains(recorder.records)
    assert [(chain.relation, chain.calls, chain.parent) for chain in found] == [
        ("main", [0, 1], None),
        ("side", [2], 1),
        ("continuation", [3], 1),
    ]
    assert kinds(found) == [None, "system_changed", "arguments_respelled"]


def test_a_summary_after_the_end_is_told_by_its_instructions() -> None:
    recorder = Recorder()
    history = turn(recorder, START, 0)
    recorder.call(history, answer_of("done"))
    request = [system("Write a summary of the conversation."), user("user: …")]
    recorder.call(request, answer_of("Nothing is left to do"), tools=[])
    assert seen(recorder.records) == [("main", [0, 1]), ("summary", [2])]


def test_a_request_after_each_turn_is_a_side_call() -> None:
    recorder = Recorder()
    history = turn(recorder, START, 0)
    history = [*history, recorder.call(history, answer_of("done"))]
    recorder.call([*history, user("Suggest the next message")], answer_of("Now the tests"))
    recorder.call([*history, user("And the tests?")], answer_of("They pass"))
    assert seen(recorder.records) == [("main", [0, 1, 3]), ("side", [2])]


@pytest.mark.parametrize(
    ("thread", "relation"),
    [
        ({"x-openai-subagent": "review"}, "subagent"),
        ({"x-openai-subagent": "compact"}, "summary"),
        ({"x-codex-turn-metadata.thread_source": "thread_title"}, "title"),
        ({"x-codex-turn-metadata.request_kind": "compaction"}, "summary"),
        ({"x-codex-turn-metadata.request_kind": "turn"}, "main"),
    ],
)
def test_values_of_headers_say_what_a_call_is_for(thread: dict[str, str], relation: str) -> None:
    recorder = Recorder()
    turn(recorder, START, 0, thread={"thread-id": "t"})
    recorder.call([user("Another thing?")], answer_of("a"), thread={"thread-id": "u", **thread})
    assert [found for found, _ in seen(recorder.records)] == ["main", relation]


def test_the_agents_own_word_counts_first() -> None:
    recorder = Recorder()
    history = turn(recorder, START, 0)
    recorder.call([*history, user("?")], answer_of("A title"), relation="title")
    recorder.call(history, answer_of("done"))
    assert seen(recorder.records) == [("main", [0, 2]), ("title", [1])]


def test_messages_that_agents_keep_otherwise_are_the_same_message() -> None:
    recorder = Recorder("text")
    mark = {"cache_control": {"type": "ephemeral"}}
    first = [
        {"role": "developer", "content": [{"type": "text", "text": "You are an agent.", **mark}]},
        {"role": "user", "content": [{"type": "text", "text": "hello", **mark}]},
    ]
    answer = recorder.call(first, answer_of("hi"))
    back = {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}
    assert answer["content"] == "hi"
    later = [system("You are an agent."), user("hello"), back, user("bye")]
    recorder.call(later, answer_of("bye"))
    assert seen(recorder.records) == [("main", [0, 1])]


# -- whatever agents do ---------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(40))
def test_each_answered_call_is_in_one_chain_whatever_the_histories(level: Level, seed: int) -> None:
    records = scrambled(random.Random(seed), level)
    found = chains(records)
    answered = sorted(record.number for record in records if record.answer is not None)
    assert sorted(call for chain in found for call in chain.calls) == answered
    firsts = [chain.calls[0] for chain in found]
    assert firsts == sorted(firsts)
    place = {call: number for number, chain in enumerate(found) for call in chain.calls}
    for chain in found:
        assert chain.calls == sorted(chain.calls)
        if chain.parent is not None:
            assert chain.parent < chain.calls[0]
            assert place[chain.parent] != place[chain.calls[0]]


def scrambled(draw: random.Random, level: Level, length: int = 14) -> list[CallRecord]:
    """Records of an agent that goes on from any history, and changes what it likes of it."""
    recorder = Recorder(level)
    histories: list[list[Message]] = [START, [system("Other"), user("Another task, quite so")]]
    for number in range(length):
        recorder.level = draw.choice([level, level, level, "text"])
        history = copy.deepcopy(draw.choice(histories[-4:]))
        for _ in range(draw.choice([0, 0, 0, 1, 2])):
            change = draw.randrange(5)
            if change == 0:
                history.insert(draw.randrange(len(history) + 1), says(draw.choice("ab")))
            elif change == 1 and len(history) > 1:
                del history[draw.randrange(len(history))]
            elif change == 2:
                history[draw.randrange(len(history))]["content"] = draw.choice("ab")
            elif change == 3:
                history.append(user(draw.choice("ab")))
            else:
                history = history[: draw.randrange(1, len(history) + 1)]
        answer = draw.choice(
            [
                answer_of(draw.choice(["a", "b", "", "a long line that sums up all of it"])),
                asked(id=draw.choice("xy"), arguments=draw.choice(['{"a": 1}', '{"a":1}', "{"])),
                None,
            ]
        )
        thread = draw.choice([{}, {}, {}, {"thread-id": "t"}])
        message = recorder.call(history, answer, thread=thread)
        if answer is not None:
            histories.append([*history, message, user(draw.choice(["a", "b", f"n{number}"]))])
    return recorder.records

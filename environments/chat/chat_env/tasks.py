"""Subjects of conversations: what a task is, as data and in Python.

A row of a data set is taken in its own form (``task_from``), or in one of these:

- GSM8K: ``question`` and ``answer``, whose last line is ``#### N``: the last number counts.
- MMLU: ``question``, ``choices`` and ``answer``, a position or a letter.
- ARC, OpenBookQA: ``question``, ``choices`` with ``text`` and ``label``, and ``answerKey``.
- Conversations: ``messages``, whose last is the assistant's, the reference.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from chat_env.models import Message, ToolCall
from chat_env.scorers import needs_judge, scorer_from
from openenv_async.errors import InvalidOption
from openenv_async.rubrics import Rubric
from openenv_async.targets.discovery import import_object

__all__ = ["SPLITS", "Task", "Tool", "load_tasks", "task_from"]

SPLITS: Final = ("train", "test")
_FIELDS: Final = (
    *("id", "kind", "split", "prompt", "messages", "scorer", "replies", "system", "max_turns"),
    *("tools", "answer"),
)
_KEPT: Final = ("id", "kind", "split", "system", "max_turns")
"""Columns that rows of other data sets may have as well."""
_TOOL_FIELDS: Final = ("name", "description", "parameters", "results", "otherwise")
_MAX_BLOCKS_SIZE: Final = 4 << 20
"""Bytes of a task's content blocks as JSON."""

Partner = Callable[[str, int], str]


@dataclass(frozen=True)
class Tool:
    """A tool that the agent may call.

    Attributes:
        name, description: as the agent sees them.
        parameters: a JSON Schema of its arguments.
        function: is called with the arguments by name; returns the result, a text or what JSON
            can write; may be async.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] = field(repr=False)

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as OpenAI's API has it."""
        about = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**about, "parameters": dict(self.parameters)}}

    async def result(self, call: ToolCall) -> str:
        """Return the result of a call; where the arguments do not fit, a text that says so."""
        properties = self.parameters.get("properties") or {}
        for name in self.parameters.get("required") or ():
            if name not in call.arguments:
                return f"Error: {self.name} needs the argument {name!r}."
        for name in call.arguments:
            if name not in properties:
                return f"Error: {self.name} has no argument {name!r:.80}."
        made = self.function(**call.arguments)
        if inspect.isawaitable(made):
            made = await made
        return made if isinstance(made, str) else json.dumps(made, ensure_ascii=False)


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        id, kind, split: which one.
        prompt: the partner's first message: a text, or content blocks as OpenAI's API has them.
        scorer: of each message of the agent that calls no tool; at 1 the task is solved.
        partner: what the partner says to a message, and how many there were, that does not solve
            it.
        system: its own system message.
        max_turns: its own limit.
        tools: that the agent may call.
        before: messages of the conversation before the prompt.
        is_judged: whether the scorer asks a judge.
        answer: a right answer, where one is known; no client sees it.
    """

    id: str
    kind: str
    split: str
    prompt: str | list[dict[str, Any]]
    scorer: Rubric = field(repr=False)
    partner: Partner | None = field(default=None, repr=False)
    system: str | None = None
    max_turns: int | None = None
    tools: tuple[Tool, ...] = ()
    before: tuple[Message, ...] = ()
    is_judged: bool = False
    answer: str | None = field(default=None, repr=False)

    @property
    def question(self) -> Message:
        """The partner's first message."""
        return Message("user", self.prompt)


def task_from(row: Mapping[str, Any], *, trusted: bool = True) -> Task:
    """Return the task that a row of a data set describes.

    Of its own form ``scorer`` and either ``prompt`` (a text or content blocks) or ``messages`` (a
    conversation, a user's message last) are needed; ``id``, ``kind``, ``split``, ``system``,
    ``max_turns``, ``answer``, ``replies`` (what the partner says, a list in order of turns) and
    ``tools`` are not. A tool has ``name``, ``description``, ``parameters`` (a JSON Schema) and
    ``results``, a text by the value of its argument, or by all of them as JSON with sorted keys;
    ``otherwise`` is the result of others.

    Args:
        row: the columns.
        trusted: whether regular expressions are taken: a bad one can run for ever.

    Raises:
        InvalidOption: it describes none.
    """
    if not isinstance(row, Mapping):
        raise _wrong(f"a task is a dict of columns, not {row!r:.80}")
    row = _own_form(row)
    if unknown := sorted(set(row) - set(_FIELDS)):
        raise _wrong(f"a task has no {unknown[0]!r}; known: {', '.join(_FIELDS)}")
    names = {name: row.get(name, "custom") for name in ("id", "kind")}
    if not all(isinstance(text, str) and text for text in names.values()):
        raise _wrong("id and kind of a task are texts")
    before, prompt = _opening(row)
    split, turns, system = row.get("split", "train"), row.get("max_turns"), row.get("system")
    if split not in SPLITS:
        raise _wrong(f"there is no split {split!r}: train or test")
    if turns is not None and (isinstance(turns, bool) or not isinstance(turns, int) or turns < 1):
        raise _wrong("max_turns of a task must be at least 1")
    if system is not None and not isinstance(system, str):
        raise _wrong("system of a task must be a text")
    replies, answer = row.get("replies"), row.get("answer")
    if replies is not None and not (
        isinstance(replies, list) and replies and all(isinstance(r, str) for r in replies)
    ):
        raise _wrong("replies of a task must be a list of texts")
    if answer is not None and not isinstance(answer, str):
        raise _wrong("answer of a task must be a text")
    return Task(
        names["id"],
        names["kind"],
        split,
        prompt,
        scorer_from(row.get("scorer"), trusted=trusted),
        None if replies is None else _in_order(replies),
        system,
        turns,
        _tools(row.get("tools") or ()),
        before,
        needs_judge(row.get("scorer")),
        answer,
    )


def load_tasks(source: str) -> tuple[Task, ...]:
    """Return the tasks of a source.

    Args:
        source: a JSON Lines file, one task a line; a folder of such files, whose names are splits
            (``train.jsonl``, ``test.jsonl``); or ``module:name``, a function that makes tasks, or
            a list of them.

    Raises:
        InvalidOption: a line is none, or there is no such source.
    """
    path = Path(source)
    if not path.exists() and ":" in source and not source.endswith(".jsonl"):
        found = import_object(source)
        made = found() if callable(found) else found
        tasks = [each if isinstance(each, Task) else task_from(each) for each in made]
    elif path.is_dir():
        files = [(path / f"{split}.jsonl", split) for split in SPLITS]
        tasks = [t for file, split in files if file.exists() for t in _lines(file, split)]
    else:
        tasks = _lines(path, "train")
    if not tasks:
        raise InvalidOption(f"there is no task in {source}", option="tasks")
    return tuple(tasks)


def _lines(path: Path, split: str) -> list[Task]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise InvalidOption(f"cannot read the tasks: {exc}", option="tasks") from exc
    tasks, seen = [], set[str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if isinstance(row, dict):
                row = {"id": f"{path.stem}-{number}", "split": split, **row}
            task = task_from(row)
            if task.id in seen:
                raise ValueError(f"the id {task.id!r} is there twice")
        except (ValueError, TypeError) as exc:  # InvalidOption is a ValueError
            raise InvalidOption(f"line {number} of {path}: {exc}", option="tasks") from exc
        seen.add(task.id)
        tasks.append(task)
    return tasks


# -- columns -----------------------------------------------------------------------------------


def _own_form(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row as ``task_from`` has it, whatever data set it is of."""
    if "scorer" in row:
        return row
    kept = {name: row[name] for name in _KEPT if name in row}
    match row:
        case {"question": str(question), "choices": {"text": list(texts), "label": list(labels)}}:
            answer = labels.index(row["answerKey"]) if row.get("answerKey") in labels else None
            return _lettered(kept, question, texts, answer)
        case {"question": str(question), "choices": list(texts), "answer": int() | str() as answer}:
            return _lettered(kept, question, texts, answer)
        case {"question": str(question), "answer": str(text)} if "####" in text:
            number = text.rpartition("####")[2].strip()
            prompt = f"{question}\nEnd your answer with the number."
            return {**kept, "prompt": prompt, "scorer": {"number": number}, "answer": number}
        case {"messages": [*before, {"role": "assistant", "content": str(answer)}]} if before:
            return {**kept, "messages": before, "scorer": {"exact": answer}, "answer": answer}
        case _:
            return row


def _lettered(
    kept: Mapping[str, Any], question: str, texts: list[Any], answer: int | str | None
) -> dict[str, Any]:
    if answer is None:
        raise _wrong("the answerKey of a row must be one of its labels")
    options = list(map(str, texts))
    lines = [f"{chr(65 + at)}. {text}" for at, text in enumerate(options)]
    prompt = "\n".join((question, *lines, "Answer with the letter."))
    letter = chr(65 + answer) if isinstance(answer, int) else answer
    scorer = {"choice": answer, "options": options}
    return {"prompt": prompt, "scorer": scorer, "answer": letter, "max_turns": 1, **kept}


def _opening(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], str | list[dict[str, Any]]]:
    """Return the messages before the prompt, and the prompt."""
    given = row.get("messages")
    if given is None:
        return (), _content(row.get("prompt"), "a task needs a prompt, a text or content blocks")
    if "prompt" in row or "system" in row:
        raise _wrong("a task has messages, or a prompt and a system: give one of them")
    try:
        messages = msgspec.convert(given, list[Message])
    except msgspec.ValidationError as exc:
        raise _wrong(f"messages of a task: {exc}") from None
    if not messages or messages[-1].role != "user":
        raise _wrong("messages of a task end with one of the user's")
    if any(each.role == "tool" or each.tool_calls for each in messages):
        raise _wrong("messages of a task before its beginning have no calls of tools")
    for each in messages:
        _content(each.content, "a message of a task needs content, a text or blocks")
    return tuple(messages[:-1]), messages[-1].content


def _content(content: Any, why: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str) and content:
        return content
    if not isinstance(content, list) or not content:
        raise _wrong(why)
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str) or (kind == "text" and not isinstance(block.get("text"), str)):
            raise _wrong('a content block has a "type", and a "text" if it is one')
    if len(msgspec.json.encode(content)) > _MAX_BLOCKS_SIZE:
        raise _wrong(f"content blocks of a task have at most {_MAX_BLOCKS_SIZE >> 20} MiB")
    return content


def _tools(rows: Any) -> tuple[Tool, ...]:
    if not isinstance(rows, list | tuple):
        raise _wrong("tools of a task are a list")
    tools = tuple(map(_tool, rows))
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise _wrong("tools of a task have names of their own")
    return tools


def _tool(row: Any) -> Tool:
    """Return a tool that is a table."""
    if isinstance(row, Tool):
        return row
    if not isinstance(row, Mapping) or set(row) - set(_TOOL_FIELDS):
        raise _wrong(f"a tool has {', '.join(_TOOL_FIELDS)}; got {row!r:.200}")
    name, about = row.get("name"), row.get("description", "")
    parameters, results = row.get("parameters"), row.get("results")
    if not isinstance(name, str) or not name.isidentifier() or not isinstance(about, str):
        raise _wrong(f"a tool needs a name, an identifier; got {name!r:.80}")
    if not isinstance(parameters, Mapping) or not isinstance(parameters.get("properties"), Mapping):
        raise _wrong(f"the tool {name} needs parameters, a JSON Schema with properties")
    required = parameters.get("required", [])
    if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
        raise _wrong(f"required of the tool {name} is a list of names")
    if not isinstance(results, Mapping) or not all(
        isinstance(text, str) for text in itertools.chain.from_iterable(results.items())
    ):
        raise _wrong(f"the tool {name} needs results, a dict of texts")
    otherwise = row.get("otherwise", "There is no such entry.")
    if not isinstance(otherwise, str):
        raise _wrong(f"otherwise of the tool {name} must be a text")
    return Tool(name, about, dict(parameters), _Table(results, otherwise))


class _Table:
    """Results by the argument, or by all of them as JSON; case does not matter."""

    def __init__(self, results: Mapping[str, str], otherwise: str) -> None:
        self._results = {key.strip().casefold(): text for key, text in results.items()}
        self._otherwise = otherwise

    def __call__(self, **arguments: Any) -> str:
        keys = [json.dumps(arguments, sort_keys=True)]
        if len(arguments) == 1:
            (value,) = arguments.values()
            keys.append(value if isinstance(value, str) else json.dumps(value))
        found = (self._results.get(key.strip().casefold()) for key in keys)
        return next((text for text in found if text is not None), self._otherwise)


def _in_order(replies: Sequence[str]) -> Partner:
    return lambda text, turn: replies[min(turn, len(replies)) - 1]


def _wrong(why: str) -> InvalidOption:
    return InvalidOption(why, option="task")

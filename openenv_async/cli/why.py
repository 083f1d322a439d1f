"""``openenv-async why``: what became of recorded episodes, and the story of one."""

from __future__ import annotations

import contextlib
import heapq
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from openenv_async.cli.again import play_again, show_commands, with_commands
from openenv_async.cli.options import examples
from openenv_async.cli.output import console, echo
from openenv_async.cli.recorded import PARTS, recorded_episodes
from openenv_async.errors import OpenEnvError
from openenv_async.telemetry.terminal import printable

if TYPE_CHECKING:
    from openenv_async.rollouts import Summary, Trajectory
    from openenv_async.types import ModelCall, Transition

__all__ = ["episode_story", "why"]

_WORST: Final = 5
"""Episodes of the least return that are listed."""
_NAMED: Final = 8
"""Episodes that a message names."""
_FIRST, _LAST = 3, 10
"""Decisions at the beginning and at the end of a long episode that are told."""
_OF_RECORDS: Final = (
    *("episodes", "steps", "returns", "return_mean", "return_std", "return_min", "return_max"),
    *("outcomes", "mistakes", "failures"),
)
_RECORDS: Final = re.compile(r"^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.MULTILINE)
"""Beginnings of the records of a log."""
_SESSION: Final = re.compile(r"\bsession_id=(\w+)")
_AGENT_ENDS: Final = {
    "left": "it ended by itself",
    "spent": "its budget was spent",
    "stopped": "it was stopped when the episode had ended",
    "failed": "it failed",
    "cut": "it was ended",
}
"""Words for the end of an agent that plays by itself."""
_LONG: Final = 2_000
"""Characters of one text that are shown."""


@click.command(
    epilog=examples(
        "why runs.jsonl",
        "why runs.parquet 17",
        "why runs.parquet train-0042/3 --full",
    )
)
@click.argument("path", metavar="FILE|FOLDER", type=click.Path(path_type=Path))
@click.argument("episode", required=False)
@click.option("--full", is_flag=True, help="Leave nothing out: every step, every text whole.")
@click.option("--no-pager", is_flag=True, help="Print it at once.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def why(path: Path, episode: str | None, full: bool, no_pager: bool, as_json: bool) -> None:
    """Tell why episodes ended as they did: of a file, or of a run's folder.

    Without EPISODE: the failures by reason, and the episodes with the least return. With it that
    episode's story: task, calls of the model, mistakes, steps, error, traceback and log. EPISODE
    is its number, its episode id or the id of its task, with /MEMBER where a group has several. A
    file whose writer crashed is read as far as it goes.
    """
    if episode is None:
        _tell_all(path, as_json)
        return
    found = _find(path, episode)
    if as_json:
        echo(json.dumps(_plain(found), indent=2))
        return
    with _of_our_kinds(path, found):
        lines = list(episode_story(found, full=full))
    command = _command(path)
    if command:
        lines.append(f"play it again: {play_again(command, found.index, found.seed)}")
    text = "\n".join(lines) + "\n"
    pages = sys.stdout.isatty() and text.count("\n") > shutil.get_terminal_size().lines
    if pages and not no_pager:
        click.echo_via_pager(text)
    else:
        echo(text, nl=False)


# -- reading ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _of_our_kinds(path: Path, episode: Trajectory) -> Iterator[None]:
    """Tell of a record with a value that its field does not have: others write files too.

    Raises:
        ClickException: it has one.
    """
    try:
        yield
    except (TypeError, ValueError, AttributeError) as exc:
        raise click.ClickException(
            f"episode {episode.index} of {path} has a value of another kind than its field: {exc};"
            f" `openenv-async why {path} {episode.index} --json` shows it as it is"
        ) from exc


def _command(path: Path) -> list[str] | None:
    """Return the arguments of the rollout that made a file or folder, if one did."""
    from openenv_async.rollouts import RunFolder, read_header

    said: Any = None
    with contextlib.suppress(ValueError, OSError, OpenEnvError):  # an old file says nothing
        if path.is_dir() and not path.name.endswith(PARTS):
            with RunFolder.view(path) as run:
                said = run.manifest.get("command")
        else:
            said = (read_header(path) or {}).get("command")
    if isinstance(said, list) and said[1:2] == ["rollout"]:
        return [str(argument) for argument in said[1:]]
    return None


def _find(path: Path, wanted: str) -> Trajectory:
    """Return the episode that is meant.

    Raises:
        BadParameter: there is none, or several; it names some.
    """
    task, slash, member = wanted.rpartition("/")
    names: list[str] = []
    numbers: list[int] = []
    found: list[Trajectory] = []
    for each in recorded_episodes(path):
        if wanted.isdecimal() and each.index == int(wanted):
            return each
        if each.episode_id == wanted:
            return each
        of_member = slash and each.task_id == task and str(each.member) == member
        if each.task_id == wanted or of_member:
            found.append(each)
        numbers.append(each.index)
        if len(names) < _NAMED:
            names.append(_name(each))
    if len(found) == 1:
        return found[0]
    if found:
        found.sort(key=lambda each: each.index)
        said = ", ".join(_name(each) for each in found[:_NAMED])
        more = len(found) - _NAMED
        said += f" and {more} more" if more > 0 else ""
        raise click.BadParameter(
            f"{len(found)} episodes are of the task {wanted!r}: give the number of one ({said})",
            param_hint="EPISODE",
        )
    there = "has no episodes" if not numbers else f"has {len(numbers):,} episodes"
    if numbers:
        there += f", numbered {min(numbers)} to {max(numbers)}: {', '.join(names)}"
        there += ", …" if len(numbers) > len(names) else ""
    raise click.BadParameter(
        f"there is no episode {wanted!r}: {path.name} {there}", param_hint="EPISODE"
    )


def _name(episode: Trajectory) -> str:
    if episode.task_id is None:
        return str(episode.index)
    member = "" if episode.member is None else f"/{episode.member}"
    return f"{episode.index} ({episode.task_id}{member})"


# -- all episodes -------------------------------------------------------------------------------


def _tell_all(path: Path, as_json: bool) -> None:
    from openenv_async.rollouts import Summary

    summary = Summary()
    worst: list[tuple[float, int, dict[str, Any]]] = []
    for number, each in enumerate(recorded_episodes(path)):
        with _of_our_kinds(path, each):
            summary.add_record(each)
        value = each.episode_return
        if value is not None and value == value:
            heapq.heappush(worst, (-value, -number, _line(each)))
            if len(worst) > _WORST:
                heapq.heappop(worst)
    if command := _command(path):
        with_commands(summary.failure_reasons, command)
    lines = [line for _, _, line in sorted(worst, key=lambda item: (-item[0], -item[1]))]
    if as_json:
        report = {"file": str(path), **_of_file(summary), "worst": lines}
        echo(json.dumps(report, indent=2))
        return
    shown_on = console()
    shown_on.print(summary.record_table(str(path)))
    failures = summary.failure_table()
    if failures is not None:
        shown_on.print(failures)
    if lines:
        shown_on.print(_worst_table(lines))
    show_commands(summary.failure_reasons)
    if summary.episodes:
        first = summary.failure_reasons[0].first_episode if summary.failure_reasons else None
        episode = lines[0]["episode"] if first is None and lines else first or 0
        echo(f"the story of one: openenv-async why {path} {episode}")
    else:
        echo(f"{path} has no episodes")


def _of_file(summary: Summary) -> dict[str, Any]:
    """Return the part of a summary that needs no clock."""
    known = summary.as_dict()
    return {name: known[name] for name in _OF_RECORDS}


def _line(episode: Trajectory) -> dict[str, Any]:
    return {
        "episode": episode.index,
        "status": str(episode.status),
        "return": episode.episode_return,
        "steps": episode.steps,
        "mistakes": episode.mistakes,
        "task": episode.task_id,
    }


def _worst_table(lines: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="least returns", title_justify="left")
    for name in ("episode", "status", "return", "steps", "mistakes", "task"):
        table.add_column(name, justify="left" if name in ("status", "task") else "right")
    for line in lines:
        table.add_row(
            str(line["episode"]),
            line["status"],
            f"{line['return']:g}",
            str(line["steps"]),
            str(line["mistakes"]),
            line["task"] or "",
        )
    return table


# -- one episode --------------------------------------------------------------------------------


def episode_story(episode: Trajectory, *, full: bool = False) -> Iterator[str]:
    """Yield the lines of an episode's story, fit for a terminal.

    Args:
        episode: the record.
        full: leave nothing out.
    """
    tell = _Teller(full)
    yield from _head(episode, tell)
    decisions = episode.transitions
    left_out = 0 if full else max(0, len(decisions) - _FIRST - _LAST)
    for number, each in enumerate(decisions):
        if left_out and _FIRST <= number < _FIRST + left_out:
            if number == _FIRST:
                yield f"… {left_out:,} decisions are left out: --full has them"
            continue
        yield from _decision(each, tell)
    yield from tell.item("finally observed", episode.final_observation)
    yield from _agent(episode, tell)
    yield from _end(episode, tell)


def _agent(episode: Trajectory, tell: _Teller) -> Iterator[str]:
    """Yield how an agent that played by itself ended, and what it wrote last."""
    from openenv_async.rollouts.agents import AGENT_FACTS

    facts = episode.extra.get(AGENT_FACTS)
    if not isinstance(facts, Mapping):
        return
    told = [_AGENT_ENDS.get(str(facts.get("ended")), "")]
    for name, form in (
        ("exit_code", "exit code {}"),
        ("calls", "{} calls"),
        ("tokens", "{} tokens"),
        ("session", "session {} of the gateway"),
    ):
        told += [form.format(facts[name])] if name in facts else []
    yield from tell.item("agent", ", ".join(filter(None, told)))
    yield from tell.item("it wrote", facts.get("output") or None)


class _Teller:
    """The form of the lines: a label, and a value that may have several lines."""

    def __init__(self, full: bool) -> None:
        self.full = full

    def item(self, label: str, value: Any, *, cut: bool = True) -> Iterator[str]:
        """Yield the lines of a value; ``None`` has none."""
        if value is None:
            return
        text = printable(_text(value), lines=True).rstrip("\n")
        if cut and not self.full and len(text) > _LONG:
            left = len(text) - _LONG
            text = f"{text[:_LONG]}… ({left:,} more characters: --full has them)"
        first, *others = text.split("\n")
        yield f"  {label:<16} {first}".rstrip()
        for line in others:
            yield f"  {'':<16} {line}".rstrip()


def _head(episode: Trajectory, tell: _Teller) -> Iterator[str]:
    value = episode.episode_return
    yield (
        f"episode {episode.index}: {episode.status}, "
        + ("no return" if value is None else f"return {value:g}")
        + f", {episode.steps} steps, {episode.mistakes} mistakes, {episode.duration:.2f} s"
        + (f", attempt {episode.attempts}" if episode.attempts > 1 else "")
    )
    yield from tell.item("episode id", episode.episode_id)
    yield from tell.item("seed", episode.seed)
    yield from tell.item("environment", episode.environment)
    if episode.group is not None:
        yield from tell.item("group", f"{episode.group}, member {episode.member}")
    yield from tell.item("task", episode.task_id)
    yield from tell.item("", episode.task)
    yield from tell.item("reset options", episode.reset_options)
    yield from tell.item("policy versions", list(dict.fromkeys(episode.policy_versions)) or None)
    yield from tell.item("reset info", episode.reset_info or None)


def _decision(each: Transition, tell: _Teller) -> Iterator[str]:
    head = f"step {each.t + 1}" if each.mistake is None else f"mistake before step {each.t + 1}"
    seconds = ", ".join(f"{name} {value:.3f} s" for name, value in (each.timings or {}).items())
    yield f"{head}  ({seconds})" if seconds else head
    yield from tell.item("observed", each.observation)
    for call in each.model_calls:
        yield from _call(call, tell)
    yield from tell.item("action" if each.mistake is None else "said", each.action)
    if each.mistake is not None:
        yield from tell.item(each.mistake.kind.replace("_", " "), each.mistake.message)
        yield from tell.item("penalty", each.mistake.reward)
        return
    yield from tell.item("reward", "none" if each.reward is None else f"{each.reward:g}")
    yield from tell.item("info", each.info or None)
    if each.terminated or each.truncated:
        yield from tell.item("ended", "terminated" if each.terminated else "truncated")


def _call(call: ModelCall, tell: _Teller) -> Iterator[str]:
    for message in call.messages:
        yield from tell.item(f"{message.get('role', 'message')}:", _content(message))
    facts = [call.model or "the model"]
    if call.prompt_ids is not None:
        facts.append(f"{len(call.prompt_ids):,} tokens of prompt")
    if call.completion_ids is not None:
        facts.append(f"{len(call.completion_ids):,} tokens sampled")
    if call.seconds is not None:
        facts.append(f"{call.seconds:.2f} s")
    if call.finish_reason is not None:
        facts.append(f"finish {call.finish_reason}")
    if call.weight_version is not None:
        facts.append(f"weights {call.weight_version}")
    yield from tell.item("called", ", ".join(facts))
    if call.reply is not None:
        yield from tell.item("replied", _content(call.reply))
    yield from tell.item("call failed", call.error)


def _content(message: Mapping[str, Any]) -> str:
    """The text of a message, with its pictures named and its tool calls spelled out."""
    content = message.get("content")
    blocks = content if isinstance(content, list) else [] if content is None else [content]
    parts = [_block(block) for block in blocks]
    for call in message.get("tool_calls") or ():
        asked = call.get("function", call) if isinstance(call, Mapping) else {"name": call}
        parts.append(f"→ {asked.get('name')}({_text(asked.get('arguments', ''))})")
    return "\n".join(parts)


def _block(block: Any) -> str:
    if isinstance(block, Mapping):
        if isinstance(block.get("text"), str):
            return str(block["text"])
        return f"[{block.get('type', 'block')}]"
    return _text(block)


def _end(episode: Trajectory, tell: _Teller) -> Iterator[str]:
    from openenv_async.types import ModelCall

    if episode.error_code is None and not episode.error_detail:
        return
    yield f"ended by {episode.error_code}"
    yield from tell.item("message", episode.error_message)
    detail = dict(episode.error_detail or {})
    for call in detail.pop("model_calls", None) or ():
        known = {name: call[name] for name in ModelCall.__dataclass_fields__ if name in call}
        yield from _call(ModelCall(**known), tell)
    yield from tell.item("last action", detail.pop("action", None))
    trace, tail = detail.pop("traceback", None), detail.pop("log_tail", None)
    ending = {name: detail.pop(name, None) for name in ("container_id", "exit_code", "oom")}
    yield from tell.item("phase", detail.pop("phase", None))
    yield from tell.item("worker", detail.pop("worker", None))
    yield from tell.item("container", ending["container_id"])
    yield from tell.item("exit code", ending["exit_code"])
    if ending["oom"]:
        yield from tell.item("memory", "it was killed for its use of memory")
    if tail is not None and not tell.full:
        tail = _log_of(tail, detail.get("session_id"))
    yield from tell.item("details", detail or None)
    yield from tell.item("traceback", trace, cut=False)
    yield from tell.item("log ends with", tail, cut=False)


def _log_of(log: str, session: str | None) -> str | None:
    """Return the end of a worker's log without the records of other sessions."""
    kept: list[str] = []
    left_out = 0
    for record in _RECORDS.split(log):
        of = _SESSION.search(record)
        if session is None or of is None or of[1] == session:
            kept.append(record)
        else:
            left_out += 1
    if left_out:
        kept.append(f"({left_out} records of other sessions: --full has them)")
    return "".join(kept) or None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    from openenv_async.rollouts.record import encode

    if hasattr(value, "dtype") and getattr(value, "size", 1) > 64:
        return f"array {value.dtype} {value.shape}"
    with contextlib.suppress(Exception):  # whatever an extra holds
        return encode(value).decode()
    return repr(value)


def _plain(episode: Trajectory) -> Any:
    """An episode as JSON has it, with the tagged objects of a file."""
    from dataclasses import asdict

    from openenv_async.rollouts.record import encode

    return json.loads(encode(asdict(episode)))

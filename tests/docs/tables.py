"""Tables that are made from the code: ``python -m tests.docs.tables`` writes them anew.

Each stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final

import click

from openenv_async import EngineOptions, Limits, OpenEnvError, Timeouts, errors
from openenv_async.checks.certify import CHECKS as LINES
from openenv_async.checks.validation import CHECKS
from openenv_async.cli import main as command_line
from openenv_async.cli.serve import serve
from openenv_async.compat.upstream.names import MODULES, REFUSED, Refused
from tests.docs.pages import DOCS

__all__ = ["REMEDIES", "TABLES", "error_classes", "found", "update"]

REMEDIES: Final = {
    "OpenEnvError": "catch it to catch them all; read `code`, `retryable` and `context()`",
    "CallerError": "change the call",
    "InvalidAction": "send an action that fits the schema; the episode goes on",
    "UnreadableReply": "see the reply in `detail`, the prompt and the parser",
    "InvalidOption": "see the message for the options there are, or `GET /schema`",
    "InvalidTasks": "see the message for the row and what is wrong with it",
    "InvalidModel": "fix the value, or the type that was declared",
    "EpisodeNotStarted": "call `reset()` first",
    "EpisodeEnded": "call `reset()`",
    "SessionBusy": "await one call before the next, or make another client",
    "SessionClosed": "`reset()` opens a new session, unless this client was closed: make another",
    "SessionNotFound": "call `reset()` without a session id",
    "PayloadTooLarge": "send less, or raise `Limits.max_message_size` on both sides",
    "OperationUnsupported": "use another client or isolation, as the message says",
    "OperationCancelled": "nothing; somebody asked for it",
    "TargetNotFound": "see the message for the nearest names",
    "WrongTarget": "give what the message lists, or do what it says",
    "RunError": "do what the message says",
    "RunBroken": "export what is there, and begin another run",
    "RunInUse": "wait until the other process ends, or end it",
    "RunMismatch": "give what the run was begun with, or begin another run",
    "RunNotWritten": "make room on the disk, and resume: what was finished before is kept",
    "Unauthorized": "give the client the server's token",
    "AgentRefused": "show the server's own token, or play at `/mcp`",
    "CallRefused": "send what the message allows; the session goes on",
    "BudgetExhausted": "end the episode, or raise the budget that it names",
    "AccessRefused": "use another token, or ask who runs the server",
    "QuotaReached": "come again after `retry_after` seconds, or ask for less",
    "OriginRefused": "put the page's origin on the server's allow-list",
    "EnvironmentFailure": "look at the environment; the server works",
    "EnvironmentStartFailed": "fix the constructor or its arguments",
    "EnvironmentRaised": "fix the environment; the session goes on if it can",
    "InvalidObservation": "return what the environment declares",
    "NoReward": "read `log_tail`, the end of what the tests wrote, and correct the task",
    "EnvironmentDied": "open a new session; `exit_code` and `log_tail` say why it died",
    "DeadlineExceeded": "raise the `Timeouts` field that it names, or make the call faster",
    "PeerError": "look at the other end",
    "ProtocolError": "look at the client's code; report it if it is ours",
    "VersionMismatch": "update the older end",
    "TransportError": "try again",
    "ConnectFailed": "check the address and that the server runs",
    "ConnectionLost": "call `reset()`",
    "SessionLost": "call `reset()`; `detail` has the last acknowledged step",
    "ServerError": "look at the server's log",
    "ServerBusy": "wait `retry_after` seconds, or raise the setting that it names",
    "ResourceLimit": "raise the limit of the operating system, or open fewer sessions",
    "GoingAway": "open the session on another server",
    "JournalFailed": "make room on the disk, or give another folder; what was answered is kept",
    "ProviderError": "see what it says of Docker, the cluster or the command that starts it",
    "WorkerStartFailed": "read `log_tail`: it is what the server wrote before it ended",
    "WorkerDied": "open the session on another worker; a pool does so by itself",
    "AgentFailed": "read its `log_tail`, and run its command by itself",
    "ResponderFailed": "look at the endpoint, its key and its limits; the environment works",
    "ResponderUnavailable": "see that the model's server runs and has memory, then play again",
    "ResponderRateLimited": "lower `max_concurrency`, or ask the provider for more",
    "InvalidCompletion": "give the URL of an OpenAI-compatible API; it often ends in `/v1`",
}
"""The caller's remedy for each error. Every class has one; a test sees to it."""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join([_row(*head), "|" + "---|" * len(head), *(_row(*row) for row in rows)])


def _code(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def _attributes(cls: type) -> dict[str, str]:
    """Return the words of a docstring for each attribute; several may share a line."""
    section = (cls.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.split(r"\n(?=\S)", textwrap.dedent(section).strip())
    about: dict[str, str] = {}
    for entry in entries:
        names, _, text = entry.partition(":")
        for name in names.split(","):
            about[name.strip()] = _code(" ".join(text.split()))
    return about


def _default(item: Any) -> str:
    value = item.default_factory() if item.default is MISSING else item.default
    if value is None:
        return "none"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 16:
        return f"{value >> 20} MiB" if value >= 1 << 20 else f"{value:,}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return f"`{type(value).__name__}()`" if not isinstance(value, bool) else str(value)


def _subclasses(cls: type[OpenEnvError]) -> list[type[OpenEnvError]]:
    return [cls, *(each for sub in cls.__subclasses__() for each in _subclasses(sub))]


def error_classes() -> list[type[OpenEnvError]]:
    """Those of ``errors``, roots before what descends from them."""
    return [cls for cls in _subclasses(OpenEnvError) if cls.__module__ == errors.__name__]


def errors_table() -> str:
    rows = []
    for cls in error_classes():
        first_paragraph = (cls.__doc__ or "").partition("\n\n")[0]
        when = _code(" ".join(first_paragraph.split()))
        depth = len([base for base in cls.__mro__ if issubclass(base, OpenEnvError)]) - 1
        name = "&nbsp;" * 3 * depth + f"`{cls.__name__}`"
        retry = "yes" if cls.retryable_by_default else "no"
        rows.append((name, when, REMEDIES[cls.__name__], retry))
    return _table(("class", "when", "what to do", "retryable"), rows)


def codes_table() -> str:
    """The errors by the code that logs, files and other languages show."""
    rows = []
    for cls in sorted(error_classes(), key=lambda cls: cls.code):
        retry = "yes" if cls.retryable_by_default else "no"
        cells = (f"`{cls.code}`", f"`{cls.__name__}`", str(cls.http_status), retry)
        rows.append((*cells, REMEDIES[cls.__name__]))
    return _table(("code", "class", "HTTP", "retryable", "what to do"), rows)


def _serve_options() -> dict[str, click.Option]:
    return {str(p.name): p for p in serve.params if isinstance(p, click.Option)}


def _python_variable(name: str) -> str:
    """The variable from which ``Timeouts.from_environ`` reads a field."""
    for variable in (f"OPENENV_{name.upper()}_TIMEOUT", f"OPENENV_TIMEOUT_{name.upper()}"):
        if getattr(Timeouts.from_environ({variable: "123"}), name) == 123:
            return variable
    raise AssertionError(f"no variable for {name}")


def timeouts_table() -> str:
    options, about = _serve_options(), _attributes(Timeouts)
    rows = []
    for item in fields(Timeouts):
        option = options.get(f"{item.name}_timeout")
        flag = "–" if option is None else f"`{option.opts[0]}`"
        variable = "–" if option is None else f"`{option.envvar}`"
        python = f"`{_python_variable(item.name)}`"
        seconds = _default(item)
        rows.append((f"`{item.name}`", seconds, about[item.name], flag, variable, python))
    head = ("field", "default, s", "what it bounds", "`serve` option", "its variable")
    return _table((*head, "variable of `from_environ`"), rows)


def options_table() -> str:
    rows = []
    for option in _serve_options().values():
        if option.hidden or str(option.name).endswith("_timeout"):
            continue
        flag = "/".join([*option.opts, *option.secondary_opts])
        metavar = option.metavar if option.metavar and not option.is_flag else ""
        about = " ".join(_code(option.help or "").split())
        about += _default_of(option, about)
        rows.append((f"`{flag}{' ' + metavar if metavar else ''}`", about))
    return _table(("option", "meaning"), rows)


def _default_of(option: click.Option, about: str) -> str:
    """Return the default of an option, in its own words where it has such."""
    if not option.show_default or "[default" in about:
        return ""
    told = option.show_default if isinstance(option.show_default, str) else option.default
    return f" [default: {told}]"


def _dataclass_table(cls: Any) -> str:
    about = _attributes(cls)
    rows = [(f"`{item.name}`", _default(item), about[item.name]) for item in fields(cls)]
    return _table(("field", "default", "meaning"), rows)


def _option_row(option: click.Option) -> tuple[str, str]:
    flag = "/".join([*option.opts, *option.secondary_opts])
    about = " ".join(_code(option.help or "").split())
    metavar = option.metavar or ""
    if isinstance(option.type, click.Choice):
        metavar = "|".join(option.type.choices)
    about += _default_of(option, about)
    return f"`{flag}{f' {_code(metavar)}' if metavar and not option.is_flag else ''}`", about


def commands_text() -> str:
    """Each command as its help tells of it: usage, text, options, examples."""
    context = click.Context(command_line, info_name="openenv-async")
    parts = []
    for name in command_line.list_commands(context):
        command = command_line.get_command(context, name)
        assert command is not None
        usage = " ".join(command.collect_usage_pieces(context))
        about = "\n\n".join(
            " ".join(paragraph.split()) for paragraph in (command.help or "").split("\n\n")
        )
        text = [f"## {name}", f"`openenv-async {name} {usage}`", _code(about)]
        options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        if options:
            text.append(_table(("option", "meaning"), [_option_row(each) for each in options]))
        examples = (command.epilog or "").partition("Examples:\n")[2]
        text.append(f"```bash\n{textwrap.dedent(examples).strip()}\n```")
        parts.append("\n\n".join(text))
    return "\n\n".join(parts)


def checks_table() -> str:
    """The checks of ``validate``."""
    order = sorted(CHECKS.values(), key=lambda check: check.kind != "folder")
    rows = [(f"`{each.name}`", _code(each.promise), _code(each.remedy)) for each in order]
    return _table(("check", "what is promised", "what to do when it fails"), rows)


def lines_table() -> str:
    """The lines of a certificate."""
    rows = [(f"`{each.name}`", _code(each.promise), _code(each.remedy)) for each in LINES.values()]
    return _table(("line", "what is promised", "what to do when it fails"), rows)


def upstream_names() -> str:
    """Upstream's modules and names, and where they are."""
    rows = [_row("upstream", "`openenv_async.compat.upstream`"), _row("---", "---")]
    for module, names in sorted({**MODULES, **dict.fromkeys(REFUSED)}.items()):
        if names is None:
            rows.append(_row(f"`{module}`", f"refused: {REFUSED[module]}"))
            continue
        homes: dict[str, list[str]] = {}
        for name, home in names.items():
            told = f"refused: {home.reason}" if isinstance(home, Refused) else f"`.{home}`"
            homes.setdefault(told, []).append(f"`{name}`")
        parts = [f"{told}: {', '.join(sorted(found))}" for told, found in sorted(homes.items())]
        rows.append(_row(f"`{module}`", "<br>".join(parts) or "a package"))
    return "\n".join(rows)


TABLES: Final[dict[tuple[str, str], Callable[[], str]]] = {
    ("cli.md", "commands"): commands_text,
    ("environments.md", "checks"): checks_table,
    ("certify.md", "lines"): lines_table,
    ("clients.md", "errors"): errors_table,
    ("serving.md", "timeouts"): timeouts_table,
    ("troubleshooting.md", "codes"): codes_table,
    ("upstream.md", "upstream names"): upstream_names,
    ("serving.md", "serve options"): options_table,
    ("serving.md", "engine options"): lambda: _dataclass_table(EngineOptions),
    ("serving.md", "limits"): lambda: _dataclass_table(Limits),
}
"""The tables by page and name."""


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"


def found(page: Path, name: str) -> str:
    """The table as the page has it."""
    begin, end = _marks(name)
    return page.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].strip()


def update(page: Path, name: str, table: str) -> None:
    """Write a table into its page."""
    begin, end = _marks(name)
    before, mark, rest = page.read_text(encoding="utf-8").partition(begin)
    assert mark, f"{page.name} has no {begin.strip()}"
    after = rest.partition(end)[2] if end in rest else rest.partition(end.lstrip())[2]
    page.write_text(before + begin + table + end + after, encoding="utf-8")


if __name__ == "__main__":
    for (page_name, table_name), make in TABLES.items():
        update(DOCS / page_name, table_name, make())

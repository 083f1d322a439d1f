"""Tasks on sites and own pages: their rows, and what solves them.

A row has the form of WebArena's: ``intent``, ``start_url`` and ``eval``, with ``__NAME__`` for the
address of a site. It is graded as WebArena grades it:

- ``string_match``: the answer is ``exact_match``, or has every text of ``must_include``, without
  regard to case, outer quotes and blanks. A single letter or digit has to be a word of its own.
- ``url_match``: the page's host and path have those of ``reference_url`` in them (one of several,
  separated by ``|OR|``), and its query the values of its query.
- ``program_html``: what ``locator`` (JavaScript; empty: the whole document) finds on the page, or
  on the page of ``url``, is ``exact_match`` or has every text of ``must_include``.

All parts of a task have to hold. A part that needs a language model (``fuzzy_match``) or Python
code of WebArena (``func:``) is not graded: such a task is refused with the reason.
"""

from __future__ import annotations

import asyncio
import collections
import difflib
import html
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qs, urlsplit

from playwright.async_api import Error, Page, StorageState

from browsergym_env.folders import Folder
from browsergym_env.sites import Sites
from openenv_async import TaskTable
from openenv_async.errors import EnvironmentStartFailed, InvalidOption
from openenv_async.targets.discovery import import_object

__all__ = ["SITES", "SiteTask", "SiteTasks", "grade", "load_tasks", "open_site_tasks"]

SITES: Final = "sites"
"""The benchmark's name."""

_TYPES: Final = ("string_match", "url_match", "program_html")
_EXACT, _INCLUDE = "exact_match", "must_include"
_WORD: Final = re.compile(r"\w+(?:[.,:'/-]\w+)*|[^\w\s]")
_OR: Final = " |OR| "
_AND: Final = " |AND| "

Opened = Callable[[str], Awaitable[Page]]
"""The function that opens a page to look at, which the caller closes."""


@dataclass(frozen=True)
class SiteTask:
    """One task.

    Attributes:
        id: its name.
        goal: the task in words.
        start: addresses of the pages that are open at the start, in tabs; the first is active.
        split: ``train`` or another.
        storage_state: the name of the file with cookies and storage of its login, or ``None``.
        asked: what solves it, as in the row's ``eval``.
        unsupported: why it cannot be graded; ``""`` where it can.
        row: all of it.
    """

    id: str
    goal: str
    start: tuple[str, ...]
    split: str
    storage_state: str | None
    asked: Mapping[str, Any]
    unsupported: str
    row: Mapping[str, Any]


def load_tasks(path: Path, filled: Callable[[str], str]) -> dict[str, SiteTask]:
    """Return the tasks of a file by name: a JSON object a line, or a JSON list of them.

    Args:
        path: of the file.
        filled: puts the addresses of sites into a text.

    Raises:
        InvalidOption: it cannot be read, or a row is not a task.
    """
    try:
        text = filled(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidOption(f"tasks_path: {path} cannot be read ({exc})") from None
    tasks: dict[str, SiteTask] = {}
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as exc:
        raise InvalidOption(f"tasks_path: {path} is neither JSON lines nor a list: {exc}") from None
    for number, row in enumerate(rows, 1):
        try:
            task = _task(row)
        except (TypeError, ValueError, KeyError) as exc:
            what = f"has no {exc}" if isinstance(exc, KeyError) else f"is not a task: {exc}"
            raise InvalidOption(f"tasks_path: {path}, row {number} {what}") from None
        if task.id in tasks:
            raise InvalidOption(f"tasks_path: {path}, row {number} repeats the id {task.id!r}")
        tasks[task.id] = task
    if all(task.unsupported for task in tasks.values()):
        raise InvalidOption(f"tasks_path: {path} has no tasks that can be played")
    return tasks


class SiteTasks:
    """The tasks of a server on own pages and sites, with what their episodes need.

    Args:
        sites: all that can be reached.
        tasks: by id.
        logins: the folder of the states of logins.
        hook: called with the row of the task before each episode; it may return such a state.
        hook_timeout: seconds that it may take.
    """

    def __init__(
        self,
        sites: Sites,
        tasks: Mapping[str, SiteTask],
        logins: Folder | None,
        hook: Callable[[Mapping[str, Any]], Any] | None,
        hook_timeout: float,
    ) -> None:
        self.sites = sites
        self.tasks = tasks
        self._logins = logins
        self._hook = hook
        self._hook_timeout = hook_timeout

    def find(self, name: str | None) -> SiteTask:
        """Return the task of a name; for none the first that can be played.

        Raises:
            InvalidOption: there is none, or it cannot be graded.
        """
        if name is None:
            return next(task for task in self.tasks.values() if not task.unsupported)
        task = self.tasks.get(name.removeprefix(f"{SITES}."))
        if task is None:
            near = difflib.get_close_matches(name, self.tasks, n=3, cutoff=0.5)
            there = ", ".join(near or list(self.tasks)[:3])
            raise InvalidOption(
                f"there is no task {name!r:.80}; did you mean {there}?", option="task_name"
            )
        if task.unsupported:
            raise InvalidOption(
                f"the task {task.id} is not played: {task.unsupported}", option="task_name"
            )
        return task

    def start(self, name: str) -> list[str]:
        """Return the addresses of a task's start pages.

        Raises:
            InvalidOption: one is not of an allowed site.
        """
        return [self.sites.start(url) for url in self.tasks[name].start]

    def table(self) -> TaskTable:
        """Return what clients may know of the tasks: ids and goals, by split."""
        rows: dict[str, list[dict[str, str]]] = {}
        for task in self.tasks.values():
            if not task.unsupported:
                row = {"id": task.id, "task_name": task.id, "goal": task.goal}
                rows.setdefault(task.split, []).append(row)
        return TaskTable(rows)

    async def prepare(self, name: str) -> StorageState | None:
        """Have the sites made ready for an episode; return the state of its login, if it has one.

        Raises:
            EnvironmentStartFailed: the hook takes too long, or there is no such state.
        """
        task = self.tasks[name]
        made: Any = None
        if self._hook is not None:
            try:
                async with asyncio.timeout(self._hook_timeout) as deadline:
                    if inspect.iscoroutinefunction(self._hook):
                        made = await self._hook(task.row)
                    else:
                        made = await asyncio.to_thread(self._hook, task.row)
            except TimeoutError as exc:
                if not deadline.expired():
                    raise
                raise EnvironmentStartFailed(
                    f"the reset hook took longer than {self._hook_timeout:g} s for {name}:"
                    " mend it, or give reset_timeout"
                ) from exc
        if made is None and task.storage_state is not None:
            made = self._login(task.storage_state)
        if made is not None and not isinstance(made, dict):
            raise EnvironmentStartFailed(
                f"the state of a login is a dict of cookies and origins, got {type(made).__name__}"
            )
        return cast("StorageState | None", made)

    def _login(self, file: str) -> Any:
        if self._logins is None:
            raise EnvironmentStartFailed(
                f"the task needs the login {file}: give logins, the folder of such files"
            )
        found = self._logins.read(file)
        if found is None:
            raise EnvironmentStartFailed(f"the folder of logins has no {file}")
        try:
            return json.loads(found[0])
        except ValueError as exc:
            raise EnvironmentStartFailed(f"the login {file} is not JSON: {exc}") from None


def open_site_tasks(
    pages: str | None,
    addresses: Mapping[str, str],
    tasks_path: str | None,
    logins: str | None,
    reset_hook: str | None,
    reset_timeout: float,
) -> SiteTasks:
    """Return the tasks that settings name; see ``BrowserGymEnvironment`` for them.

    Raises:
        InvalidOption: a setting makes no sense.
    """
    if tasks_path is None and pages is None:
        raise InvalidOption(
            "the benchmark sites needs tasks_path=FILE, with its tasks", option="tasks_path"
        )
    path = Path(tasks_path or Path(pages or "") / "tasks.jsonl").expanduser()
    # Neither answers nor logins are pages.
    hidden = [path, *([Path(logins).expanduser()] if logins else [])]
    folder = Folder(pages, "pages", hidden) if pages else None
    sites = Sites(folder, addresses)
    hook = import_object(reset_hook) if reset_hook else None
    if hook is not None and not callable(hook):
        raise InvalidOption(f"reset_hook {reset_hook!r} is not a function", option="reset_hook")
    tasks = load_tasks(path, sites.filled)
    own = SiteTasks(sites, tasks, Folder(logins, "logins") if logins else None, hook, reset_timeout)
    for task in tasks.values():
        own.start(task.id)
    return own


async def grade(task: SiteTask, answer: str, page: Page, opened: Opened) -> float:
    """Return 1.0 if the task is solved, else 0.0.

    Args:
        task: the task.
        answer: what the agent said last.
        page: its active page.
        opened: opens further pages.
    """
    asked = task.asked
    kinds = asked["eval_types"]
    if "string_match" in kinds and not _said(asked["reference_answers"], answer):
        return 0.0
    if "url_match" in kinds and not _is_at(asked["reference_url"], page.url):
        return 0.0
    if "program_html" in kinds:
        for target in asked["program_html"]:
            if not await _has(target, page, opened):
                return 0.0
    return 1.0


# -- rows ---------------------------------------------------------------------------------------


def _task(row: Any) -> SiteTask:
    if not isinstance(row, dict):
        raise TypeError(f"it must be an object, got {row!r:.80}")
    name = row["id"] if "id" in row else row["task_id"]
    goal = row["goal"] if "goal" in row else row["intent"]
    start, asked, state = row["start_url"], row["eval"], row.get("storage_state")
    if isinstance(name, int):
        name = str(name)
    for what, value in (("id", name), ("goal", goal), ("start_url", start)):
        if not isinstance(value, str) or not value:
            raise TypeError(f"{what} must be a text, got {value!r:.80}")
    if state is not None and not isinstance(state, str):
        raise TypeError(f"storage_state must be the name of a file, got {state!r:.80}")
    return SiteTask(
        id=name,
        goal=goal,
        start=tuple(start.split(_AND)),
        split=str(row.get("split", "train")),
        storage_state=state and Path(state).name,
        asked=asked,
        unsupported=_checked(asked),
        row=row,
    )


def _checked(asked: Any) -> str:
    """Return why this cannot be graded, or ``""``; raise where it makes no sense."""
    kinds = asked["eval_types"]
    if not isinstance(kinds, list) or not kinds or set(kinds) - set(_TYPES):
        raise ValueError(f"eval_types must be some of {', '.join(_TYPES)}, got {kinds!r:.80}")
    if "string_match" in kinds:
        answers = asked["reference_answers"]
        if not isinstance(answers, dict) or not answers:
            raise ValueError("string_match needs reference_answers")
        for name, value in answers.items():
            if name not in (_EXACT, _INCLUDE):
                return f"{name} needs a language model as its judge"
            _check_texts(name, value)
    if "url_match" in kinds:
        if not isinstance(asked["reference_url"], str) or not asked["reference_url"]:
            raise ValueError("url_match needs reference_url")
        rule = asked.get("url_note", "GOLD in PRED")
        if rule != "GOLD in PRED":
            return f"its url_note is {rule!r:.80}, which is not known"
    if "program_html" in kinds:
        targets = asked["program_html"]
        if not isinstance(targets, list) or not targets:
            raise ValueError("program_html needs a list of targets")
        for target in targets:
            for key in ("url", "locator"):
                if target[key].startswith("func:"):
                    return f"{target[key]:.80} is Python code of WebArena"
            contents = target["required_contents"]
            if not {_EXACT, _INCLUDE} & set(contents):
                raise ValueError(f"required_contents needs {_EXACT} or {_INCLUDE}")
            for name in {_EXACT, _INCLUDE} & set(contents):
                _check_texts(name, contents[name])
    return ""


def _check_texts(name: str, value: Any) -> None:
    texts = [value] if name == _EXACT else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        what = "a text" if name == _EXACT else "a list of texts"
        raise TypeError(f"{name} must be {what}, got {value!r:.80}")


# -- grading ------------------------------------------------------------------------------------


def _clean(text: str) -> str:
    text = text.strip()
    for quote in "'\"":
        if text.startswith(quote) and text.endswith(quote):
            text = text[1:-1]
            break
    return text.lower()


def _said(wanted: Mapping[str, Any], answer: str) -> bool:
    said = _clean(_clean(answer))
    if _EXACT in wanted and said != _clean(wanted[_EXACT]):
        return False
    parts = [_clean(part) for part in wanted.get(_INCLUDE, ())]
    if len(parts) == 1 and len(parts[0]) == 1:
        return parts[0] in _WORD.findall(said)
    return all(part in said for part in parts)


def _is_at(reference: str, url: str) -> bool:
    wanted = [urlsplit(part.rstrip("/")) for part in reference.split(_OR)]
    there = urlsplit(url.rstrip("/"))
    values: dict[str, set[str]] = collections.defaultdict(set)
    for part in wanted:
        for key, found in parse_qs(part.query).items():
            values[key].update(found)
    query = parse_qs(there.query)
    return any(part.netloc + part.path in there.netloc + there.path for part in wanted) and all(
        found.intersection(query.get(key, ())) for key, found in values.items()
    )


async def _has(target: Mapping[str, Any], page: Page, opened: Opened) -> bool:
    looked_at = page if target["url"] == "last" else await opened(target["url"])
    try:
        found = await _located(target, looked_at)
    finally:
        if looked_at is not page:
            await looked_at.close()
    contents = target["required_contents"]
    text = _clean(html.unescape(found))
    if _EXACT in contents:
        return text == _clean(contents[_EXACT])
    return all(
        any(_clean(part) in text for part in wanted.split(_OR)) for wanted in contents[_INCLUDE]
    )


async def _located(target: Mapping[str, Any], page: Page) -> str:
    try:
        if not target["locator"].strip():
            return await page.content()
        for action in target.get("prep_actions", ()):
            await page.evaluate(f"() => {action}")
        return str(await page.evaluate(f"() => {target['locator']}"))
    except Error:
        return ""  # it is another page than that which has this

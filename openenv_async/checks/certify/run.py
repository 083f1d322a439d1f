"""Certification: the lines of a certificate, one after the other, on a served environment."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Final

from openenv_async.certification import Certification
from openenv_async.checks.certify import episodes as episodes_lines
from openenv_async.checks.certify import leaks, scores
from openenv_async.checks.certify.subject import Subject, read_book
from openenv_async.checks.registry import Result, chosen, of_kind
from openenv_async.checks.runner import OnResult, Runner
from openenv_async.checks.servers import servers
from openenv_async.checks.validation.candidate import Candidate
from openenv_async.errors import (
    InvalidModel,
    OpenEnvError,
    OperationUnsupported,
    WrongTarget,
    shown,
)
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.resolve import ResolvedTarget, Target, resolve
from openenv_async.types import Task
from openenv_async.version import __version__

__all__ = ["CHECKS", "FORM", "Certificate", "certify"]

FORM: Final = 1
"""The version of a certificate's form."""
MODULES: Final = (scores, leaks, episodes_lines)
"""The modules whose import registers the lines."""
CHECKS: Final = {
    each.name: each
    for module in MODULES
    for each in of_kind("certificate").values()
    if each.call.__module__ == module.__name__
}
"""The lines by name, in the order of the modules."""
_LAST: Final = episodes_lines.rewards_are_in_range.__name__
"""The line that looks at all that was played for the others."""
_PATIENCE: Final = 1800.0
"""Seconds that one line may take."""
_MOST_FILES: Final = 10_000
_SUFFIXES: Final = (".py", ".json", ".jsonl", ".yaml", ".toml", ".txt", ".csv", ".parquet", ".db")
_LISTED: Final = 1_000
"""Tasks whose listing is read for answers."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The findings about an environment.

    Attributes:
        target: the environment, as it was named.
        results: of the lines; ``skipped`` means not shown.
        figures: what was measured, by line.
        name, version, package: of the environment, as far as known.
        digest: SHA-256 of its source and data, or of what its server tells of itself.
        digest_of: which of the two: ``source`` or ``server``.
        params: constructor arguments.
        made_at: Unix time.
        made_by: the release of this package.
    """

    target: str
    results: tuple[Result, ...]
    figures: Mapping[str, str]
    name: str = ""
    version: str = ""
    package: str | None = None
    digest: str = ""
    digest_of: str = "server"
    params: Mapping[str, Any] = field(default_factory=dict)
    made_at: float = 0.0
    made_by: str = __version__

    def of(self, status: str) -> list[Result]:
        """Return the results of one status: ``passed``, ``failed`` or ``skipped``."""
        return [result for result in self.results if result.status == status]

    @property
    def verdict(self) -> str:
        """``failed``, ``passed``, or ``not shown`` without a solution or anything that passed."""
        if self.of("failed"):
            return "failed"
        oracle = scores.the_oracle_solves_it.__name__
        unsolved = any(result.name == oracle for result in self.of("skipped"))
        return "passed" if self.of("passed") and not unsolved else "not shown"

    @property
    def is_passed(self) -> bool:
        """True if nothing failed, and the oracle's line, where it was asked for, was shown."""
        return self.verdict == "passed"

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it; its own digest is of all the rest."""
        words = {"passed": "passed", "failed": "failed", "skipped": "not shown"}
        made = {
            "form": FORM,
            "made_by": f"openenv_async {self.made_by}",
            "made_at": datetime.fromtimestamp(self.made_at, UTC).isoformat(timespec="seconds"),
            "environment": {
                "target": self.target,
                "name": self.name,
                "version": self.version,
                "package": self.package,
                "params": dict(self.params),
                "digest": self.digest,
                "digest_of": self.digest_of,
            },
            "verdict": self.verdict,
            "counts": {word: len(self.of(status)) for status, word in words.items()},
            "lines": [
                {
                    "name": result.name,
                    "result": words[result.status],
                    "promise": CHECKS[result.name].promise,
                    "figure": self.figures.get(result.name, ""),
                    "reason": result.reason,
                    "remedy": result.remedy,
                }
                for result in self.results
            ],
        }
        octets = json.dumps(made, sort_keys=True, default=str).encode()
        return {**made, "digest": hashlib.sha256(octets).hexdigest()}


async def certify(
    target: Target,
    *,
    declaration: Certification | None = None,
    params: Mapping[str, Any] | None = None,
    token: str | None = None,
    names: Iterable[str] | None = None,
    episodes: int = 32,
    seconds: float = 20.0,
    timeout: float = 30.0,
    concurrency: int = 16,
    on_result: OnResult | None = None,
) -> Certificate:
    """Test whether an environment is fit to be trained on.

    Args:
        target: anything that ``targets.resolve`` takes: a folder, an installed name,
            ``module:Class``, a class, the URL of a server, … It is served meanwhile.
        declaration: what is stated of it, in place of its own ``certification``.
        params: constructor arguments.
        token: of the server at a URL.
        names: of the lines, by default all.
        episodes: of each policy; up to 16 times as many where a mean is near its limit.
        seconds: that one policy may be played beyond these.
        timeout: seconds that one call may take, where calls are looked at one by one.
        concurrency: episodes at once.
        on_result: called with each result as it comes; the reason of one that passed is what was
            measured.

    Raises:
        WrongTarget: it is nothing that has a server; a ``TypeError``.
        TargetNotFound: there is no such environment.
        ConnectFailed: nothing answers at the URL.
        InvalidModel: what it declares is not a ``Certification``.
        InvalidOption: there is no line of such a name, or it takes no params or no token.
    """
    names = None if names is None else dict.fromkeys(names)
    wanted = sorted(chosen(CHECKS, names), key=lambda each: each.name == _LAST)
    found = resolve(target, params=params, token=token, entry="certify()")
    spec = _spec_of(found)
    stated = declaration or _stated(spec)
    if stated is not None and stated.params and found.kind not in ("url", "urls"):
        found = found.with_arguments({**stated.params, **(found.params or {})})
        spec = _spec_of(found)
        stated = declaration or _stated(spec)
    async with contextlib.AsyncExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="certify-"))
        own = {"TMPDIR": temporary}  # others' files come and go in the one of the machine
        [first, *more] = await stack.enter_async_context(
            servers(found, max_sessions=256, environ=own)
        )
        across = episodes_lines.seeds_decide_across_processes.__name__
        if not more and found.kind == "named" and any(each.name == across for each in wanted):
            more = await stack.enter_async_context(servers(found, max_sessions=64))
        candidate = Candidate(url=first.url, token=first.token, timeout=timeout)
        candidate.pid = first.pid if found.kind == "named" else None
        if stated is not None:
            candidate.varying = frozenset(stated.varying)
            candidate.reset_options = dict(stated.reset_options)
        subject = Subject(
            candidate,
            stated,
            None if spec is None else spec.tasks,
            other=more[0] if more else None,
            episodes=episodes,
            seconds=seconds,
            concurrency=concurrency,
            temporary=Path(temporary),
        )
        await _look(subject)

        def tell(result: Result) -> None:
            if on_result is not None:
                figure = subject.figures.get(result.name, "") if result.status == "passed" else ""
                on_result(dataclasses.replace(result, reason=result.reason or figure))

        runner = Runner(_PATIENCE, tell)
        for each in wanted:
            await runner.run(each, subject, "server")
    about = subject.about[0] if subject.about and isinstance(subject.about[0], str) else "{}"
    with contextlib.suppress(ValueError):
        told = json.loads(about or "{}")
    told = told if isinstance(told, dict) else {}
    source = None if spec is None else _source(spec)
    octets = json.dumps(subject.about, sort_keys=True, default=str).encode()
    return Certificate(
        target=found.label,
        results=tuple(runner.results),
        figures=dict(subject.figures),
        name=str(told.get("name") or (spec.name if spec is not None else "")),
        version=str(told.get("version") or (spec.version if spec is not None else "")),
        package=None if spec is None else spec.package,
        digest=source or hashlib.sha256(octets).hexdigest(),
        digest_of="server" if source is None else "source",
        params={} if spec is None else spec.told_params,
        made_at=datetime.now(UTC).timestamp(),
    )


def _spec_of(target: ResolvedTarget) -> EnvironmentSpec | None:
    """Return the environment itself, where this process can import it."""
    if target.kind not in ("named", "environment"):
        return None
    try:
        return target.spec("certify()")
    except WrongTarget:  # an application in upstream's form, in a process of its own
        return None


def _stated(spec: EnvironmentSpec | None) -> Certification | None:
    if spec is None:
        return None
    declares = getattr(spec.cls, "certification_for", None)
    declared: Any = (
        getattr(spec.cls, "certification", None) if declares is None else declares(**spec.params)
    )
    if declared is not None and not isinstance(declared, Certification):
        raise InvalidModel(
            f"the certification of {spec.name} is {shown(declared)}, not a Certification"
        )
    return declared


async def _look(subject: Subject) -> None:
    """Find out what the server is, and which tasks are played."""
    candidate = subject.candidate
    await candidate.look()
    subject.about = await leaks.described(subject)
    if subject.book is not None:
        await read_book(subject.book)
    if candidate.is_upstream:
        return
    async with candidate.session() as env:
        try:
            tasks = await env.tasks()
        except OperationUnsupported:
            return
        splits = await tasks.splits()
        split = subject.stated.split if subject.stated is not None else None
        if split is None:
            split = splits[0] if splits else None
        if split is None:
            return
        subject.split, subject.tasks = split, await tasks.count(split)
        listed: list[Task] = await tasks.range(split, 0, _LISTED)
    subject.listing = listed
    if listed:
        candidate.reset_options |= {"task_id": listed[0].id, "split": split}
    if subject.book is not None:
        with contextlib.suppress(OpenEnvError):
            private = subject.book.get(split, 0).private
            candidate.findings["private_columns"] = sorted(private)


def _source(spec: EnvironmentSpec) -> str | None:
    """Return the digest of the files of the package that an environment's class is of."""
    found = _package(str(getattr(spec.cls, "__module__", "")))
    if found is None:
        return None
    root = Path(str(found.origin))
    files = [root]
    if found.submodule_search_locations:
        root = root.parent
        files = sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES)
    digest = hashlib.sha256(json.dumps(spec.told_params, sort_keys=True, default=str).encode())
    for path in files[:_MOST_FILES]:
        if path.is_file():
            digest.update(path.relative_to(root.parent).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _package(module: str) -> ModuleSpec | None:
    """Return the outermost package that a module is in, or the module itself."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        try:
            found = importlib.util.find_spec(".".join(parts[:count]))
        except (ImportError, ValueError):
            return None
        if found is not None and found.origin is not None and found.has_location:
            return found
    return None

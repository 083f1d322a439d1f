"""Old names of modules and of public objects, which still work and warn.

A module that moved is imported under its old name by a finder of the import system, an object by
``__getattr__`` of its module. Both raise ``DeprecationWarning`` with the new name.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, ParamSpec, TypeVar

__all__ = ["MODULES", "OBJECTS", "install", "renamed_arguments", "renamed_attributes"]

P = ParamSpec("P")
R = TypeVar("R")

MODULES: Final[Mapping[str, str]] = {
    "openenv_async.addresses": "openenv_async.endpoints.addresses",
    "openenv_async.auto": "openenv_async.targets.auto",
    "openenv_async.auto.clients": "openenv_async.targets.auto",
    "openenv_async.auto.facade": "openenv_async.targets.auto",
    "openenv_async.auto.listing": "openenv_async.targets.listing",
    "openenv_async.auto.sources": "openenv_async.targets.resolve",
    "openenv_async.benchmarking.asking": "openenv_async.client.server_info",
    "openenv_async.building.context": "openenv_async.providers.docker.context",
    "openenv_async.building.progress": "openenv_async.providers.docker.progress",
    "openenv_async.building.stream": "openenv_async.providers.docker.stream",
    "openenv_async.chaos": "openenv_async.benchmarking.chaos",
    "openenv_async.chaos.audit": "openenv_async.benchmarking.chaos.audit",
    "openenv_async.chaos.playing": "openenv_async.benchmarking.chaos.playing",
    "openenv_async.chaos.proxy": "openenv_async.benchmarking.chaos.proxy",
    "openenv_async.chaos.run": "openenv_async.benchmarking.chaos.run",
    "openenv_async.chaos.storm": "openenv_async.benchmarking.chaos.faults",
    "openenv_async.client.contained": "openenv_async.client.launch",
    "openenv_async.client.http_replies": "openenv_async.client.endpoint",
    "openenv_async.client.http_session": "openenv_async.client.http",
    "openenv_async.client.seats": "openenv_async.client.vector",
    "openenv_async.client.session": "openenv_async.client.env",
    "openenv_async.client.sockets": "openenv_async.client.endpoint",
    "openenv_async.client.streaming": "openenv_async.client.channel",
    "openenv_async.client.tls": "openenv_async.endpoints.tls",
    "openenv_async.client.transport": "openenv_async.client.outbox",
    "openenv_async.client.waits": "openenv_async.client.channel",
    "openenv_async.conformance": "openenv_async.checks.conformance",
    "openenv_async.conformance.check_data": "openenv_async.checks.conformance.data",
    "openenv_async.conformance.check_episodes": "openenv_async.checks.conformance.episodes",
    "openenv_async.conformance.check_faults": "openenv_async.checks.conformance.faults",
    "openenv_async.conformance.check_frames": "openenv_async.checks.conformance.frames",
    "openenv_async.conformance.check_time": "openenv_async.checks.conformance.timing",
    "openenv_async.conformance.doors": "openenv_async.checks.transports",
    "openenv_async.conformance.rawwire": "openenv_async.checks.raw_connection",
    "openenv_async.conformance.registry": "openenv_async.checks.registry",
    "openenv_async.conformance.suite": "openenv_async.checks.conformance.suite",
    "openenv_async.conformance.upstream": "openenv_async.checks.upstream_client",
    "openenv_async.data_frames": "openenv_async.protocol.websocket_frames",
    "openenv_async.depth": "openenv_async.models.depth",
    "openenv_async.discovery": "openenv_async.targets.discovery",
    "openenv_async.engine.correspondence": "openenv_async.engine.session",
    "openenv_async.engine.expiry": "openenv_async.engine.deadlines",
    "openenv_async.engine.host": "openenv_async.engine.runner",
    "openenv_async.engine.isolation": "openenv_async.engine.executors",
    "openenv_async.engine.isolation.builders": "openenv_async.engine.executors.threads",
    "openenv_async.engine.isolation.child": "openenv_async.engine.executors.child",
    "openenv_async.engine.isolation.inline": "openenv_async.engine.executors.inline",
    "openenv_async.engine.isolation.offspring": "openenv_async.engine.executors.offspring",
    "openenv_async.engine.isolation.pipe": "openenv_async.engine.executors.pipe",
    "openenv_async.engine.isolation.processes": "openenv_async.engine.executors.processes",
    "openenv_async.engine.isolation.recipe": "openenv_async.engine.executors.recipe",
    "openenv_async.engine.isolation.shelter": "openenv_async.engine.executors.shelter",
    "openenv_async.engine.isolation.tasks": "openenv_async.engine.executors.tasks",
    "openenv_async.engine.isolation.thread_pool": "openenv_async.engine.executors.threads",
    "openenv_async.engine.isolation.threads": "openenv_async.engine.executors.threads",
    "openenv_async.engine.isolation.worker": "openenv_async.engine.executors.worker",
    "openenv_async.engine.latency": "openenv_async.engine.statistics",
    "openenv_async.engine.native": "openenv_async.engine.connection",
    "openenv_async.engine.seams": "openenv_async.engine.interfaces",
    "openenv_async.engine.streaming": "openenv_async.engine.session",
    "openenv_async.engine.traced": "openenv_async.engine.runner",
    "openenv_async.engine.transcode": "openenv_async.engine.requests",
    "openenv_async.exception_text": "openenv_async.errors",
    "openenv_async.inprocess": "openenv_async.targets.in_process",
    "openenv_async.integrations.source": "openenv_async.targets.served",
    "openenv_async.localserver": "openenv_async.providers.local_server",
    "openenv_async.logs": "openenv_async.telemetry.logs",
    "openenv_async.manifest": "openenv_async.targets.manifest",
    "openenv_async.outlasting": "openenv_async.deadlines",
    "openenv_async.pool.book": "openenv_async.pool.scheduler",
    "openenv_async.pool.crew": "openenv_async.pool.workers",
    "openenv_async.pool.dispatch": "openenv_async.pool.pool",
    "openenv_async.pool.leasing": "openenv_async.pool.leases",
    "openenv_async.pool.settings": "openenv_async.pool.scheduler",
    "openenv_async.pool.statistics": "openenv_async.pool.scheduler",
    "openenv_async.providers.docker.engine": "openenv_async.providers.docker.client",
    "openenv_async.providers.docker.keeper": "openenv_async.providers.docker.reaper_client",
    "openenv_async.providers.docker.starting": "openenv_async.providers.docker.start",
    "openenv_async.results": "openenv_async.models.results",
    "openenv_async.rollouts.admission": "openenv_async.rollouts.versions",
    "openenv_async.rollouts.observed": "openenv_async.models.observed",
    "openenv_async.rollouts.options": "openenv_async.rollouts.collection",
    "openenv_async.rollouts.records": "openenv_async.rollouts.record",
    "openenv_async.rollouts.responding": "openenv_async.rollouts.policies",
    "openenv_async.rollouts.results": "openenv_async.rollouts.collection",
    "openenv_async.rollouts.sources": "openenv_async.rollouts.sessions",
    "openenv_async.rollouts.trajectory": "openenv_async.rollouts.record",
    "openenv_async.rollouts.writers": "openenv_async.rollouts.files",
    "openenv_async.scaffold": "openenv_async.building.scaffold",
    "openenv_async.schema_models": "openenv_async.schemas.classes",
    "openenv_async.schema_sampling": "openenv_async.schemas.sample",
    "openenv_async.server.descriptions": "openenv_async.server.http",
    "openenv_async.server.direct": "openenv_async.server.uvicorn_protocols",
    "openenv_async.server.direct_http": "openenv_async.server.uvicorn_protocols",
    "openenv_async.server.exchange": "openenv_async.server.http_headers",
    "openenv_async.server.guard": "openenv_async.server.auth",
    "openenv_async.server.lease": "openenv_async.server.owner_lease",
    "openenv_async.server.lines": "openenv_async.server.transport",
    "openenv_async.server.nowhere": "openenv_async.server.not_found",
    "openenv_async.server.port": "openenv_async.server.http_sessions",
    "openenv_async.serving": "openenv_async.server.run",
    "openenv_async.tokens": "openenv_async.endpoints.tokens",
    "openenv_async.tracing": "openenv_async.telemetry.tracing",
    "openenv_async.validation": "openenv_async.checks.validation",
    "openenv_async.validation.candidate": "openenv_async.checks.validation.candidate",
    "openenv_async.validation.check_episodes": "openenv_async.checks.validation.episodes",
    "openenv_async.validation.check_folder": "openenv_async.checks.validation.folder",
    "openenv_async.validation.check_seeds": "openenv_async.checks.validation.seeds",
    "openenv_async.validation.check_time": "openenv_async.checks.validation.timing",
    "openenv_async.validation.inspecting": "openenv_async.checks.validation.inspection",
    "openenv_async.validation.registry": "openenv_async.checks.validation",
    "openenv_async.validation.run": "openenv_async.checks.validation.run",
    "openenv_async.validation.schema": "openenv_async.schemas.fit",
}
"""The old full name of each module that moved, and its new one."""

OBJECTS: Final[Mapping[str, str]] = {
    "openenv_async.auto.sources.Asked": "openenv_async.targets.resolve.ResolvedTarget",
    "openenv_async.auto.sources.classes_of_server": (
        "openenv_async.targets.classes.classes_of_server"
    ),
    "openenv_async.auto.sources.fetch_space": "openenv_async.targets.classes.fetch_space",
    "openenv_async.chaos.playing.Player": "openenv_async.benchmarking.chaos.playing.LoadSession",
    "openenv_async.chaos.storm.storm": "openenv_async.benchmarking.chaos.faults.inject_faults",
    "openenv_async.client.contained.Contained": "openenv_async.client.launch.OwnedContainer",
    "openenv_async.client.http_replies.Failure": "openenv_async.client.refusals.Failure",
    "openenv_async.client.http_replies.Result": "openenv_async.client.endpoint.ResultReply",
    "openenv_async.client.http_replies.read_failure": "openenv_async.client.refusals.read_failure",
    "openenv_async.client.http_replies.refusal": "openenv_async.client.refusals.refusal",
    "openenv_async.client.seats.Seat": "openenv_async.client.vector.Slot",
    "openenv_async.client.session.SessionHolder": "openenv_async.client.env.EnvClient",
    "openenv_async.engine.expiry.HELD_UP": "openenv_async.engine.deadlines.LATE",
    "openenv_async.engine.expiry.WAITING_NEWS": "openenv_async.engine.deadlines.NEWS_INTERVAL",
    "openenv_async.engine.host.Host": "openenv_async.engine.runner.EnvironmentRunner",
    "openenv_async.engine.isolation.inline.InlineDriver": (
        "openenv_async.engine.executors.inline.InlineExecutor"
    ),
    "openenv_async.engine.isolation.processes.ProcessDriver": (
        "openenv_async.engine.executors.processes.ProcessExecutor"
    ),
    "openenv_async.engine.isolation.recipe.Recipe": (
        "openenv_async.engine.executors.recipe.WorkerRecipe"
    ),
    "openenv_async.engine.isolation.tasks.TaskDriver": (
        "openenv_async.engine.executors.tasks.TaskExecutor"
    ),
    "openenv_async.engine.isolation.threads.MainThreadDriver": (
        "openenv_async.engine.executors.threads.MainThreadExecutor"
    ),
    "openenv_async.engine.isolation.threads.ThreadDriver": (
        "openenv_async.engine.executors.threads.ThreadExecutor"
    ),
    "openenv_async.engine.latency.TimedWire": "openenv_async.engine.statistics.TimedCodecs",
    "openenv_async.engine.native.NativeConnection": (
        "openenv_async.engine.connection.ServerConnection"
    ),
    "openenv_async.engine.seams.Driver": "openenv_async.engine.interfaces.Executor",
    "openenv_async.engine.seams.Port": "openenv_async.engine.interfaces.ReplySink",
    "openenv_async.engine.traced.TracedHost": "openenv_async.engine.runner.TracedRunner",
    "openenv_async.integrations.source.ServedEnvironment": (
        "openenv_async.targets.sessions.BlockingSessions"
    ),
    "openenv_async.outlasting.outlast": "openenv_async.deadlines.wait_uncancelled",
    "openenv_async.pool.book.Book": "openenv_async.pool.scheduler.Scheduler",
    "openenv_async.pool.book.Phase": "openenv_async.pool.scheduler.WorkerPhase",
    "openenv_async.pool.book.SourceRules": "openenv_async.pool.scheduler.ProviderRules",
    "openenv_async.pool.crew.Crew": "openenv_async.pool.workers.Workers",
    "openenv_async.pool.crew.Live": "openenv_async.pool.workers.LiveWorker",
    "openenv_async.providers.docker.engine.Engine": (
        "openenv_async.providers.docker.client.DockerClient"
    ),
    "openenv_async.providers.docker.keeper.Keeper": (
        "openenv_async.providers.docker.reaper_client.ReaperClient"
    ),
    "openenv_async.providers.docker.keeper.keeper": (
        "openenv_async.providers.docker.reaper_client.reaper_client"
    ),
    "openenv_async.providers.docker.starting.Recipe": (
        "openenv_async.providers.docker.start.ContainerRecipe"
    ),
    "openenv_async.providers.docker.starting.Start": (
        "openenv_async.providers.docker.start.ContainerStart"
    ),
    "openenv_async.server.lines.AsgiLine": "openenv_async.server.transport.AsgiTransport",
    "openenv_async.server.lines.Line": "openenv_async.server.transport.Transport",
    "openenv_async.server.lines.LineUser": "openenv_async.server.transport.TransportUser",
    "openenv_async.server.port.CallPort": "openenv_async.server.http_sessions.CallReplySink",
}
"""The old full name of each object that got another name where its module moved, and its new one.

A name that only its module's move changed is not here; that of a module which stays is in the
module itself (``renamed_attributes``).
"""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import a moved module under its old name: the very object that the new name gives."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MODULES:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return a module that forwards to the one that moved."""
        new = MODULES[spec.name]
        # Frames of the import system do not count: the warning is at the import statement.
        warnings.warn(f"{spec.name} is now {new}: import that", DeprecationWarning, stacklevel=2)
        return _Forwarding(spec.name, importlib.import_module(new))

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module that moved has run."""


class _Forwarding(ModuleType):
    """A module under its old name; attributes are read from and set on the one that moved."""

    def __init__(self, name: str, moved: ModuleType) -> None:
        super().__init__(name, moved.__doc__)
        self.__dict__["_moved"] = moved
        self.__dict__["__path__"] = []

    def __getattr__(self, name: str) -> Any:
        new = OBJECTS.get(f"{self.__name__}.{name}")
        if new is None:
            return getattr(self.__dict__["_moved"], name)
        warnings.warn(f"{self.__name__}.{name} is now {new}", DeprecationWarning, stacklevel=2)
        return _object(new)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__") or isinstance(value, _Forwarding):
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__["_moved"], name, value)

    def __dir__(self) -> list[str]:
        return dir(self.__dict__["_moved"])


def install() -> None:
    """Let the old module names be imported; idempotent."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def renamed_attributes(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that gives renamed objects under their old names.

    Args:
        module: the full name of the module (``__name__``).
        names: old name to new name; a new name with dots is another module's object.
    """

    def get(name: str) -> Any:
        new = names.get(name)
        if new is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {new}", DeprecationWarning, stacklevel=2)
        return _object(new if "." in new else f"{module}.{new}")

    return get


def _object(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def renamed_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that accepts renamed keyword arguments by their old names.

    Not for what a step calls: the wrapper looks through the arguments of every call.

    Args:
        names: old name to new name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs:
                    raise TypeError(f"{name}() got {old} and {new}: {old} is now {new}")
                message = f"{name}({old}=) is now {new}="
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate

"""Applications of OpenEnv's, such as ``server.app:app`` of a folder, and what they serve.

Rules:

- An application is imported only in a process that serves it or looks at it: the import runs the
  author's code, changes ``sys.path`` and may put names of ours in the place of OpenEnv's.
- The folder is a package, by the name that its ``pyproject.toml`` gives it, or its own, and lies
  on the path as well: OpenEnv's folders import ``..models``, ``models`` and ``NAME.models``.
- An ``openenv`` that is installed is used as it is, unless ``OPENENV_OWN_NAMES`` is ``1``. Else
  the names that ``openenv_async.compat.upstream`` has are put in its place.
- While the module runs, ``HTTPEnvServer`` writes down what it is made of and registers no routes:
  what ``create_app`` returns has the application's own routes alone.
- The application's web page is left out: it is of another server. A gradio
  that is not installed, its library, has a stand-in that does nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import logging
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from openenv_async.errors import TargetNotFound
from openenv_async.hosts.upstream import AppCall, UpstreamHost, host_of_call

__all__ = ["UpstreamApp", "host_of_app", "install_names"]

log = logging.getLogger("openenv_async.environment")

_SERVER: Final = "openenv.core.env_server.http_server"
"""The module whose ``HTTPEnvServer`` every application of OpenEnv's makes one of."""
_NAMES: Final = "openenv_async.compat.upstream.finder"
"""The module that puts names of ours in the place of OpenEnv's: loaded where they are needed."""
_OWN_NAMES: Final = "OPENENV_OWN_NAMES"
"""The environment variable that asks for names of ours over an installed OpenEnv."""
_SERVER_HAS: Final = ("_env_factory", "action_cls", "observation_cls")
"""Attributes of OpenEnv's ``HTTPEnvServer``."""
_WEB: Final = "ENABLE_WEB_INTERFACE"
_WEB_LIBRARY: Final = "gradio"
_FRAMEWORK: Final = frozenset({"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""Routes that FastAPI itself adds."""


@dataclass(frozen=True)
class UpstreamApp:
    """The application of a folder. It pickles as its folder and name.

    Attributes:
        folder: absolute path.
        app: ``module:name`` in it.
        name: of the environment, where the application does not name it.
    """

    folder: str
    app: str
    name: str | None = None

    def host(self) -> type[UpstreamHost]:
        """Import the application and return the class that serves what it serves; once a process.

        Raises:
            TargetNotFound: it cannot be imported, or serves nothing.
        """
        return _host(self)


@functools.cache
def _host(app: UpstreamApp) -> type[UpstreamHost]:
    call, paths = _load(Path(app.folder), app.app)
    if paths:
        log.warning(
            "%s of %s has routes of its own that are not served: %s",
            *(app.app, app.folder, ", ".join(paths)),
        )
    cls = host_of_call(call)
    cls.name = app.name or call.name or cls.__name__
    return cls


def install_names() -> None:
    """Put names of ours in the place of OpenEnv's, where that is not installed or they are wanted.

    Raises:
        RuntimeError: they are wanted, and OpenEnv's own modules were imported already.
    """
    wanted = os.environ.get(_OWN_NAMES, "").lower() in ("1", "true", "yes")
    importlib.import_module(_NAMES).install_names(shadow=wanted)


def host_of_app(app: Any) -> type[UpstreamHost] | None:
    """Return the class that serves what an application serves; ``None`` where it is another one.

    The server is found where its routes have it: OpenEnv's hold it in their closures.
    """
    ours = getattr(getattr(app, "state", None), "openenv", None)
    made = None if ours is None else ours.spec.cls
    if inspect.isclass(made) and issubclass(made, UpstreamHost):
        return made
    for route in app.routes:
        for cell in getattr(getattr(route, "endpoint", None), "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # a cell that nothing was put into yet
                server = cell.cell_contents
                if all(hasattr(server, name) for name in _SERVER_HAS):
                    return host_of_call(
                        AppCall(
                            env=server._env_factory,
                            action=server.action_cls,
                            observation=server.observation_cls,
                            state=getattr(server, "state_cls", None),
                            max_sessions=getattr(server, "max_concurrent_envs", None),
                        )
                    )
    return None


# -- capturing ----------------------------------------------------------------------------------


@dataclass
class _Records:
    """Servers that an application made, with the applications they were registered in."""

    calls: list[tuple[Any, AppCall]] = field(default_factory=list)
    registered: list[tuple[Any, Any]] = field(default_factory=list)

    def of(self, app: Any) -> AppCall | None:
        """Return the arguments of the server that was registered in an application."""
        for server, where in reversed(self.registered):
            if where is app:
                return next(call for one, call in self.calls if one is server)
        return self.calls[-1][1] if self.calls and app is not None else None


@contextlib.contextmanager
def _recording(server_class: Any) -> Iterator[_Records]:
    """Write down what servers are made of, in place of their routes."""
    records = _Records()
    make, register = server_class.__init__, server_class.register_routes
    signature = inspect.signature(make)

    @functools.wraps(make)
    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        asks = given.get("max_concurrent_envs"), given.get("concurrency_config")
        sessions = None if asks == (None, None) else self.max_concurrent_envs
        records.calls.append(
            (
                self,
                AppCall(
                    env=given["env"],
                    action=given["action_cls"],
                    observation=given["observation_cls"],
                    state=given.get("state_cls"),
                    name=given.get("env_name"),
                    max_sessions=sessions,
                ),
            )
        )

    @functools.wraps(register)
    def leave_out(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        records.registered.append((self, app))

    server_class.__init__, server_class.register_routes = record, leave_out
    try:
        yield records
    finally:
        server_class.__init__, server_class.register_routes = make, register


def _load(folder: Path, app: str) -> tuple[AppCall, list[str]]:
    """Return what a folder's application serves, and the paths of its own routes."""
    install_names()
    os.environ.setdefault(_WEB, "false")
    if importlib.util.find_spec(_WEB_LIBRARY) is None:
        sys.meta_path.append(_WebFinder())
    with contextlib.redirect_stdout(sys.stderr):  # standard output announces the address
        server = importlib.import_module(_SERVER)
        with _recording(server.HTTPEnvServer) as records:
            made = _import_app(folder, app)
    call = records.of(made)
    if call is None:
        raise TargetNotFound(
            f"{app} of {folder} makes no server: it calls neither create_app,"
            " create_fastapi_app nor HTTPEnvServer when it is imported"
        )
    return call, _own_paths(made)


def _own_paths(app: Any) -> list[str]:
    paths = [getattr(route, "path", None) for route in getattr(app, "routes", ())]
    return [path for path in dict.fromkeys(paths) if path and path not in _FRAMEWORK]


# -- web pages ----------------------------------------------------------------------------------


class _Nothing:
    """Anything of a library that is not there; it can be called and entered, and does nothing.

    As a base class it makes another of itself.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self

    def __getattr__(self, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class _WebModule(ModuleType):
    """A module of a web page's library that is not installed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()


class _WebFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The finder of those modules, asked when all others have found nothing."""

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != _WEB_LIBRARY:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _WebModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""


# -- importing ----------------------------------------------------------------------------------


def _import_app(folder: Path, app: str) -> Any:
    module_name, _, name = app.partition(":")
    inside = _inside(folder, module_name)
    if not name or inside is None:
        raise TargetNotFound(f"{folder} has no module {module_name!r}, which is its app: {app!r}")
    for path in (str(folder.parent), str(folder)):  # the folder's own come first
        with contextlib.suppress(ValueError):
            sys.path.remove(path)
        sys.path.insert(0, path)
    package = _package(folder)
    found: Any = _import_first([inside] if package is None else [f"{package}.{inside}", inside])
    for part in name.split("."):
        if not hasattr(found, part):
            raise TargetNotFound(f"{inside} of {folder} has no {name!r}, which is its app: {app!r}")
        found = getattr(found, part)
    return found


def _import_first(names: list[str]) -> ModuleType:
    """Return the first of the modules that can be imported; else raise what the first raised."""
    for name in names[1:]:
        try:
            return importlib.import_module(names[0])
        except ImportError as exc:
            try:
                return importlib.import_module(name)
            except ImportError:
                raise exc from None
    return importlib.import_module(names[0])


def _inside(folder: Path, module: str) -> str | None:
    """Return a module's name seen from the folder; ``a.NAME.server.app`` is ``server.app``."""
    parts = module.split(".")
    for start in range(len(parts)):
        path = folder.joinpath(*parts[start:])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts[start:])
    return None


def _package(folder: Path) -> str | None:
    """Return the name under which a folder is a package, importable by it; ``None``: it is none."""
    if not (folder / "__init__.py").is_file():
        return None
    name = _package_name(folder)
    if name != folder.name and name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return name


def _package_name(folder: Path) -> str:
    """Return the name of a package: by ``package-dir`` of its project, or of its folder."""
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        places = project["tool"]["setuptools"]["package-dir"]
        for name, place in places.items():
            if place in (".", "./") and name.isidentifier():
                return str(name)
    return folder.name if folder.name.isidentifier() else "served_environment"

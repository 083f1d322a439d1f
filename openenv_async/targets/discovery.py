"""Environments by name: installed ones, ``module:Class``, and folders with ``openenv.yaml``.

An environment's distribution announces itself by an entry point of the group
``openenv_async.environments``, whose value is a module-level ``EnvironmentEntry``::

    [project.entry-points."openenv_async.environments"]
    echo = "echo_env:ENVIRONMENT"

    # echo_env/__init__.py
    ENVIRONMENT = EnvironmentEntry(
        environment="echo_env.environment:EchoEnvironment",
        client="echo_env.client:EchoEnv",
        action="echo_env.models:EchoAction",
    )

The entry holds import paths, not classes, so that a program that wants the client does not load
what only the server needs. An entry point may also name an ``Environment`` class itself; it then
has no client and no action class of its own.

Names are compared without regard to case, ``-`` or ``_``, and a trailing ``env``: ``echo``,
``echo-env`` and ``Echo_Env`` are one.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from openenv_async.environment import Environment
from openenv_async.errors import (
    InvalidOption,
    OpenEnvError,
    TargetNotFound,
    WrongTarget,
    exception_name,
    exception_text,
    shown,
)
from openenv_async.hosts import hosted, is_registered_id
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets import manifest
from openenv_async.targets.schemes import hosted_text, scheme_of

__all__ = [
    "GROUP",
    "EnvironmentEntry",
    "environments_of",
    "find_entry",
    "find_target",
    "folder_prefix",
    "image_name",
    "import_object",
    "installed",
    "is_address",
    "is_installed",
    "looks_like_path",
    "mistaken",
    "normal_name",
    "object_path",
    "unknown_name",
    "upstream_app",
]

_ADDRESS: Final = re.compile(r"\w+://|[\w.-]*:\d+(/.*)?$|\[[\da-fA-F:]+\]")
"""Addresses of servers, with and without a scheme."""
_ERROR_SIZE: Final = 2000
"""Characters shown of what a module raised when it was imported."""
_OF_UPSTREAM_EXTRA: Final = frozenset({"pydantic", "fastapi"})
_APP: Final = "server.app:app"
"""The application of a folder in OpenEnv's form whose manifest does not name it."""
_IMPORTS_OPENENV: Final = re.compile(r"^\s*(?:from|import)\s+openenv(?:_core)?\b", re.MULTILINE)
GROUP: Final = "openenv_async.environments"


@dataclass(frozen=True, slots=True)
class EnvironmentEntry:
    """The parts of an installed environment, as ``module:Name`` paths.

    Attributes:
        environment: the ``Environment`` class (server side).
        client: the ``EnvClient`` subclass.
        action: the action type.
        image: the container image that serves it, if one is published or built by convention.
    """

    environment: str
    client: str | None = None
    action: str | None = None
    image: str | None = None

    def environment_class(self) -> Any:
        """Import the environment class.

        Raises:
            TargetNotFound: it is not there.
        """
        return import_object(self.environment)

    def client_class(self) -> Any:
        """Import the client class; ``None`` when there is none."""
        return None if self.client is None else import_object(self.client)

    def action_class(self) -> Any:
        """Import the action type; ``None`` when there is none."""
        return None if self.action is None else import_object(self.action)


def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The installed environments by name, not yet loaded."""
    found = importlib.metadata.entry_points(group=GROUP)
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def is_installed(name: str) -> bool:
    """Return whether an installed environment has this name."""
    return normal_name(name) in {normal_name(each) for each in installed()}


def normal_name(name: str) -> str:
    """The form in which names are compared."""
    parts = [part for part in re.split(r"[-_.\s]+", name.lower()) if part]
    return "-".join(parts[:-1] if len(parts) > 1 and parts[-1] == "env" else parts)


def image_name(name: str) -> str:
    """The image of an environment by convention: ``openenv-async-NAME:latest``."""
    return f"openenv-async-{normal_name(name)}:latest"


def find_entry(name: str) -> EnvironmentEntry:
    """The entry of an installed environment.

    Raises:
        TargetNotFound: none has this name; the message tells the nearest.
    """
    known = {normal_name(key): entry for key, entry in installed().items()}
    point = known.get(normal_name(name))
    if point is None:
        raise TargetNotFound(mistaken(name) or unknown_name(name))
    try:
        loaded = point.load()
    except OpenEnvError:
        raise
    except (Exception, SystemExit) as exc:  # a module may raise anything when it is run
        raise TargetNotFound(
            f"the environment {point.name!r} is installed but cannot be imported:"
            f" {_why_not_imported(exc)}"
        ) from exc
    if isinstance(loaded, EnvironmentEntry):
        return loaded
    if inspect.isclass(loaded):
        return EnvironmentEntry(environment=point.value)
    raise TargetNotFound(
        f"the entry point {point.name!r} ({point.value}) is neither an EnvironmentEntry nor an"
        " Environment class"
    )


def find_target(
    text: str, params: Mapping[str, Any] | None = None, *, run_apps: bool = False
) -> EnvironmentSpec:
    """The environment that ``text`` names, with the constructor arguments ``params``.

    Args:
        text: the name of an installed environment, ``module:Class``, the id of a registered
            Gymnasium environment, the path of a folder with an ``openenv.yaml``, or one of a
            scheme, such as ``mcp:COMMAND``. An installed name wins over a folder: write
            ``./NAME``.
        params: constructor arguments.
        run_apps: whether this process is there for the environment alone, so that the
            application of a folder in OpenEnv's form may be run in it.

    Raises:
        TargetNotFound: there is no such environment; the message names the nearest.
        InvalidOption: it takes no such argument.
        TypeError: what was found is not an environment.
        WrongTarget: it is an application that is to be run in a process of its own.
    """
    if isinstance(text, os.PathLike):
        text = os.path.join(".", text)
    if not isinstance(text, str):
        raise TypeError(
            "an environment is named by text (a name, module:Class or a folder), got"
            f" {shown(text)}: a class itself is for serve and connect"
        )
    if scheme_of(text) is not None:
        return _of_scheme(text, params or {})
    if is_address(text):
        raise TargetNotFound(mistaken(text) or unknown_name(text))
    if is_registered_id(text) and not is_installed(text) and not Path(text).is_dir():
        try:
            return EnvironmentSpec(text, params=params)
        except InvalidOption as exc:
            if exc.detail.get("option") != "id":
                raise
            raise TargetNotFound(
                f"{exc.message} (installed are {_listed([*installed()])}; or give module:Class or a"
                " folder)"
            ) from None
    if ":" in text and not looks_like_path(text):
        return EnvironmentSpec(_imported(text, run_apps), params=params)
    if not looks_like_path(text) and is_installed(text):
        return EnvironmentSpec(find_entry(text).environment_class(), params=params)
    folder = Path(text).expanduser()
    if looks_like_path(text) or (folder / manifest.MANIFEST).is_file():
        if not folder.is_dir():
            raise TargetNotFound(mistaken(text) or f"there is no folder {text!r}")
        return _from_folder(folder, params, run_apps)
    raise TargetNotFound(mistaken(text) or unknown_name(text))


def _of_scheme(text: str, params: Mapping[str, Any]) -> EnvironmentSpec:
    """The environment of a text such as ``mcp:COMMAND``, whose arguments no others replace."""
    host = hosted_text(text)
    for key in params:
        if key in host.params:
            raise InvalidOption(f"{key!r} is what the target itself says: leave it out", option=key)
    return EnvironmentSpec(host.source, params={**params, **host.params}, name=host.name)


def _imported(path: str, run_apps: bool) -> Any:
    """Return what ``module:Name`` names, with OpenEnv's names where these are all it lacks."""
    try:
        return import_object(path)
    except TargetNotFound as exc:
        missing = getattr(exc.__cause__, "name", None) or ""
        if not run_apps or missing.partition(".")[0] not in ("openenv", "openenv_core"):
            raise
    from openenv_async.hosts.upstream_apps import install_names

    install_names()
    return import_object(path)


def is_address(text: str) -> bool:
    """Return whether a target is the address of a server, with or without a scheme."""
    return scheme_of(text) is None and _ADDRESS.match(text) is not None


def import_object(path: str) -> Any:
    """Return the object that ``module:Name`` (or ``module:Outer.Name``) names.

    Raises:
        TargetNotFound: the module or the name does not exist.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise TargetNotFound(f"{path!r} is not a valid import path: write module:Class")
    found: Any = _import(module_name)
    if found is None:
        raise TargetNotFound(f"there is no module {module_name!r} on the path ({path!r})")
    for part in name.split("."):
        inner = getattr(found, part, None)
        if inner is None:
            near = difflib.get_close_matches(part, [n for n in dir(found) if n[0] != "_"], n=3)
            hint = f"; did you mean {_listed(near)}?" if near else ""
            if not near and inspect.ismodule(found):
                names = [each.__name__ for each in _environments_in(found)]
                if names:
                    raise TargetNotFound(f"name {_listed(names)}: {module_name!r} has no {name!r}")
            raise TargetNotFound(f"{module_name!r} has no {name!r}{hint}")
        found = inner
    return found


def _import(name: str) -> ModuleType | None:
    """The module, or ``None`` when it is this one that does not exist."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
            return None
        raise TargetNotFound(f"{name} cannot be imported: it needs {exc.name!r}") from exc
    except OpenEnvError:
        raise
    except (Exception, SystemExit) as exc:  # a module may raise anything when it is run
        raise TargetNotFound(f"{name} cannot be imported: {_why_not_imported(exc)}") from exc


def _why_not_imported(error: BaseException) -> str:
    """Return what the code of a module raised, and the line it was at."""
    if isinstance(error, SystemExit):
        said = "it ends the program: keep sys.exit() under `if __name__ == '__main__'`"
    else:
        said = f"{exception_name(error)}: {exception_text(error, _ERROR_SIZE)}".rstrip(": ")
    if isinstance(error, SyntaxError):  # its text names file and line
        return said
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<frozen ")]
    return f"{said} ({own[-1].filename}, line {own[-1].lineno})"


def _tried(error: BaseException) -> str:
    """Return what the first import raised, where a module then tried another."""
    first = error
    while isinstance(first.__context__, ImportError):
        first = first.__context__
    told, before = (exception_text(each, _ERROR_SIZE) for each in (error, first))
    return "" if before == told else f"; before that, {before}"


def _to_install(error: BaseException, folder: Path) -> str:
    """Return what a folder in OpenEnv's form lacks, where a module of others is not there."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    if error.name.partition(".")[0] in _OF_UPSTREAM_EXTRA:
        return "; pip install 'openenv-async[upstream]'"
    if (folder / "pyproject.toml").exists():
        return "; install what its pyproject.toml depends on: openenv itself may be left out"
    return "; install what the folder depends on: openenv itself may be left out"


def looks_like_path(text: str) -> bool:
    """Return whether a target is written as the path of a folder."""
    written = "/" in text or "\\" in text or text.startswith((".", "~"))
    return written and scheme_of(text) is None


def mistaken(text: str) -> str | None:
    """The message for a target that names something else than an environment, if it does."""
    scheme, _, rest = text.partition("://")
    if scheme in ("http", "https", "ws", "wss") and rest:
        return f"{text} is the address of a server, not an environment that can be started here"
    if "://" in text:
        example = f"http://{rest or 'HOST:PORT'}"
        return f"{text!r} looks like the address of a server: write {example} (or https)"
    if _ADDRESS.match(text):
        return f"{text!r} looks like the address of a server: write http://{text}"
    if not text:
        return None
    path = Path(text).expanduser()
    if path.is_file():
        if path.suffix != ".py":
            return f"{text} is a file, and not an environment: name its folder, or module:Class"
        return f"{text} is a file: write {_module_hint(path)}"
    if path.is_dir():
        return (
            f"the folder {text!r} has no {manifest.MANIFEST}, and is not an environment: make one"
            " with openenv-async init, or name module:Class"
        )
    module = Path(*text.split(".")).with_suffix(".py")
    if module.is_file():
        return f"{text} is a module: name its class, {_module_hint(module)}"
    parts = text.split(".")
    if len(parts) > 1 and all(part.isidentifier() for part in parts):
        *names, last = parts
        if Path(*names).with_suffix(".py").is_file():
            return f"{text} has a dot before its class: write {'.'.join(names)}:{last}"
    return None


def _module_hint(path: Path) -> str:
    """The ``module:Class`` of a file, as it is named from here; the file is only read."""
    parts = path.with_suffix("").parts
    module = ".".join(parts) if all(part.isidentifier() for part in parts) else path.stem
    classes = environments_of(path)
    where = "" if module == ".".join(parts) else f", in {path.parent}"
    return " or ".join(f"{module}:{name}" for name in classes[:3] or ["Class"]) + where


def environments_of(path: Path) -> list[str]:
    """Return the names of the classes of a file that have ``reset`` and ``step``; it is read."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return []
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and {"reset", "step"} <= {each.name for each in node.body if hasattr(each, "name")}
    ]


def unknown_name(name: str) -> str:
    """Return the message for a name that no installed environment has; it tells the nearest."""
    known = [*dict.fromkeys(normal_name(each) for each in installed())]
    near = difflib.get_close_matches(normal_name(name), known, n=3, cutoff=0.6)
    if near:
        hint = f"did you mean {_listed(near)}?"
    elif known:
        hint = f"installed are {_listed(known)}"
    else:
        hint = "none is installed"
    others = "module:Class or a folder"
    if name.isidentifier() and name[0].isupper():
        others = f"module:Class, a folder, or Gymnasium's {name} with its version: {name}-v1"
    return f"there is no environment {name!r}; {hint} (or give {others})"


def _listed(names: list[str]) -> str:
    return ", ".join(names)


# -- folders ------------------------------------------------------------------------------------


def folder_prefix(folder: Path) -> str:
    """Return the prefix of the modules that a folder's manifest names, which can be imported then.

    They lie in the folder: of the package that it is, or on the path.
    """
    folder = folder.resolve()
    is_package = (folder / "__init__.py").is_file()
    root = str(folder.parent if is_package else folder)
    if root not in sys.path:
        sys.path.insert(0, root)
    return f"{folder.name}." if is_package else ""


def object_path(prefix: str, path: str) -> str:
    """``module.Name``, as manifests write it, as ``module:Name``."""
    return prefix + ":".join(path.rsplit(".", 1))


def _from_folder(folder: Path, params: Mapping[str, Any] | None, run_apps: bool) -> EnvironmentSpec:
    """The environment of a folder; its modules stay importable from then on."""
    folder = folder.resolve()
    about = manifest.load(folder)
    app = upstream_app(folder, about)
    if app is not None:
        if not run_apps:
            raise WrongTarget(
                f"the environment of {folder} is made by its application, {app}, which is run in"
                " a process of its own: play on it with AutoEnv.from_env, rollout or collect, or"
                " serve it with openenv-async serve"
            )
        return _from_app(folder, app, about.name, params)
    prefix = folder_prefix(folder)
    cls = (
        import_object(prefix + about.server.environment)
        if about.server.environment is not None
        else _search(folder, prefix)
    )
    types = {
        kind: import_object(object_path(prefix, path))
        for kind in ("action", "observation", "state")
        if (path := getattr(about.models, kind)) is not None
    }
    return EnvironmentSpec(
        cls, **types, params=params, name=getattr(cls, "name", None) or about.name
    )


def upstream_app(folder: Path, about: manifest.Manifest) -> str | None:
    """Return the application that a folder in OpenEnv's form serves; ``None`` for another folder.

    The application's source is read, not run: one that uses this package is of ours.
    """
    if about.server.environment is not None:
        return None
    app = about.app or _APP
    path = folder.joinpath(*app.partition(":")[0].split(".")[-2:]).with_suffix(".py")
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        return about.app
    if "openenv_async" in text:
        return None
    return app if about.app is not None or _IMPORTS_OPENENV.search(text) else None


def _from_app(
    folder: Path, app: str, name: str, params: Mapping[str, Any] | None
) -> EnvironmentSpec:
    """The environment that the application of a folder in OpenEnv's form serves."""
    from openenv_async.hosts.upstream_apps import UpstreamApp

    if params:
        raise InvalidOption(
            f"{name} takes no params: its application makes the environment, and reads its"
            " settings from environment variables"
        )
    try:
        return EnvironmentSpec(UpstreamApp(str(folder), app, name))
    except OpenEnvError:
        raise
    except (Exception, SystemExit) as exc:  # a module may raise anything when it is run
        raise TargetNotFound(
            f"{app} of {folder} cannot be imported: {_why_not_imported(exc)}{_tried(exc)}"
            f"{_to_install(exc, folder)}"
        ) from exc


def _search(folder: Path, prefix: str) -> Any:
    """The one environment class of the modules where it usually is."""
    places = ["environment.py", "server/*environment*.py", "*_environment.py", "server/app.py"]
    for pattern in places:
        for path in sorted(folder.glob(pattern)):
            relative = path.relative_to(folder).with_suffix("")
            module = _import(prefix + ".".join(relative.parts))
            classes = [] if module is None else _environments_in(module)
            if len(classes) == 1:
                return classes[0]
            if classes:
                names = _listed([cls.__name__ for cls in classes])
                raise TargetNotFound(
                    f"{path} has several environments ({names}): name one in"
                    f" {manifest.MANIFEST} as server.environment"
                )
    raise TargetNotFound(
        f"{folder} has no environment class in {', '.join(places)}: name it in"
        f" {manifest.MANIFEST} as server.environment: module:Class"
    )


def _environments_in(module: ModuleType) -> list[Any]:
    """Concrete environments that ``module`` defines."""
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and (issubclass(value, Environment) or hosted(value) is not None)
        and not inspect.isabstract(value)
        and value.__module__ == module.__name__
    ]

"""Folders in OpenEnv's form: imported in a process of their own, and served as they are."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from openenv_async import AutoEnv, connect
from openenv_async.compat.upstream.serving import create_fastapi_app
from openenv_async.errors import ServerError, WorkerStartFailed, WrongTarget
from openenv_async.hosts.upstream_apps import UpstreamApp
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.resolve import resolve
from tests.hosts.test_upstream import Press, Screen, Typewriter
from tests.hosts.upstream_folders import write_folder

_LOOK: Final = """
import json, sys
from openenv_async.targets.discovery import find_target
spec = find_target(sys.argv[1], run_apps=True)
import openenv.core.env_server.http_server as server
told = {
    "name": spec.name,
    "module": spec.cls.__module__,
    "action": spec.schema["action"]["properties"],
    "file": getattr(server, "__file__", None),
    "gradio": "gradio" in sys.modules,
    "sessions": spec.max_sessions,
}
print(json.dumps(told))
"""


def look(folder: Path, *more_paths: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Import a folder's application in a process that has nothing else to do."""
    path = ":".join(map(str, [*more_paths, Path(__file__).parents[2]]))
    return subprocess.run(
        [sys.executable, "-c", _LOOK, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder.parent,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", **variables},
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_folder_is_served_and_played_by_its_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "lamp_env")
    with AutoEnv.from_env(folder) as env:
        begun = env.reset(seed=4)
        assert begun.observation.seed == 4
        assert env.step({"level": 2}).reward == 1.0
        ended = env.step({"level": 3})
        assert (ended.observation.light, ended.done) == (5, True)
        assert env.state().step_count == 2
    assert "models" not in sys.modules
    assert str(folder) not in sys.path


@pytest.mark.parametrize("is_package", [True, False])
def test_modules_are_found_in_a_package_and_without_one(tmp_path: Path, is_package: bool) -> None:
    found = told(look(write_folder(tmp_path / "lamp_env", is_package=is_package)))
    assert found["name"] == "lamp_env"
    place = "lamp_env." if is_package else ""
    assert found["module"] == f"{place}server.lamp_environment"
    assert list(found["action"]) == ["metadata", "level"]
    assert not found["gradio"]


def test_a_folder_of_another_name_is_the_package_that_its_project_says(tmp_path: Path) -> None:
    app = """
        from openenv.core.env_server import create_fastapi_app
        from lamp_env.models import LampAction, LampObservation
        from lamp_env.server.lamp_environment import LampEnvironment
        app = create_fastapi_app(LampEnvironment, LampAction, LampObservation)
    """
    project = '[tool.setuptools.package-dir]\n"lamp_env" = "."\n"lamp_env.server" = "server"\n'
    folder = write_folder(tmp_path / "a-checkout", app=app, project=project)
    assert told(look(folder))["module"] == "lamp_env.server.lamp_environment"


def test_an_application_named_from_outside_or_not_at_all_is_that_of_the_folder(
    tmp_path: Path,
) -> None:
    for number, named in enumerate(["envs.lamp_env.server.app:app", None]):
        folder = write_folder(tmp_path / str(number) / "lamp_env", named=named)
        assert told(look(folder))["name"] == "lamp_env"


def test_a_server_that_the_application_makes_itself_is_taken(tmp_path: Path) -> None:
    app = """
        from fastapi import FastAPI
        from openenv.core.env_server.http_server import HTTPEnvServer
        from ..models import LampAction, LampObservation
        from .lamp_environment import LampEnvironment

        class Server(HTTPEnvServer):
            def __init__(self, env):
                super().__init__(env=env, action_cls=LampAction, observation_cls=LampObservation)

        app = FastAPI()
        Server(LampEnvironment).register_routes(app)
    """
    folder = write_folder(tmp_path / "lamp_env", app=app)
    assert told(look(folder))["module"] == "lamp_env.server.lamp_environment"


@pytest.mark.parametrize(
    ("given", "sessions"),
    [
        ("", None),
        ("max_concurrent_envs=3", 3),
        ("concurrency_config=ConcurrencyConfig(max_concurrent_envs=5)", 5),
    ],
)
def test_sessions_at_once_are_those_that_the_application_asks_for(
    tmp_path: Path, given: str, sessions: int | None
) -> None:
    app = f"""
        from openenv.core.env_server import create_app
        from openenv.core.env_server.types import ConcurrencyConfig
        from ..models import LampAction, LampObservation
        from .lamp_environment import LampEnvironment
        LampEnvironment.SUPPORTS_CONCURRENT_SESSIONS = True
        app = create_app(LampEnvironment, LampAction, LampObservation, {given})
    """
    folder = write_folder(tmp_path / "lamp_env", app=app)
    assert told(look(folder))["sessions"] == sessions


def test_routes_of_the_application_s_own_are_told_to_be_left_out(tmp_path: Path) -> None:
    app = textwrap.dedent("""
        from openenv.core.env_server import create_app
        from ..models import LampAction, LampObservation
        from .lamp_environment import LampEnvironment
        app = create_app(LampEnvironment, LampAction, LampObservation)

        @app.get("/brightness")
        def brightness():
            return 3
    """)
    done = look(write_folder(tmp_path / "lamp_env", app=app))
    told(done)
    assert "/brightness" in done.stderr
    assert "/docs" not in done.stderr


def test_a_page_whose_library_is_not_installed_is_left_out(tmp_path: Path) -> None:
    app = """
        import gradio as gr
        from gradio.themes import Base
        from openenv.core.env_server import create_app
        from ..models import LampAction, LampObservation
        from .lamp_environment import LampEnvironment

        class Theme(gr.themes.Soft):
            pass

        def page(*args) -> gr.Blocks:
            with gr.Blocks(theme=Theme()) as blocks, gr.Row():
                gr.Button("x").click(print)
            return blocks

        page(Base)
        app = create_app(LampEnvironment, LampAction, LampObservation, gradio_builder=page)
    """
    assert told(look(write_folder(tmp_path / "lamp_env", app=app)))["name"] == "lamp_env"


def test_an_installed_openenv_is_used_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "site/openenv/core/env_server"
    place.mkdir(parents=True)
    for folder in (place.parents[1], place.parent, place):
        (folder / "__init__.py").write_text("")
    for module in ("interfaces", "types"):
        ours = f"from openenv_async.compat.upstream.{module} import *\n"
        (place / f"{module}.py").write_text(ours)
    source = """
        class HTTPEnvServer:
            def __init__(self, env, action_cls, observation_cls, env_name=None):
                self.env = env
            def register_routes(self, app, mode="simulation"):
                raise AssertionError("it registers routes")
        class App:
            routes = []
        def create_app(env, action_cls, observation_cls, env_name=None):
            app = App()
            HTTPEnvServer(env, action_cls, observation_cls, env_name).register_routes(app)
            return app
    """
    (place / "http_server.py").write_text(textwrap.dedent(source))
    folder = write_folder(tmp_path / "lamp_env")
    found = told(look(folder, tmp_path / "site"))
    assert found["file"] == str(place / "http_server.py")
    shadowed = told(look(folder, tmp_path / "site", OPENENV_OWN_NAMES="1"))
    assert (shadowed["name"], shadowed["file"]) == ("lamp_env", None)


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("import no_such_module", "; install what the folder depends on"),
        ("raise ModuleNotFoundError('no pydantic', name='pydantic')", "'openenv-async[upstream]'"),
        ("from openenv.core.env_server import NoSuchName", "NoSuchName"),
        ("try:\n    import lost_name\nexcept ImportError:\n    import other", "lost_name"),
        ("raise SystemExit(3)", "ends the program"),
        ("app = 3", "makes no server"),
        ("other = 3", "has no 'app'"),
    ],
)
def test_what_is_wrong_with_an_application_is_said(tmp_path: Path, app: str, says: str) -> None:
    folder = write_folder(tmp_path / "lamp_env", app=f"import openenv\n{app}")
    done = look(folder)
    assert done.returncode == 1
    assert says in done.stderr.splitlines()[-1]


def test_a_module_that_is_imported_twice_in_vain_is_told_of_once(tmp_path: Path) -> None:
    app = "import openenv\ntry:\n    import lost\nexcept ImportError:\n    import lost"
    folder = write_folder(tmp_path / "lamp_env", app=app)
    assert "before that" not in look(folder).stderr.splitlines()[-1]


def test_a_folder_that_cannot_be_served_says_why_to_who_plays(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "lamp_env", app="import openenv\nimport no_such_module")
    with pytest.raises((WorkerStartFailed, ServerError), match="no_such_module"):
        AutoEnv.from_env(folder)


def test_an_application_is_not_run_in_the_caller_s_process(tmp_path: Path) -> None:
    target = resolve(write_folder(tmp_path / "lamp_env"))
    assert target.is_application
    with pytest.raises(WrongTarget, match="process of its own"):
        target.spec()


def test_it_travels_to_worker_processes_as_its_folder(tmp_path: Path) -> None:
    app = UpstreamApp(str(write_folder(tmp_path / "lamp_env")), "server.app:app", "lamp_env")
    assert pickle.loads(pickle.dumps(app)) == app


async def test_an_application_object_is_a_target() -> None:
    app = create_fastapi_app(Typewriter, Press, Screen, max_concurrent_envs=2)
    assert EnvironmentSpec(app).max_sessions == 2
    async with connect(app) as client:
        await client.reset()
        assert (await client.step({"key": "a"})).observation["text"] == "a"


async def test_an_application_of_openenv_s_own_has_its_server_in_the_closures_of_its_routes() -> (
    None
):
    class Server:
        _env_factory, action_cls, observation_cls = Typewriter, Press, Screen
        max_concurrent_envs = 3

    server = Server()

    async def endpoint() -> Any:
        return server

    app = Starlette(routes=[Route("/reset", endpoint)])
    assert EnvironmentSpec(app).max_sessions == 3
    with pytest.raises(TypeError):
        EnvironmentSpec(Starlette())


def test_an_application_is_named_as_module_and_name_too(tmp_path: Path) -> None:
    write_folder(tmp_path / "lamp_env")
    (tmp_path / "lamp_app.py").write_text("from lamp_env.server.app import app\n")
    look = _LOOK.replace("print(", "sys.stdout.write(")
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    done = subprocess.run(
        [sys.executable, "-c", look, "lamp_app:app"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])  # the application prints first
    assert found["module"] == "lamp_env.server.lamp_environment"

"""An environment in OpenEnv's own project layout, with its manifest and its classes.

Only the import names are changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openenv_async import AutoAction, AutoEnv
from openenv_async.checks.validation import validate
from openenv_async.targets import manifest
from tests.modules import forget_modules

FILES = {
    "__init__.py": """
from .client import MyEnv
from .models import MyAction, MyObservation, MyState
""",
    "models.py": """
from dataclasses import dataclass

@dataclass
class MyAction:
    command: str
    value: int = 0

@dataclass
class MyObservation:
    result: str
    done: bool = False
    reward: float = 0.0

@dataclass
class MyState:
    step_count: int = 0
    episode_reward: float = 0.0
""",
    "client.py": '''
from openenv_async import HTTPEnvClient
from .models import MyAction, MyObservation, MyState

class MyEnv(HTTPEnvClient[MyAction, MyObservation, MyState]):
    """Client for MyEnvironment."""

    @classmethod
    def from_docker_image(cls, image: str, port: int = 8000) -> "MyEnv":
        return cls._from_docker(image, port)

    @classmethod
    def from_url(cls, url: str) -> "MyEnv":
        return cls(base_url=url)

    def _parse_observation(self, data: dict) -> MyObservation:
        return MyObservation(**data)

    def _parse_state(self, data: dict) -> MyState:
        return MyState(**data)

    def _serialize_action(self, action: MyAction) -> dict:
        return {"command": action.command, "value": action.value}
''',
    "server/__init__.py": "",
    "server/my_environment.py": """
from openenv_async import Environment
from ..models import MyAction, MyObservation, MyState

class MyEnvironment(Environment[MyAction, MyObservation, MyState]):
    def __init__(self):
        self._state = MyState()

    def reset(self) -> MyObservation:
        self._state = MyState()
        return MyObservation(result="Environment reset", done=False)

    def step(self, action: MyAction) -> MyObservation:
        self._state.step_count += 1
        result = self._process_action(action)
        return MyObservation(
            result=result,
            done=self._is_done(),
            reward=self._calculate_reward()
        )

    def state(self) -> MyState:
        return self._state

    def _process_action(self, action: MyAction) -> str:
        return f"Processed: {action.command}"

    def _is_done(self) -> bool:
        return self._state.step_count >= 100

    def _calculate_reward(self) -> float:
        return 1.0
""",
    "server/app.py": """
from fastapi import FastAPI
from openenv_async import HTTPEnvServer
from .my_environment import MyEnvironment, MyAction, MyObservation, MyState

app = FastAPI(title="My Environment")

# Create environment and wrap in HTTP server
env = MyEnvironment()
server = HTTPEnvServer(env, MyAction, MyObservation, MyState)

# Mount routes
app.include_router(server.router)

# Health check
@app.get("/health")
def health():
    return {"status": "ok"}
""",
    "openenv.yaml": """
name: my_env
version: "1.0.0"
description: My custom environment

server:
  port: 8000
  dockerfile: server/Dockerfile

client:
  module: client
  class: MyEnv

models:
  action: models.MyAction
  observation: models.MyObservation
  state: models.MyState

dependencies:
  - numpy>=1.20
  - torch>=2.0
""",
    "server/Dockerfile": """
FROM python:3.11-slim

WORKDIR /app

# Install dependencies
COPY pyproject.toml uv.lock ./
RUN pip install uv && uv sync --frozen

# Copy environment code
COPY . .

# Expose port
EXPOSE 8000

# Run server
CMD ["uvicorn", "server.app:app", "--host", "0.0.0.0", "--port", "8000"]
""",
    "pyproject.toml": '[project]\nname = "my-env"\nversion = "1.0.0"\n',
    "README.md": "# my_env\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name, text in FILES.items():
        path = tmp_path / "my_env" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with forget_modules():
        yield tmp_path / "my_env"


def test_the_manifest(folder: Path) -> None:
    about = manifest.load(folder)
    assert (about.name, about.version, about.serving_port) == ("my_env", "1.0.0", 8000)
    assert about.client is not None
    assert (about.client.module, about.client.class_name) == ("client", "MyEnv")
    assert about.dependencies == ("numpy>=1.20", "torch>=2.0")


def test_it_is_played_by_its_folder(folder: Path) -> None:
    action_type = AutoAction.from_env(str(folder))
    env = AutoEnv.from_env(str(folder))
    result = env.reset()
    assert result.observation.result == "Environment reset"
    result = env.step(action_type(command="test"))
    assert result.observation.result == "Processed: test"
    assert not result.done
    assert env.state().step_count == 1
    env.close()


async def test_it_is_valid(folder: Path) -> None:
    pytest.importorskip("fastapi")
    results = await validate(folder)
    assert [result for result in results if result.status == "failed"] == []
    assert sum(result.status == "passed" for result in results) >= 20

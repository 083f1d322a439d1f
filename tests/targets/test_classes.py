"""Client classes of targets: declared, named by a manifest, or made from schemas."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openenv_async import EnvClient, Environment, HTTPEnvClient, SyncEnvClient, serve
from openenv_async.errors import ConnectFailed, ProviderError, TargetNotFound
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets import classes
from openenv_async.targets.discovery import EnvironmentEntry


@dataclass
class Act:
    n: int


@dataclass
class Seen:
    text: str


class My_guess2_environment(Environment[Act, Seen, dict[str, Any]]):  # a name to split
    name = "my-guess2_env"
    isolation = "inline"

    def reset(self) -> Seen:
        return Seen("begun")

    def step(self, action: Act) -> Seen:
        return Seen(f"got {action.n}")


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """Forget the modules that a test imports."""
    path, before = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_typed_client_is_named_after_its_environment() -> None:
    cls = classes.typed_client(EnvironmentSpec(My_guess2_environment))
    assert cls.__name__ == "MyGuess2EnvEnv"
    assert issubclass(cls, EnvClient)
    assert cls.model_types() == (Act, Seen, dict[str, Any])


def test_the_async_class_of_any_client_has_its_types_and_hooks() -> None:
    class Hooked(HTTPEnvClient[Act, Seen, Any]):
        def _parse_observation(self, data: Any) -> Any:
            return data

    made = classes.async_class(Hooked)
    assert issubclass(made, EnvClient)
    assert not issubclass(made, HTTPEnvClient)
    assert made.__name__ == "Hooked"
    assert made.model_types()[:2] == (Act, Seen)
    assert made._parse_observation is Hooked._parse_observation
    assert made._serialize_action is EnvClient._serialize_action
    assert classes.async_class(made) is made

    class Blocking(SyncEnvClient[Act, Seen, Any]):
        pass

    assert classes.async_class(Blocking).model_types()[0] is Act


def test_an_installed_environment_brings_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    here = __name__
    module = ModuleType("own_classes")
    module.Client = type("Client", (EnvClient,), {"action_type": Act})  # type: ignore[attr-defined]
    module.Mine = My_guess2_environment  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_classes", module)
    entries = {
        "all": EnvironmentEntry("own_classes:Mine", "own_classes:Client", "builtins:dict"),
        "client": EnvironmentEntry("own_classes:Mine", "own_classes:Client"),
        "none": EnvironmentEntry("own_classes:Mine"),
        "action": EnvironmentEntry("own_classes:Mine", action="builtins:dict"),
    }
    monkeypatch.setattr(classes, "find_entry", entries.__getitem__)
    assert classes.classes_of_installed("all") == (module.Client, dict)
    assert classes.classes_of_installed("client") == (module.Client, Act)
    client, action = classes.classes_of_installed("none")
    assert (client.__name__, action) == ("MyGuess2EnvEnv", Act)
    assert classes.classes_of_installed("action")[1] is dict
    assert here


def folder(root: Path, section: str = "", **files: str) -> str:
    root.mkdir()
    manifest = f"name: {root.name}\nmodels: {{action: models.Act}}\n{section}"
    (root / "openenv.yaml").write_text(manifest)
    (root / "models.py").write_text("class Act(dict): ...\n")
    for name, text in files.items():
        (root / f"{name}.py").write_text(text)
    return str(root)


def test_a_folder_names_its_client(tmp_path: Path) -> None:
    source = "from openenv_async import EnvClient\nclass Mine(EnvClient): ...\nother = 5\n"
    named = folder(tmp_path / "named_env", "client: {class: Mine}", client=source)
    client, action = classes.classes_of_folder(named)
    assert (client.__name__, action.__name__) == ("Mine", "Act")
    wrong = folder(
        tmp_path / "wrong_env", "client: {class: other, module: client2}", client2=source
    )
    with pytest.raises(TargetNotFound, match=r"other of .* is not an EnvClient"):
        classes.classes_of_folder(wrong)
    with pytest.raises(TargetNotFound, match="no folder"):
        classes.classes_of_folder(str(tmp_path / "nothing"))


def test_a_folder_without_a_client_has_the_types_of_its_environment(tmp_path: Path) -> None:
    source = (
        "from typing import Any\nfrom openenv_async import Environment\n"
        "class E(Environment[dict, dict, dict]):\n"
        "    def reset(self) -> dict: return {}\n"
        "    def step(self, action: dict) -> dict: return {}\n"
    )
    path = folder(tmp_path / "plain_env", environment=source)
    client, action = classes.classes_of_folder(path)
    assert client.__name__ == "PlainEnvEnv"
    assert action.__name__ == "Act"  # the manifest goes first


async def test_a_server_gives_schemas_of_which_classes_are_made() -> None:
    async with serve(My_guess2_environment) as url:
        client, action = await classes.classes_of_server(url, None)
        assert client.__name__ == "SchemaEnv"
        async with client(url) as env:
            assert (await env.reset()).observation.text == "begun"
            assert (await env.step(action(n=3))).observation.text == "got 3"
    with pytest.raises(ConnectFailed):
        await classes.classes_of_server(url, None)


def test_a_space_needs_the_library_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ProviderError, match="needs huggingface_hub: pip install"):
        classes.fetch_space("a/b")


def test_a_space_is_fetched_as_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    hub = ModuleType("huggingface_hub")

    def snapshot_download(name: str, repo_type: str) -> str:
        asked.append((name, repo_type))
        if name == "a/gone":
            raise OSError("not\n  there")
        return "/files"

    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert classes.fetch_space("a/b") == Path("/files")
    assert asked == [("a/b", "space")]
    with pytest.raises(ProviderError, match="the Space a/gone cannot be fetched: not there"):
        classes.fetch_space("a/gone")

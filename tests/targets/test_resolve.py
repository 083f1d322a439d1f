"""``resolve``: what each target is taken for, and what is refused, before anything runs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openenv_async import (
    EngineOptions,
    EnvClient,
    Environment,
    EnvPool,
    GenericEnvClient,
    HTTPEnvClient,
    SyncEnvClient,
    SyncEnvPool,
    connect,
    resolve,
)
from openenv_async.engine import Engine
from openenv_async.errors import InvalidOption, TargetNotFound, WrongTarget
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.process import ProcessProvider
from openenv_async.providers.space import SpaceProvider
from openenv_async.providers.static import StaticProvider
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.resolve import ResolvedTarget, environment_spec, is_environment
from openenv_async.targets.served import InProcessProvider
from tests.targets.environments import Move, Seen, Tiny, TinyEnv, TinyGym, make_tiny

pytest.importorskip("echo_env")
URL = "http://127.0.0.1:1"
TINY = "tests.targets.environments:Tiny"


def finder() -> list[str]:
    return [URL]


async def async_finder() -> list[str]:
    return [URL]


async def async_clients() -> Any:
    return GenericEnvClient(URL)


def make_gym() -> TinyGym:
    return TinyGym()


def unannotated():  # type: ignore[no-untyped-def]  # noqa: ANN201, RUF100  # it is to say nothing
    return GenericEnvClient(URL)


class Duck:
    def reset(self) -> Seen:
        return Seen(0)

    def step(self, action: Move) -> Seen:
        return Seen(1)


KINDS: list[tuple[Any, str]] = [
    (URL, "url"),
    ("wss://127.0.0.1/x", "url"),
    ([URL, "http://127.0.0.1:2"], "urls"),
    (((URL, "secret"),), "urls"),
    (iter([URL]), "urls"),
    (finder, "finder"),
    (async_finder, "finder"),
    (functools.partial(finder), "finder"),
    ("echo", "named"),
    ("Echo_Env", "named"),
    (TINY, "named"),
    ("CartPole-v1", "named"),
    (Path("environments/echo"), "named"),
    ("environments/echo", "named"),
    ("docker://openenv-async-echo", "image"),
    ("openenv-async-echo:latest", "image"),
    ("ghcr.io/owner/echo:1.0", "image"),
    ("localhost:5000/owner/echo", "image"),
    ("owner/space", "space"),
    (Tiny, "environment"),
    (Tiny(), "environment"),
    (functools.partial(Tiny, goal=3), "environment"),
    (make_tiny, "environment"),
    (make_gym, "environment"),
    (TinyGym, "environment"),
    (TinyGym(), "environment"),
    (Duck, "environment"),
    (EnvironmentSpec(Tiny), "environment"),
    (Engine(EnvironmentSpec(Tiny)), "engine"),
    (GenericEnvClient(URL), "client"),
    (TinyEnv(URL).sync(), "client"),
    (SyncEnvClient(URL), "client"),
    (HTTPEnvClient(URL), "client"),
    (functools.partial(TinyEnv, URL), "factory"),
    (lambda: GenericEnvClient(URL), "factory"),
    (unannotated, "factory"),
    (EnvPool(StaticProvider(URL)), "pool"),
    (SyncEnvPool(StaticProvider(URL)), "pool"),
    (StaticProvider(URL), "provider"),
    ([StaticProvider(URL), ProcessProvider("echo")], "provider"),
]


@pytest.mark.parametrize(
    ("given", "kind"), KINDS, ids=[f"{i}-{kind}" for i, (_, kind) in enumerate(KINDS)]
)
def test_the_kind_of_a_target(given: Any, kind: str) -> None:
    target = resolve(given)
    assert target.kind == kind
    assert resolve(target) == target
    assert target.starts_server == (kind in ("named", "image", "environment"))
    assert "secret" not in repr(target)


async def make_tiny_later() -> Tiny:
    return Tiny()


def make_any() -> Environment[Any, Any, Any]:
    return Tiny()


class Maker:
    """A factory that is an object."""

    def __call__(self) -> Tiny:
        return Tiny()


UNTYPED: Any = Tiny

WRONG: list[tuple[Any, type[Exception], str]] = [
    (5, WrongTarget, "give the URL of a server"),
    (None, WrongTarget, "an installed name, module:Class"),
    (True, WrongTarget, "give the URL"),
    ({}, WrongTarget, "give the URL"),
    ({"url": URL}, WrongTarget, "give the URL"),
    ([], WrongTarget, "was given no URL"),
    (object(), WrongTarget, "a pool or a provider"),
    (b"x", WrongTarget, "give the URL"),
    (asyncio, WrongTarget, "it is a module: name its class, such as asyncio.MyEnvironment"),
    (object, WrongTarget, "give the URL"),
    (TinyEnv, WrongTarget, r"functools.partial\(TinyEnv, url\)"),
    (ProcessProvider, WrongTarget, "an instance of the provider"),
    (EnvPool, WrongTarget, "an instance of the pool"),
    (connect(Tiny), WrongTarget, "it was not entered"),
    (async_clients, WrongTarget, "async_clients, which is async"),
    (lambda url: GenericEnvClient(url), WrongTarget, "cannot be called without arguments"),
    ([5], WrongTarget, "number 1 of the targets must be .* got 5"),
    ([(URL, 5)], WrongTarget, "number 1 of the targets must be a URL, or a pair"),
    ([[URL]], WrongTarget, "number 1 of the targets must be a URL, or a pair"),
    ([URL, Tiny], WrongTarget, "number 2 of the targets must be .* got the environment Tiny"),
    (contextlib.suppress(OSError), WrongTarget, "it was not entered: with"),
    (make_tiny_later, WrongTarget, "'make_tiny_later' is async"),
    (make_any, WrongTarget, "Environment, which the factory 'make_any' says it makes, is abstract"),
    (functools.partial(UNTYPED, gaol=2), InvalidOption, "unexpected keyword argument 'gaol'"),
    (["echo"], InvalidOption, "not a valid server address"),
    ("", TargetNotFound, "there is no environment"),
    ("  ", TargetNotFound, "there is no environment"),
    ("ehco", TargetNotFound, "did you mean echo"),
    ("localhost:8000", TargetNotFound, "write http://localhost:8000"),
    ("htp://x", TargetNotFound, "write http://x"),
    ("http://", InvalidOption, "write http://HOST:PORT"),
    ("./missing", TargetNotFound, "there is no folder './missing'"),
    (Path("missing"), TargetNotFound, "there is no folder './missing'"),
    (Path("no/such/folder"), TargetNotFound, "there is no folder './no/such/folder'"),
    ("/no/such/folder:latest", TargetNotFound, "there is no folder"),
    ("tests/targets", TargetNotFound, "has no openenv.yaml"),
    ("tests.targets.environments:Tyni", TargetNotFound, "did you mean Tiny"),
    ("tests.targets.nothing:Tiny", TargetNotFound, "no module 'tests.targets.nothing'"),
    ("nothing_here:Tiny", TargetNotFound, "no module 'nothing_here'"),
    ("echo:latest", TargetNotFound, "docker://echo:latest"),
    ("CartPole-v99", TargetNotFound, "CartPole"),
    ("docker://Not An Image", TargetNotFound, "docker://NAME:TAG"),
]


@pytest.mark.parametrize(
    ("given", "error", "message"), WRONG, ids=[f"{i}-{each[2]}" for i, each in enumerate(WRONG)]
)
def test_what_is_no_target_is_refused_with_the_remedy(
    given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve(given, entry="play()")


def test_a_factory_may_be_an_object_that_says_what_its_call_makes() -> None:
    assert resolve(Maker()).kind == "environment"


def test_one_pair_of_url_and_token_is_one_server() -> None:
    target = resolve((URL, "secret"))
    assert target.kind == "urls"
    assert target.given == [(URL, "secret")]
    assert resolve((URL, URL)).given == [URL, URL]


@pytest.mark.parametrize(
    "given",
    [
        ("secret", URL),
        [URL, "secret"],
        [("secret", URL)],
        [(URL, "secret", "x")],
        [[(URL, "secret")]],
        {URL: "secret"},
        [(URL, b"secret")],
    ],
)
def test_no_message_has_a_token_in_the_wrong_place(given: Any) -> None:
    with pytest.raises((WrongTarget, InvalidOption)) as caught:
        resolve(given)
    assert "secret" not in str(caught.value)


def test_the_label_of_an_address_has_no_password() -> None:
    target = resolve("http://user:secret@127.0.0.1:1/?key=secret")
    assert target.label == "the server at http://127.0.0.1:1/"
    assert "secret" not in repr(target)


def test_the_message_names_the_call() -> None:
    with pytest.raises(WrongTarget, match=r"^play\(\) cannot play on 5 \(int\)"):
        resolve(5, entry="play()")


def test_a_coroutine_is_closed_and_told() -> None:
    coroutine = async_clients()
    with pytest.raises(WrongTarget, match="it was not awaited"):
        resolve(coroutine)
    with pytest.raises(RuntimeError, match=r"already awaited|closed"):
        coroutine.send(None)


def test_naming_a_class_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "loud_module.py").write_text("import sys\nsys.exit(3)\n\nclass Loud: ...\n")
    code = (
        "import sys; from openenv_async import resolve; print(resolve('loud_module:Loud').kind);"
        " print('loud_module' in sys.modules, 'openenv_async.server' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    run = [sys.executable, "-c", code]
    said = subprocess.run(
        run, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["named", "False", "False"]


def test_names_that_reading_cannot_tell_are_left_to_the_process(tmp_path: Path) -> None:
    for name, text in {
        "star_module": "from os.path import *\n",
        "lazy_module": "def __getattr__(name): ...\n",
        "broken_module": "def (\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
        sys.path.insert(0, str(tmp_path))
        try:
            assert resolve(f"{name}:Anything").kind == "named"
        finally:
            sys.path.remove(str(tmp_path))


def test_params_belong_to_names_and_classes() -> None:
    assert resolve(Tiny, params={"goal": 5}).spec().build().goal == 5
    assert resolve(EnvironmentSpec(Tiny), params={"goal": 5}).spec().build().goal == 5
    assert resolve(TINY, params={"goal": 4}).spec().build().goal == 4
    assert resolve(functools.partial(Tiny, goal=3)).spec().build().goal == 3
    spec = EnvironmentSpec(Tiny)
    assert resolve(spec, params={}).given is spec
    given: Any
    for given in (URL, [URL], finder, "docker://x", "owner/space", GenericEnvClient(URL)):
        with pytest.raises(InvalidOption, match="takes no params"):
            resolve(given, params={"goal": 1})
    for given in (EnvPool(StaticProvider(URL)), StaticProvider(URL), Engine(EnvironmentSpec(Tiny))):
        with pytest.raises(InvalidOption, match="what runs has its arguments already"):
            resolve(given, params={"goal": 1})
    with pytest.raises(InvalidOption, match="did you mean 'goal'"):
        resolve(Tiny, params={"gaol": 1})
    with pytest.raises(TypeError, match="params must be a dict"):
        resolve(Tiny, params=[1])  # type: ignore[arg-type]  # the mistake


def make_clients() -> Any:
    return GenericEnvClient(URL)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([URL], "a list of 1 server"),
        ([URL, URL], "a list of 2 servers"),
        ([StaticProvider(URL), StaticProvider(URL)], "a list of 2 providers"),
        (finder, "the URL finder finder"),
        (make_clients, "the client factory make_clients"),
        (functools.partial(GenericEnvClient, URL), "the client factory partial"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_says_one_thing_of_several(given: Any, named: str) -> None:
    with pytest.raises(InvalidOption, match=f"^{named} takes no params"):
        resolve(given, params={"goal": 1})


def test_a_token_belongs_to_servers_that_run() -> None:
    given: Any
    for given in (URL, [URL], finder, GenericEnvClient(URL)):
        assert resolve(given, token="secret").token == "secret"
    for given in ("echo", Tiny, "docker://x", EnvPool(StaticProvider(URL)), StaticProvider(URL)):
        with pytest.raises(InvalidOption, match="takes no token"):
            resolve(given, token="secret")
    with pytest.raises(ValueError, match="token"):
        resolve(URL, token="two\nlines")


def test_each_kind_has_its_provider() -> None:
    kinds: list[tuple[Any, type]] = [
        (URL, StaticProvider),
        ([URL], StaticProvider),
        (finder, StaticProvider),
        (GenericEnvClient(URL), StaticProvider),
        (lambda: GenericEnvClient(URL), StaticProvider),
        ("echo", ProcessProvider),
        (TINY, ProcessProvider),
        ("docker://x", DockerProvider),
        ("owner/space", SpaceProvider),
        (Tiny, InProcessProvider),
    ]
    for given, cls in kinds:
        assert type(resolve(given).provider()) is cls
    given = StaticProvider(URL)
    assert resolve(given).provider() is given
    for other in (EnvPool(given), Engine(EnvironmentSpec(Tiny))):
        with pytest.raises(WrongTarget, match="no workers can be started"):
            resolve(other).provider()


def test_options_of_a_provider_reach_it() -> None:
    made = resolve("echo", params={"x": 1}).provider(max_sessions=3, arguments=["--step-timeout=5"])
    assert isinstance(made, ProcessProvider)
    assert made.params == {"x": 1}
    assert made._arguments == ["--step-timeout=5", "--max-sessions=3"]
    with pytest.raises(TypeError, match="nonsense"):
        resolve("echo").provider(nonsense=1)


def test_the_client_class_where_it_is_known() -> None:
    assert resolve(Tiny).client_class().model_types()[:2] == (Move, Seen)
    assert resolve("echo").client_class().__module__ == "echo_env.client"
    for given in (URL, TINY, "docker://x", [URL], "owner/space"):
        assert resolve(given).client_class() is GenericEnvClient


def test_an_environment_itself() -> None:
    assert resolve(Tiny).spec().cls is Tiny
    assert resolve(TINY).spec().cls is Tiny
    assert environment_spec(Tiny, entry="serve").cls is Tiny
    assert environment_spec(TINY, params={"goal": 9}, entry="serve").build().goal == 9
    spec = EnvironmentSpec(Tiny)
    assert environment_spec(spec, entry="serve") is spec
    assert environment_spec(spec, params={"goal": 9}, entry="serve").build().goal == 9
    assert environment_spec(Tiny, dict, entry="serve").types["action"] is dict
    elsewhere: list[Any] = [
        *(URL, [URL], "docker://x", "owner/space", GenericEnvClient(URL)),
        *(EnvPool(StaticProvider(URL)), StaticProvider(URL), Engine(EnvironmentSpec(Tiny))),
    ]
    for given in elsewhere:
        with pytest.raises(WrongTarget, match="serve needs an environment itself"):
            environment_spec(given, entry="serve")
    for wrong in (5, None, {}, object(), b"x", asyncio, lambda: Tiny()):
        with pytest.raises(WrongTarget):
            environment_spec(wrong, entry="serve")


def test_what_is_an_environment() -> None:
    given: Any
    for given in (Tiny, Tiny(), TinyGym, TinyGym(), Duck, Duck()):
        assert is_environment(given)
    for given in (5, object(), object, "echo", make_tiny):
        assert not is_environment(given)


def test_an_engine_has_no_server() -> None:
    target = resolve(Engine(EnvironmentSpec(Tiny), EngineOptions(max_sessions=2)))
    with pytest.raises(WrongTarget, match="has no server"):
        target.serve()


async def test_a_leased_client_is_refused() -> None:
    async with EnvPool(ProcessProvider(TINY)) as pool, pool.session() as leased:
        with pytest.raises(WrongTarget, match="give the pool itself"):
            resolve(leased)


def test_a_target_is_immutable_and_keeps_its_token_to_itself() -> None:
    target = resolve(URL, token="secret")
    assert isinstance(target, ResolvedTarget)
    with pytest.raises(AttributeError):
        target.token = "other"  # type: ignore[misc]  # it is frozen
    assert "secret" not in repr(target)
    assert issubclass(TinyEnv, EnvClient)


def test_a_class_of_a_package_without_an_init_file_is_found_unimported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Look for it as a fresh process does: nothing of the namespace is among the loaded modules."""
    (tmp_path / "spread_out" / "deep").mkdir(parents=True)
    (tmp_path / "spread_out" / "deep" / "games.py").write_text("class Game: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("spread_out.deep.games:Game").kind == "named"
    assert "spread_out" not in sys.modules
    with pytest.raises(TargetNotFound, match="did you mean Game"):
        resolve("spread_out.deep.games:Gam")

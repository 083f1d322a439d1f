"""Which Engine is found: the docker command's, whatever names it; and what is said of it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from click.testing import CliRunner

from openenv_async.cli import main
from openenv_async.cli.doctor import findings
from openenv_async.errors import ProviderError
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.address import EngineTls, find_engine
from openenv_async.providers.docker.calls import EngineError
from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.docker.stream import opened
from tests.providers.engines import require_engine

VARIABLES = (
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"),
    *("DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"),
)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without settings of docker's, and no variable of them."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def write_context(config: Path, name: str, host: str, **more: Any) -> Path:
    """A context as `docker context create` writes it; its folder for certificates."""
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = config / "contexts" / "meta" / key
    meta.mkdir(parents=True)
    endpoint = {"Host": host, "SkipTLSVerify": False, **more}
    text = json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}})
    (meta / "meta.json").write_text(text)
    return config / "contexts" / "tls" / key / "docker"


def choose(config: Path, name: str) -> None:
    config.mkdir(exist_ok=True)
    (config / "config.json").write_text(json.dumps({"currentContext": name}))


@pytest.mark.skipif(
    shutil.which("docker") is None and not os.environ.get("CI"), reason="no docker command"
)
def test_the_order_is_that_of_the_docker_command(home: Path, tmp_path: Path) -> None:
    own, elsewhere = home / ".docker", tmp_path / "config"
    for folder in (own, elsewhere):
        choose(folder, "chosen")
        for name in ("chosen", "named"):
            write_context(folder, name, f"unix:///{folder.name}/{name}.sock")
    variables = {
        "DOCKER_HOST": ("unix:///host.sock", ""),
        "DOCKER_CONTEXT": ("named", "default", ""),
        "DOCKER_CONFIG": (str(elsewhere), ""),
    }
    compared = 0
    for values in itertools.product(*((None, *each) for each in variables.values())):
        environ = {k: v for k, v in zip(variables, values, strict=True) if v is not None}
        found = find_engine(environ=environ)
        done = subprocess.run(
            ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"],
            env={"PATH": os.environ["PATH"], "HOME": str(home), **environ},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.url == done.stdout.strip(), environ
        compared += 1
    assert compared == 3 * 4 * 3


@pytest.mark.parametrize(
    ("environ", "current", "url", "chosen_by"),
    [
        ({"DOCKER_HOST": "unix:///a.sock"}, "other", "unix:///a.sock", "named by DOCKER_HOST"),
        ({"DOCKER_HOST": "box:7"}, "", "tcp://box:7", "named by DOCKER_HOST"),
        ({"DOCKER_HOST": "tcp://box"}, "", "tcp://box:2375", "named by DOCKER_HOST"),
        ({"DOCKER_HOST": "tcp://[::1]"}, "", "tcp://[::1]:2375", "named by DOCKER_HOST"),
        ({"DOCKER_HOST": "unix://"}, "", "unix:///var/run/docker.sock", "named by DOCKER_HOST"),
        ({"DOCKER_CONTEXT": "other"}, "", "unix:///b.sock", "other, named by DOCKER_CONTEXT"),
        ({}, "other", "unix:///b.sock", "the current context other of "),
        ({}, "default", "unix:///var/run/docker.sock", "the default"),
        ({}, "", "unix:///var/run/docker.sock", "the default"),
    ],
)
def test_it_says_what_named_the_engine(
    home: Path, environ: dict[str, str], current: str, url: str, chosen_by: str
) -> None:
    write_context(home / ".docker", "other", "unix:///b.sock")
    choose(home / ".docker", current)
    found = find_engine(environ=environ)
    assert found.url == url
    assert chosen_by in found.chosen_by
    assert str(found).startswith(f"{url} (")
    asked = find_engine("unix:///c.sock", environ)
    assert (asked.url, asked.chosen_by) == ("unix:///c.sock", "as asked for")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"DOCKER_CONTEXT": "gone"}, "the context gone, named by DOCKER_CONTEXT, does not exist"),
        ({"DOCKER_HOST": "ftp://x"}, "ftp://x.*named by DOCKER_HOST.*unix://"),
        ({"DOCKER_CONTEXT": "empty"}, "empty, named by DOCKER_CONTEXT, names no Docker Engine"),
        ({"DOCKER_CONTEXT": "broken"}, "meta.json cannot be read"),
    ],
)
def test_what_names_no_engine_is_told(home: Path, environ: dict[str, str], message: str) -> None:
    write_context(home / ".docker", "empty", "")
    folder = write_context(home / ".docker", "broken", "unix:///x")
    (home / ".docker/contexts/meta" / folder.parent.name / "meta.json").write_text("{")
    with pytest.raises(EngineError, match=message):
        find_engine(environ=environ)


def test_a_broken_configuration_is_told(home: Path) -> None:
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text("{nonsense")
    with pytest.raises(EngineError, match=r"config\.json cannot be read.*DOCKER_HOST"):
        find_engine()
    choose(home / ".docker", "gone")
    with pytest.raises(EngineError, match=r"the current context gone of .* does not exist"):
        find_engine()
    assert find_engine(environ={"DOCKER_HOST": "unix:///a"}).url == "unix:///a"


def test_certificates_are_those_of_the_variables_or_of_the_context(
    home: Path, tmp_path: Path
) -> None:
    files = ("ca.pem", "cert.pem", "key.pem")
    for name in files:
        (tmp_path / name).write_text("")
    of_variables = {"DOCKER_HOST": "tcp://box", "DOCKER_CERT_PATH": str(tmp_path)}
    assert find_engine(environ=of_variables).tls is None
    verified = find_engine(environ={**of_variables, "DOCKER_TLS_VERIFY": "1"})
    assert verified.tls == EngineTls(*(str(tmp_path / name) for name in files))  # type: ignore[arg-type]  # three paths
    assert (verified.url, verified.http_url) == ("tcp://box:2376", "https://box:2376")
    unverified = find_engine(environ={**of_variables, "DOCKER_TLS": "1"})
    assert unverified.tls is not None
    assert not unverified.tls.verify
    folder = write_context(home / ".docker", "safe", "tcp://box:1")
    folder.mkdir(parents=True)
    (folder / "ca.pem").write_text("")
    safe = find_engine(environ={"DOCKER_CONTEXT": "safe", "DOCKER_TLS_VERIFY": "1"})
    assert safe.tls == EngineTls(str(folder / "ca.pem"), verify=True)
    write_context(home / ".docker", "loose", "tcp://box:1", SkipTLSVerify=True)
    assert find_engine(environ={"DOCKER_CONTEXT": "loose"}).tls == EngineTls(verify=False)
    write_context(home / ".docker", "plain", "tcp://box:1")
    plain = find_engine(environ={"DOCKER_CONTEXT": "plain", "DOCKER_TLS_VERIFY": "1"})
    assert (plain.tls, plain.http_url) == (None, "http://box:1")


class FakeEngine:
    """An Engine that knows its version and nothing else, and counts who asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.path.endswith("/version"):
            return web.json_response({"Version": "77.7", "ApiVersion": "1.41"})
        return web.json_response([])

    async def start(self, path: Path | None = None, context: ssl.SSLContext | None = None) -> Any:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        if path is not None:
            await web.UnixSite(self.runner, str(path)).start()
            return None
        site = web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        return self.runner.addresses[0][1]


async def test_every_part_asks_the_engine_of_the_current_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With DOCKER_CONFIG, which aiodocker does not read, and with DOCKER_HOST before contexts."""
    engine, other = FakeEngine(), FakeEngine()
    await engine.start(tmp_path / "engine.sock")
    await other.start(tmp_path / "other.sock")
    url = f"unix://{tmp_path}/engine.sock"
    config = tmp_path / "config"
    choose(config, "mine")
    write_context(config, "mine", url)
    write_context(config, "other", f"unix://{tmp_path}/other.sock")
    try:
        for variables in (
            {"DOCKER_CONFIG": str(config)},
            {"DOCKER_CONFIG": str(config), "DOCKER_CONTEXT": "other", "DOCKER_HOST": url},
        ):
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            before = len(engine.asked)
            found = DockerClient(None, max_calls=1, redact=str)
            assert await found.containers("x") == []
            await found.aclose()
            async with opened() as docker:
                assert (await docker.version())["Version"] == "77.7"
            provider = DockerProvider("x", pull_policy="never")
            at = provider._attach()
            assert at.engine.url == url
            await provider.aclose()
            cli = [sys.executable, "-m", "openenv_async.cli"]
            for command in (["ps"], ["gc", "--dry-run"], ["list"], ["doctor"]):
                process = await asyncio.create_subprocess_exec(
                    *cli, *command, stdout=subprocess.PIPE, env={**os.environ, "COLUMNS": "200"}
                )
                said = (await process.communicate())[0].decode()
                if command == ["doctor"]:
                    assert "77.7" in said
                    assert url in said
            assert len(engine.asked) - before >= 7
        assert other.asked == []
    finally:
        await engine.runner.cleanup()
        await other.runner.cleanup()


async def test_an_engine_of_a_context_with_certificates_is_asked(home: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    engine = FakeEngine()
    port = await engine.start(context=context)
    folder = write_context(home / ".docker", "safe", f"tcp://127.0.0.1:{port}")
    choose(home / ".docker", "safe")
    folder.mkdir(parents=True)
    client = authority.issue_cert("client")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    client.private_key_pem.write_to_path(folder / "key.pem")
    try:
        found = DockerClient(None, max_calls=1, redact=str)
        assert await found.containers("x") == []
        await found.aclose()
    finally:
        await engine.runner.cleanup()


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("DOCKER_HOST", "unix:///missing/e.sock", "correct or unset DOCKER_HOST"),
        ("DOCKER_CONTEXT", "away", "correct or unset DOCKER_CONTEXT"),
        (None, "away", "docker context use"),
    ],
)
async def test_no_answer_names_the_address_and_what_chose_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, value: str, remedy: str
) -> None:
    write_context(home / ".docker", "away", "unix:///missing/e.sock")
    if variable is None:
        choose(home / ".docker", value)
    else:
        monkeypatch.setenv(variable, value)
    engine = DockerClient(None, max_calls=1, redact=str)
    with pytest.raises(EngineError, match=f"unix:///missing/e.sock .*{remedy}"):
        await engine.containers("x")
    await engine.aclose()
    with pytest.raises(ProviderError, match=f"unix:///missing/e.sock .*{remedy}"):
        async with opened() as docker:
            await docker.version()


def test_doctor_and_ps_say_which_engine_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///missing/e.sock")
    looked = {each.name: each for each in findings()}["Docker Engine"]
    assert looked.status == "warn"
    assert (
        looked.found == "no Docker Engine answers at unix:///missing/e.sock (named by DOCKER_HOST)"
    )
    assert looked.remedy.startswith("start it, or correct or unset DOCKER_HOST; without it")
    failed = CliRunner().invoke(main, ["ps"])
    assert failed.exit_code != 0
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    monkeypatch.delenv("DOCKER_HOST")
    looked = {each.name: each for each in findings()}["Docker Engine"]
    assert "context gone, named by DOCKER_CONTEXT" in looked.found


async def test_a_socket_that_this_user_may_not_use_is_told(tmp_path: Path) -> None:
    address = find_engine(f"unix://{tmp_path}/e.sock")
    words = address.no_answer(PermissionError(13, "Permission denied"))
    assert words.startswith("this user may not use the Docker Engine at unix://")
    assert "group" in words


@pytest.mark.docker
def test_the_default_is_the_docker_commands(home: Path) -> None:
    require_engine()
    shown = subprocess.run(
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert find_engine().url == shown.stdout.strip()

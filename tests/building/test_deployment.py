"""The files of each kind of deployment, checked by the tools that will read them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from openenv_async import serve
from openenv_async.building.deployment import (
    KINDS,
    SETTINGS,
    deployment_files,
    write_deployment,
)
from openenv_async.errors import InvalidOption
from openenv_async.gateway.engines import Engines
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.metrics import gateway_text
from tests.helpers import Counter

OWN = {"name": "coding-env", "target": "coding", "image": "registry.example:5000/coding:1.4"}


def program(*names: str) -> str:
    """The path of the first program of these that is there; skips without, but for the checks."""
    for name in names:
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        if found:
            return found
    missing = f"{' or '.join(names)} is not installed"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def checked_by(*command: str, cwd: Path | None = None) -> str:
    """What a program says of a file that it finds nothing wrong with."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def manifests(**settings: str) -> Iterator[dict[str, Any]]:
    for text in deployment_files("kubernetes", settings).values():
        yield from yaml.safe_load_all(text)


def manifest(kind: str, **settings: str) -> dict[str, Any]:
    [found] = [each for each in manifests(**settings) if each["kind"] == kind]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_is_filled_in(kind: str) -> None:
    files = deployment_files(kind, OWN)
    assert files
    for name, text in files.items():
        assert "{{" not in name
        assert kind == "grafana" or not re.search(r"\{\{\w+\}\}", text)  # its legends have words
        assert text.endswith("\n")


def test_each_deployment_has_a_token_of_its_own() -> None:
    first, second = (deployment_files("kubernetes")["secret.yaml"] for _ in range(2))
    assert first != second
    assert len(yaml.safe_load(first)["stringData"]["token"]) > 40


@pytest.mark.parametrize("kubernetes", ["1.28", "1.34"])
@pytest.mark.parametrize("settings", [{}, {**OWN, "replicas": "5", "cpus": "0.5"}])
def test_the_manifests_are_what_kubernetes_takes(kubernetes: str, settings: dict[str, str]) -> None:
    found = list(manifests(**settings))
    for each in found:
        kubernetes_validate.validate(each, kubernetes, strict=True)
    kinds = [each["kind"] for each in found]
    assert sorted(kinds) == ["Deployment", "PodDisruptionBudget", "Secret", "Service", "Service"]
    name = settings.get("name", "openenv")
    for each in found:
        selector = each["spec"].get("selector", {}) if "spec" in each else {}
        chosen = selector.get("matchLabels", selector)
        assert chosen in ({}, {"app.kubernetes.io/name": name})


def test_the_pods_time_to_end_is_longer_than_the_drain() -> None:
    pod = manifest("Deployment", drain="600")["spec"]["template"]["spec"]
    [server] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > 600
    assert "--seconds=600" in server["lifecycle"]["preStop"]["exec"]["command"]
    assert "--drain=600" in server["args"]


def test_the_pod_may_do_little_and_is_probed_without_a_token() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    [server] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert server["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert server["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    [variable] = server["env"]
    assert variable["valueFrom"]["secretKeyRef"]["name"] == manifest("Secret")["metadata"]["name"]


def test_the_unit_is_one_of_systemd(tmp_path: Path) -> None:
    write_deployment("systemd", tmp_path, {"program": shutil.which("true") or "", "drain": "60"})
    unit = tmp_path / "openenv.service"
    analyze = program("systemd-analyze")
    assert checked_by(analyze, "verify", str(unit)) == ""
    text = unit.read_text()
    assert "KillMode=mixed" in text
    assert "TimeoutStopSec=90" in text
    # Exposure, from 0 to 10, in tenths: below 2 is "OK" with everything that a server needs.
    checked_by(analyze, "security", "--offline=true", "--threshold=20", str(unit))
    unit.write_text(text.replace("KillMode=mixed", "KillMode=some"))
    assert "kill mode" in checked_by(analyze, "verify", str(unit))


def test_the_compose_file_is_one(tmp_path: Path) -> None:
    write_deployment("compose", tmp_path, OWN)
    compose = program("docker-compose")
    found = yaml.safe_load(checked_by(compose, "-f", "compose.yaml", "config", cwd=tmp_path))
    [service] = found["services"].values()
    assert service["image"] == OWN["image"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert (tmp_path / "token.txt").read_text().strip()


async def exported() -> set[str]:
    """The names of all series that a server and a gateway export."""
    async with (
        serve(Counter) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/metrics") as reply,
    ):
        families = [*text_string_to_metric_families(await reply.text())]
    async with Gateway(Engines("http://127.0.0.1:1")) as gateway:
        text, _ = gateway_text(gateway.stats())
    families += text_string_to_metric_families(text.decode())
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {family.name + suffix for family in families for suffix in kinds.get(family.type, ("",))}


def named(expression: str) -> set[str]:
    return set(re.findall(r"\bopenenv_\w+", expression))


async def test_the_alerts_are_rules_about_metrics_that_there_are(tmp_path: Path) -> None:
    promtool = program("promtool")
    write_deployment("prometheus", tmp_path)
    (tmp_path / "token.txt").write_text("sesame\n")
    checked_by(promtool, "check", "config", "prometheus.yml", cwd=tmp_path)
    rules = yaml.safe_load((tmp_path / "openenv.rules.yml").read_text())["groups"][0]["rules"]
    names = set().union(*(named(rule["expr"]) for rule in rules))
    assert len(names) >= 8
    assert names <= await exported()
    (tmp_path / "test.yml").write_text(yaml.safe_dump(ALERTS))
    checked_by(promtool, "test", "rules", "test.yml", cwd=tmp_path)


def alert(said: str, severity: str = "warning", between: str = "", **labels: str) -> dict[str, Any]:
    """An alert about the server ``a``, as promtool expects it."""
    between = between or (" " if labels else ": ")
    return {
        "exp_labels": {"instance": "a", "severity": severity, **labels},
        "exp_annotations": {"summary": f"a{between}{said}"},
    }


FIRED: list[tuple[str, str, list[dict[str, Any]]]] = [
    ("29m", "OpenEnvDown", []),
    ("33m", "OpenEnvDown", [alert("does not answer", "critical", job="openenv")]),
    ("15m", "OpenEnvSaturated", []),
    ("30m", "OpenEnvSaturated", [alert("95% of the sessions are taken")]),
    ("15m", "OpenEnvQueueWait", []),
    ("25m", "OpenEnvQueueWait", [alert("a session has waited 40s for capacity")]),
    ("4m", "OpenEnvErrors", []),
    ("20m", "OpenEnvErrors", [alert("10% of the steps fail")]),
    ("20m", "OpenEnvEngineFails", []),
    ("30m", "OpenEnvEngineFails", [alert("the engine e fails", between=": ", engine="e")]),
    ("4m", "OpenEnvSamplesFail", []),
    ("20m", "OpenEnvSamplesFail", [alert("20% of the samples fail")]),
]
ALERTS: dict[str, Any] = {
    "rule_files": ["openenv.rules.yml"],
    "evaluation_interval": "1m",
    "tests": [
        {
            "interval": "1m",
            "input_series": [
                {"series": f'{name}{{instance="a"{more}}}', "values": values}
                for name, more, values in (
                    ("up", ',job="openenv"', "1x30 0x10"),
                    ("openenv_sessions", ',state="active"', "10x15 95x25"),
                    ("openenv_sessions_limit", "", "100x40"),
                    ("openenv_steps_total", "", "0+60x40"),
                    ("openenv_errors_total", ',code="environment_raised"', "0+6x40"),
                    ("openenv_errors_total", ',code="invalid_action"', "0+60x40"),
                    ("openenv_queue_longest_wait_seconds", "", "0x20 40x20"),
                    ("openenv_gateway_engine_failing", ',engine="e"', "0x20 1x20"),
                    ("openenv_gateway_samples_total", "", "0+10x40"),
                    ("openenv_gateway_failures_total", "", "0+2x40"),
                )
            ],
            "alert_rule_test": [
                {"eval_time": when, "alertname": name, "exp_alerts": fired}
                for when, name, fired in FIRED
            ],
        }
    ],
}


async def test_the_dashboard_asks_for_metrics_that_there_are(tmp_path: Path) -> None:
    write_deployment("grafana", tmp_path)
    dashboard = json.loads((tmp_path / "openenv.dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [each["query"] for each in dashboard["templating"]["list"]]
    there = await exported()
    assert len(asked) >= 12
    for expression in [*asked, *variables[1:]]:
        assert named(expression)
        assert named(expression) <= there, expression
    # Prometheus parses each: as rules, with a value in the place of the variable.
    rules = [
        {"record": f"checked:{number}", "expr": expression.replace("$instance", ".*")}
        for number, expression in enumerate(asked)
    ]
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]})
    )
    checked_by(program("promtool"), "check", "rules", "rules.yml", cwd=tmp_path)


def test_nothing_is_overwritten_and_the_folder_is_the_owners(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "compose"
    files = write_deployment("compose", folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = {path: path.read_text() for path in files}
    with pytest.raises(InvalidOption, match="exists already: take another folder"):
        write_deployment("compose", folder)
    assert {path: path.read_text() for path in files} == kept
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOption, match="cannot be made"):
        write_deployment("compose", tmp_path / "file")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prefx": "/a"}, "did you mean prefix?"),
        ({"prefix": "a"}, "a path such as /envs"),
        ({"prefix": "/a/"}, "a path such as /envs"),
        ({"name": "Coding"}, "lower case letters"),
        ({"port": "0"}, "a whole number from 1 to 65535"),
        ({"drain": "1.5"}, "a whole number"),
        ({"cpus": "nan"}, "a number from 0.1"),
        ({"target": "a b"}, "one word without quotes"),
        ({"image": 'a"'}, "one word without quotes"),
        ({"server_name": "a;b"}, "a host name"),
    ],
)
def test_what_cannot_be_in_a_file_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidOption, match=said.replace("?", r"\?")):
        deployment_files("nginx", settings)


def test_there_is_no_other_kind() -> None:
    with pytest.raises(InvalidOption, match="there are nginx, caddy"):
        deployment_files("heroku")


def test_every_setting_is_in_some_file() -> None:
    unlike = {
        "port": "8077", "listen": "8078", "drain": "77", "replicas": "77", "memory_mib": "7700",
        "cpus": "7.5", "prefix": "/odd", "name": "odd", "host": "odd.example",
    }  # fmt: skip
    usual = {kind: _without_token(kind, {}) for kind in KINDS}
    for name in SETTINGS:
        changed = {kind: _without_token(kind, {name: unlike.get(name, "odd")}) for kind in KINDS}
        assert changed != usual, name


def _without_token(kind: str, settings: dict[str, str]) -> str:
    files = deployment_files(kind, settings)
    secret = ("token.txt", "secret.yaml")
    return json.dumps({name: text for name, text in files.items() if name not in secret})

"""Pods as workers, at an API server that is a fake: see ``fake_kubernetes``."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from openenv_async import GenericEnvClient
from openenv_async.errors import DeadlineExceeded, ProviderError, WorkerStartFailed
from openenv_async.pool import EnvPool
from openenv_async.providers.kubernetes import GROUP_LABEL, KubernetesProvider, pod_body
from openenv_async.rollouts import collect
from tests.helpers import until
from tests.providers.fake_kubernetes import PORT, FakeCluster


@pytest.fixture
async def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
async def config(cluster: FakeCluster, tmp_path: Path) -> AsyncIterator[str]:
    async with cluster.running(tmp_path) as path:
        yield path


def provider(config: str, **settings: Any) -> KubernetesProvider:
    image = None if "claim" in settings else "echo-env:1"
    return KubernetesProvider(image, config_file=config, port=PORT, **settings)


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    container = {"name": "server", "image": "echo-env:1", "imageID": "", "ready": False}
    return {
        "phase": "Pending",
        "containerStatuses": [{**container, "restartCount": 0, "state": state}],
    }


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason}}
    container = {"name": "server", "image": "echo-env:1", "imageID": "", "ready": False}
    return {
        "phase": "Failed",
        "containerStatuses": [{**container, "restartCount": 0, "state": state}],
    }


async def test_a_pod_is_made_played_on_and_deleted(cluster: FakeCluster, config: str) -> None:
    async with provider(config, env={"A": "b"}) as pods:
        worker = await pods.start()
        [pod] = cluster.pods.values()
        assert pod["metadata"]["name"] == worker.name
        assert pod["spec"]["activeDeadlineSeconds"] == 86_400
        async with GenericEnvClient(worker.url, token=worker.token) as env:
            await env.reset()
        await worker.aclose()
        await worker.aclose()
        assert cluster.pods == {}


async def test_a_pool_plays_on_pods(cluster: FakeCluster, config: str) -> None:
    async with EnvPool(provider(config), min_workers=2, max_workers=2) as pool:
        stream = collect(pool, lambda _: {}, episodes=20, concurrency=4, max_steps=3)
        outcomes = [outcome async for outcome in stream]
        assert len(cluster.pods) == 2
    assert sum(outcome.status.usable for outcome in outcomes) == 20
    assert cluster.pods == {}


async def test_pods_are_claimed_once_and_given_back(cluster: FakeCluster, config: str) -> None:
    for number in range(2):
        body = pod_body(f"warm-{number}", "echo-env:1", "shared", labels={"app": "warm"})
        cluster.add(body)
    await until(lambda: all("podIP" in pod["status"] for pod in cluster.pods.values()))
    settings = {"claim": "app=warm", "token": "shared"}
    async with provider(config, **settings) as one, provider(config, **settings) as other:
        first, second = await asyncio.gather(one.start(), other.start())
        assert {first.name, second.name} == {"warm-0", "warm-1"}
        with pytest.raises(
            ProviderError, match="no pod with the labels app=warm is ready and free"
        ):
            await one.start()
        async with GenericEnvClient(first.url, token="shared") as env:
            await env.reset()
        await first.aclose()
        third = await other.start()
        assert third.name == first.name
    assert set(cluster.pods) == {"warm-0", "warm-1"}  # they are somebody else's
    assert all(GROUP_LABEL not in pod["metadata"]["labels"] for pod in cluster.pods.values())


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (waiting("ImagePullBackOff", "Back-off pulling image"), "ImagePullBackOff of the image"),
        (waiting("CreateContainerConfigError", 'secret "x" not found'), 'secret "x" not found'),
        (ended(3), "its container exited with code 3"),
        (ended(137, "OOMKilled"), r"for its use of memory \(limit 1Gi\)"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "Evicted low on disk"),
    ],
)
async def test_a_pod_that_cannot_run_says_why(
    cluster: FakeCluster, config: str, status: dict[str, Any], said: str
) -> None:
    def fail(pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        cluster.logs[name] = "no module named game\n"
        event = {"reason": "Failed", "message": "pulling  failed", "type": "Warning"}
        about = {"metadata": {"name": "e"}, "involvedObject": {"name": name}}
        cluster.events.append({**event, **about})
        cluster.set_status(name, status)

    cluster.plan = fail
    async with provider(config) as pods:
        with pytest.raises(WorkerStartFailed, match=said) as caught:
            await pods.start()
        assert "its events: Failed: pulling failed" in caught.value.message
        assert "no module named game" in caught.value.message
        assert cluster.pods == {}


async def test_a_pod_that_is_not_ready_in_time_says_what_it_waits_for(
    cluster: FakeCluster, config: str
) -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient memory.",
    }
    cluster.plan = lambda pod: cluster.set_status(
        pod["metadata"]["name"], {"phase": "Pending", "conditions": [condition]}
    )
    async with provider(config) as pods:
        with pytest.raises(
            DeadlineExceeded, match=r"within 0\.5 s: it is Pending; Unsched.*3 Insuff"
        ):
            await pods.start(timeout=0.5)
        assert cluster.pods == {}


async def test_the_end_of_a_pod_is_told(cluster: FakeCluster, config: str) -> None:
    async with provider(config) as pods:
        first, second = await asyncio.gather(pods.start(), pods.start())
        cluster.logs[first.name] = "Killed\n"
        cluster.set_status(first.name, ended(137, "OOMKilled"))
        told = await asyncio.wait_for(first.exited, 5)
        assert (told.exit_code, told.oom, told.log_tail) == (137, True, "Killed\n")
        cluster.remove(second.name)
        told = await asyncio.wait_for(second.exited, 5)
        assert told.reason == "its pod was deleted by somebody else"


async def test_a_watch_that_ends_is_begun_again(cluster: FakeCluster, config: str) -> None:
    async with provider(config) as pods:
        worker = await pods.start()
        cluster.end_watches()
        cluster.set_status(worker.name, ended(1))
        assert (await asyncio.wait_for(worker.exited, 5)).exit_code == 1


async def test_a_cancelled_start_leaves_no_pod(cluster: FakeCluster, config: str) -> None:
    cluster.plan = lambda pod: None
    async with provider(config) as pods:
        starting = asyncio.create_task(pods.start())
        await until(lambda: cluster.pods)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert cluster.pods == {}


async def test_a_pod_whose_answer_was_lost_is_deleted(cluster: FakeCluster, config: str) -> None:
    cluster.lose_answers = True
    async with provider(config) as pods:
        with pytest.raises(
            ProviderError, match=r"no Kubernetes API answers at http://127\.0\.0\.1"
        ):
            await pods.start()
        assert cluster.pods == {}


async def test_what_the_account_may_not_is_said(cluster: FakeCluster, config: str) -> None:
    cluster.refuse = 403
    async with provider(config) as pods:
        with pytest.raises(ProviderError, match=r"refuses to list pods in default: 403.*may not"):
            await pods.start()


async def test_pods_left_by_others_are_removed_once_they_have_ended(
    cluster: FakeCluster, config: str
) -> None:
    cluster.plan = lambda pod: None
    old = {"terminated": {"exitCode": 0, "finishedAt": "2020-01-01T00:00:00Z"}}
    container = {"name": "server", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    for name in ("ended", "runs"):
        cluster.add(pod_body(name, "i", "t", labels={"openenv-async/made": "true"}))
    status = {"phase": "Succeeded", "containerStatuses": [{**container, "state": old}]}
    cluster.set_status("ended", status)
    await cluster_started(cluster, config)
    assert set(cluster.pods) == {"runs"}


async def cluster_started(cluster: FakeCluster, config: str) -> None:
    async with provider(config) as pods:
        cluster.plan = cluster.run
        await pods.start()


async def test_the_leases_of_its_pods_are_renewed(cluster: FakeCluster, config: str) -> None:
    async with provider(config, owner_lease=0.3) as pods:
        worker = await pods.start()
        asked: list[str] = []
        renew = pods._renew_one

        async def counted(http: Any, worker: Any) -> None:
            asked.append(worker.name)
            await renew(http, worker)

        pods._renew_one = counted  # type: ignore[method-assign]
        await until(lambda: len(asked) >= 2, 5.0)
        assert set(asked) == {worker.name}


@pytest.mark.parametrize("kubernetes", ["1.28", "1.34"])
def test_a_pod_with_every_setting_is_what_kubernetes_takes(kubernetes: str) -> None:
    body = pod_body(
        "openenv-1",
        "registry.example/echo:1",
        "sesame",
        labels={"team": "a"},
        command=["openenv-async", "serve", "echo"],
        env={"A": "1"},
        cpus=0.25,
        memory="512Mi",
        pull_secrets=["registry"],
        node_selector={"disk": "ssd"},
    )
    kubernetes_validate.validate(body, kubernetes, strict=True)
    assert body["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "250m"


def test_a_provider_travels_as_its_settings() -> None:
    made = KubernetesProvider("echo-env:1", namespace="envs", cpus=2)
    again = pickle.loads(pickle.dumps(made))
    assert (again.image, again.namespace, again._pod) == ("echo-env:1", "envs", made._pod)
    assert again._group != made._group


def test_wrong_settings_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not both"):
        KubernetesProvider()
    with pytest.raises(ValueError, match="are positive"):
        KubernetesProvider("echo-env:1", lifetime=0)
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'openenv-async\[kubernetes\]'"):
        KubernetesProvider("echo-env:1")


async def test_without_a_configuration_that_is_said(tmp_path: Path) -> None:
    async with KubernetesProvider("echo-env:1", config_file=str(tmp_path / "none")) as pods:
        with pytest.raises(ProviderError, match="no configuration of a Kubernetes cluster"):
            await pods.start()

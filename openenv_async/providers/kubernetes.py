"""KubernetesProvider: a pod per worker, made by it or claimed by a label.

Rules:

- A pod is named before it is asked for, so that one whose answer was lost, or whose start was
  cancelled, is found by its name and deleted.
- All pods of a provider have its label, those that it claimed as well; one watch of that label
  tells how they are. A watch that breaks is begun again.
- Pods that it made are deleted, those that it claimed are given back. A pod whose owner is gone
  ends by its server's lease, at the latest by ``activeDeadlineSeconds``; the next provider deletes
  it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

from openenv_async.deadlines import wait_uncancelled
from openenv_async.endpoints.tokens import TOKEN_VARIABLE
from openenv_async.errors import (
    DeadlineExceeded,
    OpenEnvError,
    ProviderError,
    WorkerStartFailed,
)
from openenv_async.providers.base import Provider, Worker, WorkerExit, with_log_tail

__all__ = ["GROUP_LABEL", "KubernetesProvider", "KubernetesWorker", "pod_body"]

log = logging.getLogger("openenv_async.providers.kubernetes")

GROUP_LABEL: Final = "openenv-async/provider"
"""Label of every pod of a provider: its id."""
_MADE_LABEL: Final = "openenv-async/made"
_LEASE_VARIABLE: Final = "OPENENV_OWNER_LEASE"
_CALL_TIMEOUT: Final = 15.0
_WATCH_SECONDS: Final = 60
_PAUSE: Final = 1.0
_LEFT_AFTER: Final = 600.0
"""Seconds after its end for which a pod of another owner is left alone."""
_LOG_LINES: Final = 50
_EVENTS: Final = 3
_MISSING: Final = 404
_CONFLICT: Final = 409
_GRACE: Final = 2
"""Seconds that the kubelet gives a pod that is deleted: its sessions are closed already."""
_HOPELESS: Final = frozenset(
    {
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Reasons of a container that waits for what nobody will bring."""


def pod_body(
    name: str,
    image: str,
    token: str,
    *,
    labels: Mapping[str, str],
    port: int = 8000,
    command: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    cpus: float = 1.0,
    memory: str = "1Gi",
    lifetime: float = 86_400.0,
    owner_lease: float = 60.0,
    pull_secrets: Sequence[str] = (),
    node_selector: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a pod, as Kubernetes' API takes it; the arguments are the provider's.

    Args:
        name: of the pod.
        image: of its container.
        token: that its server asks for.
        labels: all of them.
    """
    variables = {**(env or {}), TOKEN_VARIABLE: token, _LEASE_VARIABLE: f"{owner_lease:g}"}
    container: dict[str, Any] = {
        "name": "server",
        "image": image,
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": "http"},
            "periodSeconds": 1,
            "failureThreshold": 2,
        },
        "resources": {
            "requests": {"cpu": f"{cpus * 1000:.0f}m", "memory": memory},
            "limits": {"cpu": f"{cpus * 1000:.0f}m", "memory": memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    if command is not None:
        container["args"] = list(command)  # the image's entry point passes signals on
    spec: dict[str, Any] = {
        "containers": [container],
        "restartPolicy": "Never",  # its sessions are gone with it: a pool starts another
        "activeDeadlineSeconds": max(1, int(lifetime)),
        "terminationGracePeriodSeconds": 30,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}}],
    }
    if pull_secrets:
        spec["imagePullSecrets"] = [{"name": each} for each in pull_secrets]
    if node_selector:
        spec["nodeSelector"] = dict(node_selector)
    metadata = {"name": name, "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class KubernetesWorker(Worker):
    """One pod.

    Attributes:
        is_claimed: the provider did not make it.
    """

    def __init__(
        self, provider: KubernetesProvider, name: str, url: str, token: str | None, is_claimed: bool
    ) -> None:
        super().__init__(name, url, token=token)
        self.is_claimed = is_claimed
        self._provider = provider

    async def log_tail(self) -> str:
        """The last lines that its server wrote; empty where they cannot be had."""
        return await self._provider._log_tail(self.name)

    async def aclose(self) -> None:
        """Delete it, or give it back."""
        await self._provider._end(self)


class KubernetesProvider(Provider):
    """A provider of pods. With ``claim`` it makes none, and takes those that are there.

    The account that it uses needs the verbs create, list, watch, patch and delete of pods, get of
    ``pods/log`` and list of events in the namespace. Addresses are those of pods: it has to run in
    the cluster's network.

    Args:
        image: of the pods that it makes.
        claim: label selector of ready pods to take instead, each for one worker alone.
        token: of claimed pods' servers; those of its own pods get one each.
        namespace: of the pods; by default that of the context, or ``default``.
        port: where the server listens.
        command: arguments of the image's entry point instead of its command.
        env: variables.
        cpus, memory: of a pod, request and limit alike; memory as Kubernetes writes it, ``"1Gi"``.
        labels: more labels of the pods it makes.
        node_selector: labels that a pod's node has to have.
        pull_secrets: names of Secrets for the image's registry.
        lifetime: seconds after which Kubernetes ends a pod in any case.
        owner_lease: seconds after which a server ends whose owner is gone.
        start_timeout: seconds for a start, with the pull of the image.
        config_file, context: of the client's configuration; by default that of the pod that this
            process runs in, else as ``kubectl`` finds it.

    Raises:
        ModuleNotFoundError: kubernetes_asyncio is not installed; the message names the extra.
        ValueError: neither an image nor a selector, or both; or a limit is not positive.
    """

    name = "kubernetes"

    def __init__(
        self,
        image: str | None = None,
        *,
        claim: str | None = None,
        token: str | None = None,
        namespace: str | None = None,
        port: int = 8000,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cpus: float = 1.0,
        memory: str = "1Gi",
        labels: Mapping[str, str] | None = None,
        node_selector: Mapping[str, str] | None = None,
        pull_secrets: Sequence[str] = (),
        lifetime: float = 86_400.0,
        owner_lease: float = 60.0,
        start_timeout: float = 120.0,
        config_file: str | None = None,
        context: str | None = None,
    ) -> None:
        _import_kubernetes()
        if (image is None) == (claim is None):
            raise ValueError("give an image, to make pods, or a label selector (claim=), not both")
        if not (lifetime > 0 and owner_lease > 0 and start_timeout > 0 and cpus > 0):
            raise ValueError("lifetime, owner_lease, start_timeout and cpus are positive")
        self.image = image
        self.claim = claim
        self.namespace = namespace
        self.owns_workers = claim is None
        self._token = token
        self._port = port
        self._labels = dict(labels or {})
        self._start_timeout = start_timeout
        self._lease = owner_lease
        self._config = (config_file, context)
        self._pod: dict[str, Any] = {
            "port": port,
            "command": command,
            "env": dict(env or {}),
            "cpus": cpus,
            "memory": memory,
            "lifetime": lifetime,
            "owner_lease": owner_lease,
            "pull_secrets": tuple(pull_secrets),
            "node_selector": dict(node_selector or {}),
        }
        self._forget_all()

    def _forget_all(self) -> None:
        self._group = uuid.uuid4().hex
        self._api: Any = None
        self._client: Any = None
        self._opening: asyncio.Lock | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pods: dict[str, dict[str, Any]] = {}
        self._changed: asyncio.Event | None = None
        self._workers: dict[str, KubernetesWorker] = {}
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        """The settings; the pods stay with the process that started them."""
        runtime = ("_group", "_api", "_client", "_opening", "_tasks", "_pods", "_changed")
        kept = {name: value for name, value in self.__dict__.items() if name not in runtime}
        return {name: value for name, value in kept.items() if name not in ("_workers", "_closed")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_all()

    # -- starting -----------------------------------------------------------------------------

    async def start(self, *, timeout: float | None = None) -> KubernetesWorker:
        """Make a pod, or claim one, and wait until it is ready.

        Raises:
            WorkerStartFailed: it cannot run, and why: its image, its settings, its server.
            ProviderError: the API does not answer, or refuses; or there is no pod to claim.
            DeadlineExceeded: it was not ready in time; with what it waits for.
        """
        if self._closed:
            raise ProviderError("this provider was closed: make a new one", retryable=False)
        seconds = self._start_timeout if timeout is None else timeout
        name = f"openenv-{uuid.uuid4().hex[:20]}"
        token = secrets.token_urlsafe(32)
        try:
            async with asyncio.timeout(seconds):
                await self._open()
                if self.claim is not None:
                    return await self._claimed()
                await self._call(
                    "create_namespaced_pod", body=self._body(name, token), what="create a pod"
                )
                pod = await self._ready(name)
        except BaseException as exc:
            told = ""
            if isinstance(exc, TimeoutError) and not isinstance(exc, OpenEnvError):
                told = await self._told(name)
            await wait_uncancelled(asyncio.ensure_future(self._delete(name)))
            if told:
                raise DeadlineExceeded(
                    f"the pod {name} of {self.image or self.claim} was not ready within"
                    f" {seconds:.3g} s: {told}",
                    phase="open",
                ) from None
            raise
        return self._worker(pod, token)

    def _body(self, name: str, token: str) -> dict[str, Any]:
        assert self.image is not None
        own = {GROUP_LABEL: self._group, _MADE_LABEL: "true"}
        return pod_body(name, self.image, token, labels={**self._labels, **own}, **self._pod)

    def _worker(self, pod: dict[str, Any], token: str | None) -> KubernetesWorker:
        name, address = pod["metadata"]["name"], pod["status"]["podIP"]
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}"
        worker = KubernetesWorker(self, name, url, token, self.claim is not None)
        self._workers[name] = worker
        return worker

    async def _claimed(self) -> KubernetesWorker:
        """Take a ready pod that nobody has."""
        found = await self._call(
            "list_namespaced_pod",
            label_selector=f"{self.claim},!{GROUP_LABEL}",
            what="list pods",
        )
        for pod in found["items"]:
            if not _is_ready(pod) or pod["metadata"].get("deletionTimestamp"):
                continue
            labels = {GROUP_LABEL: self._group}
            version = pod["metadata"]["resourceVersion"]
            body = {"metadata": {"labels": labels, "resourceVersion": version}}
            try:  # with its version: another provider may have been quicker
                pod = await self._call(
                    "patch_namespaced_pod",
                    name=pod["metadata"]["name"],
                    body=body,
                    what="claim a pod",
                )
            except ProviderError as exc:
                if _status(exc) not in (_MISSING, _CONFLICT):
                    raise
                continue
            return self._worker(pod, self._token)
        raise ProviderError(
            f"no pod with the labels {self.claim} is ready and free in {self.namespace}: scale its"
            " Deployment up, or wait"
        )

    async def _ready(self, name: str) -> dict[str, Any]:
        """Wait until a pod is ready.

        Raises:
            WorkerStartFailed: it never will be.
        """
        while True:
            assert self._changed is not None
            self._changed.clear()
            pod = self._pods.get(name)
            if pod is not None:
                if _is_ready(pod) and pod["status"].get("podIP"):
                    return pod
                ended = self._ended(pod)
                if ended is not None:
                    tail = await self._log_tail(name)
                    events = await self._events(name)
                    message = f"the pod {name} did not start: {ended.reason}{events}"
                    raise WorkerStartFailed(
                        with_log_tail(message, tail),
                        phase="open",
                        exit_code=ended.exit_code,
                        oom=ended.oom,
                        log_tail=tail or None,
                    )
            await self._changed.wait()

    def _ended(self, pod: dict[str, Any]) -> WorkerExit | None:
        """Return the end of a pod, or why it cannot begin; ``None`` while there is hope."""
        status = pod.get("status") or {}
        for each in status.get("containerStatuses") or []:
            state = each.get("state") or {}
            waiting, ended = state.get("waiting") or {}, state.get("terminated")
            if waiting.get("reason") in _HOPELESS:
                about = " ".join((waiting.get("message") or "").split())
                return WorkerExit(f"{waiting['reason']} of the image {each['image']}: {about}")
            if ended is not None:
                oom = ended.get("reason") == "OOMKilled"
                reason = f"its container exited with code {ended.get('exitCode')}"
                if oom:
                    memory = self._pod["memory"]
                    reason = f"its container was killed for its use of memory (limit {memory})"
                return WorkerExit(reason, exit_code=ended.get("exitCode"), oom=oom)
        if status.get("phase") in ("Failed", "Succeeded"):
            about = " ".join(f"{status.get('reason') or ''} {status.get('message') or ''}".split())
            return WorkerExit(
                f"its pod has {status['phase'].lower()}: {about or 'no reason given'}"
            )
        return None

    async def _told(self, name: str) -> str:
        """Return the reasons for which a pod is not ready, in words."""
        status = (self._pods.get(name) or {}).get("status") or {}
        reasons = [
            f"{each.get('reason')}: {each.get('message')}"
            for each in status.get("conditions") or []
            if each.get("status") == "False" and each.get("message")
        ]
        for each in status.get("containerStatuses") or []:
            waiting = (each.get("state") or {}).get("waiting") or {}
            if waiting:
                reasons.append(f"{waiting.get('reason')}: {waiting.get('message') or ''}".strip())
        phase = status.get("phase", "not seen by the API yet")
        return "; ".join([f"it is {phase}", *reasons]) + await self._events(name)

    # -- ending -------------------------------------------------------------------------------

    async def _end(self, worker: KubernetesWorker) -> None:
        if self._workers.pop(worker.name, None) is None:
            return
        ending = self._give_back(worker.name) if worker.is_claimed else self._delete(worker.name)
        await wait_uncancelled(asyncio.ensure_future(ending))

    async def _delete(self, name: str) -> None:
        """Delete a pod that this provider made; logs what cannot be."""
        if self._api is None or self.claim is not None:
            return
        await self._tried(
            "delete_namespaced_pod", name=name, grace_period_seconds=_GRACE, what="delete a pod"
        )
        self._pods.pop(name, None)

    async def _give_back(self, name: str) -> None:
        body = {"metadata": {"labels": {GROUP_LABEL: None}}}
        await self._tried("patch_namespaced_pod", name=name, body=body, what="give a pod back")

    async def _tried(self, call: str, **arguments: Any) -> None:
        """Make a call that is to succeed, three times at most."""
        for attempt in range(3):
            try:
                await self._call(call, **arguments)
            except OpenEnvError as exc:
                if _status(exc) == _MISSING:
                    return
                if attempt == 2:
                    log.warning("%s: %s", arguments["name"], exc.message)
                    return
                await asyncio.sleep(_PAUSE * 2**attempt)
            else:
                return

    async def aclose(self) -> None:
        """Delete every pod that it made, and give back those that it claimed."""
        self._closed = True
        await wait_uncancelled(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        await asyncio.gather(*(worker.aclose() for worker in list(self._workers.values())))
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client, self._client, self._api = self._client, None, None
        if client is not None:
            await client.close()

    # -- the API ------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Connect, and begin to watch."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._api is not None:
                return
            kubernetes = _import_kubernetes()
            configuration = kubernetes.client.Configuration()
            file, context = self._config
            try:
                if file is None and context is None and _is_in_cluster():
                    kubernetes.config.load_incluster_config(client_configuration=configuration)
                else:
                    await kubernetes.config.load_kube_config(
                        config_file=file, context=context, client_configuration=configuration
                    )
            except (kubernetes.config.ConfigException, OSError) as exc:
                raise ProviderError(
                    f"no configuration of a Kubernetes cluster: {exc}; give config_file= or set"
                    " KUBECONFIG",
                    retryable=False,
                ) from exc
            self.namespace = self.namespace or "default"
            self._client = kubernetes.client.ApiClient(configuration)
            self._api = kubernetes.client.CoreV1Api(self._client)
            self._changed = asyncio.Event()
            try:
                await self._remove_left()
            except BaseException:
                client, self._client, self._api = self._client, None, None
                await client.close()
                raise
            watches = (self._watch(), self._renew())
            self._tasks = {asyncio.create_task(each, name="openenv-pods") for each in watches}

    async def _call(self, call: str, *, what: str, **arguments: Any) -> Any:
        """Ask the API, and return its answer as plain JSON values.

        Raises:
            ProviderError: it refuses, or does not answer.
        """
        kubernetes = _import_kubernetes()
        try:
            answer = await getattr(self._api, call)(
                namespace=self.namespace, _request_timeout=_CALL_TIMEOUT, **arguments
            )
        except kubernetes.client.ApiException as exc:
            raise ProviderError(
                f"Kubernetes refuses to {what} in {self.namespace}: {exc.status} {exc.reason}"
                f"{_reason(exc.body)}",
                retryable=exc.status in (409, 429) or (exc.status or 500) >= 500,
            ) from exc
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise ProviderError(
                f"no Kubernetes API answers at {self._client.configuration.host}:"
                f" {str(exc) or type(exc).__name__}"
            ) from exc
        return self._client.sanitize_for_serialization(answer)

    async def _watch(self) -> None:
        """Keep ``_pods`` as the API has them, and tell workers of their end."""
        while True:
            try:
                async for kind, pod in self._seen():
                    self._take(kind, pod)
            except OpenEnvError as exc:
                log.info("the watch of pods is begun again: %s", exc.message)
            await asyncio.sleep(_PAUSE)

    async def _seen(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Every pod of this provider, then each change, for a while."""
        kubernetes = _import_kubernetes()
        selector = f"{GROUP_LABEL}={self._group}"
        found = await self._call("list_namespaced_pod", label_selector=selector, what="list pods")
        there = {pod["metadata"]["name"] for pod in found["items"]}
        for name in [*self._pods, *self._workers]:
            if name not in there:
                yield "DELETED", self._pods.get(name) or {"metadata": {"name": name}}
        for pod in found["items"]:
            yield "MODIFIED", pod
        try:
            async with kubernetes.watch.Watch() as watch:
                async for event in watch.stream(
                    self._api.list_namespaced_pod,
                    namespace=self.namespace,
                    label_selector=selector,
                    resource_version=found["metadata"].get("resourceVersion"),
                    timeout_seconds=_WATCH_SECONDS,
                    _request_timeout=_WATCH_SECONDS + _CALL_TIMEOUT,
                ):
                    yield event["type"], event["raw_object"]
        except (kubernetes.client.ApiException, aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise ProviderError(f"the watch of pods broke: {exc}") from exc

    def _take(self, kind: str, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        if kind == "DELETED":
            self._pods.pop(name, None)
        else:
            self._pods[name] = pod
        assert self._changed is not None
        self._changed.set()
        worker = self._workers.get(name)
        if worker is None or worker.exited.done():
            return
        ended = self._ended(pod)
        if kind == "DELETED":
            ended = ended or WorkerExit("its pod was deleted by somebody else")
        if ended is not None:
            telling = asyncio.create_task(self._tell(worker, ended), name="openenv-pod-end")
            self._tasks.add(telling)
            telling.add_done_callback(self._tasks.discard)

    async def _tell(self, worker: KubernetesWorker, ended: WorkerExit) -> None:
        tail = await self._log_tail(worker.name)
        reason = ended.reason + await self._events(worker.name)
        if not worker.exited.done():
            worker.exited.set_result(
                WorkerExit(reason, exit_code=ended.exit_code, oom=ended.oom, log_tail=tail)
            )

    async def _log_tail(self, name: str) -> str:
        if self._api is None:
            return ""
        with contextlib.suppress(OpenEnvError):
            return str(
                await self._call(
                    "read_namespaced_pod_log",
                    name=name,
                    tail_lines=_LOG_LINES,
                    what="read the log of a pod",
                )
            )
        return ""

    async def _events(self, name: str) -> str:
        """The last warnings that the cluster has of a pod, for a message."""
        with contextlib.suppress(OpenEnvError):
            found = await self._call(
                "list_namespaced_event",
                field_selector=f"involvedObject.name={name},type=Warning",
                what="list events",
            )
            told = [
                f"{each.get('reason')}: {' '.join((each.get('message') or '').split())}"
                for each in found["items"][-_EVENTS:]
            ]
            if told:
                return f"; its events: {' | '.join(told)}"
        return ""

    async def _renew(self) -> None:
        """Renew the leases of its own pods' servers: they end when nobody does."""
        timeout = aiohttp.ClientTimeout(total=max(1.0, self._lease / 6))
        async with aiohttp.ClientSession(timeout=timeout) as http:
            while True:
                await asyncio.sleep(self._lease / 3)
                own = [each for each in self._workers.values() if not each.is_claimed]
                await asyncio.gather(*(self._renew_one(http, worker) for worker in own))

    async def _renew_one(self, http: aiohttp.ClientSession, worker: KubernetesWorker) -> None:
        headers = {"Authorization": f"Bearer {worker.token}"}
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with http.get(f"{worker.url}/health", headers=headers):
                pass

    async def _remove_left(self) -> None:
        """Delete pods of providers that are gone: ended long ago, and nobody removed them."""
        found = await self._call(
            "list_namespaced_pod", label_selector=f"{_MADE_LABEL}=true", what="list pods"
        )
        for pod in found["items"]:
            ended = _ended_at(pod)
            if ended is not None and time.time() - ended > _LEFT_AFTER:
                await self._tried(
                    "delete_namespaced_pod",
                    name=pod["metadata"]["name"],
                    grace_period_seconds=0,
                    what="delete a pod",
                )


def _status(error: OpenEnvError) -> int | None:
    """Return the status by which the API refused; ``None`` if it did not."""
    return getattr(error.__cause__, "status", None)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _ended_at(pod: dict[str, Any]) -> float | None:
    """Unix time at which the last container of a pod that has ended did; ``None``: it runs."""
    status = pod.get("status") or {}
    if status.get("phase") not in ("Failed", "Succeeded"):
        return None
    times = [
        ((each.get("state") or {}).get("terminated") or {}).get("finishedAt")
        for each in status.get("containerStatuses") or []
    ]
    last = max(filter(None, times), default=pod["metadata"].get("creationTimestamp"))
    if last is None:
        return None
    return datetime.fromisoformat(last.replace("Z", "+00:00")).astimezone(UTC).timestamp()


def _reason(body: Any) -> str:
    """The API's own words in an answer that refuses."""
    with contextlib.suppress(ValueError, TypeError):
        return f": {json.loads(body)['message']}"
    return ""


def _is_in_cluster() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ


def _import_kubernetes() -> Any:
    try:
        import kubernetes_asyncio
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "pods need kubernetes_asyncio: pip install 'openenv-async[kubernetes]'", name=exc.name
        ) from None
    return kubernetes_asyncio

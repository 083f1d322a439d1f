"""A fake of Kubernetes' API: pods that are created, watched, claimed and deleted, and their logs.

It speaks the real paths and JSON of the API over HTTP. A "pod" is a server in this process, at an
address of its own on the loopback network.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from aiohttp import web

from openenv_async import serve
from tests.helpers import Counter

PORT = 18_231
"""Where the server of each pod listens, at an address of its own."""
VERSION = "1.34"


class FakeCluster:
    """A namespace's pods.

    Attributes:
        pods: by name, as the API gives them.
        plan: called with a new pod, to bring it up; by default its server is started.
        refuse: status by which every call is answered, if any.
        logs: by the pod's name.
        events: of all pods.
        seen: methods and paths, in order.
        grace: seconds that were given with each deletion.
    """

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.plan: Callable[[dict[str, Any]], Any] = self.run
        self.refuse: int | None = None
        self.logs: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.seen: list[str] = []
        self.lose_answers = False
        self._versions = itertools.count(1)
        self._addresses = itertools.count(11)
        self._watchers: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator[str]:
        """The path of a configuration for it."""
        app = web.Application()
        pods = "/api/v1/namespaces/{namespace}/pods"
        app.router.add_post(pods, self._create)
        app.router.add_get(pods, self._list)
        app.router.add_patch(pods + "/{name}", self._patch)
        app.router.add_delete(pods + "/{name}", self._delete)
        app.router.add_get(pods + "/{name}/log", self._log)
        app.router.add_get("/api/v1/namespaces/{namespace}/events", self._events)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        config = folder / "kubeconfig"
        config.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "clusters": [{"name": "fake", "cluster": {"server": url}}],
                    "users": [{"name": "me", "user": {"token": "sesame"}}],
                    "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
                }
            )
        )
        try:
            yield str(config)
        finally:
            for queue in self._watchers:
                queue.put_nowait(None)
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await runner.cleanup()

    # -- pods ---------------------------------------------------------------------------------

    def add(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        body.setdefault("status", {"phase": "Pending"})
        self.pods[name] = body
        self.change(name, "ADDED")
        self._tasks[name] = asyncio.create_task(self._brought_up(body))
        return body

    async def _brought_up(self, pod: dict[str, Any]) -> None:
        done = self.plan(pod)
        if asyncio.iscoroutine(done):
            await done

    async def run(self, pod: dict[str, Any]) -> None:
        """Serve in the pod until it is deleted."""
        name = pod["metadata"]["name"]
        [container] = pod["spec"]["containers"]
        env = {each["name"]: each["value"] for each in container.get("env", ())}
        address = f"127.0.0.{next(self._addresses)}"
        token = env.get("OPENENV_TOKEN")
        async with serve(Counter, host=address, port=PORT, token=token):
            ready = {"type": "Ready", "status": "True"}
            status = {"phase": "Running", "podIP": address, "conditions": [ready]}
            self.set_status(name, status)
            await asyncio.Event().wait()

    def set_status(self, name: str, status: dict[str, Any]) -> None:
        self.pods[name]["status"] = status
        self.change(name, "MODIFIED")

    def change(self, name: str, kind: str) -> None:
        pod = self.pods[name]
        pod["metadata"]["resourceVersion"] = str(next(self._versions))
        for queue in self._watchers:
            queue.put_nowait({"type": kind, "object": json.loads(json.dumps(pod))})

    def remove(self, name: str) -> None:
        self.change(name, "DELETED")
        del self.pods[name]
        self._tasks[name].cancel()

    def end_watches(self) -> None:
        """Have every watch end, as the API does now and then."""
        for queue in self._watchers:
            queue.put_nowait(None)

    # -- the API ------------------------------------------------------------------------------

    def _check(self, request: web.Request) -> None:
        self.seen.append(f"{request.method} {request.path}")
        assert request.headers["Authorization"] == "Bearer sesame"
        if self.refuse is not None:
            raise self._refusal(self.refuse, "pods is forbidden: the account may not")

    def _refusal(self, status: int, message: str) -> web.HTTPException:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        kinds = {404: web.HTTPNotFound, 409: web.HTTPConflict, 403: web.HTTPForbidden}
        return kinds.get(status, web.HTTPInternalServerError)(
            text=json.dumps({**body, "message": message}), content_type="application/json"
        )

    async def _create(self, request: web.Request) -> web.Response:
        self._check(request)
        body = await request.json()
        kubernetes_validate.validate(body, VERSION, strict=True)
        pod = self.add(body)
        if self.lose_answers:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(pod, status=201)

    def _chosen(self, request: web.Request, pod: dict[str, Any]) -> bool:
        labels = pod["metadata"].get("labels", {})
        for part in filter(None, request.query.get("labelSelector", "").split(",")):
            key, equals, value = part.partition("=")
            if equals and labels.get(key) != value:
                return False
            if not equals and (key.lstrip("!") in labels) is key.startswith("!"):
                return False
        return True

    async def _list(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        if request.query.get("watch"):
            return await self._watch(request)
        items = [pod for pod in self.pods.values() if self._chosen(request, pod)]
        return web.json_response(
            {
                "kind": "PodList",
                "apiVersion": "v1",
                "metadata": {"resourceVersion": str(next(self._versions))},
                "items": items,
            }
        )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        since = int(request.query.get("resourceVersion", "0"))
        reply = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._watchers.add(queue)
        try:
            await reply.prepare(request)
            for pod in self.pods.values():
                if int(pod["metadata"]["resourceVersion"]) > since:
                    queue.put_nowait({"type": "MODIFIED", "object": pod})
            while (event := await queue.get()) is not None:
                if self._chosen(request, event["object"]):
                    await reply.write(json.dumps(event).encode() + b"\n")
            await reply.write_eof()
        finally:
            self._watchers.discard(queue)
        return reply

    async def _patch(self, request: web.Request) -> web.Response:
        self._check(request)
        pod = self._named(request)
        sent = (await request.json())["metadata"]
        if sent.get("resourceVersion") not in (None, pod["metadata"]["resourceVersion"]):
            raise self._refusal(409, "the object has been modified")
        labels = pod["metadata"].setdefault("labels", {})
        for key, value in sent["labels"].items():
            labels[key] = value
            if value is None:
                del labels[key]
        self.change(pod["metadata"]["name"], "MODIFIED")
        return web.json_response(pod)

    def _named(self, request: web.Request) -> dict[str, Any]:
        pod = self.pods.get(request.match_info["name"])
        if pod is None:
            raise self._refusal(404, f'pods "{request.match_info["name"]}" not found')
        return pod

    async def _delete(self, request: web.Request) -> web.Response:
        self._check(request)
        pod = self._named(request)
        self.remove(pod["metadata"]["name"])
        return web.json_response(pod)

    async def _log(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.Response(text=self.logs.get(request.match_info["name"], ""))

    async def _events(self, request: web.Request) -> web.Response:
        self._check(request)
        name = request.query["fieldSelector"].partition("involvedObject.name=")[2].split(",")[0]
        about = [each for each in self.events if each["involvedObject"]["name"] == name]
        return web.json_response(
            {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": about}
        )

"""The far side of a hosted taskset: runs where ``verifiers`` is installed, and nothing of ours.

Rules:

- It is run by its path, with one argument, the settings as JSON. It speaks lines of JSON over its
  standard input and output; what the taskset prints goes to standard error. The first line it says
  is about the taskset, or why there is none; then every request ``{"id", "do", …}`` has one answer,
  ``{"id", "ok"}`` or ``{"id", "failed"}``, in whatever order they are ready.
- An episode is one ``run_episode`` of the taskset's own ``Env``, so that prompts, tools, stops,
  users and rewards are those of ``verifiers``. The model is the policy: a request that its agent
  makes is an observation, and the next action is the completion.
- The agent is a chat loop of its own (``ActorHarness``), in place of the harness that a run would
  name: it asks for a completion, calls the tools that it names, and ends with a reply that names
  none.
- An episode that ``verifiers`` calls failed is told with its error, and without a reward: zero
  would say something else.
- At the end of its input the process ends, and takes its process group along.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import itertools
import json
import os
import secrets
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any

TASKSET, HARNESS = "openenv_async_hosted_taskset", "openenv_async_hosted_agent"
"""Names of the plugins that ``verifiers`` finds these by."""
BODY = 1024**3
"""Bytes of one request of the agent: what ``verifiers`` takes itself."""
TASKS = 100_000
"""Tasks of a taskset that are read."""
NO_KEY = "OPENENV_ASYNC_NO_KEY"
"""A variable that is not set: the model's server here asks for no key."""


class Refusal(Exception):
    """A taskset that cannot be hosted, or a request that cannot be done."""

    def __init__(self, kind: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.told = {"kind": kind, "message": message, **facts}


class Episode:
    """One run of the taskset's environment, and the request of its agent that waits."""

    def __init__(self) -> None:
        self.run: asyncio.Task[Any] | None = None
        self.traces = 0
        self.asked: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[Any]]] = asyncio.Queue()
        self.waiting: asyncio.Future[Any] | None = None
        self.seen: list[Any] = []


# -- the taskset ----------------------------------------------------------------------------------


def load(settings: dict[str, Any]) -> Any:
    """Return the ``Env`` of the taskset that the settings name.

    Raises:
        Refusal: there is none, or it is one that cannot be played step by step.
    """
    try:
        vf = importlib.import_module("verifiers.v1")
    except ModuleNotFoundError as exc:
        raise Refusal(
            "missing", f"{sys.executable} has no verifiers 0.4 ({exc}): install verifiers there"
        ) from None
    name, wanted = settings["module"], settings.get("name")
    module = imported(name)
    exported = [getattr(module, each, None) for each in getattr(module, "__all__", dir(module))]
    tasksets = plugins(exported, vf.Taskset)
    if wanted:
        found = getattr(module, wanted, None)
        if not (isinstance(found, type) and issubclass(found, vf.Taskset)):
            raise Refusal("missing", f"{name} has no taskset {wanted!r}{names(tasksets)}")
        tasksets = [found]
    if len(tasksets) != 1:
        told = names(tasksets) or ": it defines no verifiers.v1.Taskset"
        raise Refusal("missing", f"{name} does not say which taskset is meant{told}")
    plugin: Any = types.ModuleType(TASKSET)
    envs = plugins(exported, vf.Env)
    plugin.__all__ = ["Hosted"] + ["HostedEnv"] * (len(envs) == 1)
    plugin.Hosted = tasksets[0]
    if len(envs) == 1:
        plugin.HostedEnv = envs[0]
    sys.modules[TASKSET] = plugin
    agent: Any = types.ModuleType(HARNESS)
    agent.ActorHarness, agent.__all__ = actor_harness(), ["ActorHarness"]
    sys.modules[HARNESS] = agent
    loaders = importlib.import_module("verifiers.v1.utils.loaders")
    fields = importlib.import_module("verifiers.v1.configs.agent").agent_config_fields
    config = {"taskset": {**settings.get("config", {}), "id": TASKSET}}
    roles = [*fields(loaders.resolve_env_config(config))]
    if len(roles) != 1:
        raise Refusal(
            "shape",
            f"{name} is played by several agents ({', '.join(roles)}), and a policy is one of them:"
            " only a taskset of one agent can be hosted",
        )
    agent_config = {"runtime": {"type": "subprocess"}, **settings.get("agent", {})}
    config[roles[0]] = {**agent_config, "harness": {"id": HARNESS}}
    return loaders.load_environment(loaders.resolve_env_config(config))


def imported(name: str) -> Any:
    """Import the module of a taskset: one of those that come with verifiers, or any other."""
    built_in = f"verifiers.v1.tasksets.{name}"
    if "." not in name and importlib.util.find_spec(built_in) is not None:
        name = built_in
    return importlib.import_module(name)


def plugins(objects: list[Any], base: type) -> list[type]:
    """The classes among some objects that subclass a base of verifiers, its own left out."""
    found = [each for each in objects if isinstance(each, type) and issubclass(each, base)]
    return [each for each in dict.fromkeys(found) if not is_own(each)]


def is_own(cls: type) -> bool:
    return cls.__module__.startswith("verifiers.") and ".tasksets." not in cls.__module__


def names(classes: list[type]) -> str:
    return f": it has {', '.join(each.__name__ for each in classes)}" if classes else ""


def tasks_of(env: Any, limit: int | None) -> list[Any]:
    """The tasks of the taskset, in its order.

    Raises:
        Refusal: it has no end, or more than can be listed, and no limit was given.
    """
    taskset = env.taskset
    if limit is not None:
        return list(itertools.islice(taskset, limit))
    if not taskset.bounded:
        raise Refusal(
            "shape", "the taskset has no end: say how many of its tasks are served, limit=1000"
        )
    tasks = list(itertools.islice(taskset, TASKS + 1))
    if len(tasks) > TASKS:
        raise Refusal("shape", f"the taskset has more than {TASKS} tasks: give a limit=")
    return tasks


# -- the agent ------------------------------------------------------------------------------------


def actor_harness() -> type:
    """Return the harness whose model is the policy."""
    aiohttp = importlib.import_module("aiohttp")
    base: Any = importlib.import_module("verifiers.v1.harness").Harness
    base = base[importlib.import_module("verifiers.v1.configs.harness").HarnessConfig]
    result = importlib.import_module("verifiers.v1.runtimes").ProgramResult
    mcp = importlib.import_module("verifiers.v1.harnesses.utils.mcp")
    to_wire = importlib.import_module("verifiers.v1.dialects.chat").message_to_wire

    async def converse(
        http: Any, endpoint: str, model: str, messages: list[Any], tools: Any, gate: Any
    ) -> Any:
        """Ask for completions and call tools until a reply calls none; a failure is a result."""
        schemas, dispatch, servers = tools
        while True:
            body = {"model": model, "messages": messages} | ({"tools": schemas} if schemas else {})
            async with http.post(f"{endpoint}/chat/completions", json=body) as reply:
                if reply.status != 200:
                    return result(1, "", await reply.text())
                answer = await reply.json()
            message = {k: v for k, v in answer["choices"][0]["message"].items() if v is not None}
            messages.append(message)
            for call in message.get("tool_calls") or ():
                told = {
                    "role": "tool",
                    "tool_call_id": call["id"],
                    "name": call["function"]["name"],
                }
                denied = await gate(call)
                messages.append(
                    denied or {**told, "content": await called(call, dispatch, servers)}
                )
            if not message.get("tool_calls"):
                return result(0, "", "")

    async def called(call: Any, dispatch: Any, servers: Any) -> Any:
        """Call a tool; what is wrong with the call is told as its result."""
        name = call["function"]["name"]
        try:
            arguments = json.loads(call["function"]["arguments"] or "{}")
        except json.JSONDecodeError as exc:
            return f"error: invalid JSON in tool arguments ({exc})"
        if not isinstance(arguments, dict):
            return "error: tool arguments must be a JSON object"
        if name not in dispatch:
            return f"error: unknown tool {name!r}"
        return await mcp.call_mcp(servers, dispatch, name, arguments)

    class ActorHarness(base):  # type: ignore[misc]  # of a package that is not here
        APPENDS_SYSTEM_PROMPT = True
        SUPPORTS_MCP = True
        SUPPORTS_RESUME = True
        SUPPORTS_TOOL_INTERCEPTION = True
        EXECUTES_CODE = False
        NEEDS_CONTAINER = False

        async def launch(
            self,
            ctx: Any,
            trace: Any,
            runtime: Any,
            endpoint: str,
            secret: str,
            mcp_urls: dict[str, str],
            data: Any,
            tool_interception_url: str | None = None,
        ) -> Any:
            system, prompt = self.resolve_prompt(data)
            messages = [{"role": "system", "content": system}] if system else []
            if isinstance(prompt, str):
                messages.append({"role": "user", "content": prompt})
            else:
                messages += [to_wire(message) for message in prompt or ()]
            headers = {"Authorization": f"Bearer {secret}"}
            timeout = aiohttp.ClientTimeout(total=None)
            async with contextlib.AsyncExitStack() as stack:
                http = await stack.enter_async_context(
                    aiohttp.ClientSession(headers=headers, timeout=timeout)
                )
                servers = {name: {"url": url} for name, url in mcp_urls.items()}
                tools = await mcp.connect_mcp({"mcpServers": servers}, stack)

                async def gate(call: Any) -> Any:
                    """Return the result that stands in for a call which is denied."""
                    if tool_interception_url is None:
                        return None
                    about = {
                        "tool_call_id": call["id"],
                        "name": call["function"]["name"],
                        "arguments": loose(call["function"]["arguments"]),
                    }
                    async with http.post(tool_interception_url, json=about) as reply:
                        reply.raise_for_status()
                        verdict = await reply.json()
                    if verdict["action"] == "stop":
                        raise RuntimeError(verdict["reason"])
                    return verdict["message"] if verdict["action"] == "deny" else None

                return await converse(http, endpoint, ctx.model, messages, tools, gate)

    return ActorHarness


def loose(text: str) -> Any:
    """Return arguments as JSON, else as the text that they are."""
    try:
        return json.loads(text or "{}")
    except json.JSONDecodeError:
        return text


def completion(action: dict[str, Any]) -> dict[str, Any]:
    """Return the completion that an action is."""
    calls = [
        {
            "id": call.get("id") or f"call_{secrets.token_hex(8)}",
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for call in action.get("tool_calls") or ()
    ]
    message: dict[str, Any] = {"role": "assistant", "content": action.get("content")}
    if calls:
        message["tool_calls"] = calls
    reason = "tool_calls" if calls else "stop"
    return {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "policy",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    }


# -- the bridge -----------------------------------------------------------------------------------


class Bridge:
    """The episodes of one process.

    Args:
        env: the taskset's environment.
        tasks: its tasks.
        say: writes a line.
    """

    def __init__(self, env: Any, tasks: list[Any], say: Any) -> None:
        self.env = env
        self.tasks = tasks
        self.say = say
        self.episodes: dict[str, Episode] = {}
        self.by_trace: dict[str, Episode] = {}
        self.jobs: set[asyncio.Task[None]] = set()
        self.secret = secrets.token_urlsafe(24)
        self.context: Any = None

    async def serve(self, lines: asyncio.Queue[bytes | None]) -> None:
        """Answer requests until there are no more."""
        web = importlib.import_module("aiohttp.web")
        vf = importlib.import_module("verifiers.v1")
        application = web.Application(client_max_size=BODY)
        application.router.add_post(f"/{self.secret}/v1/chat/completions", self.complete)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        client = vf.EvalClientConfig(
            base_url=f"http://127.0.0.1:{port}/{self.secret}/v1", api_key_var=NO_KEY
        )
        self.context = vf.ModelContext(model="policy", client=client)
        try:
            async with self.env.serving():
                self.say({"ready": {"ids": ids_of(self.tasks)}})
                while (line := await lines.get()) is not None:
                    job = asyncio.create_task(self.answer(json.loads(line)))
                    self.jobs.add(job)
                    job.add_done_callback(self.jobs.discard)
                for episode in self.episodes.values():
                    if episode.run is not None:
                        episode.run.cancel()
        finally:
            await runner.cleanup()

    async def answer(self, request: dict[str, Any]) -> None:
        try:
            does = {"list": self.list, "begin": self.begin, "act": self.act, "end": self.end}
            told = {"ok": await does[request["do"]](request)}
        except Refusal as exc:
            told = {"failed": exc.told}
        except Exception as exc:  # whatever code of the taskset raises
            told = {"failed": raised(exc)}
        self.say({"id": request["id"], **told})

    async def list(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The public columns of some tasks."""
        rows = self.tasks[request["start"] : request["stop"]]
        public = request["public"]
        return [
            {k: v for k, v in task.data.model_dump(mode="json").items() if k in public}
            for task in rows
        ]

    async def begin(self, request: dict[str, Any]) -> dict[str, Any]:
        """Begin an episode, and return what its agent first asks the model."""
        key, task = request["episode"], self.tasks[request["index"]]
        episode = self.episodes[key] = Episode()

        def minted(trace: Any) -> None:
            episode.traces += 1
            self.by_trace.setdefault(trace.id, episode)
            if episode.traces > 1 and episode.run is not None:
                episode.run.cancel("several")

        episode.run = asyncio.create_task(self.env.run_episode(task, self.context, on_trace=minted))
        return await self.following(key, episode)

    async def act(self, request: dict[str, Any]) -> dict[str, Any]:
        """Give the agent a completion, and return what it asks next, or how the episode ended."""
        episode = self.episodes.get(request["episode"])
        if episode is None or episode.waiting is None or episode.waiting.done():
            raise Refusal("over", "the episode is over")
        reply = completion(request["action"])
        episode.waiting.set_result(reply)
        episode.waiting = None
        return await self.following(request["episode"], episode)

    async def end(self, request: dict[str, Any]) -> None:
        """End an episode, as far as it is not over."""
        episode = self.episodes.get(request["episode"])
        if episode is not None:
            await self.forget(request["episode"], episode)

    async def forget(self, key: str, episode: Episode) -> None:
        self.episodes.pop(key, None)
        for trace in [each for each, other in self.by_trace.items() if other is episode]:
            del self.by_trace[trace]
        if episode.waiting is not None and not episode.waiting.done():
            episode.waiting.cancel()
        if episode.run is not None and not episode.run.done():
            episode.run.cancel()
            await asyncio.wait([episode.run])

    async def following(self, key: str, episode: Episode) -> dict[str, Any]:
        """Return the next request of an episode's agent, or the end of the episode."""
        assert episode.run is not None
        asked = asyncio.create_task(episode.asked.get())
        try:
            await asyncio.wait([asked, episode.run], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                body, episode.waiting = asked.result()
                return {"ended": False, **told_request(body, episode)}
        finally:
            asked.cancel()
        try:
            return ended(episode.run.result())
        except asyncio.CancelledError:
            if episode.traces > 1:
                raise Refusal(
                    "shape",
                    "the environment of this taskset has its agent play several times in one"
                    " episode, which has no order of steps: it cannot be hosted",
                ) from None
            raise Refusal("over", "the episode was ended") from None
        finally:
            await self.forget(key, episode)

    async def complete(self, request: Any) -> Any:
        """Answer a request of an agent with the completion that the policy gives."""
        web = importlib.import_module("aiohttp.web")
        episode = self.by_trace.get(request.headers.get("X-Session-ID", ""))
        if episode is None:
            return web.json_response({"error": {"message": "no such episode"}}, status=400)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        episode.asked.put_nowait((await request.json(), reply))
        return web.json_response(await reply)


def told_request(body: dict[str, Any], episode: Episode) -> dict[str, Any]:
    """The messages of a request that no earlier one had, and its tools.

    A conversation that goes on may be written anew: messages are compared by what they say.
    """
    messages = body["messages"]
    said = [(each.get("role"), each.get("content") or "") for each in messages]
    before = len(episode.seen)
    # After what was seen stands the policy's reply, which the policy knows.
    continues = 0 < before < len(messages) and said[:before] == episode.seen
    episode.seen = said
    new = messages[before + 1 :] if continues else messages
    return {"messages": new, "continues": continues, "tools": body.get("tools") or []}


def ended(episode: Any) -> dict[str, Any]:
    """Return the end of an episode and its reward: ``None`` where nothing gave any.

    Raises:
        Refusal: it failed.
    """
    traces = episode.traces
    errors = [*episode.errors, *(e for trace in traces for e in trace.errors)]
    if not episode.ok or not traces:
        last = errors[-1] if errors else None
        raise Refusal(
            "failed",
            f"{last.type}: {last.message}" if last else "the episode failed, and does not say why",
            error=last.type if last else None,
            traceback=last.traceback if last else None,
        )
    trace = traces[0]
    given = {name: each for name, each in trace.rewards.items() if each is not None}
    return {
        "ended": True,
        "reward": trace.reward if given and len(given) == len(trace.rewards) else None,
        "rewards": {name: each.value for name, each in given.items()},
        "metrics": {k: v for k, v in trace.metrics.items() if v is not None},
        "stop": trace.stop_condition,
        "truncated": bool(trace.is_truncated or trace.is_timeout),
        "turns": trace.num_turns,
    }


def ids_of(tasks: list[Any]) -> list[str]:
    """The ids of the tasks: their own where all have one that no other has, else their places."""
    own = [task.data.id for task in tasks]
    if tasks and all(isinstance(each, str) and each for each in own) and len({*own}) == len(own):
        return own
    return [str(number) for number in range(len(tasks))]


def raised(exc: BaseException) -> dict[str, Any]:
    text = f"{type(exc).__name__}: {exc}"
    trace = "".join(traceback.format_exception(exc))
    return {"kind": "raised", "message": text, "error": type(exc).__name__, "traceback": trace}


def main(settings: dict[str, Any]) -> None:
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the taskset prints

    def say(message: dict[str, Any]) -> None:
        told.write(json.dumps(message).encode() + b"\n")
        told.flush()

    sys.path[0] = ""
    try:
        env = load(settings)
        bridge = Bridge(env, tasks_of(env, settings.get("limit")), say)
    except Refusal as exc:
        say({"failed": exc.told})
        return
    except Exception as exc:  # whatever code of the taskset raises
        say({"failed": raised(exc)})
        return

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[bytes | None] = asyncio.Queue()

        def read() -> None:
            for line in sys.stdin.buffer:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lines.put_nowait, None)
            time.sleep(5.0)  # code of the taskset may not let go
            os.killpg(os.getpgid(0), signal.SIGKILL)

        threading.Thread(target=read, daemon=True).start()
        await bridge.serve(lines)

    asyncio.run(serve())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""Episodes played by ``verifiers`` itself, with a scripted model; runs where that is installed.

``verifiers_peer.py play`` reads ``[module, role, agent settings, [[index, replies], …]]`` of each
taskset as JSON from its standard input, and prints what came of each episode. ``verifiers_peer.py
load BRIDGE`` reads settings of a bridge, and prints how many tasks each has, or why it is refused.
"""

# The package is not installed where this is type-checked, so its base classes are Any there.
# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import sys
import types
from typing import Any

import httpx
import verifiers.v1 as vf
from aiohttp import web
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp
from verifiers.v1.runtimes import ProgramResult
from verifiers.v1.utils.loaders import load_environment, resolve_env_config

AT_ONCE = 8
"""Episodes that are played at the same time."""


class Scripted(vf.Harness[vf.HarnessConfig]):
    """A chat loop, as short as can be: ``null`` would need ``uv``."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_MCP = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: Any,
        data: Any,
    ) -> Any:
        system, prompt = self.resolve_prompt(data)
        messages: list[Any] = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message_to_wire(each) for each in prompt or ()]
        async with contextlib.AsyncExitStack() as stack:
            config = {"mcpServers": {name: {"url": url} for name, url in mcp_urls.items()}}
            tools, dispatch, servers = await connect_mcp(config, stack)
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=None))
            while True:
                reply = await http.post(
                    f"{endpoint}/chat/completions",
                    headers={"Authorization": f"Bearer {secret}"},
                    json={"model": "m", "messages": messages} | ({"tools": tools} if tools else {}),
                )
                if reply.status_code != 200:
                    return ProgramResult(1, "", reply.text)
                message = reply.json()["choices"][0]["message"]
                messages.append(message)
                for call in message.get("tool_calls") or ():
                    name = call["function"]["name"]
                    arguments = json.loads(call["function"]["arguments"])
                    content = await call_mcp(servers, dispatch, name, arguments)
                    messages.append(
                        {"role": "tool", "tool_call_id": call["id"], "content": content}
                    )
                if not message.get("tool_calls"):
                    return ProgramResult(0, "", "")


async def main(episodes: list[Any]) -> list[Any]:
    plugin: Any = types.ModuleType("scripted_agent")
    plugin.Scripted, plugin.__all__ = Scripted, ["Scripted"]
    sys.modules["scripted_agent"] = plugin
    scripts: list[list[Any]] = []
    at_once = asyncio.Semaphore(AT_ONCE)

    async def answer(request: web.Request) -> web.Response:
        script = scripts[int(request.match_info["number"])]
        message = {"role": "assistant", "content": None, **script.pop(0)}
        calls = message.get("tool_calls")
        for number, call in enumerate(calls or ()):
            name, arguments = call.pop("name"), call.pop("arguments")
            call |= {"id": f"call-{len(script)}-{number}", "type": "function"}
            call["function"] = {"name": name, "arguments": json.dumps(arguments)}
        reason = "tool_calls" if calls else "stop"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        about = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
        return web.json_response({**about, "choices": [choice]})

    application = web.Application()
    application.router.add_post("/{number}/v1/chat/completions", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]

    async def play(env: Any, task: Any, replies: list[Any]) -> dict[str, Any]:
        scripts.append(replies)
        url = f"http://127.0.0.1:{port}/{len(scripts) - 1}/v1"
        client = vf.EvalClientConfig(base_url=url, api_key_var="NOT_SET")
        async with at_once:
            episode = await env.run_episode(task, vf.ModelContext(model="m", client=client))
        trace = episode.traces[0]
        return {
            "ok": episode.ok,
            "reward": trace.reward if episode.ok else None,
            "rewards": {k: v.value for k, v in trace.rewards.items() if v is not None},
            "metrics": {k: v for k, v in trace.metrics.items() if v is not None},
            "turns": trace.num_turns,
            "stop": trace.stop_condition,
            "messages": [
                wire(each.content)
                for each in trace.branches[-1].messages
                if each.role in ("system", "user", "tool")
            ],
            "error": trace.last_error.type if trace.last_error else None,
        }

    told: list[Any] = []
    for module, role, agent, plays in episodes:
        player = {"runtime": {"type": "subprocess"}, **agent, "harness": {"id": "scripted_agent"}}
        env = load_environment(resolve_env_config({"taskset": {"id": module}, role: player}))
        last = max(index for index, _ in plays)
        tasks = list(itertools.islice(env.taskset, last + 1))
        async with env.serving():
            told += await asyncio.gather(
                *(play(env, tasks[index], replies) for index, replies in plays)
            )
    await runner.cleanup()
    return told


def wire(content: Any) -> Any:
    """The content of a message as a model is sent it."""
    return content if isinstance(content, str) else [part.model_dump() for part in content]


def load(bridge: str, settings: list[Any]) -> list[Any]:
    """Return what the bridge says of each of some settings, without starting it."""
    spec = importlib.util.spec_from_file_location("bridge", bridge)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    told: list[Any] = []
    for each in settings:
        try:
            tasks = module.tasks_of(module.load(each), each.get("limit"))
            told.append([len(tasks), module.ids_of(tasks)[-1]])
        except module.Refusal as exc:
            told.append([exc.told["kind"], exc.told["message"]])
        except Exception as exc:
            told.append(["raised", str(exc)])
    return told


if __name__ == "__main__":
    printed = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a taskset prints
    given = json.load(sys.stdin)
    if sys.argv[1] == "play":
        json.dump(asyncio.run(main(given)), printed)
    else:
        json.dump(load(sys.argv[2], given), printed)
    printed.flush()

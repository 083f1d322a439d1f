"""A small inference server: a model of transformers behind OpenAI's chat completions.

It takes tools, and tells what was sampled in the fields of vLLM: ``prompt_token_ids``,
``token_ids`` and ``logprobs``. Calls are written as vLLM's pythonic parser reads them:
``[find(item="pears")]``. The ids of a call are kept by the call's id: one that comes back in a
later history is in the prompt as it was sampled, and nothing is tokenized again.
"""

from __future__ import annotations

import ast
import contextlib
import json
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from openenv_async.responders import Reply, TransformersResponder
from openenv_async.responders.transformers import SampledMessage

__all__ = ["Engine", "calls_in", "written"]

_KEPT: Final = 4096
"""Number of answers whose ids are kept."""


class Engine:
    """An OpenAI-compatible server of one model.

    Args:
        responder: samples.
        name: of the model.
    """

    def __init__(self, responder: TransformersResponder, name: str = "smollm2") -> None:
        self._responder = responder
        self._name = name
        self._sampled: OrderedDict[str, Sequence[int]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Yield the base URL of its API while it is served on loopback."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}/v1"
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self._name}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        reply = await self._responder.respond(
            self._history(asked["messages"], asked.get("tools") or ()),
            max_tokens=asked.get("max_completion_tokens") or asked.get("max_tokens"),
            temperature=asked.get("temperature"),
            seed=asked.get("seed"),
            stop=asked.get("stop"),
        )
        message = self._message(reply)
        if not asked.get("stream"):
            return web.json_response(self._completion(asked, reply, message))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunk = self._completion(asked, reply, message, delta=True)
        data = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        await response.write(data.encode())  # a batch is sampled to its end before any is told
        return response

    # -- what the model reads ----------------------------------------------------------------

    def _history(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the messages as the model's own template takes them, which knows no tools."""
        offered = ", ".join(_signature(tool["function"]) for tool in tools)
        shown: list[dict[str, Any]] = []
        for message in messages:
            calls = message.get("tool_calls") or ()
            content = _text(message.get("content"))
            if calls and (ids := self._sampled.get(calls[0]["id"])) is not None:
                said = SampledMessage(role="assistant")
                said.completion_ids = ids
                shown.append(said)
                continue
            if calls:
                content += f"[{', '.join(written(call['function']) for call in calls)}]"
            shown.append({"role": message["role"], "content": content})
        if offered:
            rules = shown.pop(0)["content"] if shown and shown[0]["role"] == "system" else ""
            told = f"Tools: {offered}\n{rules}".strip()
            shown.insert(0, {"role": "system", "content": told})
        return shown

    # -- what the model says -----------------------------------------------------------------

    def _message(self, reply: Reply) -> dict[str, Any]:
        """Return the message of a reply, whose ids are kept for the next prompt."""
        calls = [
            {"id": f"call-{uuid.uuid4().hex[:12]}", "type": "function", "function": function}
            for function in calls_in(reply.text)
        ]
        if not calls:
            return {"role": "assistant", "content": reply.text}
        self._sampled[str(calls[0]["id"])] = list(reply.completion_ids or ())
        if len(self._sampled) > _KEPT:
            self._sampled.popitem(last=False)
        return {"role": "assistant", "content": None, "tool_calls": calls}

    def _completion(
        self, asked: Mapping[str, Any], reply: Reply, message: dict[str, Any], delta: bool = False
    ) -> dict[str, Any]:
        """Return a completion, or the one chunk of a stream that has all of it."""
        calls = message.get("tool_calls") or []
        if delta and calls:
            numbered = [{**call, "index": index} for index, call in enumerate(calls)]
            message = {**message, "tool_calls": numbered}
        choice: dict[str, Any] = {
            "index": 0,
            "delta" if delta else "message": message,
            "finish_reason": "tool_calls" if calls else reply.finish_reason,
        }
        ids = list(reply.completion_ids or ())
        told: dict[str, Any] = {}
        if asked.get("logprobs"):
            values = zip(ids, reply.logprobs or (), strict=True)
            tokens = [{"token": f"token_id:{one}", "logprob": value} for one, value in values]
            choice["logprobs"] = {"content": tokens}
        if asked.get("return_token_ids"):
            choice["token_ids"] = ids
            told["prompt_token_ids"] = list(reply.prompt_ids or ())
        prompt = len(reply.prompt_ids or ())
        usage = {"prompt_tokens": prompt, "completion_tokens": len(ids)}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if delta else "chat.completion",
            "created": int(time.time()),
            "model": self._name,
            "choices": [choice],
            "usage": {**usage, "total_tokens": prompt + len(ids)},
            **told,
        }


def _text(content: Any) -> str:
    """Return the text of a message's content, which may come in parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return content or ""


def _signature(function: Mapping[str, Any]) -> str:
    names = (function.get("parameters") or {}).get("properties") or {}
    return f"{function['name']}({', '.join(names)})"


def written(function: Mapping[str, Any]) -> str:
    """Return a call as the model writes it."""
    arguments = json.loads(function["arguments"])
    told = ", ".join(f"{name}={json.dumps(value)}" for name, value in arguments.items())
    return f"{function['name']}({told})"


def calls_in(text: str) -> list[dict[str, str]]:
    """Return the calls that a text is; none, if it is anything else."""
    try:
        read = ast.parse(text.strip(), mode="eval").body
        if not isinstance(read, ast.List):
            return []
        calls = []
        for each in read.elts:
            if not isinstance(each, ast.Call) or not isinstance(each.func, ast.Name) or each.args:
                return []
            arguments = {str(part.arg): ast.literal_eval(part.value) for part in each.keywords}
            if any(part.arg is None for part in each.keywords):  # of **
                return []
            told = json.dumps(arguments, allow_nan=False)
            calls.append({"name": each.func.id, "arguments": told})
        return calls
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []

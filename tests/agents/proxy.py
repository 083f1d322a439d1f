"""A proxy between an agent and its gateway: it keeps what passed, and can cut an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiohttp
from aiohttp import web

__all__ = ["AnswerProxy", "Exchange", "Said"]

_HOPS: Final = frozenset({"connection", "content-length", "host", "transfer-encoding"})
"""Headers that are of one connection."""


@dataclass
class Said:
    """An answer as its client read it: the text, and name and arguments of each tool call."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Exchange:
    """One request and the answer that passed; ``is_cut``: its connection was ended amid it."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    received: bytes = b""
    is_cut: bool = False

    @property
    def asked(self) -> Any:
        """The request's JSON."""
        return json.loads(self.body) if self.body else None

    def said(self) -> Said:
        """Return the answer as its stream, or its body, has it."""
        if not self.asked.get("stream"):
            return _whole(json.loads(self.received))
        said = Said()
        calls: dict[int, tuple[str, str]] = {}
        for block in self.received.decode().split("\n\n"):
            for line in block.splitlines():
                data = line.removeprefix("data:").strip()
                if line.startswith("data:") and data != "[DONE]":
                    _read(json.loads(data), said, calls)
        said.calls = [calls[index] for index in sorted(calls)]
        return said


class AnswerProxy:
    """The proxy, in the running loop.

    Args:
        url: of the gateway.
        cut: bytes after which the first answer to a request with tools is cut.
    """

    def __init__(self, url: str, cut: int | None = None) -> None:
        self._target = url
        self._cut = cut
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None
        self.exchanges: list[Exchange] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._http = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        assert self._http is not None
        await self._runner.cleanup()
        await self._http.close()

    @property
    def calls(self) -> list[Exchange]:
        """Requests for a model, in their order."""
        return [each for each in self.exchanges if each.body and b'"model"' in each.body]

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        assert self._http is not None
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        exchange = Exchange(request.path, headers, body)
        self.exchanges.append(exchange)
        left = None
        if exchange in self.calls and exchange.asked.get("tools"):
            left, self._cut = self._cut, None
        sent = {name: value for name, value in headers.items() if name not in _HOPS}
        target = self._target + str(request.rel_url)
        async with self._http.request(
            request.method, target, data=body or None, headers=sent
        ) as answer:
            exchange.status = answer.status
            kept = {
                name: value for name, value in answer.headers.items() if name.lower() not in _HOPS
            }
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for part in answer.content.iter_any():
                if left is not None and len(part) >= left:
                    exchange.received += part[:left]
                    exchange.is_cut = True
                    await response.write(part[:left])
                    assert request.transport is not None
                    request.transport.close()
                    return response
                exchange.received += part
                left = None if left is None else left - len(part)
                await response.write(part)
            await response.write_eof()
        return response


def _full_name(item: dict[str, Any]) -> str:
    """Return the name by which the engine knows the tool of a call, that of its group included."""
    group = item.get("namespace")
    return f"{group}__{item['name']}" if group else str(item["name"])


def _whole(body: dict[str, Any]) -> Said:
    said = Said()
    if "choices" in body:
        message = body["choices"][0]["message"]
        said.text = message.get("content") or ""
        for call in message.get("tool_calls") or ():
            said.calls.append((call["function"]["name"], call["function"]["arguments"]))
        return said
    for item in body.get("output") or body.get("content") or ():
        match item["type"]:
            case "message":
                said.text += "".join(part["text"] for part in item["content"])
            case "text":
                said.text += item["text"]
            case "function_call":
                said.calls.append((_full_name(item), item["arguments"]))
            case "tool_use":
                said.calls.append((item["name"], json.dumps(item["input"])))
    return said


def _read(event: dict[str, Any], said: Said, calls: dict[int, tuple[str, str]]) -> None:
    """Take what one event of a stream adds."""

    def add(index: int, name: str, arguments: str) -> None:
        before = calls.get(index, ("", ""))
        calls[index] = (before[0] + name, before[1] + arguments)

    for choice in event.get("choices") or ():
        delta = choice["delta"]
        said.text += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            add(call["index"], function.get("name") or "", function.get("arguments") or "")
    match event.get("type"):
        case "response.output_text.delta":
            said.text += event["delta"]
        case "response.output_item.done" if event["item"]["type"] == "function_call":
            item = event["item"]
            add(event["output_index"], _full_name(item), item["arguments"])
        case "content_block_start" if event["content_block"]["type"] == "tool_use":
            add(event["index"], event["content_block"]["name"], "")
        case "content_block_delta" if event["delta"]["type"] == "text_delta":
            said.text += event["delta"]["text"]
        case "content_block_delta" if event["delta"]["type"] == "input_json_delta":
            add(event["index"], "", event["delta"]["partial_json"])

"""A small agent of the standard library: it asks a model by chat completions, and plays over MCP.

``python small_agent.py PROMPT``: an answer of the model is the amount of the next step, or ``end``.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping

_numbers = itertools.count(1)


def post(
    url: str, token: str, body: Mapping[str, object], headers: dict[str, str] | None = None
) -> dict[str, object]:
    own = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "authorization": f"Bearer {token}",
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), own | (headers or {}))
    with urllib.request.urlopen(request, timeout=60) as response:
        return dict(json.load(response))


def ask(messages: list[dict[str, object]]) -> str:
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    body = {"model": "any", "messages": messages}
    said = post(url, os.environ["OPENAI_API_KEY"], body)["choices"][0]["message"]  # type: ignore[index]  # JSON
    messages.append(said)
    return str(said["content"])


def step(amount: int) -> str:
    version = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "step"}
    about = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "step", "arguments": {"amount": amount}, "_meta": about}
    call = {"jsonrpc": "2.0", "id": next(_numbers), "method": "tools/call", "params": params}
    url, token = os.environ["OPENENV_MCP_URL"], os.environ["OPENENV_MCP_TOKEN"]
    result = post(url, token, call, version)["result"]
    return json.dumps(result["content"])  # type: ignore[index]  # JSON


def main() -> None:
    sys.stdout.write(f"variables: {' '.join(sorted(os.environ))}\n")
    prompt = sys.argv[1] if len(sys.argv) > 1 else sys.stdin.read()
    messages: list[dict[str, object]] = [{"role": "user", "content": prompt}]
    while True:
        try:
            said = ask(messages)
        except urllib.error.HTTPError as exc:
            sys.stdout.write(f"refused: {exc.code} {exc.read().decode()}\n")
            sys.exit(3)
        sys.stdout.write(f"the model says {said}\n")
        if said == "end":
            return
        messages.append({"role": "user", "content": step(int(said))})


if __name__ == "__main__":
    main()

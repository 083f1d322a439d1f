"""An MCP server of the standard library alone, over its standard streams, with every bad habit.

``python -I -S tests/mcp_server.py [HABIT...]``; habits are told by their names below. It answers
one message at a time, but for ``hang``, whose reply never comes unless it is cancelled.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

MODERN: Final = "2026-07-28"
PNG: Final = b"\x89PNG\r\n\x1a\n and more"
HABITS: Final = set(sys.argv[1:])
SEEN: Final = Path("memo.txt")
OBJECT: Final = {"type": "object"}
TOOLS: Final[dict[str, dict[str, Any]]] = {
    "write": {
        "description": "Write the memo.",
        "inputSchema": {
            **OBJECT,
            "properties": {"text": {"$ref": "#/$defs/Text"}, "times": {"type": "integer"}},
            "required": ["text"],
            "additionalProperties": False,
            "$defs": {"Text": {"type": "string", "maxLength": 40}},
        },
    },
    "read": {"description": "Read the memo.", "inputSchema": OBJECT},
    "where": {"inputSchema": OBJECT},
    "picture": {"inputSchema": OBJECT},
    "numbers": {"inputSchema": OBJECT, "outputSchema": OBJECT},
    "fail": {"inputSchema": OBJECT},
    "refuse": {"inputSchema": OBJECT},
    "hang": {"inputSchema": OBJECT},
    "big": {"inputSchema": {**OBJECT, "properties": {"size": {"type": "integer"}}}},
    "change": {"inputSchema": OBJECT},
    "grow": {"inputSchema": OBJECT},
    "die": {"inputSchema": OBJECT},
    "spawn": {"inputSchema": OBJECT},
    "ask": {"inputSchema": OBJECT},
}
hanging: list[Any] = []


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": said}], **more}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    match name:
        case "write":
            before = SEEN.read_text() if SEEN.exists() else ""
            SEEN.write_text(before + arguments["text"] * arguments.get("times", 1))
            return text("written")
        case "read":
            return text(SEEN.read_text() if SEEN.exists() else "nothing")
        case "where":
            told = {"cwd": os.getcwd(), "args": sys.argv[1:], "env": dict(os.environ)}
            return text(json.dumps(told))
        case "picture":
            image = {
                "type": "image",
                "data": base64.b64encode(PNG).decode(),
                "mimeType": "image/png",
            }
            return {"content": [{"type": "text", "text": "look"}, image]}
        case "numbers":
            return text("several", structuredContent={"numbers": [1, 2]})
        case "fail":
            return text("it did not work", isError=True)
        case "big":
            return text("x" * arguments["size"])
        case "change":
            TOOLS["extra"] = {"inputSchema": OBJECT}
            say({"method": "notifications/tools/list_changed"})
            return text("changed")
        case "grow":  # and says nothing of it
            TOOLS["hidden"] = {"inputSchema": OBJECT}
            return text("grown")
        case "spawn":
            program = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(300)"]
            apart = subprocess.Popen(program, start_new_session=True)
            return text(json.dumps([os.getpid(), subprocess.Popen(program).pid, apart.pid]))
        case "ask":
            say({"id": "q", "method": "ping"})
            say({"id": 7, "method": "sampling/createMessage", "params": {}})
            answers = [json.loads(sys.stdin.readline()) for _ in range(2)]
            say({"method": "notifications/message", "params": {"level": "info", "data": "asked"}})
            return text(json.dumps(answers))
    return text(f"{name} was called")


def answer(message: dict[str, Any]) -> None:
    method, number, params = message.get("method"), message.get("id"), message.get("params") or {}
    obeys = method == "notifications/cancelled" and "ignores-cancel" not in HABITS
    if obeys and params["requestId"] in hanging:
        say({"id": params["requestId"], "error": {"code": 0, "message": "cancelled"}})
    if number is None:
        return
    is_modern = MODERN in json.dumps(params.get("_meta") or {})
    about = {"name": "habits", "version": "1"}
    match method:
        case "initialize" if "modern" not in HABITS:
            capabilities = {"tools": {"listChanged": "tells-nothing" not in HABITS}}
            version = "1999-01-01" if "odd" in HABITS else "2025-06-18"
            result = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": about}
            say({"id": number, "result": {**result, "instructions": "Mind the memo."}})
        case "server/discover" if "modern" in HABITS:
            meta = {"_meta": {"io.modelcontextprotocol/serverInfo": about}}
            versions = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
            say({"id": number, "result": {"resultType": "complete", **versions, **meta}})
        case "tools/list" if "modern" not in HABITS or is_modern:
            if "no-tools" in HABITS:
                say({"id": number, "result": {"tools": []}})
                return
            names = [*TOOLS]
            start = int(params.get("cursor") or 0)
            page = [{"name": name, **TOOLS[name]} for name in names[start : start + 8]]
            more = {"nextCursor": str(start + 8)} if start + 8 < len(names) else {}
            say({"id": number, "result": {"tools": [{"name": 3}, *page], **more}})
        case "tools/call" if params["name"] == "hang":
            hanging.append(number)
        case "tools/call" if params["name"] == "die":
            sys.stderr.write("it died of it\n")
            sys.exit(3)
        case "tools/call" if params["name"] == "refuse":
            say({"id": number, "error": {"code": -32602, "message": "not like this"}})
        case "tools/call" if params["name"] not in TOOLS:
            say({"id": number, "error": {"code": -32603, "message": "no such tool"}})
        case "tools/call":
            say({"id": number, "result": call(params["name"], params.get("arguments") or {})})
        case _:
            say({"id": number, "error": {"code": -32601, "message": f"no {method}"}})


def main() -> None:
    sys.stderr.write("first words\n")
    if "exits" in HABITS:
        sys.stderr.write("there is no such repository\n")
        sys.exit(4)
    if "hangs" in HABITS:
        sys.stderr.write("waiting for a lock\n")
        time.sleep(300)
    if "noisy" in HABITS:
        sys.stdout.write("Welcome!\n\n{not json\n[1, 2]\n" + '{"jsonrpc": "2.0", "id": 99}\n')
    if "ignores-term" in HABITS:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        answer(json.loads(line))
    if "ignores-term" in HABITS:
        time.sleep(300)


if __name__ == "__main__":
    main()

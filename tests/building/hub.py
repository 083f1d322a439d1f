"""A Hub that takes Spaces, for tests: the calls that ``huggingface_hub`` makes, by HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Hub"]


class Hub:
    """The requests made of it.

    Attributes:
        token: that it wants; others get a 401.
        created: bodies of the calls that make a Space.
        files: what was committed, by path.
        secrets: of the Space.
        commits: how many there were.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.secrets: dict[str, str] = {}
        self.commits = 0
        self.url = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[Hub]:
        """Serve until the end of the block."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                allowed = self.headers.get("Authorization") == f"Bearer {hub.token}"
                status, answer = hub.answer(self.path, body) if allowed else (401, {"error": "no"})
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """One call: status and JSON."""
        route = path.partition("?")[0]
        if route == "/api/repos/create":
            asked = json.loads(body)
            self.created.append(asked)
            return 200, {"url": f"{self.url}/spaces/{asked['organization']}/{asked['name']}"}
        if route.endswith("/secrets"):
            asked = json.loads(body)
            self.secrets[asked["key"]] = asked["value"]
            return 200, {}
        if route == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in route:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if "/commit/" in route:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            self.commits += 1
            address = f"{self.url}/spaces/me/x/commit/{self.commits}"
            return 200, {"commitUrl": address, "commitOid": "1" * 40}
        return 404, {"error": f"no {route}"}

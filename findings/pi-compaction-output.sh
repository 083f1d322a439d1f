#!/usr/bin/env bash
# pi 0.73.1: `pi -p` prints nothing when the history is compacted behind the last answer.
#
# Print mode prints the assistant's last answer. When the context is nearly full at the end of the
# run, pi asks the model for a summary of the history and then prints nothing at all, with status 0:
# the task was done, and a caller that reads standard output finds an empty answer. The same run
# with a larger context prints it. Two requests behind each other tell the runs apart: the second
# has no tools.
#
# Seen with @mariozechner/pi-coding-agent 0.73.1, Node.js 20, Python 3.11:
#   context of 1000000 tokens: status 0, 12 requests, output 'All is printed.'
#   context of 20000 tokens:   status 0, 13 requests, output ''
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm install --silent --no-audit --no-fund --prefix "$work" @mariozechner/pi-coding-agent@0.73.1

cat >"$work/play.py" <<'PY'
import http.server
import json
import os
import subprocess
import sys
import threading

WORK = sys.argv[1]
STEPS = 11
asked = []


class Model(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked.append(body)
        done = sum(message["role"] == "tool" for message in body["messages"])
        delta = {"role": "assistant", "content": "All is printed."}
        finish = "stop"
        if not body.get("tools"):
            delta["content"] = "## Goal\nPrint numbers."
        elif done < STEPS:
            arguments = json.dumps({"command": f"seq {done}0000 {done}1500"})
            function = {"name": "bash", "arguments": arguments}
            call = {"index": 0, "id": f"c{done}", "type": "function", "function": function}
            delta, finish = {"role": "assistant", "content": "More.", "tool_calls": [call]}, "tool_calls"
        size = len(json.dumps(body)) // 4
        usage = {"prompt_tokens": size, "completion_tokens": 9, "total_tokens": size + 9}
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for chunk in (
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
            {**head, "choices": [], "usage": usage},
        ):
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
threading.Thread(target=server.serve_forever, daemon=True).start()


def run(context):
    asked.clear()
    home = f"{WORK}/home-{context}"
    os.makedirs(f"{home}/.pi/agent")
    model = {"id": "m", "contextWindow": context, "maxTokens": 5000}
    provider = {
        "baseUrl": f"http://127.0.0.1:{server.server_port}/v1",
        "api": "openai-completions",
        "apiKey": "none",
        "models": [model],
    }
    with open(f"{home}/.pi/agent/models.json", "w") as file:
        json.dump({"providers": {"own": provider}}, file)
    ended = subprocess.run(
        [f"{WORK}/node_modules/.bin/pi", "--provider", "own", "--model", "m", "-p", "Print much."],
        env={"HOME": home, "PATH": os.environ["PATH"], "PI_OFFLINE": "1", "PI_TELEMETRY": "0"},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    print(
        f"context of {context} tokens: status {ended.returncode}, {len(asked)} requests,"
        f" output {ended.stdout.strip()!r}"
    )
    return ended.returncode, len(asked), ended.stdout.strip()


assert run(1_000_000) == (0, STEPS + 1, "All is printed.")
assert run(20_000) == (0, STEPS + 2, "")
PY
python3 "$work/play.py" "$work"

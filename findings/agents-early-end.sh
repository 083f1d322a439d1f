#!/usr/bin/env bash
# opencode 1.18.33 and pi 0.73.1: an answer whose stream ends early is taken for the whole answer.
#
# A stream of chat completions ends with a chunk that has a finish_reason, and "data: [DONE]". Where a
# server or a proxy ends the response in an orderly way before them, as after its own deadline, the
# part that came is the answer: pi ends with it and status 0, and opencode sends it back as an
# assistant's message and asks again, so that its history has a turn that the model never finished.
#
# Seen with opencode-ai 1.18.33, @mariozechner/pi-coding-agent 0.73.1, Node.js 20, Python 3.11:
#   pi:       status 0, output 'The answer is forty'
#   opencode: asks again behind the assistant's message 'The answer is forty'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm install --silent --no-audit --no-fund --prefix "$work" \
    opencode-ai@1.18.33 @mariozechner/pi-coding-agent@0.73.1

cat >"$work/play.py" <<'PY'
import http.server
import json
import os
import subprocess
import sys
import threading

WORK = sys.argv[1]
asked = []


class Model(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_first = bool(body.get("tools")) and not asked
        if body.get("tools"):  # opencode asks for a title besides
            asked.append(body)
        text = "The answer is forty" if is_first else "The answer is forty-two."
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        delta = {"role": "assistant", "content": text}
        chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}]
        if not is_first:
            chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
        data += b"" if is_first else b"data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{server.server_port}/v1"


def run(name, arguments, path, settings):
    asked.clear()
    home = f"{WORK}/home-{name}"
    os.makedirs(os.path.dirname(f"{home}/{path}"))
    with open(f"{home}/{path}", "w") as file:
        json.dump(settings, file)
    more = {"PI_OFFLINE": "1", "PI_TELEMETRY": "0", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    return subprocess.run(
        [f"{WORK}/node_modules/.bin/{name}", *arguments, "What is the answer?"],
        env={"HOME": home, "PATH": os.environ["PATH"], **more},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


provider = {"baseUrl": URL, "api": "openai-completions", "apiKey": "none", "models": [{"id": "m"}]}
settings = {"providers": {"own": provider}}
arguments = ["--provider", "own", "--model", "m", "-p"]
ended = run("pi", arguments, ".pi/agent/models.json", settings)
said = ended.stdout.strip()
print(f"pi:       status {ended.returncode}, output {said!r}")
assert (ended.returncode, said, len(asked)) == (0, "The answer is forty", 1)

provider = {
    "npm": "@ai-sdk/openai-compatible",
    "options": {"baseURL": URL, "apiKey": "none"},
    "models": {"m": {}},
}
settings = {"autoupdate": False, "provider": {"own": provider}, "model": "own/m"}
run("opencode", ["run"], ".config/opencode/opencode.json", settings)
behind = asked[1]["messages"][-1]
print(f"opencode: asks again behind the {behind['role']}'s message {behind['content']!r}")
assert (behind["role"], behind["content"]) == ("assistant", "The answer is forty")
PY
python3 "$work/play.py" "$work"

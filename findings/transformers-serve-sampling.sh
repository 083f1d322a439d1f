#!/usr/bin/env bash
# transformers 5.24.0: `transformers serve` takes "temperature" and "logprobs" and does neither.
#
# Unless the model's own generation_config.json has "do_sample": true, a chat completion is greedy:
# the temperature is stored and never used, so that all members of a group say the same. A request
# with "generation_config": "{\"do_sample\": true, …}" is sampled. "logprobs": true is answered with
# 200 and without log probabilities, although other fields it does not know, such as
# "return_token_ids", are refused with 422.
#
# Seen with transformers 5.24.0, torch 2.13.0 (CPU), openai 3.57.0, Python 3.11:
#   different replies to 4 requests of temperature 2: 1
#   the same with do_sample in generation_config:     4
#   logprobs: true:         200, logprobs in the answer: False
#   return_token_ids: true: 422
set -euo pipefail
work=$(mktemp -d)
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "transformers==5.24.0" "torch==2.13.0" "openai==3.57.0" \
    "fastapi>=0.130" uvicorn accelerate

cat >"$work/make.py" <<'PY'
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = {word: number for number, word in enumerate(["<s>", "</s>", *map(chr, range(33, 127))])}
made = Tokenizer(models.WordLevel(words, unk_token="<s>"))
made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<s>"
)
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
tokenizer.save_pretrained(sys.argv[1])
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
PY
"$work/venv/bin/python" "$work/make.py" "$work/tiny" >/dev/null 2>&1
"$work/venv/bin/transformers" serve --port 9392 >"$work/log" 2>&1 &
server=$!
trap 'kill $server; rm -rf "$work"' EXIT

"$work/venv/bin/python" - "$work/tiny" <<'PY'
import json
import sys
import time
import urllib.error
import urllib.request

MODEL = sys.argv[1]


def ask(**more):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, **more}
    request = urllib.request.Request(
        "http://localhost:9392/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)["choices"][0]
    except urllib.error.HTTPError as error:
        return error.code, None


for _ in range(300):
    try:
        urllib.request.urlopen("http://localhost:9392/health")
        break
    except urllib.error.URLError:
        time.sleep(1)
plain = {ask(temperature=2.0)[1]["message"]["content"] for _ in range(4)}
print(f"different replies to 4 requests of temperature 2: {len(plain)}")
sampling = json.dumps({"do_sample": True, "max_new_tokens": 8})
sampled = {
    ask(temperature=2.0, generation_config=sampling)[1]["message"]["content"] for _ in range(4)
}
print(f"the same with do_sample in generation_config:     {len(sampled)}")
status, choice = ask(logprobs=True)
has = bool(choice.get("logprobs"))
print(f"logprobs: true:         {status}, logprobs in the answer: {has}")
refused, _ = ask(return_token_ids=True)
print(f"return_token_ids: true: {refused}")
assert len(plain) == 1 and len(sampled) > 1
assert (status, has, refused) == (200, False, 422)
PY

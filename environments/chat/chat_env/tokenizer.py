"""A tokenizer with its chat template.

Rules:

- The agent's tokens stay in the history as they came: nothing is decoded and encoded again, so
  the log probabilities of a trainer belong to just these tokens.
- The text of a message holds no special token: what looks like one is taken out of it, so that
  nobody ends a turn or begins another's from within a message.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import tokenizers

from chat_env.models import Message
from openenv_async.errors import InvalidOption

__all__ = ["BUNDLED", "ChatTokenizer", "bundled_template", "load_tokenizer"]

BUNDLED: Final = "smollm2"
_MARKS: Final = '{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}'
"""Those of the model file, by their ids."""
Render = Callable[[Sequence[Message], bool], str]


class ChatTokenizer:
    """Tokens of conversations.

    Args:
        tokenizer: of the ``tokenizers`` library.
        render: text of messages; the flag asks for the beginning of the agent's next message.
        end_of_turn: the text that ends a message in it.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, render: Render, end_of_turn: str) -> None:
        self.tokenizer = tokenizer
        self._render = render
        self.size: int = tokenizer.get_vocab_size()
        """Ids are below it."""
        self.end_of_turn: int | None = tokenizer.token_to_id(end_of_turn)
        added = tokenizer.get_added_tokens_decoder().values()
        special = sorted((token.content for token in added if token.special), key=len)
        self._special = re.compile("|".join(map(re.escape, reversed(special))) or r"(?!)")

    def clean(self, text: str) -> str:
        """``text`` without special tokens."""
        while (cleaned := self._special.sub("", text)) != text:
            text = cleaned  # what was between two halves may have been one
        return text

    def encode(self, text: str) -> list[int]:
        """The tokens of a text alone."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def opening(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation up to where the agent begins to speak."""
        return self.encode(self._render(messages, True))

    def until_end(self, tokens: Sequence[int]) -> list[int]:
        """``tokens`` up to and with the first end of turn."""
        if self.end_of_turn in tokens:
            return list(tokens[: tokens.index(self.end_of_turn) + 1])
        return list(tokens)

    def following(self, tokens: Sequence[int], response: str | None) -> list[int]:
        """Return the text after an agent's message, given as tokens, and before its next.

        Args:
            response: the partner's message; ``None``: there is none, the conversation ends.
        """
        ids = self._turn_end() if response is None else self.encode(self._between(response))
        if tokens and ids and tokens[-1] == ids[0] == self.end_of_turn:
            return ids[1:]
        return ids

    def _between(self, response: str) -> str:
        """The text between two messages of the agent, ``response`` included.

        Templates differ in all they do but this: they render the same turns the same way.
        """
        said = "\u241f"
        turns = [Message("user", "a"), Message("assistant", said), Message("user", response)]
        return self._render(turns, True).partition(said)[2]

    def _turn_end(self) -> list[int]:
        return [] if self.end_of_turn is None else [self.end_of_turn]


def bundled_template() -> str:
    """The chat template of SmolLM2-135M-Instruct, as its model file has it.

    It is ChatML; a conversation without a system message begins with one of the model's own.
    """
    file = resources.files("chat_env").joinpath("data/smollm2-chat-template.jinja")
    return file.read_bytes().decode()


@functools.lru_cache(maxsize=8)
def load_tokenizer(name: str = BUNDLED) -> ChatTokenizer:
    """The tokenizer of a name; one object serves every session.

    Args:
        name: ``smollm2``, the bundled one; a folder with ``tokenizer.json`` (and a chat template
            in ``chat_template.jinja`` or ``tokenizer_config.json``), or such a file; or the name
            of a model on the Hugging Face hub, which needs the network.

    Raises:
        InvalidOption: there is none of that name.
    """
    if name == BUNDLED:
        packed = resources.files("chat_env").joinpath("data/smollm2-tokenizer.json.gz")
        text = gzip.decompress(packed.read_bytes()).decode()
        return _templated(
            tokenizers.Tokenizer.from_str(text),
            {"chat_template.jinja": bundled_template(), "tokenizer_config.json": _MARKS},
        )
    path = Path(name).expanduser()
    try:
        if path.exists():
            folder = path if path.is_dir() else path.parent
            made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            files = {
                each: (folder / each).read_text(encoding="utf-8")
                for each in ("tokenizer_config.json", "chat_template.jinja")
                if (folder / each).exists()
            }
        else:
            made = tokenizers.Tokenizer.from_pretrained(name)
            files = _from_hub(name)
    except Exception as exc:  # the libraries raise bare ones
        raise InvalidOption(
            f"there is no tokenizer {name!r}: write {BUNDLED}, a folder with tokenizer.json or a"
            f" name of the hub ({' '.join(str(exc).split())[:200]})",
            option="tokenizer",
        ) from exc
    return _templated(made, files)


def _from_hub(name: str) -> dict[str, str]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    files: dict[str, str] = {}
    for each in ("tokenizer_config.json", "chat_template.jinja"):
        try:
            files[each] = Path(hf_hub_download(name, each)).read_text(encoding="utf-8")
        except EntryNotFoundError:
            continue
    return files


def _templated(tokenizer: tokenizers.Tokenizer, files: dict[str, str]) -> ChatTokenizer:
    config: dict[str, Any] = json.loads(files.get("tokenizer_config.json", "{}"))
    marks = {
        key: value["content"] if isinstance(value, dict) else value
        for key in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (value := config.get(key))
    }
    template = files.get("chat_template.jinja") or config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {each["name"]: each["template"] for each in template}.get("default")
    if template is None:
        end = marks.get("eos_token") or ""
        return ChatTokenizer(tokenizer, functools.partial(_plain, end=end), end)
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    try:
        compiled = environment.from_string(template)
    except TemplateError as exc:
        raise InvalidOption(f"the chat template is broken: {exc}", option="tokenizer") from exc

    def render(messages: Sequence[Message], begin: bool) -> str:
        rows = [{"role": each.role, "content": each.content} for each in messages]
        try:
            return compiled.render(messages=rows, add_generation_prompt=begin, **marks)
        except TemplateError as exc:
            raise InvalidOption(f"the chat template fails: {exc}", option="tokenizer") from exc

    made = ChatTokenizer(tokenizer, render, marks.get("eos_token") or "")
    # The end of turn is what the template writes after the agent's text, which often is not eos.
    first = made.encode(made._between("x"))[:1]
    if first and tokenizer.id_to_token(first[0]) in set(_special_of(tokenizer)):
        made.end_of_turn = first[0]
    return made


def _special_of(tokenizer: tokenizers.Tokenizer) -> list[str]:
    return [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]


def _refuse(message: str) -> None:
    raise InvalidOption(f"the tokenizer's chat template refuses this conversation: {message}")


def _plain(messages: Sequence[Message], begin: bool, *, end: str) -> str:
    """The template of tokenizers without one: a line per message."""
    text = "".join(f"{each.role}: {each.content}{end}\n" for each in messages)
    return f"{text}assistant: " if begin else text

"""A tokenizer with its chat template.

Rules:

- The agent's tokens stay in the history as they came: nothing is decoded and encoded again, so
  the log probabilities of a trainer belong to just these tokens.
- The text of a message holds no special token: what looks like one is taken out of it, so that
  nobody ends a turn or begins another's from within a message.
- A template that knows no tools, no role ``tool`` or no content blocks is given what it knows: the
  tools' descriptions as text, a user's message, the blocks' text.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import tokenizers

from chat_env.models import Message, ToolCall
from chat_env.templates import ChatTemplate
from openenv_async.errors import InvalidOption

__all__ = ["BUNDLED", "ChatTokenizer", "bundled_template", "load_tokenizer"]

BUNDLED: Final = "smollm2"
_MARKS: Final = '{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}'
"""Those of the model file, by their ids."""
_MARK_NAMES: Final = tuple(
    f"{each}_token" for each in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_SAID: Final = "\u241f"
"""Stands for the text of an agent's message."""
_PLAIN: Final = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""The template of tokenizers without one: a line for each message."""
_TOOLS: Final = (
    "You can call these tools. To call one, write"
    ' <tool_call>{{"name": …, "arguments": {{…}}}}</tool_call> and wait for its result.\n{tools}'
)
_INERT: Final = {"image_url": "image", "input_audio": "audio", "audio_url": "audio"}
"""Names of templates for blocks whose names in OpenAI's API are others."""

Tools = Sequence[Mapping[str, Any]]


class ChatTokenizer:
    """Tokens of conversations.

    Args:
        tokenizer: of the ``tokenizers`` library.
        template: renders conversations.
        end_of_turn: the text that ends a message in it.

    Attributes:
        template: as it was given.
        size: ids are below it.
        end_of_turn: the token; ``None`` where there is none.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, template: ChatTemplate, end_of_turn: str
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.size: int = tokenizer.get_vocab_size()
        self.end_of_turn: int | None = tokenizer.token_to_id(end_of_turn)
        added = tokenizer.get_added_tokens_decoder().values()
        special = sorted((token.content for token in added if token.special), key=len)
        self._special = re.compile("|".join(map(re.escape, reversed(special))) or r"(?!)")
        # The end of turn is what the template writes after the agent's text, which often is not
        # the tokenizer's end of sequence.
        first = self.encode(self._between([Message("user", "x")], (), ()))[:1]
        if first and tokenizer.id_to_token(first[0]) in special:
            self.end_of_turn = first[0]

    def clean(self, text: str) -> str:
        """Return ``text`` without special tokens."""
        while (cleaned := self._special.sub("", text)) != text:
            text = cleaned  # what was between two halves may have been one
        return text

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text alone."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def opening(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Return the tokens of a conversation up to where the agent begins to speak.

        Raises:
            InvalidOption: the template refuses it.
        """
        return self.encode(self._render(messages, tools, begin=True))

    def until_end(self, tokens: Sequence[int]) -> list[int]:
        """Return ``tokens`` up to and with the first end of turn."""
        if self.end_of_turn in tokens:
            return list(tokens[: tokens.index(self.end_of_turn) + 1])
        return list(tokens)

    def spoken(self, text: str, calls: Sequence[ToolCall], tools: Tools = ()) -> list[int]:
        """Return the tokens of an agent's message that came as text and calls of tools."""
        if not calls:
            return self.encode(text)
        asked, said = Message("user", "a"), Message("assistant", text, list(calls))
        before = self._render([asked], tools, begin=True)
        after = self._render([asked, said], tools)
        end = "" if self.end_of_turn is None else self.tokenizer.id_to_token(self.end_of_turn)
        if after.startswith(before) and all(call.name in after[len(before) :] for call in calls):
            written = after[len(before) :].rstrip("\n")
            return self.encode(written.removesuffix(end or ""))
        written = "\n".join((*([text] if text else []), *map(_hermes, calls)))
        return self.encode(written)

    def following(
        self,
        tokens: Sequence[int],
        replies: Sequence[Message],
        calls: Sequence[ToolCall] = (),
        tools: Tools = (),
    ) -> list[int]:
        """Return the tokens after an agent's message, given as tokens, and before its next.

        Args:
            tokens: of the agent's message.
            replies: messages that follow it; none: the conversation ends.
            calls: of tools in the agent's message, which messages of the role ``tool`` answer.
            tools: of the conversation.

        Raises:
            InvalidOption: the template refuses it.
        """
        ids = self.encode(self._between(replies, calls, tools)) if replies else self._turn_end()
        if tokens and ids and tokens[-1] == ids[0] == self.end_of_turn:
            return ids[1:]
        return ids

    def _between(self, replies: Sequence[Message], calls: Sequence[ToolCall], tools: Tools) -> str:
        """Return the text between two messages of the agent, ``replies`` included.

        Templates differ in all they do but this: they render the same turns the same way.
        """
        asked = Message("user", "a")
        said = Message("assistant", "" if calls else _SAID, list(calls) or None)
        after = self._render([asked, said, *replies], tools, begin=True)
        _, found, rest = after.partition(_SAID)
        if found:
            return rest
        # The agent's turn with and without what follows: it ends where the two part, or before.
        begun = _shared(self._render([asked], tools, begin=True), after)
        alone = self._render([asked, said], tools)
        place = _shared(alone, after)
        end = None if self.end_of_turn is None else self.tokenizer.id_to_token(self.end_of_turn)
        at = -1
        if end:
            at = after.rfind(end, begun, place)
            if at < 0 and end in alone[place:]:  # the turn reads otherwise when it is the last
                at = after.find(end, place)
        return after[at if at >= 0 else max(place, begun) :]

    def _render(self, messages: Sequence[Message], tools: Tools, *, begin: bool = False) -> str:
        template = self.template
        rows = [self._row(each) for each in messages]
        if tools and not template.takes_tools:
            text = _TOOLS.format(tools="\n".join(map(json.dumps, tools)))
            _prepend(rows[0], text)
        given = list(tools) if tools and template.takes_tools else None
        has_calls = any(each.role == "tool" or each.tool_calls for each in messages)
        if has_calls and not self._knows_results:
            rows = [_without_tools(row) for row in rows]
        return template.render(rows, begin=begin, tools=given)

    @functools.cached_property
    def _knows_results(self) -> bool:
        """True if the template renders results of calls: some refuse the role, or drop it."""
        call = ToolCall("f", {}, "call00001")
        asked = [Message("user", "a"), Message("assistant", "", [call])]
        rows = list(map(self._row, (*asked, Message("tool", _SAID, None, call.id, call.name))))
        try:
            return _SAID in self.template.render(rows, begin=True)
        except InvalidOption:
            return False

    def _row(self, message: Message) -> dict[str, Any]:
        """Return a message as templates have it."""
        row: dict[str, Any] = {"role": message.role, "content": message.text}
        if not isinstance(message.content, str) and self.template.takes_blocks:
            row["content"] = [_block(each) for each in message.content]
        elif not self.template.takes_text:
            row["content"] = [{"type": "text", "text": message.text}]
        if message.tool_calls:
            row["tool_calls"] = [_call(each) for each in message.tool_calls]
        if message.tool_call_id is not None:
            row |= {"tool_call_id": message.tool_call_id, "name": message.name}
        return row

    def _turn_end(self) -> list[int]:
        return [] if self.end_of_turn is None else [self.end_of_turn]


def _shared(one: str, other: str) -> int:
    """Return with how many characters two texts begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block as templates know it; of media only what kind they are of."""
    kind = block["type"]
    return dict(block) if kind == "text" else {"type": _INERT.get(kind, kind)}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _hermes(call: ToolCall) -> str:
    asked = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return f"<tool_call>\n{asked}\n</tool_call>"


def _prepend(row: dict[str, Any], text: str) -> None:
    """Put a text before the content of a message."""
    if isinstance(row["content"], str):
        row["content"] = f"{text}\n\n{row['content']}"
    else:
        row["content"] = [{"type": "text", "text": text}, *row["content"]]


def _without_tools(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["role"] == "tool":
        content = row["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        text = f"<tool_response>\n{text}\n</tool_response>"
        blocks = [{"type": "text", "text": text}]
        return {"role": "user", "content": text if isinstance(content, str) else blocks}
    return {"role": row["role"], "content": row["content"]}


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
        for key in _MARK_NAMES
        if (value := config.get(key))
    }
    template = files.get("chat_template.jinja") or config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {each["name"]: each["template"] for each in template}.get("default")
    if not isinstance(template, str):
        template = _PLAIN
    return ChatTokenizer(tokenizer, ChatTemplate(template, marks), marks.get("eos_token") or "")

"""The form in which a model plays an episode: what it reads, and what its messages do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from openenv_async.errors import InvalidOption
from openenv_async.models import to_builtins

__all__ = ["ChatFormat", "EpisodeFormat", "TextFormat", "field_of", "observation_text"]


def field_of(value: Any, name: str, default: Any = None) -> Any:
    """A field of an observation, which may be a dict or an object."""
    if isinstance(value, Mapping):
        return value.get(name, default)
    return getattr(value, name, default)


def observation_text(observation: Any) -> str:
    """An observation as text: itself, its only field or ``text`` field, else JSON."""
    if isinstance(observation, str):
        return observation
    plain = to_builtins(observation)
    if isinstance(plain, Mapping):
        for name in ("response", "text", "message"):
            if isinstance(plain.get(name), str):
                return str(plain[name])
        if len(plain) == 1:
            return observation_text(next(iter(plain.values())))
    return json.dumps(plain, default=repr, ensure_ascii=False)


class EpisodeFormat(Protocol):
    """The conversion of observations into tokens and messages into actions. It keeps nothing.

    ``tokenizer`` is the trainer's.
    """

    def begin(self, prompt: Any, observation: Any, tokenizer: Any) -> list[int]:
        """The tokens that the model sees first.

        Args:
            prompt: of the dataset's row: text or messages.
            observation: of the reset.
        """
        ...

    def action(self, text: str, tokens: list[int]) -> Any:
        """Return the action of a model's message; ``text`` is without special tokens."""
        ...

    def follow(self, observation: Any, tokens: list[int], tokenizer: Any) -> list[int]:
        """Return the tokens between a message and the model's next: masked, not trained on.

        Args:
            observation: of the step.
            tokens: of the message.
        """
        ...


class CorrectingFormat(EpisodeFormat, Protocol):
    """A format that can also tell the model its mistakes."""

    def correct(self, message: str, tokens: list[int], tokenizer: Any) -> list[int]:
        """Return the tokens between a message that was a mistake and the model's next: masked.

        Args:
            message: says what was wrong.
            tokens: of the message that was the mistake.
        """
        ...


class ChatFormat:
    """The format of the chat environment: it speaks tokens itself, of the model's own tokenizer.

    The row's prompt is not shown to the model; it may say which episode it is.
    """

    def begin(self, prompt: Any, observation: Any, tokenizer: Any) -> list[int]:
        """The conversation that the environment opens.

        Raises:
            InvalidOption: its tokenizer is not the model's.
        """
        tokens = list(field_of(observation, "tokens"))
        opening = str(field_of(observation, "response", ""))
        if opening not in tokenizer.decode(tokens):
            raise InvalidOption(
                "the chat environment's tokenizer is not the model's: set CHAT_TOKENIZER on the"
                " server, or params={'tokenizer': ...}, to the model's folder or name"
            )
        return tokens

    def action(self, text: str, tokens: list[int]) -> Any:
        """The message's own tokens."""
        return {"tokens": tokens}

    def follow(self, observation: Any, tokens: list[int], tokenizer: Any) -> list[int]:
        """The partner's turn."""
        return list(field_of(observation, "response_tokens"))


class TextFormat:
    """The format of environments whose observations can be read and whose actions can be written.

    Args:
        to_action: makes an action of the model's text. If it raises, or the environment refuses
            the action, that is a mistake of the model.
        to_text: makes the text of an observation.
        system: a system message before the row's prompt.
    """

    def __init__(
        self,
        to_action: Callable[[str], Any],
        *,
        to_text: Callable[[Any], str] = observation_text,
        system: str | None = None,
    ) -> None:
        self._to_action = to_action
        self._to_text = to_text
        self._system = system

    def begin(self, prompt: Any, observation: Any, tokenizer: Any) -> list[int]:
        """The row's prompt with the first observation at its end."""
        text = self._to_text(observation)
        if isinstance(prompt, str):
            return _ids(tokenizer.encode(prompt + text))
        messages = [dict(message) for message in prompt] or [{"role": "user", "content": ""}]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system})
        before = str(messages[-1]["content"])
        messages[-1]["content"] = f"{before}\n{text}" if before and text else before + text
        return _rendered(tokenizer, messages)

    def action(self, text: str, tokens: list[int]) -> Any:
        """Return what ``to_action`` makes of the text."""
        return self._to_action(text)

    def follow(self, observation: Any, tokens: list[int], tokenizer: Any) -> list[int]:
        """The observation as the user's turn, in the tokenizer's chat template."""
        return self._turn(self._to_text(observation), tokens, tokenizer)

    def correct(self, message: str, tokens: list[int], tokenizer: Any) -> list[int]:
        """The mistake as the user's turn."""
        return self._turn(f"That was not a valid action: {message}", tokens, tokenizer)

    def _turn(self, text: str, tokens: list[int], tokenizer: Any) -> list[int]:
        if getattr(tokenizer, "chat_template", None) is None:
            return _ids(tokenizer.encode(f"\n{text}\n", add_special_tokens=False))
        said = "\u241f"
        turns = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": said},
            {"role": "user", "content": text},
        ]
        whole = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = _ids(tokenizer.encode(whole.rpartition(said)[2], add_special_tokens=False))
        return ids[1:] if tokens and ids and tokens[-1] == ids[0] else ids


def _ids(encoded: Any) -> list[int]:
    return list(encoded)


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    ids = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return list(ids)

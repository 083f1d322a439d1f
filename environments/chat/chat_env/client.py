"""The client."""

from __future__ import annotations

from chat_env.models import ChatAction, ChatObservation, ChatState
from openenv_async.client.env import EnvClient

__all__ = ["ChatEnv"]


class ChatEnv(EnvClient[ChatAction, ChatObservation, ChatState]):
    """One session of a served chat environment."""

"""The chat environment: conversational tasks over tokens."""

from __future__ import annotations

from chat_env.client import ChatEnv
from chat_env.models import ChatAction, ChatObservation, ChatState, Message, ToolCall
from openenv_async.targets.discovery import EnvironmentEntry

__all__ = [
    "ENVIRONMENT",
    "ChatAction",
    "ChatEnv",
    "ChatObservation",
    "ChatState",
    "Message",
    "ToolCall",
]

ENVIRONMENT = EnvironmentEntry(
    environment="chat_env.environment:ChatEnvironment",
    client="chat_env.client:ChatEnv",
    action="chat_env.models:ChatAction",
    image="openenv-async-chat",
)

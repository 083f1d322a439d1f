"""Responders to conversations, for environments that talk or ask a language model."""

from __future__ import annotations

from openenv_async.responders.base import Message, Reply, Responder, Usage
from openenv_async.responders.loading import load_responder
from openenv_async.responders.openai import OpenAIResponder
from openenv_async.responders.scripted import ScriptedResponder
from openenv_async.responders.transformers import TransformersResponder

__all__ = [
    "Message",
    "OpenAIResponder",
    "Reply",
    "Responder",
    "ScriptedResponder",
    "TransformersResponder",
    "Usage",
    "load_responder",
]

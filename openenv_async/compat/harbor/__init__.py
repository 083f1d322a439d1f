"""Task folders of Harbor (terminal-bench), as an environment whose actions are shell commands."""

from __future__ import annotations

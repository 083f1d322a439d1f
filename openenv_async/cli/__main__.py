"""``python -m openenv_async.cli``."""

from __future__ import annotations

from openenv_async.cli import PROGRAM, main

main(prog_name=PROGRAM)

"""The oracle of ``task.toml`` files: Harbor's own reader, run with Harbor's interpreter.

``PYTHON_WITH_HARBOR tests/compat/harbor/oracle.py`` reads the texts of ``corpus.json`` and writes,
for each, the values of the keys that both readers know, or ``null`` where Harbor refuses it.
Harbor 0.26.0 needs Python 3.12, so what it said is kept in ``recorded.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENT = (
    *("docker_image", "build_timeout_sec", "os", "cpus", "memory_mb", "storage_mb", "gpus"),
    *("gpu_types", "env", "skills_dir", "workdir", "network_mode"),
)
AGENT = ("timeout_sec", "user", "network_mode")
VERIFIER = ("timeout_sec", "env", "user", "environment_mode", "network_mode")
HEALTHCHECK = (
    *("command", "interval_sec", "timeout_sec", "start_period_sec", "start_interval_sec"),
    "retries",
)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    value = getattr(value, "value", value)
    return list(value) if isinstance(value, tuple) else value


def told(config: Any) -> dict[str, Any]:
    """The values of a read file, by key; either reader's objects have these attributes."""
    found: dict[str, Any] = {"schema_version": config.schema_version}
    if config.task is not None:
        for key in ("name", "version", "description"):
            found[f"task.{key}"] = getattr(config.task, key)
        found["task.keywords"] = list(config.task.keywords)
    found["solution.env"] = dict(config.solution.env)
    parts = [
        ("agent", config.agent, AGENT),
        ("verifier", config.verifier, VERIFIER),
        ("environment", config.environment, ENVIRONMENT),
    ]
    if config.environment.healthcheck is not None:
        parts.append(("environment.healthcheck", config.environment.healthcheck, HEALTHCHECK))
    for name, section, keys in parts:
        for key in keys:
            found[f"{name}.{key}"] = plain(getattr(section, key))
    found["verifier.collect"] = [
        [each.command, each.service, each.timeout_sec, each.user]
        for each in config.verifier.collect
    ]
    found["steps"] = len(config.steps or ())
    return found


def main() -> None:
    """Read the corpus with Harbor."""
    TaskConfig: Any = importlib.import_module("harbor.models.task.config").TaskConfig
    warnings.simplefilter("ignore")
    said: dict[str, dict[str, Any] | None] = {}
    for name, text in json.loads((HERE / "corpus.json").read_text("utf-8")).items():
        try:
            said[name] = told(TaskConfig.model_validate_toml(text))
        except ValueError:  # pydantic's, and that of TOML
            said[name] = None
    json.dump(said, sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

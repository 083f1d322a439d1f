"""The Dockerfiles of the environments, from one template: ``python -m tests.dockerfiles`` writes.

The template is the one that ``openenv-async init`` uses. An environment that needs more than the
template gives says so in ``PARAMETERS``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from openenv_async.building.scaffold import dockerfile

__all__ = ["PARAMETERS", "paths", "rendered"]

ENVIRONMENTS: Final = Path(__file__).parent.parent / "environments"
PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "browsergym": {
        "system_packages": ("chromium", "fonts-liberation", "libatomic1"),
        "packages_comment": (
            "Debian's Chromium, a font (pages without one are empty boxes), what Playwright's "
            "driver links to."
        ),
    },
    "gymnasium": {"serve_arguments": ("--param", "id=CartPole-v1")},
    "repl": {
        # Another name than BASE, which a build of all images sets for each of them.
        "base_argument": "SANDBOX",
        "base_image": "openenv-async-coding:latest",
        "base_comment": (
            "On the image of the coding environment, whose sandbox it uses; build that one first."
        ),
    },
}


def paths() -> list[Path]:
    """The Dockerfiles that there are."""
    return sorted(ENVIRONMENTS.glob("*/Dockerfile"))


def rendered(name: str) -> str:
    """The Dockerfile that the environment should have."""
    return dockerfile(name, **PARAMETERS.get(name, {}))


if __name__ == "__main__":
    for path in paths():
        path.write_text(rendered(path.parent.name), encoding="utf-8")

"""The page's parts: HTML, styles and scripts, apart for the server or joined into one file.

The scripts are ES modules whose top-level names differ, and whose imports are of each other alone:
joined in the order of their imports, without ``import`` and ``export``, they are one module.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Final

__all__ = ["STATIC", "joined_page", "linked_page", "static_file"]

_PLOTS: Final = "vendor/uPlot.iife.min.js"
_STYLES: Final = ("vendor/uPlot.min.css", "viewer.css")
_MODULES: Final = ("dom.js", "data.js", "charts.js", "record.js", "views.js", "main.js")
"""Modules, each after those that it imports."""
STATIC: Final[dict[str, str]] = {
    _PLOTS: "text/javascript",
    **dict.fromkeys(_STYLES, "text/css"),
    **dict.fromkeys(_MODULES, "text/javascript"),
}
"""The files that a server gives, with their types."""
_IMPORT: Final = re.compile(r"^import\b[^;]*;\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=function|class|const|async)", re.MULTILINE)


def static_file(name: str) -> str:
    """Return the text of one of the files of ``STATIC``, or of ``index.html``."""
    return resources.files("openenv_async.viewer").joinpath("static", name).read_text("utf-8")


def linked_page() -> str:
    """Return the page as a server gives it: it refers to ``static/``."""
    styles = "\n".join(f'<link rel="stylesheet" href="static/{name}">' for name in _STYLES)
    scripts = f'<script src="static/{_PLOTS}"></script>\n'
    scripts += f'<script type="module" src="static/{_MODULES[-1]}"></script>'
    return _filled("", styles, "", scripts)


def joined_page(data: str) -> str:
    """Return the page as one file that loads nothing.

    Args:
        data: elements that hold the episodes; their content is never run.
    """
    styles = "\n".join(map(static_file, _STYLES))
    plots = static_file(_PLOTS)
    module = "\n".join(_EXPORT.sub("", _IMPORT.sub("", static_file(name))) for name in _MODULES)
    scripts = " ".join(map(_digest, (plots, module)))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {_digest(styles)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    return _filled(
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<style>{styles}</style>",
        data,
        f'<script>{plots}</script>\n<script type="module">{module}</script>',
    )


def _filled(policy: str, styles: str, data: str, scripts: str) -> str:
    parts = {"policy": policy, "styles": styles, "data": data, "scripts": scripts}
    pieces = re.split(r"<!-- (policy|styles|data|scripts) -->", static_file("index.html"))
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"

"""A certificate as a page: self-contained HTML, without scripts and without anything fetched.

All that an environment or a server said is escaped.
"""

from __future__ import annotations

import html
import json
from typing import Any, Final

from openenv_async.checks.certify.run import Certificate

__all__ = ["as_html", "as_json"]

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2024; background: #fff; }
h1 { font-size: 1.5rem; } code { font-size: 0.9em; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: 0.4rem 0.6rem;
  border-bottom: 1px solid #d8dde3; }
.passed { color: #176b37; } .failed { color: #b3261e; font-weight: 600; } .shown { color: #6b5900; }
small { color: #55606b; }
@media (prefers-color-scheme: dark) { body { color: #e4e7ea; background: #16191c; }
  td, th { border-color: #3a4047; } .passed { color: #6fcf8e; } .failed { color: #ff8a80; }
  .shown { color: #d8bd4a; } small { color: #9aa5b0; } }
"""
_HEAD: Final = '<!doctype html><html lang="en"><meta charset="utf-8">'
_VIEWPORT: Final = '<meta name="viewport" content="width=device-width, initial-scale=1">'


def as_json(certificate: Certificate) -> str:
    """Return a certificate as JSON, the digest of the rest in its key ``digest``."""
    return json.dumps(certificate.plain(), indent=2, default=str) + "\n"


def as_html(certificate: Certificate) -> str:
    """Return a certificate as a page."""
    plain = certificate.plain()
    about = plain["environment"]
    title = f"Certificate of {about['name'] or about['target']}"
    counts = ", ".join(f"{number} {word}" for word, number in plain["counts"].items())
    facts = {
        "environment": " ".join(filter(None, (about["name"], about["version"]))),
        "target": about["target"],
        "package": about["package"] or "",
        "arguments": json.dumps(about["params"], default=str) if about["params"] else "",
        f"digest of the {about['digest_of']}": about["digest"],
        "made": f"{plain['made_at']} by {plain['made_by']}",
        "digest of this certificate": plain["digest"],
    }
    listed = "".join(
        f"<tr><th>{html.escape(name)}</th><td><code>{html.escape(str(value))}</code></td></tr>"
        for name, value in facts.items()
        if value
    )
    lines = "".join(map(_line, plain["lines"]))
    return (
        f"{_HEAD}{_VIEWPORT}<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}: {plain['verdict']}</h1><p>{html.escape(counts)}</p>"
        f"<table>{listed}</table><h2>Lines</h2>"
        f"<table><tr><th>result</th><th>line</th><th>found</th></tr>{lines}</table></html>\n"
    )


def _line(line: dict[str, Any]) -> str:
    found = [line["figure"], line["reason"]]
    if line["remedy"]:
        found.append(f"Remedy: {line['remedy']}")
    told = "<br>".join(html.escape(each) for each in found if each)
    kind = "shown" if line["result"] == "not shown" else line["result"]
    return (
        f'<tr><td class="{kind}">{line["result"]}</td>'
        f"<td><b>{html.escape(line['name'].replace('_', ' '))}</b>"
        f"<br><small>{html.escape(line['promise'])}</small></td><td>{told}</td></tr>"
    )

"""HTML of the page: every text in it goes through ``text``, so nothing of an environment is markup.

Rules:

- Names, descriptions, errors and all else that comes from an environment or a client is escaped.
- There are no inline scripts and no inline styles: the policy of the page forbids both.
- Links are relative, so that a proxy may put the server below a prefix that it does not know of.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Final

from starlette.responses import HTMLResponse

from openenv_async.server.page.words import FieldInWords

__all__ = [
    "CONTENT_POLICY",
    "HEADERS",
    "document",
    "facts",
    "field_table",
    "login_form",
    "logout_form",
    "page_response",
    "paragraphs",
    "prose",
    "section",
    "table",
    "text",
]

CONTENT_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
_CODE: Final = re.compile(r"``([^`\n]+)``")
HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" browsers leave the origin out of forms, which is what lets them in.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def text(value: object) -> str:
    """Return a text as HTML that shows it."""
    return html.escape(str(value))


def prose(value: object) -> str:
    """Return a text as HTML, in which what stands between double backticks is code."""
    return _CODE.sub(r"<code>\1</code>", text(value))


def page_response(body: str, status: int = 200) -> HTMLResponse:
    """Return a document with the headers that keep it to itself."""
    return HTMLResponse(body, status, headers=HEADERS)


def document(title: str, body: str, *, csrf: str | None = None, root: str = "./") -> str:
    """Return a whole page.

    Args:
        title: as text.
        body: HTML, header and main included.
        csrf: the secret for the page's own requests; a page without has no script.
        root: the way to where the style sheet is.
    """
    script = (
        ""
        if csrf is None
        else f'<meta name="openenv-csrf" content="{text(csrf)}">'
        f'<script src="{root}page.js" type="module"></script>'
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{text(title)}</title><link rel="icon" href="{root}page.svg">'
        f'<link rel="stylesheet" href="{root}page.css">{script}</head><body>{body}</body></html>'
    )


def section(name: str, title: str, body: str) -> str:
    """Return a part of the page that the navigation leads to."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{text(title)}</h2>{body}</section>'
    )


def paragraphs(value: str) -> str:
    """Return a text of several paragraphs."""
    parts = (part.strip() for part in value.split("\n\n"))
    return "".join(f"<p>{prose(part)}</p>" for part in parts if part)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, name: str, empty: str) -> str:
    """Return a table, or a sentence where there are no rows.

    Args:
        heads: as text.
        rows: of HTML.
        name: of the table, for those who hear it.
        empty: the sentence.
    """
    labels = [f'<td data-label="{text(each)}">' for each in heads]
    body = "".join(
        "<tr>"
        + "".join(f"{label}{cell}</td>" for label, cell in zip(labels, row, strict=True))
        + "</tr>"
        for row in rows
    )
    if not body:
        return f'<p class="quiet">{text(empty)}</p>'
    head = "".join(f'<th scope="col">{text(each)}</th>' for each in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(name)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def field_table(fields: Sequence[FieldInWords], name: str) -> str:
    """Return a schema in words, as a table with the columns that say anything."""
    heads = ("Field", "Type", "Range", "Default", "Description")
    rows = [
        (
            f"<code>{text(field.name)}</code>"
            if field.name
            else '<span class="quiet">value</span>',
            text(field.kind),
            f'<span class="number">{text(field.range)}</span>',
            f"<code>{text(field.default)}</code>" if field.default else "",
            prose(field.about),
        )
        for field in fields
    ]
    shown = [at for at in range(len(heads)) if at < 2 or any(row[at] for row in rows)]
    if all(not field.range for field in fields) and 2 in shown:
        shown.remove(2)
    return table(
        [heads[at] for at in shown],
        [[row[at] for at in shown] for row in rows],
        name=name,
        empty="No fields are declared.",
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values, side by side; the values are HTML."""
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{rows}</dl>'


def login_form(title: str, about: str, error: str | None, root: str, below: str) -> str:
    """Return a page that asks for the token.

    Args:
        title: of the page.
        about: a sentence.
        error: why the last one was refused.
        root: the way to the server's root.
        below: the environment to come back to, empty for the root.
    """
    wrong = "" if error is None else f'<p class="error" role="alert">{text(error)}</p>'
    body = (
        f'<main class="login"><h1>{text(title)}</h1><p>{text(about)}</p>{wrong}'
        f'<form method="post" action="{root}login" autocomplete="off">'
        f'<input type="hidden" name="below" value="{text(below)}">'
        '<label for="token">Token</label>'
        '<input id="token" name="token" type="password" required autofocus autocomplete="off"'
        ' spellcheck="false"><button type="submit">Show the page</button></form>'
        '<p class="quiet">It is kept in a cookie of this browser until you log out or close the'
        " browser, and never put into an address.</p></main>"
    )
    return document(title, body, root=root)


def logout_form(root: str) -> str:
    """Return the button that forgets the token."""
    return (
        f'<form method="post" action="{root}logout" class="logout">'
        '<button type="submit" class="plain">Log out</button></form>'
    )

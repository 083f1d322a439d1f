r"""Text of others for a terminal: what would steer it is shown, never sent.

Environments, models, servers and files say what they like: a control sequence can rename a window,
overwrite a line, or hide what it does. Nothing of it is left out either, since it may be the cause
that is looked for: each such character is written as Python escapes it, ``\x1b``.

Shown are control characters (C0, DEL, C1), those that reorder or hide text (bidirectional marks
and overrides, zero-width spaces, tags), separators of lines and paragraphs, and lone surrogates.
Joiners (U+200C, U+200D) stay: scripts and emoji are made of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["plain_text", "printable"]

_HIDDEN: Final = (
    "\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_ONE_LINE: Final = re.compile(f"[\x00-\x1f{_HIDDEN}]")
_LINES: Final = re.compile(f"[\x00-\x08\x0b-\x1f{_HIDDEN}]")


def printable(text: Any, *, lines: bool = False) -> str:
    """Return a text that a terminal shows as it is, whatever it came from.

    Args:
        text: anything; what is not a text is shown as ``str`` gives it.
        lines: leave line feeds and tabs, for what may have several lines.
    """
    shown: str = text if isinstance(text, str) else str(text)
    if shown.isprintable():
        return shown
    if lines:
        shown = shown.replace("\r\n", "\n")
    return (_LINES if lines else _ONE_LINE).sub(_escaped, shown)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def plain_text(text: Any, style: str = "", *, lines: bool = False) -> Text:
    """Return a text for rich, in which nothing is markup.

    Args:
        text, lines: as for ``printable``.
        style: of all of it.
    """
    from rich.text import Text

    return Text(printable(text, lines=lines), style=style)

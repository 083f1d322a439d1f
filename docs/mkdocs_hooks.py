"""Links of the documentation to files beside it: the site carries a copy of each.

``docs/`` links to tests, examples and packages of the repository. In the site such a link leads to
the text of the file, kept below ``files/``; a link to a folder becomes its words alone.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:#]+)(?:#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to outside ``docs/``."""
    linked = {
        path
        for page in files.documentation_pages()
        for path in _outside(page.content_string, page.src_uri, config)
    }
    for path in sorted(linked):
        source = Path(config.docs_dir).parent / path
        if source.is_file() and path != "README.md":
            content = source.read_text(encoding="utf-8")
            files.append(File.generated(config, _copy_of(path), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to those copies."""
    here = posixpath.dirname(page.file.src_uri)

    def rewritten(link: re.Match[str]) -> str:
        words, target = link.groups()
        path = _inside_repository(target, page.file.src_uri, config)
        if path is None:
            return link[0]
        if path == "README.md":
            return f"[{words}]({posixpath.relpath('index.md', here or '.')})"
        if files.get_file_from_path(_copy_of(path)) is None:
            return words
        return f"[{words}]({posixpath.relpath(_copy_of(path), here or '.')})"

    return _LINK.sub(rewritten, markdown)


def _outside(markdown: str, src_uri: str, config: MkDocsConfig) -> Iterator[str]:
    for link in _LINK.finditer(markdown):
        if path := _inside_repository(link[2], src_uri, config):
            yield path


def _inside_repository(target: str, src_uri: str, config: MkDocsConfig) -> str | None:
    """The path from the repository's root of a link that leaves ``docs/`` for what exists there."""
    root = Path(config.docs_dir).parent
    docs = posixpath.join("docs", posixpath.dirname(src_uri))
    path = posixpath.normpath(posixpath.join(docs, target))
    if path == "docs" or path.startswith(("docs/", "../")) or not os.path.lexists(root / path):
        return None
    return path


def _copy_of(path: str) -> str:
    return f"files/{path}.txt"

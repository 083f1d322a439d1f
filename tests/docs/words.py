"""Wording rules of docstrings, messages, comments, names and pages.

``python -m tests.docs.words [PATH…]`` prints each breach as ``file:line: rule: text``. The rules:

- ``opening``: a docstring opens with a noun phrase or an imperative verb, and no sentence of a
  docstring, a comment, a message or a page starts with What, Where, How, Whether or Who.
- ``verb``: a docstring that opens with a verb has it in the imperative.
- ``no``: "is not a valid X", not "is no X".
- ``person``: a caller is "they".
- ``word``: the field's term instead of a private one; `docs/glossary.md` has the terms.
- ``number``: nothing refers to a list of requirements or faults that is not in the repository.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.docs.pages import ROOT

__all__ = ["ALLOWED", "AREAS", "Allowed", "Breach", "breaches", "files", "in_page", "in_source"]

AREAS: Final = ("openenv_async", "environments", "examples", "benchmarks", "docs", "README.md")
"""All that the rules hold for; tests of environments are left out."""


class Breach(NamedTuple):
    """A place where the text goes against a rule."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


class Allowed(NamedTuple):
    """Text that a rule would report although it is right."""

    path: str
    """The beginning of the path, relative to the repository."""
    text: str
    """A pattern that the reported text matches."""
    reason: str


ALLOWED: Final = (
    Allowed("environments/repl/", r"\bdoors?\b", "rooms that are joined by doors, in a task"),
    Allowed("openenv_async/renamed.py", r".", "the table of old names"),
    Allowed("openenv_async/checks/registry.py", r"\bdoor\b", "an old name that still works"),
    Allowed("openenv_async/checks/conformance/suite.py", r"\bdoors\b", "an old name, as well"),
    Allowed("openenv_async/cli/conformance.py", r"\bdoors?\b", "an old option and a JSON key"),
)

_QUESTION: Final = re.compile(
    r"(What|Where|How|Whether|Who|Whom|Whose|Whoever|Whatever|Whichever|Wherever)\b(?!-)"
)
_FIRST: Final = re.compile(
    r"(As|When|Whenever|While|If|Why|Because|It|They|There|So|Also|And|But|Nobody|Somebody|Of|In|With|"
    r"On|By|For|From|To|At|Not|Only|Never|After|Before|Between|Within|Until|Then|That|During|Under|"
    r"Once|Is|Are|Can)\b"
)
_VERB: Final = re.compile(
    r"[A-Z][a-z]*[^su\W]s (a(?! second)|an|the|one|each|every|its|it|all|what|whether|how|where|no|"
    r"nothing|another|any|both|their|them|this|these)\b|"
    r"(Adds|Answers|Carries|Chooses|Collects|Counts|Cuts|Decodes|Does|Forwards|Gathers|Gives|Hands|"
    r"Has|Holds|Is|Keeps|Leases|Makes|Opens|Places|Reads|Replaces|Runs|Says|Sends|Speaks|Starts|"
    r"Takes|Tells|Turns|Writes) (?!of|that|to|for|in|from|with|under|after|before|by|between|up)\w"
)
_IS_NO: Final = re.compile(
    r"\b(?<!there )(?:is|are|was|were) no "
    r"(?!longer\b|more\b|less\b|such\b|one\b|doubt\b|different\b|later\b|fewer\b|use\b|faster\b|slower\b|larger\b|better\b)\w+",
    re.IGNORECASE,
)
_PERSON: Final = re.compile(r"\b(he|him|his|himself|she|her|herself)\b", re.IGNORECASE)
_WORDS: Final = re.compile(
    r"\b(doors?|seams?|epitaphs?|tombstones?|doomed|deaf|last words|cuts? off|cutting off|"
    r"(?:given|gives?|gave|giving) up|(?:held|holds?|holding) (?:up|back)|storms?|lanes?|seats?|"
    r"crews?|keepers?|outlast(?:s|ed|ing)?|who has none|whoever|for who|living|"
    r"seed's (?:class|client|hook|server|name|own)\w*|"
    r"(?:isolation|inline|thread|process|task) drivers?)\b",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"\b[RF]-?\d{2}\b")
_PARTS: Final = frozenset(
    {
        "crew", "deaf", "doomed", "door", "doors", "epitaph", "keeper", "lane", "lanes", "living",
        "nowhere", "outlast", "outlasting", "seam", "seams", "seat", "seats", "storm", "tombstone",
        "whoever",
    }
)  # fmt: skip
"""Words that no name has as a part."""
_NAMES: Final = frozenset(
    {
        "Asked", "Book", "CallPort", "Contained", "Correspondence", "Crew", "Dispatch", "Driver",
        "Host", "HostReply", "HostRequest", "HttpPort", "InlineDriver", "Leased", "Line",
        "LineUser", "NativeConnection", "Player", "Port", "ProcessDriver", "Start", "TaskDriver",
        "ThreadDriver", "TimedWire", "TracedHost", "Wire",
    }
)  # fmt: skip
"""Class names that say something else than they are."""
_IN_CODE: Final = re.compile(r"``.*?``|`[^`]*`|<[^>]*>|https?://\S+")


def files(paths: Sequence[str] = AREAS) -> Iterator[Path]:
    """Sources and pages under ``paths`` (relative to the repository, or absolute)."""
    for given in paths:
        path = ROOT / given
        if path.is_file():
            yield path
            continue
        for found in sorted([*path.rglob("*.py"), *path.rglob("*.md")]):
            parts = found.relative_to(ROOT).parts
            hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            if not hidden and not (parts[0] == "environments" and "tests" in parts):
                yield found


def breaches(path: Path) -> list[Breach]:
    """Return what goes against the rules in one file."""
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text()
    found = in_source(text) if path.suffix == ".py" else in_page(text)
    made = sorted({Breach(name, line, rule, " ".join(said.split())) for line, rule, said in found})
    return [
        breach
        for breach in made
        if not any(
            name.startswith(allowed.path) and re.search(allowed.text, breach.text)
            for allowed in ALLOWED
        )
    ]


_Found = Iterator[tuple[int, str, str]]


def _sentences(text: str) -> list[str]:
    """The sentences of prose; code in it is taken out."""
    plain = " ".join(_IN_CODE.sub("CODE", text).split())
    return [part for part in re.split(r"(?<=[.!?…])\s+(?=[A-Z])|(?<=[.!?]\))\s+", plain) if part]


def _around(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - 30) : match.end() + 30].strip()


def _said(line: int, text: str, *, may_ask: bool = False) -> _Found:
    """Breaches of the rules that hold for every text."""
    for sentence in _sentences(text):
        if _QUESTION.match(sentence) and not (may_ask and "?" in sentence[-2:]):
            yield line, "opening", sentence[:70]
    plain = " ".join(_IN_CODE.sub("CODE", text).split())
    for rule, pattern in (("no", _IS_NO), ("person", _PERSON), ("number", _NUMBER)):
        for match in pattern.finditer(plain):
            yield line, rule, _around(match)
    for match in _WORDS.finditer(" ".join(text.split())):
        yield line, "word", _around(match)


def _docstring(line: int, text: str) -> _Found:
    first = _sentences(text)[:1] or [""]
    if _FIRST.match(first[0]):
        yield line, "opening", first[0][:70]
    if _VERB.match(first[0]):
        yield line, "verb", first[0][:70]
    for paragraph, offset in _paragraphs(text):
        yield from _said(line + offset, paragraph)


def _paragraphs(text: str) -> Iterator[tuple[str, int]]:
    """Paragraphs and entries of lists, with the line each begins at, counted from 0."""
    lines: list[str] = []
    begin = 0
    for number, line in enumerate(text.splitlines()):
        if not line.strip() or re.match(r"\s*([-*]|\d+\.|#+|\|)\s", line):
            if lines:
                yield "\n".join(lines), begin
            lines = []
        if line.strip():
            if not lines:
                begin = number
            lines.append(re.sub(r"^\s*([-*>]|\d+\.|#+)\s+", "", line))
    if lines:
        yield "\n".join(lines), begin


def in_source(text: str) -> _Found:
    """Breaches in Python source, each with its line and rule."""
    tree = ast.parse(text)
    docstrings = {id(node): node for node in _docstring_nodes(tree)}
    inner = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    old_names = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id.startswith("renamed_")
        for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in old_names:
            continue
        if isinstance(node, ast.JoinedStr):
            yield from _said(node.lineno, _joined(node), may_ask=True)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in docstrings:
                yield from _docstring(node.lineno, node.value)
            elif id(node) not in inner:
                yield from _string(node.lineno, node.value)
        else:
            yield from _names(node)
    yield from _comments(text)


def _docstring_nodes(tree: ast.Module) -> Iterator[ast.Constant]:
    """Docstrings of modules, classes, functions, and strings that stand below an attribute."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value


def _joined(node: ast.JoinedStr) -> str:
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
    )


def _string(line: int, text: str) -> _Found:
    """Breaches in a string: all rules where it is prose, the words alone where it is one word."""
    if " " in text.strip():
        yield from _said(line, text, may_ask=True)
    elif _PARTS & set(_parts(text)):
        yield line, "word", text


def _parts(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [part.lower() for part in re.split(r"[^A-Za-z0-9]+", spaced)]


def _names(node: ast.AST) -> _Found:
    line = getattr(node, "lineno", 0)
    names: list[str] = []
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            names.append(name)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            names.append(name)
        case ast.arg(arg=name):
            names.append(name)
        case ast.keyword(arg=str(name)):
            names.append(name)
            line = node.value.lineno
        case ast.alias(name=name):
            names += [name, node.asname or ""]
        case ast.ImportFrom(module=str(name)):
            names.append(name)
    for name in names:
        is_class = name in _NAMES and isinstance(node, ast.ClassDef)
        if is_class or _PARTS & set(_parts(name)) or re.fullmatch(r"test_[rf]\d\d", name):
            yield line, "word", name


def _comments(text: str) -> _Found:
    block: list[str] = []
    begin = last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        said = re.sub(r"^#[:!]?\s*(-- )?|\s*-{3,}$", "", token.string)
        said = re.sub(r"(noqa|type: ignore|fmt:|pragma:)\S*(\s*[A-Z]+\d+)*(\[[\w,-]+\])?", "", said)
        if token.start[0] == last + 1 and block and token.line.strip().startswith("#"):
            block.append(said)
        else:
            if block:
                yield from _said(begin, " ".join(block))
            block, begin = [said], token.start[0]
        last = token.start[0]
    if block:
        yield from _said(begin, " ".join(block))


def in_page(text: str) -> _Found:
    """Breaches in Markdown: prose, headings and cells of tables; of code, the words and names."""
    prose: list[str] = []
    in_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
            prose.append("")
        elif in_code:
            prose.append("")
            for match in _WORDS.finditer(line):
                yield number, "word", _around(match)
        elif line.startswith("|"):
            prose.append("")
            for cell in line.strip("|").split("|"):
                yield from _said(number, _linked(cell.strip()))
        else:
            prose.append(_linked(line))
    for paragraph, offset in _paragraphs("\n".join(prose)):
        yield from _said(offset + 1, paragraph)


def _linked(text: str) -> str:
    """Markdown with the text of its links alone, and no emphasis."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("**", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the breaches under the paths given, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs.words")
    parser.add_argument("paths", nargs="*", default=list(AREAS))
    paths = parser.parse_args(arguments).paths
    found = [breach for path in files(paths) for breach in breaches(path)]
    sys.stdout.writelines(f"{breach}\n" for breach in found)
    sys.stderr.write(f"{len(found)} breaches\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Mutations made from a module's syntax tree: one small change each, in the code of functions.

Comparisons and boolean operators are flipped, numbers are one more, truth values and conditions
turned over, statements left out. Docstrings, log calls, annotations and what a module does when
it is imported stay as they are, but for its constants.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Change", "changes_of", "drawn"]

_FLIPPED: Final = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_DELETED: Final = (ast.Expr, ast.Assign, ast.AugAssign, ast.Return, ast.Raise, ast.Delete)


@dataclass(frozen=True)
class Change:
    """One mutation of one file.

    Attributes:
        file: path from the root of the tree.
        line: where it is, from 1.
        start, end: bytes of the source that are replaced.
        text: what stands there instead.
        what: in a few words.
    """

    file: str
    line: int
    start: int
    end: int
    text: str
    what: str

    def apply(self, source: bytes) -> bytes:
        """The source with the change."""
        return source[: self.start] + self.text.encode() + source[self.end :]


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, source: bytes) -> None:
        self.changes: list[Change] = []
        self._file = file
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._depth = 0
        self._returns_bool = False

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._at(node.lineno, node.col_offset),
            self._at(node.end_lineno, node.end_col_offset),
        )

    def _add(self, node: ast.expr | ast.stmt, start: int, end: int, text: str, what: str) -> None:
        if self._depth:
            self.changes.append(Change(self._file, node.lineno, start, end, text, what))

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Replace an operator between two operands."""
        start, end = self._span(left)[1], self._span(right)[0]
        found = self._source[start:end].find(old.encode())
        if found >= 0:
            at = start + found
            self._add(right, at, at + len(old), new, f"{old} -> {new}")

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self._returns_bool = self._returns_bool, _is_name(node.returns, "bool")
        self._depth += 1
        for number, statement in enumerate(node.body):
            if number == 0 and _is_text(statement):
                continue
            self.visit(statement)
        self._depth -= 1
        self._returns_bool = before

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            is_final = _is_name(node.annotation, "Final") and isinstance(node.value, ast.Constant)
            self._depth += is_final  # a constant of the module
            self.visit(node.value)
            self._depth -= is_final

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave out the texts of messages."""

    def visit_Raise(self, node: ast.Raise) -> None:
        self._delete(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Leave out asserts: they are for the type checker."""

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for index, op in enumerate(node.ops):
            old, new = _FLIPPED[type(op)]
            self._between(operands[index], operands[index + 1], old, new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            start = self._span(node)[0]
            self._add(node, start, start + len("not "), "", "not x -> x")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        start, end = self._span(node)
        if isinstance(node.value, bool):
            self._add(node, start, end, str(not node.value), f"{node.value} -> {not node.value}")
        elif isinstance(node.value, int | float):
            self._add(node, start, end, f"({node.value} + 1)", f"{node.value} + 1")

    def visit_If(self, node: ast.If) -> None:
        self._turn_over(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._turn_over(node.test)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and self._returns_bool:
            self._turn_over(node.value)
        self._delete(node)
        self.generic_visit(node)

    def _turn_over(self, test: ast.expr) -> None:
        if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            start, end = self._span(test)
            text = self._source[start:end].decode()
            self._add(test, start, end, f"(not {text})", "x -> not x")

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, _DELETED) and not isinstance(node, ast.Return | ast.Raise):
            self._delete(node)
        super().generic_visit(node)

    def _delete(self, node: ast.stmt) -> None:
        if _is_nothing(node) or _is_log_call(node):
            return
        start, end = self._span(node)
        first = self._source[start:end].splitlines()[0].decode()
        self._add(node, start, end, "pass", f"delete: {first}")


def _is_name(node: ast.expr | None, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_log_call(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and _is_name(node.value.func.value, "log")
    )


def changes_of(root: Path, file: Path) -> Iterator[Change]:
    """All mutations of a module, in the order of its lines."""
    source = file.read_bytes()
    finder = _Finder(str(file.relative_to(root)), source)
    finder.visit(ast.parse(source))
    for change in sorted(set(finder.changes), key=lambda change: (change.start, change.what)):
        try:
            compile(change.apply(source), str(file), "exec")
        except SyntaxError:
            continue
        yield change


def drawn(root: Path, room: str, count: int, seed: int, module: str = "") -> list[Change]:
    """Some mutations of a room's modules.

    Args:
        root: of the tree.
        room: package below ``openenv_async``.
        count: how many.
        seed: of the draw.
        module: only modules whose path contains it.
    """
    files = sorted((root / "openenv_async" / room).rglob("*.py"))
    found = [
        change
        for file in files
        if module in str(file.relative_to(root))
        for change in changes_of(root, file)
    ]
    return random.Random(seed).sample(found, min(count, len(found)))

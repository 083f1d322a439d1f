"""No circle of imports has more than three files, those for type checkers included."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "openenv_async"
MOST = 3

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    del found[PACKAGE.name]  # it names everything, and loads it on first use
    return found


def imports(paths: dict[str, Path]) -> Graph:
    """What each module imports of the package, anywhere in its text."""
    graph: Graph = {}
    for module, path in paths.items():
        wanted = graph[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    wanted.add(whole if whole in paths else node.module)
        wanted.intersection_update(paths)
        wanted.discard(module)
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """The sets of modules that all reach one another: strongly connected components (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            circle = sorted(stack[at:])
            del stack[at:]
            if len(circle) > 1:
                found.append(circle)

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return sorted(found)


def test_circles_are_found() -> None:
    graph = {
        "a": {"b"},
        "b": {"c"},
        "c": {"a", "d"},
        "d": {"e"},
        "e": set(),
        "f": {"g"},
        "g": {"f"},
    }
    assert circles(graph) == [["a", "b", "c"], ["f", "g"]]


def test_the_graph_has_the_imports_of_the_package() -> None:
    graph = imports(modules())
    assert "openenv_async.engine.session" in graph["openenv_async.engine.engine"]
    assert "openenv_async.engine.engine" in graph["openenv_async.engine.session"]  # for types
    assert len(graph) > 150


def test_no_circle_has_more_than_three_files() -> None:
    large = [circle for circle in circles(imports(modules())) if len(circle) > MOST]
    assert large == []

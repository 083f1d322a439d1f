"""The accessibility tree as text.

One node a line, indented by a tab per level::

    RootWebArea 'Click Test Task'
        [4] button 'Click Me!', focused

Nodes that the browser ignores are left out and their children take their place, as are generic
ones without a text of their own. A text is a line only where its parent does not show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["bids_by_node", "render"]

_FLAGS: Final = ("focused", "disabled", "required", "readonly", "multiselectable", "modal")
_VALUES: Final = ("checked", "pressed", "selected", "expanded", "valuemin", "valuemax")
_PLAIN: Final = ("generic", "none", "paragraph", "LabelText", "strong", "emphasis")
_TEXT: Final = "StaticText"

Node = Mapping[str, Any]


def bids_by_node(snapshot: Mapping[str, Any]) -> dict[int, str]:
    """The bids of a ``DOMSnapshot.captureSnapshot``, by backend node id."""
    strings: list[str] = snapshot["strings"]
    try:
        wanted = strings.index("bid")
    except ValueError:
        return {}
    bids: dict[int, str] = {}
    for document in snapshot["documents"]:
        nodes = document["nodes"]
        for backend_id, attributes in zip(nodes["backendNodeId"], nodes["attributes"], strict=True):
            for name, value in zip(attributes[::2], attributes[1::2], strict=True):
                if name == wanted:
                    bids[backend_id] = strings[value]
    return bids


def render(
    nodes: Sequence[Node],
    bids: Mapping[int, str],
    centres: Mapping[str, tuple[int, int]] | None = None,
) -> str:
    """The text of an ``Accessibility.getFullAXTree``.

    Args:
        nodes: its nodes.
        bids: by backend node id.
        centres: middles of elements in CSS pixels by bid, to be shown with them.
    """
    by_id = {node["nodeId"]: node for node in nodes}
    lines: list[str] = []
    # An explicit stack: a page may nest deeper than Python's recursion goes.
    stack = [(nodes[0]["nodeId"], 0, "")] if nodes else []
    while stack:
        node_id, depth, shown = stack.pop()
        node = by_id.get(node_id)
        if node is None:
            continue
        role, name = _text(node, "role"), _text(node, "name")
        bid = bids.get(node.get("backendDOMNodeId", -1))
        if _is_left_out(node, role, name, bid, shown, by_id):
            below = depth
        else:
            own = _own_text(node, by_id)
            name = name or (own if own != _text(node, "value") else "")
            if role == "none":
                role = "generic"
            lines.append("\t" * depth + _line(node, role, name, bid, centres or {}))
            below, shown = depth + 1, f"{name} {_text(node, 'value')}"
        stack.extend((child, below, shown) for child in reversed(node.get("childIds", ())))
    return "\n".join(lines)


def _text(node: Node, key: str) -> str:
    return " ".join(str(node.get(key, {}).get("value", "")).split())


def _own_text(node: Node, by_id: Mapping[str, Node]) -> str:
    """The text right inside, through ignored nodes; ``""`` when there is more than text."""
    parts: list[str] = []
    for child_id in node.get("childIds", ()):
        child = by_id.get(child_id)
        if child is None or _text(child, "role") != _TEXT:
            continue
        parts.append(_text(child, "name"))
    return " ".join(part for part in parts if part)


def _is_left_out(
    node: Node, role: str, name: str, bid: str | None, shown: str, by_id: Mapping[str, Node]
) -> bool:
    if role in ("InlineTextBox", "ListMarker", "LineBreak"):
        return True
    if role == _TEXT:
        return not name or name in shown
    if node.get("ignored") or role in _PLAIN:
        return bid is None or not (name or _own_text(node, by_id))
    return False


def _line(
    node: Node,
    role: str,
    name: str,
    bid: str | None,
    centres: Mapping[str, tuple[int, int]],
) -> str:
    head = f"{role} {name!r}"
    if bid is not None:
        head = f"[{bid}] {head}"
    parts = [head]
    if "value" in node:
        parts.append(f"value={_text(node, 'value')!r}")
    properties = {item["name"]: item["value"].get("value") for item in node.get("properties", ())}
    parts.extend(name for name in _FLAGS if properties.get(name) in (True, "true"))
    parts.extend(
        f"{name}={_shown(properties[name])}"
        for name in _VALUES
        if name in properties and not (name == "selected" and properties[name] is None)
    )
    if bid is not None and bid in centres:
        x, y = centres[bid]
        parts.append(f"center=({x}, {y})")
    return ", ".join(parts)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

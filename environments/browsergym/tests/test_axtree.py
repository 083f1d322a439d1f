from __future__ import annotations

from typing import Any

from browsergym_env.axtree import bids_by_node, render


def node(
    node_id: str, role: str, name: str = "", children: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    return {
        "nodeId": node_id,
        "role": {"value": role},
        "name": {"value": name},
        "childIds": list(children),
        "backendDOMNodeId": int(node_id),
        **more,
    }


def prop(name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "value": {"value": value}}


def test_one_node_a_line() -> None:
    nodes = [
        node("1", "RootWebArea", "A page", ("2", "6")),
        node("2", "none", "", ("3", "4"), ignored=True),
        node("3", "button", "Go\n on", ("5",), properties=[prop("focused", True)]),
        node("5", "StaticText", "Go on", ("7",)),
        node("7", "InlineTextBox", "Go on"),
        node("4", "textbox", "", ("8",), value={"value": "it's"}),
        node("8", "StaticText", "it's"),
        node("6", "checkbox", "Yes", (), properties=[prop("checked", "false")]),
    ]
    text = render(nodes, {3: "10", 4: "11", 6: "12"}, {"12": (3, 10)})
    assert text.splitlines() == [
        "RootWebArea 'A page'",
        "\t[10] button 'Go on', focused",
        "\t[11] textbox '', value=\"it's\"",
        "\t[12] checkbox 'Yes', checked=false, center=(3, 10)",
    ]


def test_generic_nodes_are_shown_for_their_text() -> None:
    nodes = [
        node("1", "RootWebArea", "", ("2",)),
        node("2", "generic", "", ("3",)),
        node("3", "generic", "", ("4", "5")),
        node("4", "StaticText", "click "),
        node("5", "StaticText", "here"),
    ]
    assert render(nodes, {2: "0", 3: "1"}).splitlines() == [
        "RootWebArea ''",
        "\t[1] generic 'click here'",
    ]


def test_deep_trees_and_missing_nodes_are_read() -> None:
    depth = 5000
    nodes = [node(str(n), "list", "", (str(n + 1),)) for n in range(depth)]
    assert len(render(nodes, {}).splitlines()) == depth
    assert render([], {}) == ""


def test_bids_of_a_snapshot() -> None:
    snapshot = {
        "strings": ["id", "bid", "x", "7"],
        "documents": [{"nodes": {"backendNodeId": [4, 5], "attributes": [[0, 2], [0, 2, 1, 3]]}}],
    }
    assert bids_by_node(snapshot) == {5: "7"}
    assert bids_by_node({"strings": [], "documents": []}) == {}

"""The graphs inside nodes: branches of an If, the body of a Loop or Scan. Only the standard library is imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["nested_graphs", "with_inner_nodes"]


def nested_graphs(node: Any) -> Iterator[Any]:
    """Return the graphs inside a node, without those that are inside them."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def with_inner_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Return nodes and those of the graphs inside them at any depth, in no particular order."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        yield node
        for graph in nested_graphs(node):
            stack.extend(graph.node)

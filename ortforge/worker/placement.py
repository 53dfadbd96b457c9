"""Which nodes ran on which EP, from ORT itself, by two sources.

- The profile says what executed, on which EP and for how long. A subgraph that an EP fused is one event there.
- The assignment (ORT 1.24 and newer) says which nodes each EP took when the graph was partitioned, also inside what
  was fused; later optimizations may still fuse or remove nodes.

Nodes are counted from the assignment where there is one, time is taken from the profile. ``get_providers()`` is no
source: it lists EPs that took nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Executed", "assigned", "executed", "placement", "profile_events", "unknown_placement"]

_KERNEL = "_kernel_time"
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
"""Their events span those of the nodes inside them, so they add no time of their own."""

_COPIES = frozenset({"MemcpyFromHost", "MemcpyToHost"})
"""Put in by ORT between EPs after partitioning: no nodes of the model."""

MOST_PROFILE_BYTES = 256 << 20
"""A profile is read whole; a longer one (a loop of a million nodes) is left unread, and that is said."""


@dataclass
class Executed:
    """What a profile says: distinct nodes per EP and operator, and microseconds per EP."""

    ops: dict[str, Counter[str]] = field(default_factory=dict)
    time_us: Counter[str] = field(default_factory=Counter)

    @property
    def nodes(self) -> dict[str, int]:
        """Number of nodes per EP."""
        return {ep: ops.total() for ep, ops in self.ops.items() if ops}


def executed(profile: Path) -> Executed | None:
    """Read a profile; time is that of the last run in it. ``None`` when it is too long to read."""
    if profile.stat().st_size > MOST_PROFILE_BYTES:
        return None
    return count_events(profile_events(profile.read_text("utf-8", "replace")))


_FIELDS = {
    "cat": re.compile(r'"cat"\s*:\s*"(\w+)"'),
    "name": re.compile(r'"name"\s*:\s*"(.*)"\s*,\s*"args"\s*:'),
    "dur": re.compile(r'"dur"\s*:\s*(\d+)'),
    "ts": re.compile(r'"ts"\s*:\s*(\d+)'),
}
_ARGUMENTS = {
    "op_name": re.compile(r'"op_name"\s*:\s*"([^"]*)"'),
    "provider": re.compile(r'"provider"\s*:\s*"([^"]*)"'),
    "node_index": re.compile(r'"node_index"\s*:\s*"([^"]*)"'),
}


def profile_events(text: str) -> Iterator[Mapping[str, Any]]:
    """Yield the events of a profile, also of one that is not valid JSON.

    ORT up to at least 1.21 writes names of nodes and tensors without escaping quotes and backslashes. It writes one
    event a line, so a line that does not parse gives the few fields that are needed here; a line without them is
    left out.
    """
    try:
        events = json.loads(text)
    except ValueError:
        yield from filter(None, map(_event_in, text.splitlines()))
        return
    yield from (event for event in events if isinstance(event, Mapping))


def _event_in(line: str) -> Mapping[str, Any] | None:
    """Return the event that a line of a profile holds, or ``None``."""
    line = line.strip().strip("[],").strip()
    try:
        event = json.loads(line)
    except ValueError:
        event = {name: match[1] for name, pattern in _FIELDS.items() if (match := pattern.search(line))}
        matches = {name: pattern.findall(line) for name, pattern in _ARGUMENTS.items()}
        # A name with quotes in it may imitate a field; ORT's own fields come after it.
        event["args"] = {name: match[-1] for name, match in matches.items() if match}
    return event if isinstance(event, Mapping) and "name" in event else None


def unknown_placement(why: str) -> dict[str, Any]:
    """Return the placement of a cell that ran and of which it is not known where; the form is in docs/formats.md."""
    return {"nodes": {}, "time_share": {}, "ops": {}, "sources": [], "agree": True, "note": why}


def count_events(events: Iterable[Mapping[str, Any]]) -> Executed:
    """Count the nodes of a profile's events."""
    found, seen, runs, nodes = Executed(), set[tuple[str, str, str]](), [0.0], []
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Session" and name == "model_run":
            runs.append(float(event.get("ts", 0)))
        elif event.get("cat") == "Node" and name.endswith(_KERNEL):
            nodes.append(event)
    for event in nodes:
        args = event.get("args", {})
        op, ep = str(args.get("op_name", "?")), str(args.get("provider", "") or "?")
        if op in _COPIES:
            continue
        # Nodes of a loop's body come once per turn; their indices are the body's own, so the name belongs to the key.
        key = (str(event["name"]), str(args.get("node_index", "")), op)
        if key not in seen:
            seen.add(key)
            found.ops.setdefault(ep, Counter())[op] += 1
        if op not in _CONTROL_FLOW and float(event.get("ts", 0)) >= max(runs):
            found.time_us[ep] += int(event.get("dur", 0))
    return found


def assigned(session: Any) -> dict[str, Counter[str]] | None:
    """Ask a session for its graph's assignment: operators per EP. ``None`` where ORT cannot tell.

    The session must have been made with ``session.record_ep_graph_assignment_info = 1``.
    """
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if ask is None:
        return None
    ops: dict[str, Counter[str]] = {}
    for subgraph in ask():
        for node in subgraph.get_nodes():
            ops.setdefault(str(subgraph.ep_name), Counter())[str(node.op_type)] += 1
    return ops


def placement(ep: str, ran: Executed | None, took: Mapping[str, Counter[str]] | None) -> dict[str, Any]:
    """Put both sources together; the form is in docs/formats.md.

    :param ep: the EP that was asked for.
    :param ran: the profile, or ``None``; :param took: the assignment, or ``None``.
    """
    notes = []
    ops = took if took else (ran.ops if ran else {})
    if ran is None:
        notes.append("the profile was too long to be read, so time shares are not known")
    total = sum(ran.time_us.values()) if ran else 0
    shares = {name: round(us / total, 4) for name, us in ran.time_us.items()} if ran and total else {}
    agree = True
    if ran is not None and took is not None and ep:
        in_profile, in_assignment = ran.nodes.get(ep, 0), took.get(ep, Counter()).total()
        if bool(in_profile) != bool(in_assignment):
            anything = any(ran.nodes.values())
            if not anything:
                notes.append("no node ran at all: ORT computed the whole graph when it loaded the model")
            else:
                agree = False
                notes.append(
                    f"{ep} took {in_assignment} nodes when the graph was partitioned, and the profile has {in_profile}"
                )
    return {
        "nodes": {name: counted.total() for name, counted in ops.items() if counted},
        "time_share": shares,
        "ops": {name: dict(counted.most_common()) for name, counted in ops.items() if counted},
        "sources": [*(["profile"] if ran else []), *(["assignment"] if took is not None else [])],
        "agree": agree,
        "note": "; ".join(notes),
    }

"""The shipped JSON schema is the one that the code makes, and it describes every key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ortforge.matrix.schema import matrix_schema, schema_text, shipped


def tables(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "the file", schema
    yield from schema["definitions"].items()


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def test_the_shipped_schema_is_current() -> None:
    assert shipped().read_text(encoding="utf-8") == schema_text(), "run: python -m ortforge.matrix.schema"


def test_every_key_is_described() -> None:
    schema = matrix_schema()
    for name, table in tables(schema):
        for key, entry in table.get("properties", {}).items():
            target = schema["definitions"].get(entry.get("$ref", "").rpartition("/")[2], {})
            assert entry.get("description") or target.get("description"), f"{name}: {key}"


def test_every_reference_leads_somewhere_and_toml_has_no_null() -> None:
    schema = matrix_schema()
    for node in nodes(schema):
        assert node.get("type") != "null"
        if isinstance(reference := node.get("$ref"), str):
            assert reference.removeprefix("#/definitions/") in schema["definitions"]


def test_tables_are_closed_and_passes_are_open() -> None:
    schema = matrix_schema()
    open_tables = [name for name, table in tables(schema) if table.get("additionalProperties") is not False]
    assert open_tables == ["PassTable", "QuantizeTable"]
    assert json.dumps(schema)

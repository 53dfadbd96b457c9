"""The JSON schema of matrix.toml, with which editors complete and explain its keys.

``python -m ortforge.matrix.schema`` writes the copy that is shipped as ``matrix.schema.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from ortforge.matrix.config import NAMED_SECTIONS, MatrixFile
from ortforge.matrix.fields import NAME_PATTERN

__all__ = ["SCHEMA_FILE", "matrix_schema", "schema_text", "shipped"]

SCHEMA_FILE: Final = "matrix.schema.json"
"""Name of the schema file, here and beside a user's matrix.toml."""


class _Generator(GenerateJsonSchema):
    """Leaves out what says nothing to a reader of TOML: titles made from field names, and nulls, which TOML lacks."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().default_schema(schema)
        default = made.get("default", "")
        sections = default if isinstance(default, list) else [default]
        if default is None or any(isinstance(section, dict) for section in sections):
            del made["default"]
        return made


def matrix_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 7, which editors' TOML support reads) of a matrix file.

    The parameters of passes are left open: they come from plugins, and are checked when the file is loaded.
    """
    made = MatrixFile.model_json_schema(schema_generator=_Generator, ref_template="#/definitions/{model}")
    definitions = made.pop("$defs")
    for definition in definitions.values():
        definition.pop("title", None)
    made["properties"]["targets"]["additionalProperties"].pop("discriminator")
    for section in NAMED_SECTIONS:
        made["properties"][section]["propertyNames"] = {"pattern": f"^{NAME_PATTERN}$"}
    made["title"] = "ortforge matrix"
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made, "definitions": definitions}


def schema_text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(matrix_schema(), indent=1, ensure_ascii=False) + "\n"


def shipped() -> Path:
    """Return the path of the shipped copy: what to put beside a matrix file, without making it anew."""
    return Path(__file__).with_name(SCHEMA_FILE)


if __name__ == "__main__":
    shipped().write_text(schema_text(), encoding="utf-8")

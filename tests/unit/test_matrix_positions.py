"""Lines of keys: what tomllib reads and what the locator finds are the same keys, each on the line where it stands."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.matrix.positions import Path, locate, show

# Values that look like structure: nothing inside a string may be taken for a key or a table.
DECOYS = [
    '"""\n[a]\nb = 1 # no comment\n"""',
    "'''\n[[x]]\n'quoted' = {c = 2}'''",
    '"# [x] \\" = {1, 2}"',
    "'C:\\path\\'",
    '""""two quotes at the end"""""',
    "'''''two at the start'''",
    '"""a\\\n   b\\"""c"""',
    "1979-05-27 07:32:00",
    "1_000.5e3",
    "true",
]
KEYS = ["a", "b-2", "3", "", "with.dot", "sp ace", 'qu"ote', "ünï", "tab\t", "back\\slash", "]", "=", "#"]


def paths_of(value: Any, at: Path = ()) -> set[Path]:
    """Every key and element that a document has."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path for key, inner in entries for path in ({(*at, key)} | paths_of(inner, (*at, key)))}


def leaves_of(value: Any, at: Path = ()) -> dict[Path, Any]:
    if not isinstance(value, dict | list):
        return {at: value}
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    return {path: leaf for key, inner in entries for path, leaf in leaves_of(inner, (*at, key)).items()}


class Writer:
    """Writes documents in every style that TOML has; each number in it is unique, so that its line can be found."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.numbers = 100_000

    def pick(self, *choices: str) -> str:
        return str(self.draw(st.sampled_from(choices)))

    def keys(self) -> list[str]:
        return list(self.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True)))

    def key(self, name: str) -> str:
        bare = name.isascii() and name.replace("-", "").isalnum()
        literal = "'" not in name and not any(ord(character) < 32 for character in name)
        styles = [json.dumps(name, ensure_ascii=False)]
        styles += [f"'{name}'"] if literal else []
        styles += [name] if bare else []
        return self.pick(*styles)

    def gap(self) -> str:
        return self.pick("", " ", "\n", "\r\n  ", " # a ] comment, with = and }\n")

    def value(self, depth: int, lines: bool = True) -> str:
        kind = self.pick("number", "number", "decoy", "array", "table") if depth else self.pick("number", "decoy")
        if kind == "decoy":
            return self.pick(*DECOYS)
        if kind == "array":
            items = [self.value(depth - 1) for _ in range(self.draw(st.integers(0, 3)))]
            gap = self.gap if lines else lambda: " "
            body = ",".join(gap() + item + gap() for item in items)
            return "[" + body + ("," if items and self.draw(st.booleans()) else "") + gap() + "]"
        if kind == "table":
            pairs = [f"{self.key(name)} = {self.value(depth - 1)}" for name in self.keys()]
            return "{ " + " , ".join(pairs) + " }"
        self.numbers += 1
        return str(self.numbers)

    def pairs(self) -> str:
        text = ""
        for name in self.keys():
            dotted = ["v" + name, *(self.keys() if self.draw(st.booleans()) else [])]
            text += " . ".join(self.key(part) for part in dotted) + f" = {self.value(2)}{self.pick('', ' # ]')}\n"
        return text

    def document(self) -> str:
        text = self.pick("", "\n\n", "# comment\n") + self.pairs()
        for number in range(self.draw(st.integers(0, 3))):
            header = [f"t{number}", *self.keys()]
            inner = " . ".join(self.key(part) for part in header)
            if self.draw(st.booleans()):
                text += f"{self.pick('', '  ')}[ {inner} ]\n{self.pairs()}"
            else:
                for _ in range(self.draw(st.integers(1, 3))):
                    text += f"[[{inner}]] # again\n{self.pairs()}"
                    text += f"[{inner}.sub]\n{self.pairs()}" if self.draw(st.booleans()) else ""
                    text += f"[[{inner}.more]]\n{self.pairs()}" if self.draw(st.booleans()) else ""
        return text


@st.composite
def documents(draw: Any) -> str:
    return Writer(draw).document()


@given(documents())
def test_every_key_that_tomllib_reads_has_a_line_and_no_other_has(text: str) -> None:
    assert set(locate(text)) == paths_of(tomllib.loads(text))


@given(documents())
def test_a_value_stands_on_the_line_of_its_key(text: str) -> None:
    lines, rows = locate(text), text.split("\n")
    for path, leaf in leaves_of(tomllib.loads(text)).items():
        if isinstance(leaf, int) and not isinstance(leaf, bool):
            assert str(leaf) in rows[lines[path] - 1]


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1\nb = 2", ("b",), 2),
        ("[x]\n\n[x.y]\nz = 1", ("x", "y", "z"), 4),
        ("[x]\n\n[x.y]\nz = 1", ("x", "y"), 3),
        ("[[m]]\n[[m]]\nn = [\n 1,\n 2,\n]", ("m", 1, "n", 1), 5),
        ('a.b."c.d" = 1', ("a", "b", "c.d"), 1),
        ("p = [{ q = 1 },\n  { q = 2 }]", ("p", 1, "q"), 2),
        ('s = """\nx = 1\n"""\nx = 2', ("x",), 4),
        ("a = 1\r\nb = 2\r\n", ("b",), 2),
    ],
)
def test_lines_count_from_one(text: str, path: Path, line: int) -> None:
    assert locate(text)[path] == line


def test_paths_are_shown_as_the_file_would_write_them() -> None:
    assert show(("recipes", "int8", "passes", 0, "use")) == "recipes.int8.passes[0].use"
    assert show(("models", "a/b", "path")) == 'models."a/b".path'

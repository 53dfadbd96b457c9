"""``[[expect]]`` in a matrix file, and the file of accepted verdicts next to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ortforge.errors import ConfigurationError
from ortforge.matrix import Known, Matrix, load
from ortforge.matrix.expectations import (
    accepted_file,
    accepted_text,
    load_expectations,
    nearest_cell,
    read_accepted,
    write_accepted,
)

HEAD = """\
[models.vad]
path = "path:vad.onnx"
[models.cls]
path = "path:cls.onnx"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[targets."ort-1.21"]
from = "package"
requires = ["onnxruntime==1.21.1"]
"""
KNOWN = Known(backends=("cpu",), passes={}, model_schemes=("path",), dataset_schemes=("random",))
CELLS = [f"{model}/none@{target}:cpu/here" for model in ("vad", "cls") for target in ("stock", "ort-1.21")]


def matrix(folder: Path, text: str = "", *, first: str = "") -> Matrix:
    (folder / "matrix.toml").write_text(first + HEAD + text, encoding="utf-8")
    return load(folder / "matrix.toml", KNOWN)


def refusal(folder: Path, text: str, *, first: str = "") -> str:
    with pytest.raises(ConfigurationError) as caught:
        matrix(folder, text, first=first)
    return str(caught.value)


def test_tables_and_inline_tables_mean_the_same(tmp_path: Path) -> None:
    table = '[[expect]]\ncells = "vad/*"\nstatus = "failed"\nreason = "dynamic rank"\n'
    inline = 'expect = [{ cells = ["vad/*"], status = ["failed"], reason = "dynamic rank" }]\n'
    one, other = matrix(tmp_path, table), matrix(tmp_path, first=inline)
    assert one.expect == other.expect
    assert one.digest == other.digest != matrix(tmp_path).digest
    found = load_expectations(one)
    assert list(found) == CELLS[:2]
    assert {(entry.status, entry.reason, entry.source) for entry in found.values()} == {
        (("failed",), "dynamic rank", "matrix.toml")
    }


def test_the_last_entry_that_matches_counts_and_stands_above_what_was_accepted(tmp_path: Path) -> None:
    loaded = matrix(
        tmp_path,
        '[[expect]]\ncells = "*@stock*"\nstatus = ["pass"]\nreason = "a"\n'
        '[[expect]]\ncells = "cls/none@stock:cpu/here"\nstatus = ["slower"]\nreason = "b"\n',
    )
    accepted_file(loaded.path).write_text(accepted_text(dict.fromkeys(CELLS, "undecided")))
    found = {name: (entry.status, entry.accepted) for name, entry in load_expectations(loaded).items()}
    assert found == {
        CELLS[0]: (("pass",), False),
        CELLS[1]: (("undecided",), True),
        CELLS[2]: (("slower",), False),
        CELLS[3]: (("undecided",), True),
    }


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("vad/none@stok:cpu/here", "vad/none@stock:cpu/here"),
        ("vda/*@ort-1.21:cpu/*", "vad/none@ort-1.21:cpu/here"),
        ("cls/none@ort-1.22:*", "cls/none@ort-1.21:cpu/here"),
        ("cls/int8@stock:cpu/here", "cls/none@stock:cpu/here"),
        ("clss", "cls/none@stock:cpu/here"),
    ],
)
def test_an_expectation_for_no_cell_names_the_nearest_one_and_its_line(tmp_path: Path, pattern: str, near: str) -> None:
    text = f'[[expect]]\ncells = "vad/*"\nstatus = ["pass"]\nreason = "a"\n[[expect]]\ncells = ["*", "{pattern}"]\n'
    said = refusal(tmp_path, text + 'status = ["pass"]\nreason = "b"\n')
    line = len(HEAD.splitlines()) + 6
    assert f'matrix.toml:{line}: expect[1].cells[1] = "{pattern}": matches no cell. Did you mean "{near}"?' in said
    assert nearest_cell(pattern, CELLS) == near


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('cells = "*"\nstatus = ["pass"]', "reason is missing"),
        ('status = ["pass"]\nreason = "a"', "cells is missing"),
        ('cells = "*"\nreason = "a"', "status is missing"),
        ('cells = []\nstatus = ["pass"]\nreason = "a"', "must not be empty"),
        ('cells = "*"\nstatus = ["passs"]\nreason = "a"', 'no such status. Perhaps you meant "pass"'),
        ('cells = "*"\nstatus = "no_gain"\nreason = "a"', 'Perhaps you meant "no-gain"'),
        ('cells = "*"\nstatus = ["pass"]\nreason = ""', "reason"),
        ('cell = "*"\nstatus = ["pass"]\nreason = "a"', 'Perhaps you meant "cells"'),
        ('cells = 3\nstatus = ["pass"]\nreason = "a"', "must be a list"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_with_its_line(tmp_path: Path, entry: str, told: str) -> None:
    said = refusal(tmp_path, f"[[expect]]\n{entry}\n")
    assert told in said
    assert "matrix.toml:1" in said
    assert "two brackets" in refusal(tmp_path, '[expect]\ncells = "*"\n')


def test_accepted_verdicts_are_sorted_stable_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "matrix.expect.toml"
    verdicts = dict(zip(CELLS, ("pass", "slower", "failed", "no-gain"), strict=True))
    text = accepted_text(verdicts)
    lines = [line for line in text.splitlines() if " = " in line]
    assert lines == sorted(lines)
    assert text == accepted_text(dict(reversed(verdicts.items())))
    path.write_text(text)
    assert read_accepted(path, CELLS) == verdicts


def test_accepting_some_cells_keeps_the_others_and_drops_those_that_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "matrix.expect.toml"
    path.write_text(accepted_text({CELLS[0]: "pass", CELLS[1]: "slower", "old/none@stock:cpu/here": "pass"}))
    ran = [{"id": CELLS[1], "status": "pass"}, {"id": CELLS[2], "status": "failed"}]
    assert write_accepted(path, CELLS, ran) == {
        "added": [CELLS[2]],
        "changed": [(CELLS[1], "slower", "pass")],
        "removed": ["old/none@stock:cpu/here"],
    }
    assert read_accepted(path, CELLS) == {CELLS[0]: "pass", CELLS[1]: "pass", CELLS[2]: "failed"}


def test_an_accepted_verdict_of_a_cell_that_is_gone_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    loaded = matrix(tmp_path)
    path = accepted_file(loaded.path)
    path.write_text(accepted_text({CELLS[0]: "pass", "vad/none@stock2:cpu/here": "pass"}))
    with pytest.raises(ConfigurationError) as caught:
        load_expectations(loaded)
    line = path.read_text().splitlines().index('"vad/none@stock2:cpu/here" = "pass"') + 1
    assert f'matrix.expect.toml:{line}: cells."vad/none@stock2:cpu/here": matches no cell' in str(caught.value)
    assert f'Did you mean "{CELLS[0]}"?' in str(caught.value)
    assert "ortforge run --accept" in caught.value.todo
    assert list(load_expectations(loaded, rewriting=True)) == [CELLS[0]]


@pytest.mark.parametrize("text", ["<<<<<<< ours\n", "cells = 3\n", '[cells]\n"x" = "pass"\n[more]\n', "\xff"])
def test_a_file_of_accepted_verdicts_that_cannot_be_read_can_be_written_anew(tmp_path: Path, text: str) -> None:
    loaded = matrix(tmp_path)
    path = accepted_file(loaded.path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError) as caught:
        load_expectations(loaded)
    assert "ortforge run --accept" in caught.value.todo
    assert load_expectations(loaded, rewriting=True) == {}
    some = [{"id": CELLS[0], "status": "pass"}]
    with pytest.raises(ConfigurationError):  # what was accepted of the other cells would be lost
        write_accepted(path, CELLS, some)
    write_accepted(path, CELLS, [{"id": name, "status": "pass"} for name in CELLS])
    assert read_accepted(path, CELLS) == dict.fromkeys(CELLS, "pass")

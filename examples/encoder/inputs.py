"""Real sentences for the encoder: ``source = "python:examples/encoder/inputs.py:sentences"``.

They are paragraphs of the standard library's docstrings, of the interpreter that runs this, as the model's own
tokenizer cuts them. A sample is one sentence, since that is how an encoder is asked for a query's vector, and so that
"worst sample" and "nearest neighbour" speak of single sentences. It is padded to the next multiple of 16 tokens, as
servers do to meet few shapes: the attention mask has zeros in most samples, and a recipe that breaks it is seen.

No label is given: whether two sentences are still each other's nearest neighbours is asked of the model itself.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOKENIZER = Path(__file__).resolve().with_name("tokenizer.json")
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
"""Of the file that export.py writes: a dataset is known by its code, not by what that reads, so the code holds it."""

MOST_TOKENS, PADDED_TO = 128, 16
CHARACTERS = range(30, 800)
LETTERS = 0.7
"""Least share of letters and spaces: what lies below is a table or code."""


def sentences(limit: int = 64, seed: int = 0, split: str = "validation") -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Yield one padded sentence at a time: ``input_ids`` and ``attention_mask`` [1, 16, 32 … 128], int64.

    The same ``seed`` gives the same sentences on the same Python. A third of all texts is for calibration, told by
    their content: no text is in both splits.

    :raises FileNotFoundError: the model was not exported yet.
    """
    tokenizer = _tokenizer()
    draw = np.random.default_rng([seed, split == "calibration", 5])
    texts = _paragraphs(split)
    for place in draw.permutation(len(texts))[:limit]:
        encoded = tokenizer.encode(texts[place])
        yield {
            "input_ids": np.array([encoded.ids], np.int64),
            "attention_mask": np.array([encoded.attention_mask], np.int64),
        }


def _tokenizer() -> Any:
    if not TOKENIZER.is_file():
        raise FileNotFoundError(f"{TOKENIZER} is not there. Make it and the model: python examples/encoder/export.py")
    if hashlib.sha256(TOKENIZER.read_bytes()).hexdigest() != TOKENIZER_SHA256:
        raise ValueError(
            f"{TOKENIZER} is not the model's own. Make it again: python examples/encoder/export.py --force"
        )
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.enable_truncation(MOST_TOKENS)
    tokenizer.enable_padding(pad_to_multiple_of=PADDED_TO)
    return tokenizer


def _paragraphs(split: str) -> list[str]:
    """Return the paragraphs of prose in the docstrings of the standard library's top modules, each once."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for docstring in _docstrings(path):
            for paragraph in re.split(r"\n\s*\n", docstring):
                text = " ".join(paragraph.split())
                if _is_prose(text) and (zlib.crc32(text.lower().encode()) % 3 == 2) == (split == "calibration"):
                    found[text] = None
    return list(found)


def _docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a file, which is parsed and not imported."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _is_prose(text: str) -> bool:
    plain = sum(character.isalpha() or character == " " for character in text)
    return len(text) in CHARACTERS and ">>>" not in text and plain >= LETTERS * len(text)

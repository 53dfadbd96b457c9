"""Batches for the encoder on a GPU: ``source = "python:examples/gpu/inputs.py:batches"``.

A GPU that is given one sentence at a time mostly waits for the next kernel. A sample here is 32 sentences of the
encoder's own dataset, each padded to 128 tokens, as a server collects them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray[Any, Any]]

BATCH, TOKENS = 32, 128
ENCODER = Path(__file__).resolve().parents[1] / "encoder" / "inputs.py"


def batches(limit: int = 8, seed: int = 0, split: str = "validation") -> Iterator[Feeds]:
    """Yield batches of sentences: ``input_ids`` and ``attention_mask`` [32, 128], int64.

    :raises FileNotFoundError: the model and its tokenizer were not exported yet.
    """
    made: list[Feeds] = []
    for sentence in _sentences(limit * BATCH, seed, split):
        made.append({name: np.pad(ids, ((0, 0), (0, TOKENS - ids.shape[1]))) for name, ids in sentence.items()})
        if len(made) == BATCH:
            yield {name: np.concatenate([feeds[name] for feeds in made]) for name in made[0]}
            made = []


def _sentences(limit: int, seed: int, split: str) -> Iterator[Feeds]:
    """Read the encoder's dataset: a neighbouring file, which is no package."""
    spec = importlib.util.spec_from_file_location("encoder_inputs", ENCODER)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{ENCODER} is not there: batches are made of its sentences")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Iterator[Feeds] = module.sentences(limit, seed, split)
    return found

"""Slices and sentinels: a ruined row shows however large the others are, and rows without signal raise no alarm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ortforge.portable.comparison.limits import exceeded
from ortforge.portable.comparison.parity import compare
from ortforge.verdict.tolerance import Tolerance

Array = Any
Change = Callable[[Array], Array]


def head(layout: str = "rows", classes: int = 3, samples: int = 8) -> list[Array]:
    """Return a detector's answers: boxes in pixels and scores, ``[1, 4 + classes, 400]`` or its transpose."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(samples):
        boxes = random.random((1, 4, 400)) * 640
        scores = 1 / (1 + np.exp(-random.normal(-1.0, 1.0, (1, classes, 400))))
        array = np.concatenate([boxes, scores], axis=1).astype(np.float32)
        made.append(array if layout == "rows" else np.ascontiguousarray(array.transpose(0, 2, 1)))
    return made


def sentences(reference: list[Array], candidate: list[Array], name: str = "y", **limits: Any) -> list[str]:
    found = compare([{name: array} for array in reference], [{name: array} for array in candidate])
    return found["problems"] + exceeded(found, Tolerance(**limits))


def change(arrays: list[Array], how: Change) -> list[Array]:
    return [how(array.copy()) for array in arrays]


def put(where: Any, value: Any) -> Change:
    def how(array: Array) -> Array:
        array[where] = value(array) if callable(value) else value
        return array

    return how


ALONE = {"cosine": None, "max_rel_range": None, "agreement": None}
"""Every other limit off: the slices alone must tell."""


@pytest.mark.parametrize(
    "how",
    [
        put(np.s_[:, 4:], 0.0),
        put(np.s_[:, 5], 0.0),
        put(np.s_[:, 6], 0.37),
        put(np.s_[:, 4:], lambda array: array[:, [5, 6, 4]]),
        put(np.s_[:, 4], lambda array: array[:, 4, ::-1]),
        put(np.s_[:, 4:], lambda array: 1.0 - array[:, 4:]),
        put(np.s_[:, 5], lambda array: np.roll(array[:, 5], 1, axis=-1)),
    ],
    ids=["all zero", "one zero", "constant", "rows exchanged", "anchors reversed", "sign flipped", "shifted"],
)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_a_ruined_class_row_shows_beside_boxes_in_pixels(how: Change, layout: str) -> None:
    rows = head()
    bad = change(rows, how)
    if layout == "columns":
        rows, bad = ([array.transpose(0, 2, 1) for array in arrays] for arrays in (rows, bad))
    found = compare([{"y": array} for array in rows], [{"y": array} for array in bad])
    assert found["worst"]["cosine"] > 0.9999
    said = exceeded(found, Tolerance(**ALONE))
    assert said
    assert f"of axis {1 if layout == 'rows' else 2} (of 7)" in said[0]


@pytest.mark.parametrize("scales", [(1e3, 1.0, 5.0), (0.01, 1.0, 40.0)])
@pytest.mark.parametrize("shape", [(1, 3, 200), (1, 200, 3), (1, 3, 20, 20)])
def test_channels_of_other_units_are_judged_by_their_own_variation(shape: Any, scales: Any) -> None:
    random = np.random.default_rng(1)
    axis = shape.index(3)
    size = [3 if place == axis else 1 for place in range(len(shape))]
    scale = np.array(scales).reshape(size)
    reference = [(scale * random.normal(size=shape)).astype(np.float32) for _ in range(4)]
    smallest = int(np.argmin(scales))
    where = tuple(smallest if place == axis else slice(None) for place in range(len(shape)))
    said = sentences(reference, change(reference, put(where, 0.0)), **ALONE)
    assert any(f"slice {smallest} of axis {axis} (of 3) became constant" in sentence for sentence in said)
    noise = [(array + 0.05 * scale * random.normal(size=shape)).astype(np.float32) for array in reference]
    assert sentences(reference, noise, **ALONE) == []


def test_a_frozen_time_step_and_a_dead_map_row_show() -> None:
    random = np.random.default_rng(2)
    steps = [np.cumsum(random.normal(size=(1, 20, 32)), axis=1).astype(np.float32) for _ in range(6)]
    said = sentences(steps, change(steps, put(np.s_[:, 12], 0.0)), **ALONE)
    assert any("slice 12 of axis 1 (of 20) became constant" in sentence for sentence in said)
    maps = [random.normal(size=(1, 2, 24, 24)).astype(np.float32) for _ in range(6)]
    said = sentences(maps, change(maps, put(np.s_[:, :, 7], 0.0)), **ALONE)
    assert any("slice 7 of axis 2 (of 24) became constant" in sentence for sentence in said)


def test_a_large_channel_hides_nothing() -> None:
    """One channel of a transformer is often a hundred times larger than the others."""
    random = np.random.default_rng(3)
    scale = np.ones(64)
    scale[17] = 150.0
    hidden = [(random.normal(size=(1, 12, 64)) * scale).astype(np.float32) for _ in range(8)]

    def ruin(array: Array) -> Array:
        keep = array[..., 17].copy()
        array[:] = np.roll(array, 5, axis=1)
        array[..., 17] = keep
        return array

    found = compare([{"h": array} for array in hidden], [{"h": array} for array in change(hidden, ruin)])
    assert found["worst"]["cosine"] > 0.99
    assert any("of axis 2 (of 64)" in sentence for sentence in exceeded(found, Tolerance(**ALONE)))


def test_rows_that_carry_almost_no_signal_raise_no_alarm() -> None:
    random = np.random.default_rng(4)
    scores = [1 / (1 + np.exp(-random.normal(-1.0, 1.5, (1, 20, 300)))) for _ in range(6)]
    for array in scores:
        array[:, 13] = 1e-4 * random.random((1, 300))  # a class that never fires
        array[:, 14] = 0.0
    scores = [array.astype(np.float32) for array in scores]
    rounded = [(np.round(array * 255) / 255).astype(np.float32) for array in scores]
    assert sentences(scores, rounded) == []
    features = [np.maximum(random.normal(size=(1, 64, 10, 10)), 0).astype(np.float32) for _ in range(4)]
    for array in features:
        array[:, 5] *= 1e-3  # an almost dead channel
    rounded = [(np.round(array / 4 * 255) / 255 * 4).astype(np.float32) for array in features]
    assert sentences(features, rounded) == []


def test_blank_parts_of_a_page_raise_no_alarm() -> None:
    random = np.random.default_rng(5)
    pages = []
    for _ in range(3):
        page = np.zeros((1, 1, 64, 64), np.float32)
        page[0, 0, 20:30, 10:50] = random.random((10, 40))
        pages.append(page)
    noisy = [(page + 0.004 * random.normal(size=page.shape)).astype(np.float32) for page in pages]
    assert sentences(pages, noisy) == []


@pytest.mark.parametrize("value", [-1e9, float(np.finfo(np.float32).min), 1e9, -10000.0])
@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (1, 300), (1, 6, 50)])
def test_sentinels_take_no_part_in_the_numbers_and_must_match(value: float, shape: Any) -> None:
    random = np.random.default_rng(6)
    masked = random.random(shape) < 0.3
    reference = [np.where(masked, value, random.normal(size=shape)).astype(np.float32) for _ in range(6)]
    ruined = [np.where(masked, value, random.normal(size=shape)).astype(np.float32) for _ in range(6)]
    said = sentences(reference, ruined, "map")
    assert any("cosine" in sentence for sentence in said)
    near = [array + np.where(masked, 0.0, 0.01 * random.normal(size=shape)).astype(np.float32) for array in reference]
    assert sentences(reference, near, "map") == []
    other = [np.where(masked, 0.5 * value, array).astype(np.float32) for array in reference]
    (problem,) = sentences(reference, other, "map", agreement=None, slice_error=None)
    assert f"another value in {6 * int(masked.sum())} places where the reference has" in problem


def test_an_additive_mask_is_a_sentinel_and_a_single_peak_is_none() -> None:
    random = np.random.default_rng(7)
    logits = random.normal(size=(4, 1, 40)).astype(np.float32)
    masked = np.where(np.arange(40) < 15, logits - 10000.0, logits).astype(np.float32)
    found = compare([{"m": array} for array in masked], [{"m": array} for array in masked])
    assert found["outputs"]["m"]["evidence"]["sentinels"] == 4 * 15
    assert found["outputs"]["m"]["scale"] < 10
    peak = logits.copy()
    peak[:, 0, 3] = 5000.0
    found = compare([{"m": array} for array in peak], [{"m": array} for array in peak])
    assert found["outputs"]["m"]["evidence"]["sentinels"] == 0


def test_outputs_beyond_the_limit_are_compared_as_a_whole() -> None:
    big = np.random.default_rng(8).normal(size=(3, 1, 2, 1500, 1500)).astype(np.float32)
    found = compare([{"y": array} for array in big], [{"y": array} for array in big])["outputs"]["y"]
    assert found["slices"]["truncated"]
    assert found["identical"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.complex64])
def test_slices_of_other_types(dtype: Any) -> None:
    rows = [array.astype(dtype) for array in head(samples=4)]
    bad = change(rows, put(np.s_[:, 4:], 0.0))
    said = sentences(rows, bad)
    assert bool(said) == (dtype is not np.complex64)


def test_a_faint_row_that_alone_is_wrong_shows() -> None:
    random = np.random.default_rng(9)
    scale = np.ones(24)
    scale[5] = 0.02
    rows = [(random.normal(size=(1, 24, 60)) * scale[None, :, None]).astype(np.float32) for _ in range(6)]
    for how in (put(np.s_[:, 5], 0.0), put(np.s_[:, 5], lambda array: -array[:, 5])):
        said = sentences(rows, change(rows, how), **ALONE)
        assert any("slice 5 of axis 1 (of 24)" in sentence for sentence in said)
    shared = [(array + 0.03 * random.normal(size=array.shape)).astype(np.float32) for array in rows]
    assert sentences(rows, shared, **ALONE) == []


def test_the_quiet_half_of_a_sound_is_not_lost() -> None:
    random = np.random.default_rng(10)
    loudness = np.where(np.arange(2000) < 1000, 1.0, 0.01)
    sounds = [(loudness * random.normal(size=(1, 2000))).astype(np.float32) for _ in range(12)]
    silent = [np.where(np.arange(2000) < 1000, sound, 0).astype(np.float32) for sound in sounds]
    assert sentences(sounds, silent, "audio", **ALONE)


def test_masks_that_are_added_to_one_another_are_sentinels_of_several_levels() -> None:
    random = np.random.default_rng(11)
    causal = np.triu(np.full((16, 16), -10000.0), 1)
    padding = np.where(np.arange(16) >= 12, -10000.0, 0.0)
    scores = [(random.normal(size=(1, 4, 16, 16)) + causal + padding).astype(np.float32) for _ in range(8)]
    flipped = [np.where(score < -5000, score, -score).astype(np.float32) for score in scores]
    assert any("cosine" in sentence for sentence in sentences(scores, flipped, "output"))
    assert sentences(scores, [score.copy() for score in scores], "output") == []


def test_small_shifts_of_double_precision_times_show() -> None:
    random = np.random.default_rng(12)
    times = [1.7e9 + random.normal(size=(1, 6)) * 5000 for _ in range(12)]
    assert sentences(times, [time + 20000.0 for time in times], "time", **ALONE)
    assert sentences(times, [time + 1e-6 for time in times], "time", **ALONE) == []

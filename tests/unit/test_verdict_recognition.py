"""What an output is taken for, and the decision that is measured for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ortforge.portable.comparison.decisions import boxes, overlap, positions, top1
from ortforge.portable.comparison.limits import exceeded
from ortforge.portable.comparison.parity import compare
from ortforge.portable.comparison.recognition import recognize
from ortforge.verdict.tolerance import Tolerance

RANDOM = np.random.default_rng(0)


def softmax(array: Any, axis: int = -1) -> Any:
    whole = np.exp(array - array.max(axis=axis, keepdims=True))
    return whole / whole.sum(axis=axis, keepdims=True)


def sigmoid(array: Any) -> Any:
    return 1 / (1 + np.exp(-array))


NORMAL = RANDOM.normal
UNIT = NORMAL(size=(1, 384))
HEAD = np.concatenate([RANDOM.random((1, 4, 300)) * 640, sigmoid(NORMAL(size=(1, 80, 300)))], axis=1)


@pytest.mark.parametrize(
    ("name", "array", "role"),
    [
        ("output0", HEAD, "detector"),
        ("y", HEAD.transpose(0, 2, 1), "detector"),
        ("logits", NORMAL(size=(1, 10)), "classifier"),
        ("y", softmax(NORMAL(size=(2, 7))), "classifier"),
        ("logits", NORMAL(size=(1, 12, 1000)), "tokens"),
        ("last_hidden_state", NORMAL(size=(1, 12, 384)), "embedding"),
        ("y", UNIT / np.linalg.norm(UNIT), "embedding"),
        ("y", NORMAL(size=(1, 84, 8400)), "values"),
        ("sigmoid_0.tmp_0", RANDOM.random((1, 1, 32, 32)), "mask"),
        ("y", softmax(NORMAL(size=(1, 5, 16, 16)), axis=1), "segmentation"),
        ("out", RANDOM.integers(0, 256, (1, 3, 32, 32)).astype(np.uint8), "image"),
        ("output", NORMAL(size=(1, 3, 32, 32)), "image"),
        ("labels", RANDOM.integers(0, 9, (40,)), "labels"),
        ("seg", RANDOM.integers(0, 9, (1, 32, 32)), "labels"),
        ("num_detections", np.array([3]), "counts"),
        ("keep", np.array([True, False]), "mask"),
        ("y", NORMAL(size=(1, 8, 20)), "values"),
        ("audio", NORMAL(size=(1, 100)), "values"),
        ("y", np.sin(np.arange(16000) / 50.0)[None], "values"),
        ("bbox", NORMAL(size=(1, 4)), "values"),
        ("y", np.concatenate([HEAD[:, :4], NORMAL(size=(1, 3, 300))], axis=1), "detector"),
        ("y", np.zeros((1, 1)), "values"),
    ],
)
def test_roles(name: str, array: Any, role: str) -> None:
    assert recognize(name, {name: np.asarray(array)}).role == role


def test_the_matrix_has_the_last_word() -> None:
    assert recognize("y", {"y": HEAD}, "embedding").role == "embedding"
    found = compare([{"y": HEAD}] * 2, [{"z": HEAD}] * 2, roles={"y": "ignored", "z": "ignored"})
    assert found["problems"] == []
    assert "No output was compared" in found["missing"][0]


def test_indices_know_their_values_and_labels_their_scores() -> None:
    values = -np.sort(-NORMAL(size=(2, 5)))
    order = RANDOM.integers(0, 100, (2, 5))
    found = recognize("order", {"order": order, "top": values})
    assert (found.role, found.partner) == ("indices", "top")
    scores = NORMAL(size=(6, 4))
    found = recognize("class", {"class": scores.argmax(axis=1), "scores": scores})
    assert (found.role, found.partner) == ("labels", "scores")


def test_ties_of_topk_and_argmax_are_no_disagreement() -> None:
    values = np.array([[0.9, 0.5, 0.5, 0.1]])
    order = np.array([[7, 3, 4, 9]])
    assert positions(order, np.array([[7, 4, 3, 9]]), values) == (4, 4)
    assert positions(order, np.array([[3, 7, 4, 9]]), values) == (2, 4)
    assert positions(order, np.array([[7, 3, 4, 8]]), values) == (4, 4)  # nobody knows the value at 8: the edge
    assert positions(order, np.array([[8, 3, 4, 9]]), values) == (3, 4)
    scores = np.array([[0.2, 0.7, 0.7], [0.1, 0.8, 0.1]])
    reference = [{"scores": scores, "label": scores.argmax(axis=1)}]
    candidate = [{"scores": scores, "label": np.array([2, 1])}]
    assert exceeded(compare(reference, candidate), Tolerance()) == []
    wrong = [{"scores": scores, "label": np.array([2, 0])}]
    assert exceeded(compare(reference, wrong), Tolerance())


def test_rows_without_a_decision_are_not_counted() -> None:
    assert top1(np.zeros((3, 4)), NORMAL(size=(3, 4))) == (0, 0)


def test_a_rare_class_that_is_never_chosen_is_lost() -> None:
    labels = np.zeros(200, dtype=int)
    labels[:6] = 1
    scores = np.eye(3)[labels] * 4 + 0.1 * NORMAL(size=(200, 3))
    wrong = scores.copy()
    wrong[:6, 0] = 9.0
    found = compare([{"logits": scores}], [{"logits": wrong}])
    assert found["outputs"]["logits"]["agreement"] == 0.97
    assert any("class 1 is lost" in sentence for sentence in exceeded(found, Tolerance(max_rel_range=None)))


def test_detections_agree_by_score_class_and_box() -> None:
    assert boxes(HEAD, HEAD, 1)[0] == boxes(HEAD, HEAD, 1)[1] > 0
    near = HEAD * (1 + 0.01 * NORMAL(size=HEAD.shape))
    agreeing, of = boxes(HEAD, near, 1)
    assert agreeing / of > 0.95
    gone = HEAD.copy()
    gone[:, 4:] *= 0.2
    moved = HEAD.copy()
    moved[:, 0] += 400.0
    for bad in (gone, moved):
        agreeing, of = boxes(HEAD, bad, 1)
        assert agreeing / of < 0.7


def test_a_detector_that_detects_nothing_proves_nothing() -> None:
    quiet = HEAD.copy()
    quiet[:, 4:] *= 1e-3
    other = quiet.copy()
    other[:, :4] += 1.0
    found = compare([{"output0": quiet}, {"output0": other}], [{"output0": quiet}, {"output0": other}])
    assert "no detection was compared" in found["missing"][0]


def test_masks_agree_by_overlap() -> None:
    mask = np.zeros((1, 1, 32, 32), np.float32)
    mask[..., 10:20, 10:20] = 0.9
    assert overlap(mask, mask) == (100, 100)
    shifted = np.roll(mask, 3, axis=-1)
    assert overlap(mask, shifted) == (70, 130)
    keep = np.zeros(300, dtype=bool)
    keep[:9] = True
    found = compare([{"keep": ~keep}, {"keep": ~keep[::-1]}], [{"keep": keep | True}] * 2)
    assert any("class 0 is lost" in sentence for sentence in exceeded(found, Tolerance(agreement=None)))


def test_a_picture_that_differs_by_one_is_right_and_a_black_one_is_not() -> None:
    pictures = [RANDOM.integers(0, 256, (1, 3, 24, 24)).astype(np.uint8) for _ in range(4)]
    near = [np.where(picture < 255, picture + 1, picture).astype(np.uint8) for picture in pictures]
    found = compare([{"out": picture} for picture in pictures], [{"out": picture} for picture in near])
    assert exceeded(found, Tolerance()) == []
    assert found["outputs"]["out"]["psnr_db"] > 45.0
    black = [{"out": np.zeros_like(picture)} for picture in pictures]
    found = compare([{"out": picture} for picture in pictures], black)
    assert exceeded(found, Tolerance(agreement=None, cosine=None, max_rel_range=None))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_a_map_of_instances_is_no_picture(dtype: Any) -> None:
    maps = [np.kron(RANDOM.permutation(64).reshape(8, 8) * 3, np.ones((4, 4)))[None].astype(dtype) for _ in range(4)]
    shifted = [(one + 1).astype(dtype) for one in maps]
    found = compare([{"instances": one} for one in maps], [{"instances": one} for one in shifted])
    assert found["outputs"]["instances"]["role"] == "labels"
    assert exceeded(found, Tolerance())


def test_a_few_whole_numbers_are_measurements() -> None:
    assert recognize("price", {"price": np.array([[3.0, 12.0]])}).role == "classifier"
    assert recognize("class_id", {"class_id": np.array([3.0, 5.0])}).role == "labels"


def test_signed_pictures_are_pictures() -> None:
    pictures = [RANDOM.integers(-128, 128, (1, 3, 24, 24)).astype(np.int8) for _ in range(4)]
    near = [np.where(picture < 127, picture + 1, picture).astype(np.int8) for picture in pictures]
    assert exceeded(compare([{"y": one} for one in pictures], [{"y": one} for one in near]), Tolerance()) == []


def listed(layout: str, count: int = 20) -> list[Any]:
    """Return ranked detections of some pictures: rows of box, score and class, in the order of a model family."""
    made = []
    for _ in range(8):
        corners = RANDOM.random((count, 2)) * 500
        box = np.concatenate([corners, corners + 20 + RANDOM.random((count, 2)) * 100], axis=1)
        score, label = -np.sort(-RANDOM.random((count, 1))), RANDOM.integers(0, 80, (count, 1)).astype(float)
        batch = np.zeros((count, 1))
        columns = {
            "yolo10": [box, score, label],
            "paddle": [label, score, box],
            "yolo7": [batch, box, label, score],
        }[layout]
        made.append(np.concatenate(columns, axis=1)[None].astype(np.float32))
    return made


@pytest.mark.parametrize(("layout", "label", "box"), [("yolo10", 5, 0), ("paddle", 0, 2), ("yolo7", 5, 1)])
def test_ranked_detections_agree_by_class_score_and_box(layout: str, label: int, box: int) -> None:
    right = listed(layout)

    def said(change: Any) -> list[str]:
        wrong = [one.copy() for one in right]
        for one in wrong:
            change(one)
        found = compare([{"output0": one} for one in right], [{"output0": one} for one in wrong])
        assert found["outputs"]["output0"]["role"] == "detections"
        return [text for text in exceeded(found, Tolerance(cosine=None, max_rel_range=None)) if "detections" in text]

    def off_by_one(one: Any) -> None:
        one[..., label] += 1

    def moved(one: Any) -> None:
        one[..., box] += 150
        one[..., box + 2] += 150

    def swapped(one: Any) -> None:
        one[:, [3, 4]] = one[:, [4, 3]]

    assert said(off_by_one)
    assert said(moved)
    assert said(swapped) == []


def test_a_place_that_is_wrong_in_every_sample_shows() -> None:
    tokens = [RANDOM.integers(0, 3000, (1, 40)) for _ in range(12)]
    wrong = [token.copy() for token in tokens]
    for token in wrong:
        token[0, 0] += 1
    found = compare([{"tokens": one} for one in tokens], [{"tokens": one} for one in wrong])
    assert found["outputs"]["tokens"]["agreement"] > 0.95
    assert any("index 0 of axis 1 (of 40)" in sentence for sentence in exceeded(found, Tolerance()))


def test_a_blank_first_picture_does_not_tell_what_an_output_is() -> None:
    pictures = [np.full((1, 3, 24, 24), 128, np.uint8)]
    pictures += [RANDOM.integers(0, 255, (1, 3, 24, 24)).astype(np.uint8) for _ in range(3)]
    near = [picture + 1 for picture in pictures]
    found = compare([{"y": one} for one in pictures], [{"y": one} for one in near])
    assert found["outputs"]["y"]["role"] == "image"
    assert exceeded(found, Tolerance()) == []


def test_a_flag_that_is_never_given_shows_although_it_is_rare() -> None:
    flags = [RANDOM.random((1, 12)) < 0.3 for _ in range(30)]
    wrong = [one.copy() for one in flags]
    for one in wrong:
        one[0, 7] = False
    found = compare([{"flags": one} for one in flags], [{"flags": one} for one in wrong])
    said = exceeded(found, Tolerance(agreement=0.5))
    assert any("index 7 of axis 1 (of 12)" in sentence and "that are true" in sentence for sentence in said)


def test_embeddings_of_8_bits_are_measured() -> None:
    vectors = [RANDOM.integers(-100, 100, (1, 64)).astype(np.int8) for _ in range(6)]
    near = [vector + 1 for vector in vectors]
    found = compare([{"embedding": one} for one in vectors], [{"embedding": one} for one in near])
    assert found["outputs"]["embedding"]["role"] == "embedding"
    assert exceeded(found, Tolerance()) == []

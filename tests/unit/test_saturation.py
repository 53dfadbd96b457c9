"""The arithmetic of saturating pairs, against its definition and against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.portable.cpu_tiers import EXACT, SATURATING, TIERS, WIDENING, expand, tier_of
from ortforge.worker.saturation import (
    conv_columns,
    conv_weight_matrix,
    excess,
    paired,
    saturating_matmul,
    wraps_possible,
)


def test_known_vectors_of_the_instruction() -> None:
    """255 * 127 * 2 = 64770 becomes 32767; the last product of an odd K is alone and fits."""
    a = np.array([[255, 255, 255, 255, 255]], np.uint8)
    b = np.array([[127], [127], [-128], [-128], [127]], np.int8)
    assert saturating_matmul(a, b).tolist() == [[32767 - 32768 + 255 * 127]]
    lost = excess(np.ascontiguousarray(a.T), paired(b))
    assert lost.value.tolist() == [[(64770 - 32767) + (-65280 + 32768)]]
    assert (lost.saturated, lost.sums) == (2, 3)


def test_pairs_begin_at_the_even_rows() -> None:
    """Rows 1 and 2 are never a pair, so two large weights there do not saturate."""
    b = np.array([[0], [127], [127], [0]], np.int8)
    assert paired(b).first.size == 0
    assert paired(b[[1, 2, 0, 3]]).first.tolist() == [0]


@pytest.mark.parametrize(("weight", "able"), [(64, False), (65, True), (-64, False), (-65, True)])
def test_seven_bit_weights_cannot_saturate(weight: int, able: bool) -> None:
    """2 * 255 * 64 = 32640 fits and 2 * 255 * 65 = 33150 does not: what reduce_range rests on."""
    assert bool(paired(np.full((2, 1), weight, np.int8)).first.size) is able


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 40), st.integers(1, 9))
def test_excess_is_exact_minus_saturated(seed: int, rows: int, depth: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (rows, depth)).astype(np.uint8)
    b = rng.integers(-128, 128, (depth, columns)).astype(np.int8)
    exact = a.astype(np.int32) @ b.astype(np.int32)
    for peaks in (None, a.max(axis=0)):
        lost = excess(np.ascontiguousarray(a.T), paired(b, peaks))
        assert np.array_equal(exact - lost.value, saturating_matmul(a, b))


def test_work_in_several_chunks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(200, 256, (7, 64)).astype(np.uint8)
    b = rng.integers(60, 128, (64, 11)).astype(np.int8)
    monkeypatch.setattr("ortforge.worker.saturation.CHUNK", 50)
    lost = excess(np.ascontiguousarray(a.T), paired(b))
    assert np.array_equal(a.astype(np.int32) @ b.astype(np.int32) - lost.value, saturating_matmul(a, b))


def test_columns_of_a_convolution_times_its_weights_are_the_convolution() -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 9, (2, 4, 6, 7)).astype(np.int64)
    weights = rng.integers(-4, 5, (6, 2, 3, 2)).astype(np.int64)
    columns = conv_columns(x, (3, 2), (2, 1), (1, 2), (1, 0, 1, 1), 5)
    got = [
        columns[:, 2 * group : 2 * group + 2].reshape(matrix.shape[0], -1).T @ matrix
        for group, matrix in enumerate(conv_weight_matrix(weights, 2))
    ]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 1)), constant_values=5)
    out = np.zeros((2, 6, 3, 6), np.int64)
    for o, i, j in np.ndindex(6, 3, 6):
        first = 2 * (o // 3)
        patch = padded[:, first : first + 2, 2 * i : 2 * i + 3, j : j + 3 : 2]
        out[:, o, i, j] = (patch * weights[o]).sum(axis=(1, 2, 3))
    assert np.array_equal(np.concatenate(got, axis=1).reshape(2, 3, 6, 6).transpose(0, 3, 1, 2), out)


def test_neon_wraps_with_two_weights_of_minus_128_in_a_column() -> None:
    assert not wraps_possible(np.array([[-128, -127], [-127, -128]], np.int8))
    assert wraps_possible(np.array([[-128, 0], [-128, 0]], np.int8))


@pytest.mark.parametrize(
    ("flags", "tier"),
    [
        ("avx2 fma", "avx2"),
        ("avx2 fma avx_vnni", "avx-vnni"),
        ("avx2 fma avx512f", "avx2"),
        ("avx2 fma avx512f avx512bw avx512dq avx512vl", "avx512"),
        ("avx2 fma avx512f avx512bw avx512dq avx512vl avx512_vnni", "avx512-vnni"),
        ("avx2 fma avx512f avx512bw avx512dq avx512vl avx512_vnni amx_tile amx_int8", "amx"),
        ("avx2 fma avx512f avx512bw avx512dq avx512vl avx512_vnni amx_tile", "avx512-vnni"),
        ("avx sse4_1", ""),
        ("asimd", "neon"),
        ("asimd asimddp i8mm", "neon-dotprod"),
        ("", ""),
    ],
)
def test_a_cpu_has_the_tier_of_the_kernels_it_gets(flags: str, tier: str) -> None:
    assert tier_of(frozenset(flags.split())) == tier


def test_groups_stand_for_their_tiers_in_one_order() -> None:
    assert expand(["neon", "x86-64", "avx2"]) == ("avx2", "avx512", "avx-vnni", "avx512-vnni", "amx", "neon")
    assert {tier.arithmetic for tier in TIERS.values()} == {EXACT, SATURATING, WIDENING}

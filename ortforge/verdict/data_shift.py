"""Whether calibration and validation data were prepared alike: channel order, layout and scale.

A model whose ranges were measured on BGR pictures, or on 0 to 255 where it is later given 0 to 1, is quantized for
inputs that it will not see. Both datasets are known by their summaries (:mod:`ortforge.worker.data_summary`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["differences"]

CERTAIN: Final = 16.0
"""Mean squared difference of channels, in squared standard errors, from which on they are different (4 of them)."""

CLEARLY: Final = 4.0
"""How many times better the reversed order has to fit."""

SCALE: Final = 8.0
"""Ratio of spreads from which on the data have another scale: 0 to 255 against 0 to 1 is 255."""


def differences(calibration: Mapping[str, Any], validation: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each input whose calibration samples were prepared in another way than the validation ones.

    :param calibration: the ``inputs`` of a dataset's summary; :param validation: of the other one. Inputs that only one
        has are left out.
    """
    found = []
    for name, ours in calibration.items():
        theirs = validation.get(name)
        if theirs and (
            sentence := _layout(name, ours, theirs) or _scale(name, ours, theirs) or _order(name, ours, theirs)
        ):
            found.append(f"{sentence} The ranges of a statically quantized model fit the calibration data only.")
    return found


def _layout(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Compare where the channels are: second or last axis of four."""
    places = [_channel_axis(side["shape"]) for side in (ours, theirs)]
    if None in places or places[0] == places[1]:
        return ""
    words = {1: "NCHW", 3: "NHWC"}
    return (
        f"SWAPPED LAYOUT: calibration samples of {name} are {ours['shape']} ({words[places[0] or 1]}) and validation "
        f"samples {theirs['shape']} ({words[places[1] or 1]})."
    )


def _channel_axis(shape: Sequence[int]) -> int | None:
    if len(shape) != 4:
        return None
    first, last = shape[1] in (1, 3, 4), shape[3] in (1, 3, 4)
    return None if first == last else (1 if first else 3)


def _scale(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Compare the spread of the values."""
    if not ours["spread"] or not theirs["spread"]:
        return ""
    ratio = ours["spread"] / theirs["spread"]
    if 1 / SCALE < ratio < SCALE:
        return ""
    return (
        f"ANOTHER SCALE: values of {name} lie between {ours['lowest']:.3g} and {ours['highest']:.3g} in the "
        f"calibration data and between {theirs['lowest']:.3g} and {theirs['highest']:.3g} in the validation data."
    )


def _order(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Compare the channels' means with those of the other data, as they are and in reverse (RGB and BGR)."""
    for axis, channels in ours["channels"].items():
        other = theirs["channels"].get(axis)
        if not other or len(other["mean"]) != len(channels["mean"]) or None in (*channels["error"], *other["error"]):
            continue
        # Alpha, the fourth, stays where it is.
        colours = min(3, len(channels["mean"]))
        variances = [left**2 + right**2 for left, right in zip(channels["error"], other["error"], strict=True)]
        typical = sum(variances[:colours]) / colours or 1e-12
        straight, reverse = (
            sum((left - right) ** 2 for left, right in zip(channels["mean"][:colours], means, strict=True)) / typical
            for means in (other["mean"][:colours], other["mean"][:colours][::-1])
        )
        if straight / colours > CERTAIN and reverse * CLEARLY < straight:
            shown = [", ".join(f"{mean:.3g}" for mean in side["mean"]) for side in (channels, other)]
            return (
                f"SWAPPED CHANNELS: the channels of {name} have means {shown[0]} in the calibration data and "
                f"{shown[1]} in the validation data: one of them is RGB and the other BGR."
            )
    return ""

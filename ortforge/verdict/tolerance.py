"""How far from the reference a candidate may be and still count as correct.

The defaults are those of a careful practitioner shipping int8. They are one statement said three ways. With error
independent of the signal, cosine = 1/sqrt(1 + 1/SNR), so cosine 0.99 is an SQNR of 17 dB: noise of one seventh of the
signal's RMS. For an output whose RMS is about a sixth of its range that is 1/42 of the range, and the largest of some
100,000 such (Gaussian) errors, 4.5 sigma, is 0.1 of the range. So ``max_rel_range`` = 0.1 adds nothing on a
well-behaved output and catches what cosine cannot see: a few large errors in a mostly right tensor. An output that
saturates (the edges of a sigmoid map) may need a wider limit, set by its model next to a task metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from ortforge.errors import ConfigurationError, nearest

__all__ = ["Speed", "Tolerance"]

Speed = Literal["faster", "not-slower", "any"]

_NUMBERS: Final = ("cosine", "sqnr_db", "max_rel_range", "slice_error", "agreement", "task_drop", "placement")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits for one model; ``None`` switches a limit off.

    :param cosine: least cosine of any sample's output. Good int8 of convolutional nets lies above 0.99; what lies below
        changes answers (dynamic int8 of a small encoder: 0.945, against 0.9996 for 8-bit weights alone).
    :param sqnr_db: least SQNR in dB; off, because it says what cosine says (17 dB) for outputs without an offset.
    :param max_rel_range: largest error of any element, as a share of the output's range over all samples.
    :param slice_error: maximum error of any slice (a row of an output's axis), as a share of the energy of that
        slice's own variation (:mod:`ortforge.portable.comparison.slices`). 0.5 is 3 dB: the slice keeps more than it
        lost. Slices that became constant, and classes that are no longer chosen, exceed it whatever the number.
    :param agreement: minimum share of equal decisions over all samples; also, as ``1 - agreement``, the largest drop of
        a metric that compares the candidate with the reference and needs no labels. For masks the limit is
        a / (2 - a), the intersection over union of two equally large sets that share a part a.
    :param task_drop: largest drop of a labelled metric, absolute: the one point that published int8 results allow
        themselves.
    :param placement: least share of the model that a non-CPU EP must take to count as used.
    :param speed: what to ask of the time: ``faster``, ``not-slower`` or ``any``.
    :raises ConfigurationError: a limit is no number, or ``speed`` is unknown.
    """

    cosine: float | None = 0.99
    sqnr_db: float | None = None
    max_rel_range: float | None = 0.1
    slice_error: float | None = 0.5
    agreement: float | None = 0.95
    task_drop: float | None = 0.01
    placement: float | None = 0.1
    speed: Speed = "faster"

    def __post_init__(self) -> None:
        if self.speed not in get_args(Speed):
            raise ConfigurationError(
                f'The tolerance has speed = "{self.speed}", which is unknown.',
                meant=f'Perhaps "{guess}" was meant.' if (guess := nearest(str(self.speed), get_args(Speed))) else "",
                todo="Use one of: " + ", ".join(get_args(Speed)) + ".",
            )
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value != value):
                raise ConfigurationError(
                    f"The tolerance has {name} = {value!r}, which is no number.", todo="Give a number."
                )

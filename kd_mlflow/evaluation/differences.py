"""Differences in words: how far apart two models are, which way, and how sure that is."""

from __future__ import annotations

from typing import NamedTuple

from kd_mlflow.evaluation.intervals import Interval


class Measure(NamedTuple):
    """How differences of a metric are written: times ``factor``, and which way is which."""

    factor: float
    decimals: int
    unit: str
    better: str
    worse: str


ACCURACY = Measure(100, 2, " points", "better", "worse")
LOG_LOSS = Measure(1, 4, "", "lower", "higher")


def bounds(gain: Interval, measure: Measure) -> str:
    """Write an interval without signs: words say which way, once where both ends go one way.

    >>> bounds(Interval(value=0.001, low=-0.002, high=0.004), ACCURACY)
    '95 % interval 0.20 points worse to 0.40 better'
    >>> bounds(Interval(value=-0.003, low=-0.004, high=-0.002), ACCURACY)
    '95 % interval 0.20 to 0.40'
    >>> bounds(Interval(value=0.004, low=0.001, high=0.006), LOG_LOSS)
    '95 % interval 0.0010 to 0.0060'
    """
    factor, decimals, unit, better, worse = measure
    low, high = (f"{abs(factor * end):.{decimals}f}" for end in (gain.low, gain.high))
    if not gain.decided:
        return f"95 % interval {low}{unit} {worse} to {high} {better}"
    return "95 % interval " + " to ".join((low, high) if gain.low > 0 else (high, low))


def difference(gain: Interval, measure: Measure, than: str = "") -> str:
    """Write by how much something is better or worse, than what if that is not said already.

    >>> difference(Interval(value=-0.003, low=-0.004, high=-0.002), ACCURACY)
    '0.30 points worse (95 % interval 0.20 to 0.40)'
    """
    size = f"{abs(measure.factor * gain.value):.{measure.decimals}f}{measure.unit}"
    direction = measure.better if gain.value > 0 else measure.worse
    return f"{size} {direction}{than and f' than {than}'} ({bounds(gain, measure)})"


def known_difference(gain: Interval, measure: Measure, nothing: str, than: str = "") -> str:
    """The same where the interval leaves 0 out; where it does not, ``nothing`` and the interval."""
    if gain.decided:
        return difference(gain, measure, than)
    return f"{nothing} ({bounds(gain, measure)})"


def reverse(difference: Interval) -> Interval:
    """The same difference seen from the other side: a gap is a gain of the ensemble; 0 is no -0."""
    return Interval(value=0 - difference.value, low=0 - difference.high, high=0 - difference.low)

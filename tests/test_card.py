"""Sentences: a gain within the noise is never a number, and the model card says what was gained."""

import pytest

from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.report.words import gain_text
from kd_mlflow.steps import results


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.002, 0.006, "no measurable gain (95 % interval -0.20 to +0.60 points)"),
        (0.001, 0.006, "+0.40 points (95 % interval +0.10 to +0.60)"),
    ],
)
def test_a_gain_within_the_noise_has_no_number(low, high, words):
    """An interval that holds 0 reads "no measurable gain"; one that does not has its points."""
    assert gain_text(Interval(value=0.004, low=low, high=high)) == words


def test_a_measured_loss_is_said():
    """Where distillation did harm beyond the noise, the loss stands there."""
    text = gain_text(Interval(value=-0.004, low=-0.006, high=-0.001))
    assert text == "-0.40 points (95 % interval -0.60 to -0.10)"


def test_card_and_table_say_the_gain_over_each_baseline(finished):
    """Model card and closing table have both gains with intervals and McNemar's p values."""
    distilled = finished.result.distill
    version = finished.client.get_model_version("kd-student", distilled.version)
    table = results.distill_table(distilled)
    for kind, gain in distilled.comparison.gains.items():
        words = kind.replace("_", " ")
        assert f"| gain over the {words} | {gain_text(gain)} |" in version.description
        assert gain_text(gain) in table
        p = f"{distilled.comparison.summary[f'mcnemar_p_{kind}']:.3g} against the {words}"
        assert p in version.description
        assert p in table
    assert set(distilled.comparison.gains) == {"baseline", "strong_baseline"}

"""Piecewise-linear columns: their bins, what a network gets of them, and how they are served."""

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.pyfunc import load_model

from kd_mlflow.distillation.inputs import inputs_of
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.models.own_models import save_student
from kd_mlflow.population.network import Population
from kd_mlflow.serving.scoring import Network
from kd_mlflow.table.encoding import SOFT, Encoding, Scaler, fit_encoding, piecewise_linear

N = 400
RANDOM = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "normal": RANDOM.normal(size=N),
        "zeros": np.where(RANDOM.random(N) < 0.9, 0.0, RANDOM.exponential(size=N)),
        "two": RANDOM.integers(2, size=N),
        "city": RANDOM.choice(["Bern", "Rome"], N),
        "gaps": np.where(RANDOM.random(N) < 0.2, np.nan, RANDOM.lognormal(size=N)),
        "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(RANDOM.integers(900, size=N), "D"),
        "same": 1.0,
    }
)


def encoding(bins, table=TABLE):
    """What the table says of its columns."""
    plain = fit_encoding(table, target="y", classes=("a", "b", "c"), max_categories=9)
    return piecewise_linear(plain, plain.encode(table), bins)


def edges(found, name):
    """A column's edges."""
    return next(column.edges for column in found.columns if column.name == name)


def test_bins_hold_nearly_equal_shares():
    """Of a column without ties each bin has its share of the rows; first and last edge are ends."""
    own = edges(encoding(8), "normal")
    assert len(own) == 9
    counts, _ = np.histogram(TABLE["normal"], own)
    assert np.abs(counts - N / 8).max() <= 2
    assert own[0] == pytest.approx(TABLE["normal"].min(), rel=1e-6)
    assert own[-1] == pytest.approx(TABLE["normal"].max(), rel=1e-6)


def test_a_frequent_value_takes_one_edge():
    """Nine tenths zeros count as one bin's rows: the others still divide what is above."""
    own = edges(encoding(8), "zeros")
    assert own[0] == 0
    above = TABLE["zeros"][TABLE["zeros"] > 0]
    counts, _ = np.histogram(above, own[1:])
    assert len(own) >= 5
    assert counts.max() < 0.5 * len(above)


def test_what_has_two_values_or_none_has_no_bins():
    """Categories, two values and a constant stay as they are; no bins change nothing."""
    found = encoding(8)
    assert [edges(found, name) for name in ("two", "city", "same")] == [(), (), ()]
    assert all(edges(found, name) for name in ("normal", "zeros", "gaps", "day"))
    assert encoding(0) == fit_encoding(TABLE, target="y", classes=("a", "b", "c"), max_categories=9)


def test_an_encoding_with_bins_survives_its_document():
    """Written as JSON and read again it is the same."""
    found = encoding(8)
    assert Encoding.from_dict(found.to_dict()) == found


def test_a_value_fills_the_bins_below_it():
    """Equation 1 of Gorishniy et al. (2022), within the ends: 1 below a value, 0 above, a share."""
    found = encoding(8)
    own = np.array(edges(found, "normal"))
    scaler = Scaler(found)
    place = 0  # normal is the first number, so its bins come first
    x = torch.from_numpy(found.encode(TABLE))
    bins = scaler(x)[:, -scaler.bin_number.numel() :][:, place : place + 8].numpy()
    value = TABLE["normal"].to_numpy()[:, None]
    expected = np.clip((value - own[:-1]) / np.diff(own), 0, 1)
    np.testing.assert_allclose(bins, expected, atol=1e-4)
    assert (np.diff(bins, axis=1) <= 0).all()


def test_scaled_numbers_are_bent_softly():
    """However far a value, its number stays within the bound, in order."""
    far = pd.concat([TABLE.head(5)] * 2, ignore_index=True)
    far["normal"] = np.array([-1e30, -50.0, -3.0, -0.1, 0.0, 0.1, 3.0, 50.0, 1e4, 1e30])
    found = encoding(8)
    z = Scaler(found)(torch.from_numpy(found.encode(far)))[:, 0]
    assert (z.abs() <= SOFT).all()
    assert (z.diff() >= 0).all()


@pytest.mark.parametrize("bins", [0, 2, 8, 64])
def test_a_student_is_served_as_it_was_trained(bins):
    """Interpolating between the edges gives what the network makes of all bins, within rounding."""
    found = encoding(bins)
    population = Population.initialised((Scaler(found).width, 16, 8, 3), seeds=[5])
    strange = TABLE.copy()
    strange.loc[:3, "normal"] = [1e30, -1e30, np.nan, edges(encoding(8), "normal")[3]]
    strange.loc[:3, "gaps"] = [np.nan, -5.0, 0.0, 1e20]
    encoded = torch.from_numpy(found.encode(strange))
    module = StudentModule(found, population.member(0)).eval()
    with torch.no_grad():
        exported = module(encoded)
    served = torch.from_numpy(Network(module.arrays)(encoded.numpy()))
    (trained,) = population.logits(inputs_of(found, encoded))
    torch.testing.assert_close(served, trained, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(served.softmax(1), exported.softmax(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("bins", [0, 16])
def test_equal_rows_get_equal_answers_wherever_they_stand(bins):
    """Alone, among others, first or last: the same probabilities within rounding."""
    found = encoding(bins)
    network = Population.initialised((Scaler(found).width, 64, 32, 2), seeds=[5]).member(0)
    served = Network(StudentModule(found, network).arrays)
    row = found.encode(TABLE.iloc[[7]])
    alone = served.probabilities(row)
    for n in (*range(2, 40), 2047, 2049):
        many = served.probabilities(np.repeat(row, n, axis=0))
        assert many.shape == (n, 2)
        assert np.abs(many - alone).max() < 1e-6, n


def test_serving_adds_no_parameters():
    """The module has the network's weights and biases, in another order; not one more."""
    found = encoding(16)
    network = Population.initialised((Scaler(found).width, 16, 3), seeds=[5]).member(0)
    module = StudentModule(found, network)
    assert sum(p.numel() for p in module.parameters()) == sum(
        p.numel() for p in network.parameters()
    )


def test_the_pulled_model_answers_as_the_module(tmp_path):
    """Exported, loaded and asked about rows one by one and together it gives the same shares."""
    found = encoding(16)
    network = Population.initialised((Scaler(found).width, 16, 3), seeds=[5]).member(0)
    module = StudentModule(found, network).eval()
    save_student(tmp_path / "student", module, example=TABLE.head(2))
    pulled = load_model(str(tmp_path / "student"))
    with torch.no_grad():
        expected = module(torch.from_numpy(found.encode(TABLE))).softmax(dim=1).numpy()
    shares = [f"probability_{label}" for label in "abc"]
    np.testing.assert_allclose(pulled.predict(TABLE)[shares], expected, atol=1e-6)
    np.testing.assert_allclose(pulled.predict(TABLE.iloc[[7]])[shares], expected[[7]], atol=1e-6)


def test_inputs_beyond_the_bound_are_made_as_needed(monkeypatch):
    """More inputs than fit are not kept; whoever takes rows sees no difference."""
    found = encoding(16)
    encoded = torch.from_numpy(found.encode(TABLE))
    kept = inputs_of(found, encoded)
    monkeypatch.setattr("kd_mlflow.distillation.inputs.DENSE_BYTES", 0)
    made = inputs_of(found, encoded)
    assert made.values.shape == encoded.shape
    assert kept.values.shape == (N, Scaler(found).width)
    assert torch.equal(made[10:20], kept[10:20])
    rows = torch.tensor([[3, 1], [2, 0]])
    assert torch.equal(made.take(rows), kept.take(rows))

"""The benchmark of real tables: fair splits, honest sums, a run that goes on where it stopped."""

import dataclasses
import itertools
import json
import re
import runpy
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import measured
import own_models
import rivals
import standings
import tables
from rank_figure import critical_difference_figure
from real_tables import DEVELOPMENT, GROUPS, TABLES, partition
from standings import critical_difference, differences, mean_ranks, pack, read, summary

ROWS = 400
DEMSAR = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
"""Critical values at 5 % by number of models: Demsar (2006), table 5a."""


def losses(*, plus=0.0, noise=0.0):
    """Losses of rows whose differences to another call's are exact in sixteen bits."""
    return 1.0 + plus + noise * np.resize([1.0, -1.0], ROWS)


def line(table, model, row_losses, *, split=0, hits=None, train_rows=2000):
    """A made-up line of results, as the benchmark writes them."""
    hits = np.ones(len(row_losses)) if hits is None else hits
    return {
        **{"table": table, "split": split, "model": model, "train_rows": train_rows},
        **{"rows": 0, "students": 2, "commit": "abc", "day": "2026-01-02"},
        **{"train_s": 1.0, "latency_ms": 0.5, "size_bytes": 3000, "fitted_numbers": 7},
        "accuracy": float(hits.mean()),
        "log_loss": float(row_losses.mean()),
        "row_losses": pack(row_losses),
        "row_hits": pack(hits),
    }


@pytest.fixture
def results(tmp_path):
    """Write made-up lines into a file and read it back."""

    def write(*lines):
        path = tmp_path / "results.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in lines))
        return read(path)

    return write


def test_a_known_difference_is_found_and_is_beyond_noise(results):
    """A model an eighth better on every row wins on every table, by an eighth."""
    names = ("a", "b", "c")
    ours = [line(t, "student", losses(noise=0.5), hits=losses(noise=0.0)) for t in names]
    theirs = [line(t, "LightGBM", losses(plus=0.125, noise=0.5)) for t in names]
    found = differences(results(*ours, *theirs), "student", "LightGBM")
    assert found["log_loss"].tolist() == pytest.approx([-0.125] * 3)
    text = summary(results(*ours, *theirs))
    assert "| student | 3 | -0.1250 ± 0.0000 | -0.1250 | +0.00 ± 0.00 | 3 / 0 | 0 / 0 |" in text


def test_noise_is_no_win(results):
    """A model that is better on some rows and as much worse on others neither wins nor loses."""
    lines = results(
        line("a", "student", losses(plus=-0.0625, noise=1.0)),
        line("a", "LightGBM", losses()),
    )
    found = differences(lines, "student", "LightGBM")
    assert found["log_loss"].item() == pytest.approx(-0.0625)
    assert -standings.NOISE < found["log_loss_z"].item() < 0
    assert "| -0.0625 | -0.0625 | +0.00 | 0 / 0 | 0 / 0 |" in summary(lines)


def test_a_tie_is_no_win_and_shares_a_rank(results):
    """Models that answer alike differ by nothing and both get the mean of their ranks."""
    lines = results(*(line("a", model, losses(noise=0.5)) for model in ("student", "LightGBM")))
    found = differences(lines, "student", "LightGBM")
    assert found.loc["a"].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert mean_ranks(lines, "log_loss") == ({"student": 1.5, "LightGBM": 1.5}, 1)


def test_a_table_counts_once_however_many_splits_it_has(results):
    """Means are over splits first and over tables then."""
    gaps = [("a", 0, 0.25), ("a", 1, 0.75), ("b", 0, 0.0)]
    lines = results(
        *(line(t, "student", losses(plus=gap), split=s) for t, s, gap in gaps),
        *(line(t, "LightGBM", losses(), split=s) for t, s, _ in gaps),
    )
    found = differences(lines, "student", "LightGBM")
    assert found["log_loss"].to_dict() == {"a": 0.5, "b": 0.0}
    assert "+0.2500 ± 0.2500" in summary(lines)


def test_rows_of_all_splits_decide_together(results):
    """A difference that one split cannot resolve is beyond noise on two."""
    one = [line("a", "student", losses(plus=-0.0875, noise=1.0), split=s) for s in (0, 1)]
    other = [line("a", "LightGBM", losses(), split=s) for s in (0, 1)]
    z = [
        differences(results(*one[:n], *other[:n]), "student", "LightGBM")["log_loss_z"].item()
        for n in (1, 2)
    ]
    assert z[1] < -standings.NOISE < z[0]


def test_only_splits_of_both_models_are_compared(results):
    """A split that one model has not reached yet says nothing."""
    lines = results(
        line("a", "student", losses(plus=0.5)),
        line("a", "LightGBM", losses()),
        line("a", "LightGBM", losses(plus=8.0), split=1),
        line("b", "LightGBM", losses()),
    )
    found = differences(lines, "student", "LightGBM")
    assert found["log_loss"].to_dict() == {"a": 0.5}
    assert mean_ranks(lines, "log_loss")[1] == 1


def test_more_accuracy_is_better(results):
    """Accuracy is counted in points, and the higher one has the better rank."""
    lines = results(
        line("a", "student", losses(), hits=np.ones(ROWS)),
        line("a", "LightGBM", losses(), hits=np.resize([1.0, 0.0], ROWS)),
    )
    assert differences(lines, "student", "LightGBM")["accuracy"].item() == 50.0
    assert "| 0 / 0 | 1 / 0 |" in summary(lines)
    assert mean_ranks(lines, "accuracy")[0] == {"student": 1.0, "LightGBM": 2.0}


def test_small_and_large_tables_are_summed_up_apart(results):
    """No mean hides that a model is good on small tables alone."""
    sizes = {"a": 500, "b": 20_000}
    lines = results(
        *(
            line(t, m, losses(plus=p), train_rows=rows)
            for t, rows in sizes.items()
            for m, p in (("student", 0.5 * (t == "b")), ("LightGBM", 0.0))
        )
    )
    text = summary(lines)
    assert text.index("+0.0000") < text.index("8,000 training rows or more") < text.index("+0.5000")


@pytest.mark.parametrize(("models", "q"), DEMSAR.items())
def test_critical_differences_are_the_published_ones(models, q):
    """Nemenyi's critical values are those of Demsar's table, to its own rounding."""
    assert critical_difference(models, 1) / np.sqrt(models * (models + 1) / 6) == pytest.approx(
        q, abs=0.0015
    )


def test_critical_difference_shrinks_with_tables():
    """Four models over ten tables, by hand: 2.569 times the root of a third."""
    assert critical_difference(4, 10) == pytest.approx(1.483, abs=0.001)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_the_figure_names_every_model_and_joins_those_within_the_difference():
    """Models that may differ by chance alone hang on one bar."""
    ranks = {"student": 1.2, "LightGBM": 1.9, "baseline": 2.9}
    figure = critical_difference_figure(ranks, 12)
    shown = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert all(f"{name}  {rank:.2f}" in shown for name, rank in ranks.items())
    assert standings.cliques(sorted(ranks.values()), critical_difference(3, 12)) == [(0, 1)]


def test_partitions_are_seeded_and_keep_their_sides_apart():
    """Each split tests other rows, a row is on one side, and the same split is always the same."""
    table = TABLES["titanic"].load()
    splits = [partition(table, i, rows=400).split for i in range(5)]
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(1309))
    again = partition(table, 2, rows=400).split
    for side in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(again, side), getattr(splits[2], side))
    for split, (a, b) in itertools.product(splits, itertools.combinations(vars(again), 2)):
        assert not set(getattr(split, a)) & set(getattr(split, b))
    assert [len(getattr(again, side)) for side in ("train", "val")] == [400, 44]


def test_rows_bounds_training_rows_and_no_test_row():
    """Limited tables are tested on the same rows as whole ones."""
    table = TABLES["titanic"].load()
    whole, small = partition(table, 1), partition(table, 1, rows=100)
    np.testing.assert_array_equal(whole.split.test, small.split.test)
    assert len(whole.split.train) == 943
    shares = [np.bincount(d.labels("train")) / len(d.labels("train")) for d in (whole, small)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GROUPS["benchmark"], "page_blocks", "rotterdam"])
def test_every_table_loads_with_its_target(name):
    """A declared table has its label, its size and none of the columns it is to leave out."""
    declared = TABLES[name]
    table = declared.load()
    assert table.target == declared.target
    assert not {declared.target, "rownames", *declared.leave_out} & set(table.features.columns)
    assert 500 <= len(table.labels) <= 65_000
    assert len(table.classes) == len(np.unique(table.labels)) >= 2
    sides = partition(table, 0, rows=2000)
    assert len(np.unique(sides.labels("train"))) == len(table.classes)
    assert len(sides.labels("train")) <= 2000


def test_development_tables_are_the_first_twelve():
    """The tables that recipes are tried out on are known, and others stand beside them."""
    assert len(DEVELOPMENT) == 12
    assert "vehicle" in DEVELOPMENT
    assert len(TABLES) >= 15


def test_other_libraries_see_categories_of_training_rows_alone():
    """A text that only validation or test rows have is a gap, as it would be in use."""
    table = TABLES["titanic"].load()
    dataset = partition(table, 0, rows=200)
    features = table.features.copy()
    features.loc[dataset.split.test[0], "sex"] = "unseen"
    changed = dataclasses.replace(table, features=features)
    sides = rivals.Sides.of(dataclasses.replace(dataset, table=changed))
    assert sides.train["sex"].cat.categories.tolist() == ["female", "male"]
    assert sides.test["sex"].isna().tolist() == [True] + [False] * (len(sides.test) - 1)
    assert sides.both()[0].index.tolist() == [*dataset.split.train, *dataset.split.val]


@pytest.mark.slow
@pytest.mark.parametrize("name", rivals.RIVALS)
def test_every_rival_answers_with_probabilities(name, monkeypatch):
    """Each library trains on a table of numbers, texts and gaps, and says what it costs."""
    monkeypatch.setattr(measured, "CALLS", 3)
    dataset = partition(TABLES["titanic"].load(), 0, rows=200)
    found = rivals.rival(name, dataset, seed=1)
    assert found.probabilities.shape == (1, 262, 2)
    np.testing.assert_allclose(found.probabilities.sum(axis=2), 1, atol=1e-6)
    labels = dataset.labels("test")
    assert tables.scored(found, labels)["accuracy"] > 0.6
    assert min(found.latency_ms, found.size_bytes, found.fitted_numbers) > 0


@pytest.mark.slow
def test_own_models_are_what_main_trains(monkeypatch):
    """Ensemble, students and both baselines, as many seeds of each, answer the test rows."""
    monkeypatch.setattr(measured, "CALLS", 3)
    dataset = partition(TABLES["titanic"].load(), 0, rows=60)
    found = own_models.own_models(dataset, recipe="best", seed=1, students=2)
    assert list(found) == own_models.own_names("best", rows=100)
    seeds = {name: each.probabilities.shape[0] for name, each in found.items()}
    assert seeds == {"ensemble": 1, "student": 2, "baseline": 2, "strong_baseline": 2}
    assert found["student"].fitted_numbers == found["baseline"].fitted_numbers
    assert found["student"].fitted_numbers < found["ensemble"].fitted_numbers / 10
    assert "strong_baseline" not in own_models.own_names("reference", rows=100)
    assert "strong_baseline" not in own_models.own_names("best", rows=10_000)


def run(monkeypatch, path, *words):
    """Run the benchmark as a user would."""
    monkeypatch.setattr(sys, "argv", ["tables.py", "--out", str(path), *words])
    tables.main()


MODELS = "HistGradientBoosting,LogisticRegression"
QUICK = ("--tables", "titanic", "--models", MODELS, "--rows", "200", "--splits", "2")


def test_a_run_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    """What stands in the file is not measured again; what is missing is."""
    monkeypatch.setattr(measured, "CALLS", 2)
    path, plot = tmp_path / "results.jsonl", tmp_path / "ranks.png"
    run(monkeypatch, path, *QUICK)
    whole = path.read_text().splitlines()
    first = json.loads(whole[0])
    assert (first["split"], first["model"]) == (0, "HistGradientBoosting")
    assert first["commit"]
    path.write_text("\n".join(whole[1:]) + "\n")
    run(monkeypatch, path, *QUICK, "--plot", str(plot))
    lines = path.read_text().splitlines()
    assert lines[:-1] == whole[1:]
    assert json.loads(lines[-1])["log_loss"] == first["log_loss"]
    assert plot.stat().st_size
    assert "at most 200 training rows; splits: 2" in capsys.readouterr().out


def test_results_of_other_conditions_are_not_mixed(monkeypatch, tmp_path, capsys):
    """A file of so many rows refuses units of another number, with the way out."""
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(line("titanic", "LogisticRegression", losses())) + "\n")
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, path, *QUICK)
    assert stopped.value.code == 2
    assert "name another file" in capsys.readouterr().err


def test_rows_can_be_taken_elsewhere(monkeypatch, tmp_path):
    """Exported sides are those that the models here see."""
    words = ["tables.py", "--export", str(tmp_path), "--tables", "titanic", "--splits", "1"]
    monkeypatch.setattr(sys, "argv", words)
    tables.main()
    folder, dataset = tmp_path / "titanic-0", partition(TABLES["titanic"].load(), 0)
    unit = json.loads((folder / "unit.json").read_text())
    for side in ("train", "val", "test"):
        frame = pd.read_parquet(folder / f"{side}.parquet")
        assert frame[unit["target"]].tolist() == dataset.labels(side).tolist()
        assert unit[f"{side}_rows"] == len(frame)


class StandIn:
    """Answers like AutoGluon's predictor, whatever it is asked."""

    def __init__(self, label, **options):
        self.label = label

    def fit(self, train, **options):
        self.classes = sorted(train[self.label].unique())

    @property
    def model_best(self):
        return "WeightedEnsemble"

    def distill(self, **options):
        return ["Trees_DSTL", "WeightedEnsemble_DSTL"]

    def leaderboard(self):
        return pd.DataFrame(
            {"model": ["Trees_DSTL", "WeightedEnsemble_DSTL"], "score_val": [-2.0, -1.0]}
        )

    def predict_proba(self, rows, model):
        assert model in ("WeightedEnsemble", "Trees_DSTL")
        share = 1 / len(self.classes)
        return pd.DataFrame(share, index=rows.index, columns=self.classes)


@pytest.mark.slow
def test_the_script_for_autogluon_writes_what_the_summary_reads(monkeypatch, tmp_path, capsys):
    """The script of docs/tables.md turns exported rows into lines beside those measured here."""
    page = (ROOT / "docs/tables.md").read_text()
    script, rows, results = tmp_path / "measure.py", tmp_path / "rows", tmp_path / "out.jsonl"
    script.write_text(re.search(r"```python\n(.*?)```", page, re.S)[1])
    shared = ["--tables", "titanic", "--splits", "1", "--rows", "200"]
    monkeypatch.setattr(sys, "argv", ["tables.py", "--export", str(rows), *shared])
    tables.main()
    stand_in = ModuleType("autogluon.tabular")
    stand_in.TabularPredictor = StandIn
    monkeypatch.setitem(sys.modules, "autogluon", ModuleType("autogluon"))
    monkeypatch.setitem(sys.modules, "autogluon.tabular", stand_in)
    monkeypatch.setattr(sys, "argv", ["measure.py", str(rows), str(results)])
    runpy.run_path(str(script))
    run(monkeypatch, results, *shared, "--models", "LogisticRegression")
    assert read(results)["log_loss"].iloc[:2].tolist() == pytest.approx([np.log(2)] * 2)
    said = capsys.readouterr().out
    assert "| AutoGluon | 2.50 | 2.50 |" in said
    assert "| AutoGluon, distilled | 2.50 | 2.50 |" in said

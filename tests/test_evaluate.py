"""``evaluate``: any model on any table; what it is worth there and which columns have moved."""

import json
import re
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import TINY, Finished, copied_store, copy_store, flat, forget_store, use_store
from sklearn.dummy import DummyClassifier
from test_report import Page

import kd_mlflow as kd
from kd_mlflow import cli, pipeline
from kd_mlflow.config.entry_points import EvaluateConfig, MainConfig, TeachersConfig
from kd_mlflow.config.groups import DataOptions, TableOptions
from kd_mlflow.distillation.inputs import teachers_encoding
from kd_mlflow.errors import ConfigError, DataError, EvaluationError, RegistryError, RunError
from kd_mlflow.figures.style import canvas
from kd_mlflow.models import any_model
from kd_mlflow.models.own_models import PROFILE
from kd_mlflow.models.respondent import Respondent
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.hashing import row_hashes
from kd_mlflow.table.scored import read_rows

pytestmark = pytest.mark.slow

ROWS = 900
PICTURES = ("columns", "confidence", "confusion", "drift", "reliability")


def customers(seed=0):
    """Numbers with gaps, whole numbers, dates, truth values, text and codes; a label of them."""
    rng = np.random.default_rng(seed)
    joined = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 700, ROWS), "D")
    frame = pd.DataFrame(
        {
            "age": rng.normal(45, 12, ROWS).round(1),
            "months": rng.integers(1, 60, ROWS),
            "joined": joined.strftime("%Y-%m-%d"),
            "paperless": rng.random(ROWS) < 0.4,
            "plan": rng.choice(["basic", "plus", "pro"], ROWS),
            "code": rng.choice(["007", "008", "x1"], ROWS),
        }
    )
    frame.loc[rng.random(ROWS) < 0.05, "age"] = np.nan
    risk = (frame["plan"] == "basic") - frame["months"] / 60 + rng.normal(0, 0.3, ROWS)
    return frame.assign(churned=np.where(risk > 0, "yes", "no"))


LATER = customers(1)
SHIFTS = {
    "age": lambda frame: frame["age"].where(frame.index % 2 == 0),
    "months": lambda frame: frame["months"] + 45,
    "joined": lambda frame: frame["joined"].str.replace("202", "203"),
    "paperless": lambda frame: ~frame["paperless"],
    "plan": lambda frame: frame["plan"].replace("pro", "enterprise"),
}


@pytest.fixture(autouse=True)
def unpainted(request, monkeypatch):
    """Drawing takes a second: only what looks at pictures does it."""
    if "painted" not in request.fixturenames:
        monkeypatch.setattr(
            "kd_mlflow.steps.evaluate.draw",
            lambda findings: {name: canvas(1.0)[0] for name in PICTURES},
        )


@pytest.fixture(scope="module")
def trained(empty_database, tmp_path_factory):
    """A store with a tiny student of the customers in production; tests copy it."""
    folder = tmp_path_factory.mktemp("customers")
    customers().to_csv(folder / "customers.csv", index=False)
    config = MainConfig(data=folder / "customers.csv", target="churned", **TINY)
    with copied_store(empty_database, folder) as uri:
        result = pipeline.run_main(config)
    return Finished(uri, folder, config, result)


@pytest.fixture(scope="module")
def refusing(trained, tmp_path_factory):
    """A copy, in use, for evaluations that are refused."""
    with copied_store(trained.folder / "mlflow.db", tmp_path_factory.mktemp("refusing")):
        yield


@pytest.fixture
def production(trained, tmp_path, monkeypatch):
    """The test's own copy of that store; a client of it."""
    uri = copy_store(trained.folder / "mlflow.db", tmp_path)
    use_store(monkeypatch, uri, tmp_path)
    yield mlflow.MlflowClient(uri)
    forget_store()


def shifted(*names):
    """Later customers of whom some columns have moved."""
    return LATER.assign(**{name: SHIFTS[name](LATER) for name in names})


@pytest.mark.parametrize(
    "names", [(), ("months", "plan"), tuple(SHIFTS)], ids=lambda names: "+".join(names)
)
def test_a_shifted_copy_of_a_table_names_the_shifted_columns(production, names):
    """The columns that were moved are named, those most moved first, and no others."""
    result = kd.evaluate(data=shifted(*names), target="churned")
    found = result.findings
    assert {column.name for column in found.shifted} == set(names)
    assert {column.name for column in found.drift[: len(names)]} == set(names)
    indexes = [column.psi for column in found.drift]
    assert indexes[: len(names)] == sorted(indexes, reverse=True)[: len(names)]
    said = flat(result).partition("shifted columns")[2].partition("PSI")[0]
    assert all(name in said for name in names) if names else "none of 6" in said


def test_a_file_is_scored_as_its_dataframe_is(production, tmp_path):
    """CSV, Parquet and DataFrame give the same answers; codes of digits alone stay codes."""
    rows = LATER[LATER["code"] != "x1"]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.to_parquet(tmp_path / "rows.parquet")
    found = [
        kd.evaluate(data=data, target="churned").findings
        for data in (rows, tmp_path / "rows.csv", tmp_path / "rows.parquet")
    ]
    assert found[0].logged() == found[1].logged() == found[2].logged()
    (code,) = [column for column in found[1].drift if column.name == "code"]
    assert code.unseen == 0


def test_metrics_on_the_test_rows_are_those_that_were_logged(own_main):
    """On a student's own test rows it scores what its distill run logged."""
    dataset = pipeline.read_dataset(own_main.config)
    labels = np.array(dataset.table.classes)[dataset.labels("test")]
    rows = dataset.features("test").assign(label=labels)
    result = kd.evaluate(data=rows, target="label")
    logged = own_main.result.distill.comparison.summary
    for name, interval in result.findings.metrics.items():
        assert interval.value == pytest.approx(logged[f"registered_test_{name}"], abs=1e-6)
        assert interval.low <= interval.value <= interval.high


def test_the_run_has_what_every_run_has_and_what_was_found(production):
    """Kind, configuration, digests, the data set and the model as inputs, documents, the page.

    Its metrics have their bounds, the largest index, each column's, and the estimate's error.
    """
    result = kd.evaluate(data=shifted("plan"), target="churned", max_psi=0.2)
    run = production.get_run(result.run_id)
    tags, params = run.data.tags, run.data.params
    version = production.get_model_version("kd-student", "1")
    assert run.info.status == "FINISHED"
    assert tags["kd.kind"] == "evaluation"
    assert tags["kd.model"] == result.model == "models:/kd-student/1"
    assert tags["kd.model_version"] == "1"
    assert len(tags["kd.fingerprint"]) == len(tags["kd.data_digest"]) == 64
    assert "plan" in tags["mlflow.note.content"]
    assert params["kd.model"] == "models:/kd-student@production"
    (data_set,) = run.inputs.dataset_inputs
    assert data_set.tags[0].value == "evaluation"
    assert json.loads(data_set.dataset.profile)["num_rows"] == ROWS
    assert [each.model_id for each in run.inputs.model_inputs] == [
        version.source.removeprefix("models:/")
    ]
    names = {entry.path for entry in production.list_artifacts(result.run_id)}
    assert names == {"evaluation.html", "evaluation.json", "drift.json", "figures"}
    path = production.download_artifacts(result.run_id, "drift.json")
    assert json.loads(Path(path).read_text())[0]["name"] == "plan"
    metrics, found = run.data.metrics, result.findings
    assert metrics == pytest.approx(found.logged())
    assert metrics["max_psi"] == metrics["psi.plan"] == found.drift[0].psi
    assert metrics["shifted_columns"] == 1
    assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    error = metrics["estimated_accuracy"] - metrics["accuracy"]
    assert metrics["estimate_error"] == pytest.approx(error)
    assert tags["kd.evaluation"] == "broken"


def test_without_labels_the_accuracy_is_an_estimate(production):
    """It is the mean of the highest probabilities, said to be an estimate with its assumption."""
    rows = LATER.drop(columns="churned")
    result = kd.evaluate(data=rows)
    answers = kd.load_production().predict(rows).filter(like="probability_")
    assert result.findings.metrics == {}
    assert result.findings.estimate.value == pytest.approx(answers.max(axis=1).mean(), abs=1e-6)
    table = flat(result)
    assert "an estimate: the mean confidence, which holds if the model is calibrated" in table
    assert "accuracy" not in production.get_run(result.run_id).data.metrics


def test_rows_are_scored_in_parts(production, monkeypatch):
    """However many rows go to the model at once, the findings are the same."""
    whole = kd.evaluate(data=LATER, target="churned").findings.logged()
    monkeypatch.setattr(any_model, "ROWS_AT_ONCE", 7)
    assert kd.evaluate(data=LATER, target="churned").findings.logged() == pytest.approx(whole)


def test_equal_rows_have_one_answer_in_any_order(production, monkeypatch):
    """However a model rounds a row by its place, equal ones stay ties: areas do not move."""
    plain = Respondent.shares

    def rough(self, features, classes):
        moves = np.random.default_rng(0).uniform(0, 1e-6, len(features))
        return plain(self, features, classes) + np.outer(moves, [1, -1])

    monkeypatch.setattr(Respondent, "shares", rough)
    monkeypatch.setattr(any_model, "ROWS_AT_ONCE", 64)
    labels = LATER["churned"].to_numpy()
    rows = LATER.iloc[np.arange(ROWS) % 30].assign(churned=labels, row=np.arange(ROWS))
    orders = (np.arange(ROWS), np.random.default_rng(1).permutation(ROWS))
    first, again = (kd.evaluate(data=rows.iloc[o], target="churned").findings for o in orders)
    assert len(np.unique(first.scores.second)) == len(np.unique(again.scores.second)) == 30
    assert first.logged() == pytest.approx(again.logged(), abs=1e-6, rel=0)


def test_columns_that_training_would_leave_out_are_kept(production):
    """A constant column, one that is unique, and one row alone are scored all the same."""
    rows = LATER.assign(plan="basic", months=np.arange(ROWS) % 59 + 1)
    assert kd.evaluate(data=rows, target="churned").findings.rows == ROWS
    assert kd.evaluate(data=rows.head(1), target="churned").findings.rows == 1


def test_unknown_and_missing_labels_are_counted(production):
    """A label that is no class is a wrong answer and said so; rows without one are left out."""
    rows = LATER.copy()
    rows.loc[:99, "churned"] = None
    rows.loc[100:149, "churned"] = "perhaps"
    result = kd.evaluate(data=rows, target="churned")
    found, labelled = result.findings, rows["churned"].notna()
    predicted = kd.load_production().predict(rows)["prediction"]
    assert (found.labelled_rows, found.unknown_labels) == (ROWS - 100, 50)
    right = (predicted == rows["churned"])[labelled].mean()
    assert found.metrics["accuracy"].value == pytest.approx(right)
    assert "50 of them are of no class that the model knows" in flat(result)


def test_the_table_of_training_is_recognised(production, trained):
    """On the rows that taught it a model is flattered: the page, the table and the note say so."""
    again = kd.evaluate(data=trained.folder / "customers.csv", target="churned")
    assert "is the table that the model was trained on" in flat(again)
    assert "trained on" not in flat(kd.evaluate(data=LATER, target="churned"))
    part = pd.read_csv(trained.folder / "customers.csv").iloc[1:]
    said = flat(kd.evaluate(data=part, target="churned"))
    (count,) = re.findall(
        r"([\d,]+) of the [\d,]+ rows are equal to rows that taught the model", said
    )
    assert 0.7 < int(count.replace(",", "")) / len(part) < 0.9


def test_rows_in_clothes_are_known_as_those_that_taught(tmp_path):
    """Prices, national dates and codes have the hashes that training gave them."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "price": [f"${value:,.2f}" for value in rng.uniform(500, 9000, 300)],
            "day": pd.date_range("2024-01-01", periods=300).strftime("%d.%m.%Y"),
            "code": [f"00{value}" for value in rng.integers(1, 9, 300)],
            "plan": rng.choice(["a", "b", "NA"], 300),
            "y": np.arange(300) % 2,
        }
    )
    frame.to_csv(tmp_path / "all.csv", index=False)
    frame[100:].drop(columns="y").to_csv(tmp_path / "some.csv", index=False)
    dataset = read_dataset(DataOptions(data=tmp_path / "all.csv", target="y"))
    encoding = teachers_encoding(TeachersConfig().resolved(300), dataset)
    columns = [column.name for column in encoding.columns]
    rows = read_rows(TableOptions(data=tmp_path / "some.csv"), encoding)
    taught = row_hashes(dataset.table.features[columns])
    np.testing.assert_array_equal(rows.hashes(columns), taught[100:])


def own_model(name, fitted, **options):
    """Register a scikit-learn model as the next version of a name."""
    logged = mlflow.sklearn.log_model(
        fitted, name="own", registered_model_name=name, pip_requirements=[], **options
    )
    return logged.registered_model_version


@pytest.fixture
def challenger(production):
    """A model of scikit-learn, pickled, as the candidate beside the student in production."""
    known = LATER[["months"]], LATER["churned"]
    fitted = DummyClassifier(strategy="prior").fit(*known)
    with mlflow.start_run():
        version = own_model("kd-student", fitted, serialization_format="cloudpickle")
    production.set_registered_model_alias("kd-student", "candidate", version)
    return fitted


def test_production_is_compared_with_the_candidate(production, challenger):
    """Without being asked, on the same rows, whichever of the two is evaluated."""
    ours = kd.evaluate(data=LATER, target="churned")
    theirs = kd.evaluate(data=LATER, target="churned", model="models:/kd-student@candidate")
    assert ours.findings.against == "kd-student version 2 (candidate)"
    assert theirs.findings.against == "kd-student version 1 (production)"
    gain, loss = ours.findings.pair.accuracy_gain, theirs.findings.pair.accuracy_gain
    assert gain.value == pytest.approx(-loss.value)
    assert ours.findings.pair.accuracy == theirs.findings.metrics["accuracy"].value
    alone = kd.evaluate(data=LATER, target="churned", against="none")
    assert alone.findings.pair is None


def test_a_model_of_another_origin_is_scored(production, challenger):
    """It answers by ``predict_proba``; what is not known of its training is said; pickles named."""
    result = kd.evaluate(data=LATER, target="churned", model="models:/kd-student/2")
    found = result.findings
    expected = challenger.score(LATER[["months"]], LATER["churned"])
    assert found.metrics["accuracy"].value == pytest.approx(expected)
    assert not found.profiled
    assert "of another origin" in found.notes[0]
    assert "kd-student version 2 (candidate): model.pkl" in flat(result)


def test_a_candidate_that_cannot_score_is_said(production):
    """Nobody asked for the comparison, so no evaluation fails; where it was, it does."""
    fitted = DummyClassifier().fit(LATER[["months"]].rename(columns={"months": "x"}), LATER["plan"])
    with mlflow.start_run():
        version = own_model("kd-student", fitted)
    production.set_registered_model_alias("kd-student", "candidate", version)
    result = kd.evaluate(data=LATER, target="churned")
    assert "not compared: " in result.findings.notes[0]
    assert "needs the columns 'x'" in result.findings.notes[0]
    with pytest.raises(RunError, match="needs the columns 'x'"):
        kd.evaluate(data=LATER, target="churned", against="models:/kd-student@candidate")


def test_an_early_student_without_a_profile_is_scored(production, tmp_path):
    """What needs the training rows' counts is left out and said; its categories are known."""
    folder = Path(mlflow.artifacts.download_artifacts("models:/kd-student/1"))
    shutil.copytree(folder, tmp_path / "early", ignore=shutil.ignore_patterns(PROFILE))
    result = kd.evaluate(data=shifted("plan"), target="churned", model=str(tmp_path / "early"))
    found = result.findings
    (plan,) = [column for column in found.drift if column.name == "plan"]
    assert (plan.psi, plan.unseen_before) == (None, None)
    assert plan.unseen == pytest.approx((LATER["plan"] == "pro").mean())
    assert "without a profile" in found.notes[0]
    with pytest.raises(ConfigError, match="max_psi needs a model with a profile"):
        kd.evaluate(data=LATER, model=str(tmp_path / "early"), max_psi=0.2)


@pytest.mark.parametrize("model", ["kd-student", "models:/kd-student/1"])
def test_a_version_has_several_names(production, model):
    """A bare name is its production; a number is the same version."""
    result = kd.evaluate(data=LATER.head(50), model=model)
    assert result.model == "models:/kd-student/1"


def command(capsys, monkeypatch, *arguments):
    """Run the command line in this process; exit code, output, errors."""
    monkeypatch.setattr(cli.signal, "signal", lambda *handler: None)
    monkeypatch.setattr("sys.argv", ["kd-mlflow", "evaluate", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as ended:
        said = capsys.readouterr()
        return ended.code or 0, said.out, said.err
    raise AssertionError("the command line did not exit")


@pytest.mark.parametrize(
    ("names", "limits", "code", "words"),
    [
        (("plan", "months"), ["--max-psi", "0.25"], 1, "above chance: 'months', 'plan'"),
        ((), ["--max-psi", "0.25", "--min-accuracy", "0.01"], 0, ""),
        ((), ["--min-accuracy", "0.999"], 1, "min_accuracy is not kept: accuracy"),
    ],
)
def test_strict_stops_a_scheduler(
    production, tmp_path, capsys, monkeypatch, names, limits, code, words
):
    """With ``strict`` alone a limit that is not kept exits 1 after the table, with a line why."""
    shifted(*names).to_csv(tmp_path / "rows.csv", index=False)
    given = ["--data", tmp_path / "rows.csv", "--target", "churned", *limits]
    exited, out, err = command(capsys, monkeypatch, *given, "--strict", "true")
    assert exited == code, err
    assert "evaluation run" in out
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == code
    assert words in "".join(errors)
    assert not code or command(capsys, monkeypatch, *given)[0] == 0


def test_strict_raises_from_python_after_the_run(production):
    """The error names what is not kept; the run is finished all the same."""
    with pytest.raises(EvaluationError, match=r"max_psi is not kept: .*'plan'"):
        kd.evaluate(data=shifted("plan"), max_psi=0.1, strict=True)
    experiment = production.get_experiment_by_name("kd-mlflow").experiment_id
    (run, *_) = production.search_runs([experiment], "tags.`kd.kind` = 'evaluation'")
    assert run.info.status == "FINISHED"


def rows_of(**change):
    """Later customers with some columns set."""
    return LATER.assign(**change)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "nobody"}, RegistryError, "no models:/nobody@production: 'nobody' has no"),
        ({"model": "models:/kd-student/9"}, RegistryError, "no models:/kd-student/9: .* has 1"),
        ({"model": "models:/kd-student@best"}, RegistryError, "no models:/kd-student@best"),
        ({"model": "runs:/none/student"}, RunError, "runs:/none/student cannot be loaded"),
        ({"model": " "}, RegistryError, "no model is named"),
        ({"target": "label"}, DataError, "target 'label' is not a column of DataFrame"),
        ({"target": "kind"}, DataError, "no label that the model knows: it has 'a', the model's"),
        ({"data": LATER.drop(columns="plan")}, RunError, "needs the columns 'plan'"),
        ({"data": LATER.head(0)}, DataError, "has a header and no rows"),
        ({"data": rows_of(months="many")}, RunError, "column 'months' holds numbers; row 0 has"),
        ({"data": "nowhere.csv"}, DataError, "no such file"),
        ({"data": LATER, "separator": ";"}, DataError, "separator is for CSV files"),
        ({"min_accuracy": 0.9}, ConfigError, "needs labels, and no target is given"),
        ({"strict": True}, ConfigError, "strict needs a limit"),
        ({"min_accuracy": 2}, ConfigError, "min_accuracy must be between 0 and 1"),
        ({"max_psi": -1}, ConfigError, "max_psi must be a number, 0 or above"),
        ({"against": "nobody"}, RegistryError, "no models:/nobody@production"),
    ],
)
def test_what_a_user_can_cause_is_one_line(refusing, options, error, words):
    """Each mistake is said with what was received and the way out."""
    with pytest.raises(error, match=words) as caught:
        kd.evaluate(**{"data": rows_of(kind="a"), **options})
    assert "\n" not in str(caught.value)


def test_a_built_in_table_has_its_own_labels(own_main):
    """Without any option the model in production is evaluated on the table of the defaults."""
    found = pipeline.run_evaluate(EvaluateConfig()).findings
    assert (found.rows, found.labelled_rows, found.target) == (5000, 5000, "label")


def test_the_page_is_whole_and_says_what_the_run_logs(painted, production):
    """Its numbers are the run's metrics, its pictures are in it, it needs no network or script.

    What a file is called does not become part of the page.
    """
    shifted("plan").to_csv(hostile := "<img src=x>.csv", index=False)
    result = kd.evaluate(data=hostile, target="churned", max_psi=0.1)
    path = production.download_artifacts(result.run_id, "evaluation.html")
    parsed = Page(html := Path(path).read_text(encoding="utf-8"))
    metrics = production.get_run(result.run_id).data.metrics
    assert parsed.open == []
    assert {"script", "link", "iframe"}.isdisjoint({tag for tag, _ in parsed.elements})
    for attributes, _ in parsed.data:
        assert float(attributes["value"]) == pytest.approx(metrics[attributes["data-metric"]])
    sources = [attributes["src"] for tag, attributes in parsed.elements if tag == "img"]
    assert len(sources) == 5
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert "max_psi is not kept" in parsed.words
    assert "1 of 6: plan" in parsed.words
    figures = {f.path for f in production.list_artifacts(result.run_id, "figures")}
    assert figures == {f"figures/{name}.png" for name in PICTURES}
    assert "<img src=x>" not in html
    assert "&lt;img src=x&gt;.csv" in html


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # of mlflow's own calls
def test_mlflows_own_evaluation_takes_answers_of_a_student(store, tmp_path, monkeypatch):
    """As docs/evaluate.md says: its answers beside the labels, and accuracy is the same."""
    monkeypatch.chdir(tmp_path)
    labels = np.array(["no", "yes"] * 40)
    answered = pd.DataFrame({"a": np.arange(80), "y": labels, "prediction": labels[::-1]})
    answered.loc[:19, "prediction"] = labels[:20]
    with mlflow.start_run():
        found = mlflow.models.evaluate(
            data=answered, targets="y", predictions="prediction", model_type="classifier"
        )
    assert found.metrics["accuracy_score"] == 0.25
    assert "log_loss" not in found.metrics

"""Models that are none of ours as teachers: they teach, and what cannot teach is said at once."""

import json
import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import copied_store, flat, part_of
from mlflow.models import infer_signature
from shorter import put_back
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC
from test_leaks import tampered
from torch.nn.functional import cross_entropy

import kd_mlflow as kd
from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, PromoteConfig, SweepConfig, TeachersConfig
from kd_mlflow.config.groups import DataOptions, StudentRecipe
from kd_mlflow.distillation.inputs import teachers_encoding
from kd_mlflow.errors import RunError, TrainingError
from kd_mlflow.models import any_model
from kd_mlflow.models.model_teachers import knows_rows, load_models
from kd_mlflow.models.respondent import FLOOR, Respondent
from kd_mlflow.population.training import Task
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.tracking.runs import Tracker

TEACHERS = part_of(TeachersConfig)
STUDENTS = part_of(StudentRecipe)


def mixed_table(rows=400):
    """Numbers with gaps, whole numbers and text; the label follows from all of them."""
    random = np.random.default_rng(0)
    age, city = random.normal(40, 12, rows), random.choice(["Bern", "Rome", "Oslo"], rows)
    visits = random.integers(0, 9, rows)
    signal = (age - 40) / 12 + (city == "Rome") * 1.5 + visits / 4 - 1.5
    age[random.random(rows) < 0.1] = np.nan
    label = np.where(signal + random.normal(0, 0.5, rows) > 0, "yes", "no")
    return pd.DataFrame({"age": age, "city": city, "visits": visits, "bought": label})


TABLE = mixed_table()
DATA = {"data": TABLE, "target": "bought"}
FEATURES, LABELS = TABLE.drop(columns="bought"), TABLE["bought"]
CLASSES = ["no", "yes"]
PASSING = {"max_accuracy_gap": 1.0, "max_log_loss_gap": 0.0, "allow_worse_than_baseline": True}


def on_raw_columns(model):
    """A pipeline from raw mixed columns to a model."""
    text = make_column_selector(dtype_exclude="number")
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), text),
        (SimpleImputer(), make_column_selector(dtype_include="number")),
    )
    return make_pipeline(columns, model)


def save(folder, model, name="model"):
    """Save a scikit-learn model as MLflow does; return its path."""
    mlflow.sklearn.save_model(
        model,
        folder / name,
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )
    return str(folder / name)


def register(folder, model, name):
    """Register a scikit-learn model as version 1 or the next."""
    path = save(folder, model, f"{name}-{len(list(folder.iterdir()))}")
    client = mlflow.MlflowClient()
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return client.create_model_version(name, source=path).version


@pytest.fixture(scope="module")
def models(empty_database, tmp_path_factory):
    """A database with two scikit-learn models trained on the table's train rows; made once."""
    folder = tmp_path_factory.mktemp("models")
    train = kd.split(**DATA).train
    features, labels = train.drop(columns="bought"), train["bought"]
    forest = on_raw_columns(RandomForestClassifier(30, min_samples_leaf=3, random_state=0))
    boost = on_raw_columns(HistGradientBoostingClassifier(max_iter=20, random_state=0))
    with copied_store(empty_database, folder):
        for name, model in (("forest", forest), ("boost", boost)):
            register(folder, model.fit(features, labels), name)
        mlflow.MlflowClient().set_registered_model_alias("forest", "champion", "1")
    return folder / "mlflow.db"


@pytest.fixture
def committee(models, store, tmp_path):
    """The test's own store with those two models: forest and boost."""
    shutil.copy(models, tmp_path / "mlflow.db")
    return store


def load(teachers):
    """Load teachers for the mixed table."""
    dataset = read_dataset(DataOptions(**DATA))
    encoding = teachers_encoding(TeachersConfig(), dataset)
    return load_models(Tracker(), teachers, encoding, dataset), dataset


@pytest.mark.slow
def test_models_of_any_kind_teach_a_student_and_the_student_teaches_too(committee, monkeypatch):
    """Forest and boosting teach a student that beats guessing; in production it teaches another."""
    put_back(monkeypatch, "export")  # how large it is, is read from its graph
    teachers = "models:/forest@champion, models:/boost/1"
    options = DATA | STUDENTS | {"student_epochs": 40}
    first = pipeline.run_distill(DistillConfig(**options, teachers=teachers))
    majority = LABELS.value_counts(normalize=True).max()
    assert first.comparison.summary["distilled_test_accuracy"] > majority
    assert first.comparison.summary["test_agreement"] > 0.8
    assert pipeline.run_promote(PromoteConfig(data=TABLE, **PASSING)).promoted
    own = DistillConfig(**options, teachers="models:/kd-student@production,models:/boost/1")
    second = pipeline.run_distill(own)
    members = json.loads(committee.get_run(second.run_id).data.tags["kd.teachers"])
    assert [member["resolved"] for member in members] == ["models:/kd-student/1", "models:/boost/1"]
    assert members[0]["parameters"] == first.comparison.summary["student_parameters"]


@pytest.mark.slow
def test_the_run_and_the_card_tell_who_taught_and_an_unknown_size_stops_nothing(committee):
    """Tags have each model's URI, version, id and digest; the card says what is not known.

    Without a count there is no ratio: the gate records no answer, says so, and promotes.
    """
    teachers = "models:/forest@champion,models:/boost/1"
    result = pipeline.run_distill(DistillConfig(**DATA, **STUDENTS, teachers=teachers))
    run = committee.get_run(result.run_id)
    forest, boost = json.loads(run.data.tags["kd.teachers"])
    assert (forest["uri"], forest["resolved"]) == ("models:/forest@champion", "models:/forest/1")
    assert len(forest["digest"]) == 64
    assert forest["digest"] != boost["digest"]
    assert "kd.teachers_run_id" not in run.data.tags
    assert run.data.params["kd.teachers"] == teachers
    named = "models:/forest@champion, models:/boost/1"
    model_card = committee.get_model_version("kd-student", "1").description
    assert named in model_card
    assert "Which rows these models were trained on is not known here" in model_card
    assert "its teachers' cannot be counted" in model_card
    assert named in flat(result)
    assert result.teachers_run_id is None
    assert not {"ensemble_parameters", "compression_ratio"} & run.data.metrics.keys()
    assert "unknown: the teachers' parameters cannot be counted" in flat(result)
    decision = pipeline.run_promote(PromoteConfig(data=TABLE, **PASSING))
    assert decision.promoted
    (check,) = [check for check in decision.checks if check.name == "compression"]
    assert check.passed is not False  # it may answer in a tenth of the time
    assert "compression_ratio" not in check.metrics
    (run,) = Tracker().newest("promotion")
    gates = {name for name in run.data.metrics if name.startswith("gate.")}
    assert gates - {"gate.compression"} == {"gate.accuracy", "gate.baseline", "gate.reproduction"}


@pytest.mark.slow
def test_a_model_that_knows_its_training_rows_is_named(committee, tmp_path):
    """A forest of single rows answers those that it was grown on; boosting answers such rows."""
    train = kd.split(**DATA).train
    forest = on_raw_columns(RandomForestClassifier(50, random_state=0))
    register(tmp_path, forest.fit(train.drop(columns="bought"), train["bought"]), "single")
    models, dataset = load("models:/single/1,models:/boost/1")
    said = models.compared(dataset).memorised
    assert "models:/single/1" in said
    assert "models:/boost/1" not in said
    assert models.compared(dataset).tags["kd.memorised"] == said


@pytest.mark.parametrize(
    ("train", "val", "known"),
    [(0.05, 0.3, True), (0.2, 0.3, False), (0.3, 0.05, False)],
)
def test_what_is_far_less_lost_on_training_rows_was_learnt_by_heart(train, val, known):
    """Less than half, and by more than chance makes of so few rows."""
    noise = np.tile([-0.5, 0.5], 50)
    losses = train * (1 + noise), val * (1 + noise)
    assert knows_rows(*losses) is known
    assert not knows_rows(losses[0][:2], losses[1][:2])


@pytest.mark.slow
def test_a_sweep_takes_models_too(committee):
    """``sweep`` has the same teachers, without a number for how much smaller a student is."""
    config = SweepConfig(
        **DATA,
        **STUDENTS,
        teachers="models:/forest/1",
        temperatures=(2.0,),
        alphas=(1.0,),
        sizes="3",
        tolerance=1.0,
    )
    result = pipeline.run_sweep(config)
    assert result.taught_by == "models:/forest/1"
    assert "x smaller" not in flat(result)
    assert "kd.teachers" in committee.get_run(result.run_id).data.tags


@pytest.mark.slow
def test_a_moved_alias_is_another_fingerprint(committee, tmp_path, monkeypatch):
    """Runs of one alias have one fingerprint until it moves; version and alias share theirs."""

    def diverge(*args, **kwargs):
        raise TrainingError("training diverged")

    monkeypatch.setattr(Task, "fit", diverge)  # it is logged before
    marks = []
    for step in ("alias", "version", "moved"):
        if step == "moved":
            register(tmp_path, on_raw_columns(LogisticRegression()).fit(FEATURES, LABELS), "forest")
            committee.set_registered_model_alias("forest", "champion", "2")
        uri = "models:/forest/1" if step == "version" else "models:/forest@champion"
        with pytest.raises(TrainingError):
            pipeline.run_distill(DistillConfig(**DATA, **STUDENTS, teachers=uri))
        (run,) = committee.search_runs(["1"], "tags.`kd.kind` = 'distill'", max_results=1)
        marks.append(run.data.tags["kd.fingerprint"])
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.slow_cases
@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
def test_several_teachers_are_averaged(committee, averaging):
    """The score is the mean probability, or the mean log probability, of the models."""
    teachers, dataset = load("models:/forest/1,models:/boost/1")
    rows = dataset.features("test")
    each = torch.tensor(
        np.array([m.respondent.probabilities(rows, CLASSES) for m in teachers.members])
    )
    mean = each.mean(dim=0) if averaging == "probabilities" else each.log().mean(dim=0).exp()
    expected = mean / mean.sum(dim=1, keepdim=True)
    torch.testing.assert_close(
        torch.softmax(teachers.score(rows, averaging).double(), dim=1), expected
    )


@pytest.mark.slow
def test_rows_are_scored_in_chunks_as_at_once(committee, monkeypatch):
    """Chunks change no score."""
    teachers, dataset = load("models:/forest/1")
    rows = dataset.features("train")
    whole = teachers.score(rows, "probabilities")
    monkeypatch.setattr(any_model, "ROWS_AT_ONCE", 7)
    assert torch.equal(teachers.score(rows, "probabilities"), whole)


@pytest.mark.slow
def test_a_model_is_the_same_by_any_name(committee):
    """Alias, version and path of one model have one digest; another model has another."""
    (source,) = [v.source for v in committee.search_model_versions("name = 'forest'")]
    names = ("models:/forest@champion", "models:/forest/1", source, "models:/boost/1")
    digests = [load(name)[0].identity for name in names]
    assert digests[0] == digests[1] == digests[2] != digests[3]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (LogisticRegression(), 6),
        (MLPClassifier((4,), max_iter=500, tol=1e-2, random_state=0), 5 * 4 + 4 + 4 + 1),
        (RandomForestClassifier(2), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_weights_are_counted(store, tmp_path, model, parameters):
    """Linear models and networks have a count of parameters; trees have none."""
    path = save(tmp_path, on_raw_columns(model).fit(FEATURES, LABELS))
    assert load(path)[0].parameters == parameters


class Answering:
    """A model without predict_proba that answers as it is told."""

    def __init__(self, answer):
        self.answer = answer

    def predict(self, frame):
        """Give the answer, row by row as often as needed."""
        return self.answer(len(frame))


def named(n):
    """Our own answer's form: prediction, and classes in another order."""
    shares = {"prediction": ["yes"] * n, "probability_yes": [0.9] * n, "probability_no": [0.1] * n}
    return pd.DataFrame(shares)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (named, [0.1, 0.9]),
        (lambda n: np.tile(np.float32([0.25, 0.75]), (n, 1)), [0.25, 0.75]),
        (lambda n: pd.DataFrame({"a": [0.25] * n, "b": [0.75] * n}), [0.25, 0.75]),
        (lambda n: [[1, 0]] * n, [1, FLOOR]),
        (lambda n: torch.tensor([[0.25, 0.75]]).expand(n, 2), [0.25, 0.75]),
    ],
    ids=["named columns", "array", "plain columns", "certainty", "tensor"],
)
def test_predict_may_answer_in_columns_or_an_array(answer, expected):
    """Named columns are matched by class, others are in sorted order; 0 is raised to a floor."""
    respondent = Respondent(name="m", model=Answering(answer), columns=("age",))
    values = respondent.probabilities(FEATURES.head(5), CLASSES)
    np.testing.assert_allclose(values, np.tile(expected, (5, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda n: np.full(n, 0.5), r"shape \(5,\) where \(5, 2\)"),
        (lambda n: np.full((n, 3), 1 / 3), r"shape \(5, 3\)"),
        (lambda n: ["yes"] * n, r"<U3 of shape \(5,\)"),
        (lambda n: {"yes": 1}, "object of shape"),
        (lambda n: np.full((n, 2), np.nan), "not finite"),
        (lambda n: np.tile([3.0, -3.0], (n, 1)), "numbers from -3 to 3"),
        (lambda n: np.full((n, 2), 0.6), "a row that sums to 1.2"),
        (lambda n: named(n).rename(columns={"probability_no": "probability_never"}), "'never'"),
        (lambda n: 1 / 0, "cannot score this table's rows: division by zero"),
    ],
)
def test_an_answer_that_is_no_probabilities_is_refused(answer, words):
    """Labels, logits, wrong shapes, classes or sums raise RunError with what was received."""
    respondent = Respondent(name="m", model=Answering(answer), columns=("age",))
    with pytest.raises(RunError, match=rf"teacher m.*{words}"):
        respondent.probabilities(FEATURES.head(5), CLASSES)


def unsuited(folder, kind):
    """The path of a model that cannot teach the mixed table."""
    numbers = FEATURES[["age", "visits"]].fillna(0)
    if kind == "regression":
        model = LinearRegression().fit(numbers, LABELS == "yes")
    elif kind == "no predict_proba":
        model = LinearSVC().fit(numbers, LABELS)
    elif kind == "other classes":
        model = LogisticRegression().fit(numbers, LABELS.map({"yes": "oui", "no": "non"}))
    else:
        model = LogisticRegression().fit(numbers.rename(columns={"age": "years"}), LABELS)
    return save(folder, model)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("regression", r"float64 of shape \(16,\).*log a classifier that has predict_proba"),
        ("no predict_proba", r"of shape \(16,\).*log a classifier that has predict_proba"),
        ("other classes", "knows the classes 'non', 'oui', this table has 'no', 'yes'"),
        ("other columns", "needs the columns 'years'; this table's features are 'age', 'city'"),
    ],
)
def test_a_model_that_cannot_teach_is_refused_before_any_run(store, tmp_path, kind, words):
    """Regression, no probabilities, other classes or columns raise RunError and open no run."""
    table = TABLE.fillna({"age": 0})
    config = DistillConfig(**DATA | {"data": table}, **STUDENTS, teachers=unsuited(tmp_path, kind))
    with pytest.raises(RunError, match=words):
        pipeline.run_distill(config)
    assert store.search_runs(["0", Tracker().experiment_id]) == []


@pytest.mark.parametrize(
    ("teachers", "words"),
    [
        ("models:/nobody/1", "models:/nobody/1 cannot be loaded: .*nobody.*such as models:/name/1"),
        ("models:/nobody@best", "models:/nobody@best cannot be loaded"),
        ("models:/forest/9", "cannot be loaded: .*version=9"),
        ("models:/m-123", "m-123"),
        ("runs:/feedbeef/model", "feedbeef"),
        ("/no/such/folder", "cannot be loaded"),
        ("xyz:/a/b", "cannot be loaded"),
        ("models:/forest/1,latest", "no finished ensemble trained on this data"),
        ("models:/forest/1,latest,feedbeef", "one ensemble at most, .* received 'models"),
        ("models:/forest/1,", "'' not found|no run ''"),
        ("models:/forest/1, models:/forest/1", "each once, .* received 'models"),
    ],
)
def test_a_model_that_is_not_there_is_named(committee, teachers, words):
    """An unknown model, version, alias, run, path or scheme raises RunError that names it."""
    with pytest.raises(RunError, match=words):
        load(teachers)


def test_a_folder_that_is_no_model_is_refused(store, tmp_path):
    """A path without an MLmodel file raises RunError."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="cannot be loaded"):
        load(str(tmp_path / "empty"))


def test_whole_numbers_reach_a_pyfunc_that_declares_doubles():
    """A column of whole numbers is widened where the model's signature says double."""
    seen = []
    model = Answering(lambda n: np.tile([0.5, 0.5], (n, 1)))
    model.predict = lambda frame: seen.append(frame.dtypes) or np.full((len(frame), 2), 0.5)
    columns = ("visits", "city")
    respondent = Respondent(name="m", model=model, columns=columns, wide=frozenset(columns))
    respondent.probabilities(FEATURES, CLASSES)
    assert seen[0]["visits"] == np.float64
    assert list(seen[0].index) == ["visits", "city"]


def test_a_network_with_a_tensor_signature_gets_a_matrix(store, tmp_path):
    """A torch model logged with a tensor signature is handed the columns as one float32 matrix."""
    table = TABLE.drop(columns="city").fillna({"age": 0})
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Softmax(dim=1))
    example = table[["age", "visits"]].head(2).to_numpy(np.float32)
    path = str(tmp_path / "network")
    mlflow.pytorch.save_model(
        network,
        path,
        serialization_format="pickle",
        signature=infer_signature(example, example),
        pip_requirements=["torch"],
    )
    dataset = read_dataset(DataOptions(data=table, target="bought"))
    encoding = teachers_encoding(TeachersConfig(), dataset)
    teachers = load_models(Tracker(), path, encoding, dataset)
    rows = dataset.features("test")
    scored = torch.softmax(teachers.score(rows, "probabilities"), dim=1)
    expected = network(torch.from_numpy(rows.to_numpy(np.float32))).detach()
    torch.testing.assert_close(scored, expected, rtol=1e-3, atol=2 * FLOOR)
    assert teachers.parameters == 6


def test_a_model_fitted_on_a_matrix_takes_the_tables_columns_in_order(store, tmp_path):
    """Without names of its own a classifier gets every column in the table's order, silently."""
    table = TABLE.drop(columns="city").fillna({"age": 0})
    matrix = table[["age", "visits"]].to_numpy()
    model = LogisticRegression().fit(matrix, table["bought"])
    path = save(tmp_path, model)
    dataset = read_dataset(DataOptions(data=table, target="bought"))
    encoding = teachers_encoding(TeachersConfig(), dataset)
    teachers = load_models(Tracker(), path, encoding, dataset)
    rows = dataset.features("test")
    scored = torch.softmax(teachers.score(rows, "probabilities"), dim=1)
    expected = model.predict_proba(rows.to_numpy())
    np.testing.assert_allclose(scored.numpy(), expected, rtol=1e-4, atol=2 * FLOOR)


@pytest.mark.slow
def test_models_weigh_by_their_log_loss_on_validation_rows(committee, tmp_path):
    """A model that knows nothing gets no weight, and the others' shares sum to 1."""
    guess = on_raw_columns(DummyClassifier(strategy="uniform", random_state=0))
    register(tmp_path, guess.fit(FEATURES, LABELS), "guess")
    teachers, dataset = load("models:/guess/1,models:/forest/1,models:/boost/1")
    weighed = teachers.weighed(dataset, "probabilities")
    assert weighed.shares[0] == 0
    assert sum(weighed.shares) == pytest.approx(1)
    rows, labels = dataset.features("val"), torch.from_numpy(dataset.labels("val"))
    losses = [
        float(cross_entropy(each.score(rows, "probabilities"), labels))
        for each in (teachers, weighed)
    ]
    assert losses[1] < losses[0]
    kept = json.loads(weighed.tags["kd.teachers"])
    assert [member["weight"] for member in kept] == pytest.approx(weighed.shares, abs=1e-4)


def test_weights_of_models_see_no_test_row(committee):
    """Other values and labels of test rows give the same shares."""
    teachers, dataset = load("models:/forest/1,models:/boost/1")
    shares = teachers.weighed(dataset, "probabilities").shares
    assert teachers.weighed(tampered(dataset), "probabilities").shares == shares


@pytest.mark.slow
def test_an_ensemble_teaches_beside_models_of_ones_own(committee):
    """``latest`` among URIs: its share and the models' make one teacher, on one run."""
    taught = pipeline.run_teachers(TeachersConfig(**DATA, **TEACHERS))
    found = pipeline.run_distill(
        DistillConfig(**DATA, **STUDENTS, teachers="latest,models:/forest@champion")
    )
    run = committee.get_run(found.run_id)
    assert run.data.tags["kd.teachers_run_id"] == taught.run_id
    (member,) = json.loads(run.data.tags["kd.teachers"])
    assert member["resolved"] == "models:/forest/1"
    assert found.taught_by == f"run {taught.run_id}, models:/forest@champion"
    teachers, dataset = load("latest,models:/forest/1")
    rows = dataset.features("test")
    each = torch.softmax(teachers.each(rows, "probabilities"), dim=2)
    ours = torch.softmax(taught.ensemble.score(rows, "probabilities").double(), dim=1)
    torch.testing.assert_close(each[0], ours)
    scored = torch.softmax(teachers.score(rows, "probabilities").double(), dim=1)
    torch.testing.assert_close(scored, each.mean(dim=0))

"""The report and the figures that runs leave: complete, self-contained, equal to the metrics."""

import html as html_module
import json
import re
import shlex
from base64 import b64decode, b64encode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, MainConfig
from kd_mlflow.distillation.evidence import Evidence
from kd_mlflow.distillation.footprint import Footprint, Speed
from kd_mlflow.distillation.logits import Logits, class_probabilities, compared
from kd_mlflow.distillation.review import ENSEMBLE, STUDENT, Importance
from kd_mlflow.distillation.segments import Segment, Weakest
from kd_mlflow.distillation.students import TransferSet
from kd_mlflow.distillation.teachers import Part
from kd_mlflow.evaluation.checks import Check
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.scores import ClassScores
from kd_mlflow.evaluation.thresholds import ClassWeight, worth_knowing
from kd_mlflow.figures import gallery
from kd_mlflow.figures.style import Picture
from kd_mlflow.report import asking, review
from kd_mlflow.report import page as report
from kd_mlflow.report.decision import Decision
from kd_mlflow.report.notes import model_card
from kd_mlflow.report.words import gain_text, gap_text, loss_text, percent, recovered_text, reverse
from kd_mlflow.table.dataset import Dataset, Split
from kd_mlflow.table.encoding import fit_encoding
from kd_mlflow.table.example_rows import made_rows
from kd_mlflow.table.kinds import kind_of
from kd_mlflow.table.loading import Table
from kd_mlflow.table.profile import fit_profile

FIGURES = {
    "ladder",
    "sizes",
    "student_curves",
    "temperature",
    "reliability",
    "agreement",
    "confusion",
}
TWO_CLASSES = FIGURES | {"roc_pr"}
VOID = {"meta", "img", "br", "hr", "link", "input", "source"}
PICTURES = dict.fromkeys(FIGURES, Picture(b"no picture", b"no narrow one"))
SURE, UNSURE = Interval(value=0.2, low=0.1, high=0.3), Interval(value=0.0, low=-0.1, high=0.1)
COSTS = Footprint(
    speed=Speed(latency_ms=0.2, bulk_us=0.5),
    ensemble=Speed(latency_ms=5.0, bulk_us=20.0),
    model_bytes=100_000,
    environment_bytes=10**9,
)
HOSTILE = ("<script>alert(1)</script>", "a & b", "\"quoted\" 'twice'")


class Page(HTMLParser):
    """Reads a page: elements with attributes, their texts, and whether every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.data, self.text = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.data.append([dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text.append(" " if tag in ("td", "th", "dt", "p") else "")

    def handle_data(self, text):
        self.text.append(text)
        if self.open and self.open[-1] == "data":
            self.data[-1][1] += text

    @property
    def words(self):
        """All text, each run of white space one space."""
        return " ".join("".join(self.text).split())


@pytest.fixture
def distill_run(finished):
    """The distill run of the finished ``main``."""
    return finished.client.get_run(finished.result.distill.run_id)


@pytest.fixture
def html(finished, distill_run, tmp_path):
    """The report as it was logged."""
    path = finished.client.download_artifacts(distill_run.info.run_id, "report.html", tmp_path)
    with open(path, encoding="utf-8") as file:
        return file.read()


def evidence(
    classes=HOSTILE,
    n=90,
    *,
    labels=None,
    name="<img src=x>.csv",
    target="<i>label</i>",
    column="<b>x</b>'s",
    **config,
):
    """A comparison on random rows, of a table with hostile names."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % len(classes) if labels is None else labels
    frame = pd.DataFrame({column: rng.normal(size=n), "when": pd.Timestamp("2024-01-02")})
    table = Table(
        name=name,
        source="somewhere",
        target=target,
        features=frame,
        labels=labels,
        classes=tuple(classes),
        digest="0" * 64,
        kinds={name: kind_of(frame[name]) for name in frame},
    )
    third = n // 3
    split = Split(
        train=np.arange(third), val=np.arange(third, 2 * third), test=np.arange(2 * third, n)
    )
    dataset = Dataset(table=table, split=split)
    students = {
        kind: torch.from_numpy(rng.normal(size=(2, n - 2 * third, len(classes)))).float()
        for kind in ("distilled", "baseline")
    }
    logits = Logits(
        labels=dataset.labels("test"), ensemble=students["distilled"].mean(0) * 2, students=students
    )
    curves = rng.uniform(size=(3, 4))
    train = torch.zeros(third, len(classes))
    encoding = fit_encoding(
        frame, target=table.target, classes=table.classes, max_categories=9, scaling="auto"
    )
    lessons = TransferSet(
        encoding=encoding,
        encoded=torch.zeros(2 * third, frame.shape[1]),
        logits=torch.cat([train, train]),
        labels=torch.from_numpy(labels[: 2 * third]),
        labelled_rows=third,
        taught_rows=third,
    )
    second = class_probabilities(logits.ensemble)[..., 1]
    comparison = compared(
        logits,
        student_parameters=10,
        ensemble_parameters=100,
        class_rows=dict(
            zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True)
        ),
    )
    return Evidence(
        config=DistillConfig(**{"student_hidden": (4,), "temperature": 2.0, **config}).resolved(
            third
        ),
        dataset=dataset,
        encoding=encoding,
        comparison=comparison,
        logits=logits,
        history=dict.fromkeys(("val_accuracy", "val_loss", "val_agreement"), curves),
        lessons=lessons,
        example=made_rows(frame, encoding.columns),
        parts=[Part("networks", 2, 1.0)],
        profile=fit_profile(dataset.features("train"), dataset.labels("train"), encoding),
        importances=[Importance(column, {STUDENT: SURE, ENSEMBLE: UNSURE})],
        weakest=Weakest((Segment(column, target, 40, SURE, 0.5, 0.25, True),), 3, 30, 0.1),
        thresholds=worth_knowing(second, logits.labels, None) if len(classes) == 2 else (),
    )


@pytest.mark.slow
def test_a_comparison_leaves_its_figures(finished, distill_run, tmp_path):
    """The distill run has every figure as a picture with something on it."""
    client, run_id = finished.client, distill_run.info.run_id
    logged = [file.path for file in client.list_artifacts(run_id, "figures")]
    assert set(logged) == {f"figures/{name}.png" for name in TWO_CLASSES}
    for path in logged:
        picture = matplotlib.image.imread(client.download_artifacts(run_id, path, tmp_path))
        assert picture.shape[1] == pytest.approx(1094, abs=1)
        assert picture[..., :3].std() > 0.05


def test_an_ensemble_leaves_its_curves(finished):
    """The teachers' run has the picture of its curves."""
    files = finished.client.list_artifacts(finished.result.taught.run_id, "figures")
    assert [file.path for file in files] == ["figures/teacher_curves.png"]


def test_single_models_leave_no_figures(finished, distill_run):
    """Child runs have no artifacts: figures compare models."""
    client, result = finished.client, finished.result
    runs = client.search_runs([distill_run.info.experiment_id])
    parents = {result.taught.run_id, result.distill.run_id}
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in parents]
    assert len(below) == 11
    assert not [file for run in below for file in client.list_artifacts(run.info.run_id)]


def test_every_element_is_closed(html):
    """The page is well-formed: elements close in the order they were opened."""
    page = Page(html)
    assert page.open == []
    assert [tag for tag, _ in page.elements if tag in ("html", "head", "body")] == [
        "html",
        "head",
        "body",
    ]


def test_the_page_needs_nothing_else(html):
    """No script, no style sheet, no address: pictures are inside, with words for who cannot see."""
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.elements}
    assert not re.search(r"(?i)https?://|@import|url\(|\son\w+=", html)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == len(TWO_CLASSES)
    narrow = [attributes["srcset"] for tag, attributes in page.elements if tag == "source"]
    assert len(narrow) == len(pictures)
    for attributes in pictures:
        kind, content = attributes["src"].split(",")
        assert kind == "data:image/png;base64"
        assert matplotlib.image.imread(BytesIO(b64decode(content))).size
        assert attributes["alt"]
    for address in narrow:
        kind, content = address.split(",")
        assert kind == "data:image/png;base64"
        assert matplotlib.image.imread(BytesIO(b64decode(content))).shape[1] < 650


def test_pictures_in_the_page_are_those_logged(finished, distill_run, html, tmp_path):
    """A figure in the page is the artifact, byte for byte."""
    for name in TWO_CLASSES:
        path = finished.client.download_artifacts(
            distill_run.info.run_id, f"figures/{name}.png", tmp_path
        )
        with open(path, "rb") as file:
            assert b64encode(file.read()).decode() in html


def test_numbers_are_the_logged_metrics(distill_run, html):
    """Each number names its metric and has its exact value; what is read is that value rounded."""
    page, logged = Page(html), distill_run.data.metrics
    assert len(page.data) > 30
    for attributes, text in page.data:
        value = logged[attributes["data-metric"]]
        assert float(attributes["value"]) == value
        shown = float(text.replace(",", "").replace("%", ""))
        digits = len(text.split(".")[1].split()[0]) if "." in text else 0
        share = text.endswith("%") or attributes["data-metric"].endswith("accuracy_sem")
        candidates = (value, 100 * value) if share else (value,)
        assert any(abs(shown - v) <= 0.51 * 10**-digits for v in candidates), (attributes, text)
    named = {attributes["data-metric"] for attributes, _ in page.data}
    assert {
        "ensemble_test_accuracy",
        "registered_test_log_loss",
        "strong_baseline_test_ece_sem",
        "compression_ratio",
    } <= named


def test_the_page_says_what_card_and_table_say(finished, html):
    """Gap, gains and what was recovered are the sentences of the model card."""
    words, comparison = Page(html).words, finished.result.distill.comparison
    assert gap_text(comparison.gap) in words
    assert loss_text(reverse(comparison.loss_gap)) in words
    assert recovered_text(comparison) in words
    for gain in comparison.gains.values():
        assert words.count(gain_text(gain)) >= 2


def test_the_page_tells_data_and_recipe(finished, html):
    """Rows a class on each side, teachers, student and recipe stand there."""
    words = Page(html).words
    assert "5,000: 3,600 train, 400 validation, 1,000 test" in words
    assert "0 1,791 213 495 " in words
    accuracies = finished.result.taught.teacher_accuracies
    assert f"test accuracy {percent(min(accuracies))} to {percent(max(accuracies))}" in words
    assert "T 3, alpha 1" in words
    ratio = finished.result.distill.comparison.summary["compression_ratio"]
    assert f"label from an ensemble {ratio:.1f} times as large, score" in words


def test_the_pages_commands_name_the_student(finished, html):
    """Python, HTTP and command line name the registered model, and this very student's id."""
    page = Page(html)
    assert page.words.count("models:/kd-student@production") == 3
    (model,) = re.findall(r"models:/(m-[0-9a-f]+)", page.words)
    version = finished.client.get_model_version("kd-student", finished.result.distill.version)
    assert version.source == f"models:/{model}"


def page_of(given, costs=None):
    """The page of some evidence."""
    said = report.document(given, costs, costs.metrics if costs else {})
    return report.page(given, said, PICTURES, model_id="m-1")


def test_what_users_wrote_is_text():
    """Names of table, label, columns and classes are never markup."""
    page = Page(page_of(evidence()))
    tags = [tag for tag, _ in page.elements]
    assert "script" not in tags
    assert tags.count("img") == len(FIGURES)
    assert not {"i", "b"} & set(tags[tags.index("main") :])
    for name in (*HOSTILE, "<img src=x>.csv", "<i>label</i>", "<b>x</b>"):
        assert name in page.words
    assert page.open == []


@pytest.mark.parametrize("hostile", ['"><script>x</script>', "' onload='x", "{{ 7 * 7 }}\n</pre>"])
def test_no_name_is_markup_anywhere(hostile):
    """Names in title, attributes, tables and commands leave the page's elements as they are."""
    plain, given = (
        evidence(
            [f"{name}-{i}" for i in range(3)],
            name=name,
            target=name,
            column=name,
            model_name=re.sub(r"[/\n']", "", name),
            teachers=name,
            owner=name,
            licence=name,
        )
        for name in ("plain", hostile)
    )
    pages = [Page(page_of(each, COSTS)) for each in (plain, given)]
    shapes = [[(tag, sorted(attributes)) for tag, attributes in p.elements] for p in pages]
    assert shapes[0] == shapes[1]
    assert pages[1].open == []
    assert pages[1].words.count(" ".join(hostile.split())) > 5


def test_a_reader_finds_what_is_needed_first(html):
    """Figures, what counts, what to send, how to run, limits; then what unfolds, words last."""
    page = Page(html)
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles[:5] == [
        "Is the student as good as the ensemble?",
        "Which columns count, and where is it weakest?",
        "What a caller must send",
        "Pull and serve it",
        "Limits",
    ]
    assert titles[5] == "How does it decide between two classes?"
    assert titles[-1] == "Words"
    folded = re.findall(r"<summary><h2>(.*?)</h2></summary>", html)
    assert folded == titles[5:]
    assert not any("open" in attributes for tag, attributes in page.elements if tag == "details")


def test_the_page_shows_what_the_review_has(finished, distill_run, html, tmp_path):
    """Columns, segments, classes and thresholds are those of ``review.json``, with their values."""
    path = finished.client.download_artifacts(distill_run.info.run_id, "review.json", tmp_path)
    with open(path, encoding="utf-8") as file:
        review = json.load(file)
    words = Page(html).words
    assert len(review["importances"]) == 20
    for each in review["importances"]:
        student, ensemble = (each[who] for who in (STUDENT, ENSEMBLE))
        assert f"{each['column']} {student['value']:.4f} ({student['low']:.4f} to" in words
        assert f"{ensemble['value']:.4f} ({ensemble['low']:.4f} to" in words
    values = [each[STUDENT]["value"] for each in review["importances"]]
    assert values == sorted(values, reverse=True)
    for each in review["weakest"]["segments"]:
        assert f"{each['column']} {each['values']} {each['rows']:,} " in words
    for each in review["classes"][STUDENT]:
        shares = [f"{percent(each[name]['value'])} " for name in ("recall", "precision")]
        assert f"{each['name']} {each['rows']:,} {shares[0]}" in words
        assert shares[1] in words
    in_use = [each for each in review["thresholds"] if "in use" in each["note"]]
    assert [each["threshold"] for each in in_use] == [0.5]
    assert f"0.5000 {percent(in_use[0]['predicted'])}" in words


def test_class_scores_are_the_comparisons(finished, distill_run, tmp_path):
    """The registered student's recall by class is that of the comparison."""
    path = finished.client.download_artifacts(distill_run.info.run_id, "review.json", tmp_path)
    with open(path, encoding="utf-8") as file:
        classes = json.load(file)["classes"]
    recalls = finished.result.distill.comparison.recalls
    for who, model in ((STUDENT, "registered"), (ENSEMBLE, "ensemble")):
        assert [each["recall"]["value"] for each in classes[who]] == list(recalls[model])


def test_costs_and_names_stand_at_the_top(html, distill_run):
    """Time, bytes and environment are logged; owner and licence stand there only if given."""
    metrics = distill_run.data.metrics
    words = Page(html).words
    assert f"costs{metrics['registered_latency_ms']:.2f} ms" in words.replace("costs ", "costs")
    assert metrics["registered_model_bytes"] > 10_000
    assert metrics["registered_environment_bytes"] > 10**8
    assert "decides" in words
    assert "licence" not in words
    given = Page(page_of(evidence(owner="Ana", licence="MIT"), COSTS))
    assert "owner Ana" in " ".join(given.words.replace("owner", "owner ").split())
    assert "0.20 ms to encode and score one row" in given.words


def test_columns_that_a_caller_sends_are_all_there(html, distill_run):
    """Each column has its line with kind and range."""
    words = Page(html).words
    for i in range(20):
        assert re.search(rf"feature_{i:02d} number -?[\d.]+ to [\d.]+ none ", words)


def rare(classes=12, n=360):
    """A comparison of a table of which the first class has more than nine tenths."""
    labels = np.zeros(n, dtype=np.int64)
    labels[::20] = np.arange(len(labels[::20])) % classes
    return evidence([f"class-{i}" for i in range(classes)], n=n, labels=labels)


def test_an_imbalanced_tables_page_starts_with_balanced_accuracy():
    """Where one class has most rows balanced accuracy and recall stand before accuracy."""
    words = Page(page_of(rare())).words
    assert words.index("balanced accuracy on 120 test rows") < words.index("by accuracy")
    assert words.index("Recall by class: the share") < words.index("beside the ensemble:")
    assert words.index("balanced accuracy ↑") < words.index(" accuracy ↑", words.index("metric e"))
    assert words.count("balanced accuracy ↑") == 1


@pytest.mark.parametrize("grouped", [False, True])
def test_test_rows_are_called_later_where_each_is(grouped):
    """With groups a group's earlier rows are test rows too, and the page says that instead."""
    given = evidence()
    numbers = np.arange(90)
    table = replace(given.dataset.table, times=numbers, groups=numbers // 3 if grouped else None)
    words = Page(page_of(replace(given, dataset=replace(given.dataset, table=table)))).words
    assert ("The test rows are later than the training rows." in words) is not grouped
    assert ("earlier ones are among them" in words) is grouped


def test_a_balanced_tables_page_starts_with_accuracy():
    """Elsewhere accuracy comes first, and the recalls after the table of metrics."""
    words = Page(page_of(evidence())).words
    assert "so accuracy flatters" not in words
    assert words.index("accuracy ↑") < words.index("balanced accuracy ↑")
    assert words.index("ECE ↓") < words.index("Recall by class: the share")


def test_recalls_in_the_page_are_those_of_the_comparison():
    """Each class's line has its rows and the recall of every model, - without a test row."""
    given = rare(classes=3)
    recalls = {k: v.copy() for k, v in given.comparison.recalls.items()}
    for values in recalls.values():
        values[2] = np.nan
    given = replace(given, comparison=replace(given.comparison, recalls=recalls))
    words = Page(page_of(given)).words
    for place, name in enumerate(("class-0", "class-1")):
        shown = " ".join(percent(values[place]) for values in recalls.values())
        assert f"{name} {given.comparison.class_rows[name]:,} {shown}" in words
    assert f"class-2 {given.comparison.class_rows['class-2']:,} - - - -" in words


def test_the_json_request_is_a_shell_word():
    """Quotes in a column's name do not end the request's own."""
    command = asking.json_request(evidence())
    body = json.loads(shlex.split(command)[-1])
    assert set(body["dataframe_records"][0]) == {"<b>x</b>'s", "when"}


@pytest.mark.parametrize(("classes", "listed"), [(3, 3), (40, 40), (60, 40)])
def test_many_classes_are_counted_not_listed(classes, listed):
    """The table of classes ends at forty, and says how many it leaves out."""
    given = evidence([f"class-{i}" for i in range(classes)], n=6 * classes)
    page = Page(page_of(given))
    assert len(set(re.findall(r"class-\d+ \d+ \d+ \d+ [\d.]+ %", page.words))) == listed
    assert len(set(re.findall(r"class-\d+ \d+ [\d.]+ % [\d.]+ % [\d.]+ %", page.words))) == listed
    assert page.words.count("rarer classes are not listed") == (2 if classes > listed else 0)


def test_weights_are_tabled_by_class():
    """Each class's weight stands beside its recall without and with it, of validation rows."""
    rows = [ClassWeight("often", 80, 0.5, 72, 60), ClassWeight("never", 0, 1.0, 0, 0)]
    given = replace(evidence(), encoding=replace(evidence().encoding, threshold=(0.5, 1.0, 2.0)))
    given = replace(given, weights=[ClassWeight("<rare>", 8, 2.0, 2, 6), *rows])
    words = Page(page_of(given)).words
    assert "The class of the greatest probability times weight is predicted" in words
    assert "often 80 0.5 90.00 % 75.00 % <rare> 8 2 25.00 % 75.00 % never 0 1 - -" in words
    assert "greatest probability" not in Page(page_of(evidence())).words


@pytest.mark.slow
def test_classes_with_few_test_rows_are_named():
    """The limits name the classes whose figures are guesses."""
    words = Page(page_of(evidence(n=90))).words
    assert "fewer than 30 test rows" in words
    assert "fewer than 30 test rows" not in Page(page_of(evidence(n=360))).words


@pytest.mark.slow_cases
@pytest.mark.parametrize("classes", [2, 3, 50])
def test_any_comparison_is_drawn(classes):
    """Without strong baselines or known teachers, on tiny test sets, all figures are made."""
    given = evidence([f"class-{i}" for i in range(classes)], n=3 * classes, temperature=1.0)
    assert gallery.draw(given).keys() == (TWO_CLASSES if classes == 2 else FIGURES)


@pytest.mark.slow
def test_an_ensemble_of_unknown_size_is_told():
    """Without a count of the ensemble's parameters, page and figures leave it out."""
    given = evidence()
    left_out = ("ensemble_parameters", "compression_ratio")
    summary = {k: v for k, v in given.comparison.summary.items() if k not in left_out}
    given = replace(given, comparison=replace(given.comparison, summary=summary))
    assert gallery.draw(given).keys() == FIGURES
    assert "times as large" not in Page(page_of(given)).words


@pytest.mark.slow
def test_the_first_screen_says_approve_or_not_and_why():
    """A baseline or boosted trees that are better speak against it; else what it is worth does."""
    given = evidence()
    good = Interval(value=0.01, low=0.0, high=0.02)
    bad = Interval(value=-0.01, low=-0.02, high=-0.005)
    fair = replace(
        given.comparison,
        gains=dict.fromkeys(given.comparison.gains, good),
        loss_gains=dict.fromkeys(given.comparison.loss_gains, good),
        over_boosting=(good, good),
        learnt=replace(good, low=0.001),
    )
    for comparison, words in (
        (fair, "Approve, as far as the comparison says: "),
        (replace(fair, learnt=good), "not measurably better than the classes' shares alone"),
        (replace(fair, over_boosting=(good, bad)), "boosted trees alone are measurably better"),
        (replace(fair, loss_gains=fair.loss_gains | {"baseline": bad}), "the baseline, trained"),
    ):
        shown = replace(given, comparison=comparison)
        page = Page(page_of(shown))
        assert words in page.words
        document = report.document(shown, None, {})
        assert document["approve"] is (comparison is fair) is ("Do not approve" not in page.words)


def test_the_gates_answer_takes_the_first_screens_place():
    """The gate's checks stand there as text, once, however often it is asked."""
    html = page_of(evidence())
    checks = (Check(name="accuracy", passed=False, reason="<b>bad</b> \\1", metrics={}),)
    decision = Decision(
        model_name="churn",
        version="3",
        passed=False,
        promoted=False,
        reason="<i>too</i> bad",
        checks=checks,
        replaced=None,
        note="",
    )
    for _ in range(2):
        html = report.with_decision(html, decision)
    page = Page(html)
    assert "The gate has not been asked" not in page.words
    assert page.words.count("REJECTED churn version 3 does not go into production") == 1
    assert "<i>too</i> bad" in page.words
    assert "accuracy NO <b>bad</b> \\1" in page.words


def test_the_reports_document_has_what_the_page_says(finished, distill_run, html, tmp_path):
    """Leaderboard, metrics, facts and limits stand in ``report.json``; the page has the gate's."""
    path = finished.client.download_artifacts(distill_run.info.run_id, "report.json", tmp_path)
    document, words = json.loads(Path(path).read_text()), Page(html).words
    assert document["metrics"] == pytest.approx(distill_run.data.metrics)
    models = [row["model"] for row in document["leaderboard"]]
    names = [
        "ensemble",
        "student",
        "baseline",
        "strong baseline",
        "boosted trees",
        "majority class",
    ]
    assert models == names
    for text in (*names, *document["facts"].values(), *document["limits"]):
        assert text in words
    assert distill_run.info.run_id in document["facts"]["made"]
    assert "APPROVED kd-student version 1 is in production" in words
    assert "has not been asked" not in words


def test_a_class_that_is_never_rightly_predicted_is_named():
    """One wrong answer with it does not make it known."""
    share = Interval(value=0.5, low=0.4, high=0.6)
    none = Interval(value=0.0, low=0.0, high=0.1)
    scores = [
        ClassScores(name="a", rows=9, predicted=12, recall=share, precision=share),
        ClassScores(name="b", rows=4, predicted=1, recall=none, precision=none),
    ]
    assert review.never_text(scores) == "never rightly predicted: b (4 test rows)"
    assert review.never_text(scores[:1]) == ""


def test_a_class_that_is_never_predicted_is_named():
    """First screen, document and card name it; where every class is predicted nothing does."""
    names = ["a", "b", "c"]
    given = evidence(names, n=90)
    logits = given.logits.students["distilled"].clone()
    logits[0, :, 2] = -1e3
    students = given.logits.students | {"distilled": logits}
    never = replace(given, logits=replace(given.logits, students=students))
    for each, said in ((given, False), (never, True)):
        words = Page(page_of(each)).words
        assert ("never predicted: c (" in words) is said
        assert ("never predicted: c (" in model_card(each, taught_by="us", ours=True)) is said
        assert report.document(each, None, {})["never_predicted"] == ["c"] * said


def luminance(colour):
    """WCAG's relative luminance of a colour such as #1a1a1a or #fff."""
    digits = colour.removeprefix("#")
    wide = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = np.array([int(wide[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_light_and_dark(html, dark):
    """Each colour of text has WCAG's contrast of 4.5 on each ground; paper is always light."""
    light, night, *_ = re.findall(r":root \{(.*?)\}", html, re.S)
    colours = dict(re.findall(r"--(\w+): (#\w+)", night if dark else light))
    for text in ("ink", "grey"):
        for ground in ("paper", "pale", "alarm"):
            both = sorted(luminance(colours[name]) for name in (text, ground))
            assert (both[1] + 0.05) / (both[0] + 0.05) > 4.5, (text, ground)
    assert html.count("@media screen and (prefers-color-scheme: dark)") == 1


def test_a_baseline_above_the_ensemble_is_no_tie(finished):
    """Then there is no gap, and the text does not call it noise."""
    comparison = finished.result.distill.comparison
    names = ("ensemble_test_accuracy", "baseline_test_accuracy")
    for values, said in (((0.95, 0.90), "tie within the noise"), ((0.90, 0.95), "not worse than")):
        summary = comparison.summary | dict(zip(names, values, strict=True))
        assert said in recovered_text(replace(comparison, recovery=None, summary=summary))


@pytest.mark.slow
def test_the_pages_python_reads_a_file_as_the_student_does(store, tmp_path):
    """Of columns that are told to be texts NA is a text and 007 no 7, for the card's reader too."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=600),
            "city": rng.choice(["N/A", "Rome", "Oslo"], 600),
            "code": rng.choice(["007", "7", "12"], 600),
        }
    )
    frame.assign(y=((frame.x > 0) ^ (frame.city == "N/A")).astype(int)).to_csv("t.csv", index=False)
    frame.to_csv("rows.csv", index=False)
    config = MainConfig(data="t.csv", target="y", column="city=category;code=text", **SMALL)
    run_id = pipeline.run_main(config).distill.run_id
    page = Path(store.download_artifacts(run_id, "report.html", tmp_path)).read_text()
    shown = html_module.unescape(re.search(r"<code>(import mlflow.*?)</code>", page, re.S)[1])
    known: dict = {}
    exec(shown.replace("student.predict", "answers = student.predict"), known)
    pd.testing.assert_frame_equal(known["answers"], known["student"].predict(frame))
    plain = known["student"].predict(pd.read_csv("rows.csv"))
    assert not plain.equals(known["answers"])
    card = store.get_model_version("kd-student", "1").description
    assert "city, code are read as written" in card
    assert "city, code are read as written" in page

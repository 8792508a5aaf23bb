"""Sentences: a gain within the noise is never a number, and the model card says what was gained."""

import ast
import html
import re
import shlex
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel
from mlflow.store.tracking.dbmodels.models import SqlRun
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH
from test_report import COSTS, evidence

from kd_mlflow.config.groups import DataOptions, RegistryOptions
from kd_mlflow.distillation.students import StudentSetting
from kd_mlflow.distillation.teachers import Part
from kd_mlflow.errors import ConfigError
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.models.model_teachers import TAG_LENGTH
from kd_mlflow.report import asking, notes
from kd_mlflow.report.closing import next_steps
from kd_mlflow.report.command_results import Cell, SweepResult
from kd_mlflow.report.notes import model_card
from kd_mlflow.report.words import both_gains_text, gain_text, one_line, percent, safe
from kd_mlflow.steps import work
from kd_mlflow.tracking import open_run

CELL = Cell(temperature=1, alpha=0, hidden=(4,), metrics={})

MAX_DESCRIPTION = SqlModelVersion.__table__.c.description.type.length
"""Characters of a version's description in a database: 5,000."""


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.002, 0.006, "no measurable gain (95 % interval 0.20 points worse to 0.60 better)"),
        (0.001, 0.006, "0.40 points better (95 % interval 0.10 to 0.60)"),
    ],
)
def test_a_gain_within_the_noise_has_no_number(low, high, words):
    """An interval that holds 0 reads "no measurable gain"; one that does not has its points."""
    assert gain_text(Interval(value=0.004, low=low, high=high)) == words


def test_a_measured_loss_is_said():
    """Where distillation did harm beyond the noise, the loss stands there."""
    text = gain_text(Interval(value=-0.004, low=-0.006, high=-0.001))
    assert text == "0.40 points worse (95 % interval 0.10 to 0.60)"


def test_card_and_table_say_the_gain_over_each_baseline(finished):
    """Model card and closing table have both gains with intervals and McNemar's p values."""
    distilled = finished.result.distill
    version = finished.client.get_model_version("kd-student", distilled.version)
    table = " ".join(repr(distilled).split())
    for kind, gain in distilled.comparison.gains.items():
        words = kind.replace("_", " ")
        both = both_gains_text(gain, distilled.comparison.loss_gains[kind])
        assert f"| gain over the {words} | {both} |" in version.description
        assert both in table
        p = f"{distilled.comparison.summary[f'mcnemar_p_{kind}']:.3g} against the {words}"
        assert p in version.description
        assert p in table
    assert set(distilled.comparison.gains) == {"baseline", "strong_baseline"}


HEADS = [
    "Verdict.",
    "Intended use.",
    "Metrics",
    "What to send.",
    "Load it.",
    "Serve it",
    "Costs.",
    "Limits.",
    "Out of scope.",
]
DETAILS = ["Classes", "Columns that count.", "Where it is weakest."]
LAST = ["Data.", "Teachers.", "Recipe."]


def heads(card):
    """What a card's paragraphs begin with."""
    found = re.findall(r"^\*\*(.+?)\*\*", card, re.M)
    return [head for head in found if head != "Warning:"]


def test_the_card_says_what_a_reviewer_asks(finished):
    """What a reader needs comes first; details stand behind it, as far as there is room."""
    card = finished.client.get_model_version("kd-student", finished.result.distill.version)
    assert [head for head in heads(card.description) if head not in DETAILS] == HEADS + LAST
    assert "| feature_00 | number | " in card.description
    assert "| and 12 more of 20 | see `schema.json` | | |" in card.description
    whole = whole_card(two_classes(), taught_by="us", ours=True, costs=COSTS)
    assert heads(whole) == HEADS + DETAILS + LAST
    for each in two_classes().class_scores["registered student"]:
        assert f"| {each.name} | {each.rows} | {percent(each.recall.value)} (" in whole


def test_of_many_classes_the_card_names_those_recognised_least():
    """Recalls ascend, each with its rows."""
    given = evidence([f"class-{i}" for i in range(9)], n=270)
    card = whole_card(given, taught_by="us", ours=True)
    (line,) = re.findall(r"Least recall of 9 classes: (.*)\.", card)
    shown = re.findall(r"class-\d ([\d.]+) % of (\d+) rows", line)
    lowest = sorted(each.recall.value for each in given.class_scores["registered student"])
    assert [share for share, _ in shown] == [f"{100 * value:.2f}" for value in lowest[:4]]
    assert {rows for _, rows in shown} == {"10"}


HOSTILE = [
    "# head\n\n## another",
    "a | b |\n|---|---|\n| c | d |",
    "`code` ``` more\n```\nout of the block",
    "*x* **y** __z__ _w_ ~~s~~",
    "<script>alert(1)</script><img src=x>",
    "[text](http://x.example) ![p](q) <http://x.example> www.x.example me@x.example",
    "- item\n1. one\n> quote\n===\n---",
    "&lt; &#60; \\* \\",
    "\x00\x1b[31m\u2028\r\n\t ",
    "",
    "@someone :smile: $x^2$",
]
PLAIN = "plain"


def structure(markdown):
    """Per line what Markdown makes of it: headings, cells, fences, emphasis, links, code, HTML."""
    return [
        (
            re.match(r"#*|```\w*|>|[-+=] ?|\d+\. ", line).group(),
            {mark: line.count(mark) for mark in "|*`<>[]~\\"},
            len(re.findall(r"://|www\.|(?<!\S)@", line)),
        )
        for line in markdown.splitlines()
    ]


@cache
def note_texts(name):
    """Every description that shows a name."""
    given = evidence(
        [f"{name}{i}" for i in range(3)],
        name=name,
        target=name,
        column=name,
        owner=name,
        licence=name,
    )
    return {
        "teachers": notes.teachers_note(
            given.dataset,
            {
                "ensemble_test_accuracy": 0.9,
                "ensemble_test_balanced_accuracy": 0.9,
                "mean_teacher_test_accuracy": 0.9,
                "best_teacher_test_accuracy": 0.9,
            },
            parts=[Part("networks", 2, 1.0)],
            hidden=[(4,)],
            imbalanced=True,
        ),
        "teacher": notes.teacher_note(name, "networks", teachers=2, seed=0),
        "student": notes.student_note(
            name, StudentSetting(seed=0, temperature=1, alpha=0), epochs=1
        ),
        "cell": notes.cell_note(name, seeds=1, hidden="4", temperature=1, alpha=0),
        "sweep": notes.sweep_note(
            name,
            SweepResult(
                run_id="",
                taught_by="",
                ensemble={},
                cells=(CELL,),
                chosen=CELL,
                sizes=(),
                smallest=None,
            ),
            seeds=1,
            tolerance=0.1,
        ),
        "distill": notes.distill_note(given),
        "promotion": notes.promotion_note(
            name, "1", passed=False, reason=f"column {name} is missing", standing="2"
        ),
        "rollback": notes.rollback_note(name, restored="1", replaced="2", reason=name),
        "card": whole_card(given, taught_by=f"models:/{name}/1", ours=False, costs=COSTS),
        "imbalance": whole_card(
            evidence([f"{name}{i}" for i in range(3)], n=360, labels=few_of(3, 360), target=name),
            taught_by=name,
            ours=True,
        ),
    }


def whole_card(*given, **options):
    """The card with all of its blocks: a long name leaves none out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notes, "CARD_LENGTH", 20_000)
        return model_card(*given, **options)


def few_of(classes, n):
    """Labels of which the first class has more than nine tenths."""
    labels = np.zeros(n, dtype=np.int64)
    labels[::20] = np.arange(len(labels[::20])) % classes
    return labels


@pytest.mark.slow_cases
@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_in_every_description(name):
    """Whatever table, target, class, model or teacher is called, lines and marks stay."""
    for text, plain in zip(note_texts(name).values(), note_texts(PLAIN).values(), strict=True):
        assert structure(text) == structure(plain)
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["customers_2024.csv", "kd-student", "churned?", "60 %", "Zürich"])
def test_an_ordinary_name_is_written_as_it_is(name):
    """What is no markup is not disguised."""
    assert safe(name) == name


@pytest.mark.slow
@given(text=st.text(max_size=200))
def test_a_safe_name_is_one_line_of_text(text):
    """Any text becomes one printable line without a character of Markdown's own."""
    shown = safe(text)
    assert shown.isprintable()
    assert not set(re.sub(r"&#\d+;", "", shown)) & set("`*[]<>&|~$\\")
    assert one_line(text).startswith(html.unescape(shown).removesuffix("…"))
    assert len(one_line(text)) <= 60
    assert len(shown) <= 120


MODEL_NAMES = [
    "my model",
    'its "mine"',
    "Schüler 学生",
    "$HOME `id` $(id)",
    "a;b & c #d",
    "--help",
]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_commands_lead_to_the_model_whatever_its_name(name):
    """Shell commands have the URI as one word, Python has it as one string, in card and page."""
    uri = f"models:/{RegistryOptions(model_name=name).model_name}@production"
    given = evidence(model_name=name)
    card = model_card(given, taught_by="us", ours=True)
    python, shell = re.findall(r"```\w*\n(.*?)```", card, re.S)
    commands = asking.commands(given, "m-1")
    serve, _, predict = shell.splitlines()
    for line in (serve, predict, commands["serve"], commands["file"]):
        words = shlex.split(line)
        assert words[words.index("-m") + 1] == uri
    closing = next_steps(None, uri).splitlines()[-1].removeprefix("use")
    for code in (python, commands["python"], closing.strip()):
        strings = [n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant)]
        assert uri in strings


@cache
def two_classes():
    """A comparison of a table with two classes."""
    return evidence(["no", "yes"])


MODEL_NAME = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="/:?.@'"),
    min_size=1,
    max_size=256,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=500)


@pytest.mark.slow
@given(
    classes=st.integers(2, 5000),
    name=NAMES,
    model_name=MODEL_NAME,
    gains=st.integers(1, 40),
    imbalanced=st.booleans(),
)
@example(classes=5000, name="|" * 500, model_name="$" * 256, gains=40, imbalanced=True)
@example(classes=5000, name="x" * 500, model_name="x" * 100, gains=40, imbalanced=True)
@example(classes=5000, name="`" * 500, model_name='"' * 256, gains=40, imbalanced=True)
@settings(max_examples=30, deadline=None)
def test_descriptions_fit_whatever_the_table(classes, name, model_name, gains, imbalanced):
    """Card and notes stay below MLflow's lengths, and keep commands but for extreme names."""
    shown = two_classes()
    names = [f"{name}{i}" for i in range(classes)]
    table = replace(shown.dataset.table, classes=tuple(names), name=name, target=name)
    comparison = replace(
        shown.comparison,
        class_rows=dict(
            zip(names, [9 * classes if imbalanced else 1] + [1] * classes, strict=False)
        ),
        recalls={k: np.full(classes, np.nan) for k in shown.comparison.recalls},
    )
    more = {f"kind_{i}": comparison.gains["baseline"] for i in range(gains)}
    summary = dict(comparison.summary)
    for kind in more:
        summary |= {
            f"mcnemar_p_{kind}": 0.5,
            f"{kind}_test_balanced_accuracy": 0.5,
        }
    recalls = {**comparison.recalls, **dict.fromkeys(more, comparison.recalls["baseline"])}
    comparison = replace(comparison, gains=more, loss_gains=more, summary=summary, recalls=recalls)
    assert comparison.imbalanced is imbalanced
    rows = len(shown.logits.labels)
    students = dict.fromkeys(shown.logits.students, torch.zeros(1, rows, classes))
    shown = replace(
        shown,
        logits=replace(shown.logits, ensemble=torch.zeros(rows, classes), students=students),
        comparison=comparison,
        dataset=replace(shown.dataset, table=table),
        config=replace(shown.config, model_name=model_name),
    )
    card = model_card(shown, taught_by=", ".join([f"models:/{name}/1"] * 30), ours=False)
    assert card.startswith("# ")
    assert "| ensemble | " in card
    assert "**Limits.**" in card
    if safe(name) == one_line(name) and model_name.isalnum() and len(model_name) <= 100:
        assert "mlflow models predict" in card
        assert "**Recipe.**" in card
    note = notes.distill_note(shown)
    promoted = notes.promotion_note(model_name, "1", passed=True, reason=name * 9, standing=None)
    line = notes.pipeline_note(note, promoted)
    for text, most in (
        (card, MAX_DESCRIPTION),
        (note, MAX_TAG_VAL_LENGTH),
        (line, MAX_TAG_VAL_LENGTH),
    ):
        assert len(text) < most
        assert text.count("\n```") % 2 == 0


def test_lengths_are_mlflows():
    """The lengths that descriptions, parameters and names keep are those that MLflow stores."""
    assert notes.CARD_LENGTH < MAX_DESCRIPTION
    assert notes.NOTE_LENGTH == TAG_LENGTH == MAX_TAG_VAL_LENGTH
    assert open_run.PARAM_LENGTH == MAX_PARAM_VAL_LENGTH
    assert SqlRun.__table__.c.name.type.length == work.RUN_NAME_LENGTH
    assert SqlRegisteredModel.__table__.c.name.type.length == 256
    DataOptions(target="x" * MAX_PARAM_VAL_LENGTH)
    with pytest.raises(ConfigError, match="target must be text of at most 6,000 characters"):
        DataOptions(target="x" * (MAX_PARAM_VAL_LENGTH + 1))

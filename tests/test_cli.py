"""The command line explains itself, ends with the right code, and says one clear line."""

import dataclasses
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import ROOT, forget_store, part_of, use_store

from kd_mlflow import cli, pipeline
from kd_mlflow.config.entry_points import ENTRY_POINTS, READERS, TeachersConfig
from kd_mlflow.config.options import recipe_text, text_value, value_type
from kd_mlflow.errors import KDError

PASSING = [
    "--max-accuracy-gap=1",
    "--max-log-loss-gap=0",
    "--min-compression=1",
    "--allow-worse-than-baseline=true",
]


def test_every_configured_command_exists():
    """The commands are the entry points, and those that only read."""
    assert set(cli.cli.commands) == {*ENTRY_POINTS, *READERS}


@pytest.mark.parametrize("command", [*ENTRY_POINTS, *READERS])
def test_help_explains_every_option(run, command):
    """Each option stands in the help in both spellings, with its text and its default."""
    configs = ENTRY_POINTS | READERS
    many = len(dataclasses.fields(configs[command])) > cli.SHORT_HELP
    code, out, _ = run(command, "--help-all" if many else "--help")
    text = "".join(out.split())  # lines break at hyphens too
    assert code == 0
    for field in dataclasses.fields(configs[command]):
        assert f"--{field.name.replace('_', '-')}" in text
        assert f"--{field.name}" in text
        assert "".join(field.metadata["help"].split()) in text
        shown = text_value(field.default) or '""'
        if field.default is None:
            shown = f"(recipe: {recipe_text(field.name)})".replace(" ", "")
        assert f"[default:{shown}]".lower() in text.lower()


@pytest.mark.parametrize(("last", "said"), [(3, "stopped at epoch 3 of 10"), (10, " s")])
def test_a_training_that_stops_early_says_when(capsys, last, said):
    """The last line of a training names the epoch at which its last member stopped."""
    with cli.Reporter().training("networks", 2, 10) as on_epoch:
        for epoch in range(1, last + 1):
            on_epoch(slice(0, 2), epoch, {})
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)


def test_rows_are_counted_where_there_is_no_terminal(capsys, monkeypatch):
    """Lines say how far a long table is."""
    monkeypatch.setattr(cli, "LINE_EVERY_S", 0)
    with cli.Reporter().rows("scoring t.csv", 5000) as on_rows:
        on_rows(2048)
        on_rows(2952)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "scoring t.csv: 2,048 of 5,000 rows"


@pytest.mark.parametrize("command", ["main", "teachers", "distill", "sweep"])
def test_help_begins_with_what_people_use(run, command):
    """Of many options ``--help`` shows the usual ones and how to see all."""
    code, out, _ = run(command, "--help")
    names = {field.name for field in dataclasses.fields(ENTRY_POINTS[command])}
    words = out.replace(",", " ").split()
    shown = {name for name in names if f"--{name.replace('_', '-')}" in words}
    assert (code, shown) == (0, names & cli.USUAL)
    assert "--help-all" in out
    assert len(out.splitlines()) < 90


@pytest.mark.parametrize("spelling", ["--max-accuracy-gap", "--max_accuracy_gap"])
def test_hyphen_and_underscore_are_the_same(run, monkeypatch, spelling):
    """An option is taken in either spelling."""
    seen = []
    monkeypatch.setattr(pipeline, "run_promote", _keep(seen))
    assert run("promote", spelling, "0.5")[0] == 0
    assert seen[0].max_accuracy_gap == 0.5


@pytest.mark.parametrize(("text", "value"), [("recipe", None), ("9", 9)])
def test_the_word_recipe_leaves_an_option_to_the_recipe(run, monkeypatch, text, value):
    """``--teacher-epochs recipe`` is as good as no option at all; a number is a number."""
    seen = []
    monkeypatch.setattr(pipeline, "run_teachers", lambda config, listener: seen.append(config))
    assert run("teachers", "--teacher-epochs", text)[0] == 0
    assert seen[0].teacher_epochs == value


@pytest.mark.parametrize(
    ("command", "strict"),
    [
        (command, strict)
        for command, config in sorted((ENTRY_POINTS | READERS).items())
        for strict in (["true", "false"] if "strict" in config.__dataclass_fields__ else [""])
    ],
)
def test_a_command_prints_what_it_found_and_then_refuses(run, monkeypatch, command, strict):
    """Each shows its result; ``strict`` makes exit 1 and one line of what the result refuses."""
    monkeypatch.setattr(pipeline, f"run_{command}", lambda config, *listener: _Refused())
    code, out, err = run(command, *(["--strict", strict] if strict else []))
    assert out == "what was found\n"
    assert (code, err) == ((1, "Error: not this one\n") if strict == "true" else (0, ""))


class _Refused:
    def __repr__(self):
        return "what was found"

    def refuse(self):
        raise KDError("not this one")


BOOLEANS = [
    (command, field.name)
    for command, config in ENTRY_POINTS.items()
    for field in dataclasses.fields(config)
    if value_type(field) is bool
]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["{}", "true"], True),
        (["{}", "false"], False),
        (["{}=false"], False),
        (["{}"], True),
        (["{}", "{other}", "1"], True),
        (["{other}", "1", "{}"], True),
    ],
)
@pytest.mark.parametrize(("command", "name"), BOOLEANS)
def test_a_boolean_takes_a_value_or_stands_alone(command, name, words, value):
    """``--force``, alone or before another option, is ``--force true``; false stays false."""
    others = {"promote": "--min-compression", "evaluate": "--max-psi"}
    other = others.get(command, "--batch-size")
    for spelling in (f"--{name}", f"--{name.replace('_', '-')}"):
        given = [word.format(spelling, other=other) for word in words]
        parsed = cli.cli.commands[command].make_context(command, given).params
        assert parsed[name] is value
        assert other not in given or parsed[other[2:].replace("-", "_")] == 1


def _keep(seen):
    """A pipeline step that only keeps its configuration and passes."""

    class Passed:
        passed = True

    def step(config):
        seen.append(config)
        return Passed()

    return step


@pytest.mark.parametrize(
    "arguments",
    [
        ["main", "--no-such-option", "1"],
        ["teachers", "--n-teachers", "many"],
        ["teachers", "--n-teachers", "2.5"],
        ["teachers", "--force", "perhaps"],
        ["promote", "--strict", "twice"],
        ["teachers", "--n-teachers"],
        ["distil"],
    ],
)
def test_a_misused_option_exits_2(run, arguments):
    """Unknown options and commands and values of the wrong type exit 2 with an error line."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err
    assert "Traceback" not in err


@pytest.mark.slow_cases
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["teachers", "--data", "missing.csv", "--target", "y"], "missing.csv"),
        (["teachers", "--data", "table.csv"], "target"),
        (["teachers", "--data", "table.csv", "--target", "z"], "z"),
        (["teachers", "--data", "empty.csv", "--target", "y"], "empty.csv"),
        (["main", "--data", "synthetik"], "synthetik"),
        (["teachers", "--n-teachers", "0"], "n_teachers must be from 1 to 10,000; received 0"),
        (["distill", "--teachers", "feedbeef"], "feedbeef"),
        (["distill", "--data", "wine"], "no finished ensemble"),
        (["distill", "--from-sweep", "latest"], "no finished sweep"),
        (["distill", "--from-sweep", "latest", "--alpha", "0.5"], "from_sweep sets alpha too"),
        (["sweep", "--alphas", "2"], "alphas must be numbers from 0 to 1"),
        (["teachers", "--recipe", "quick"], "one of reference, best"),
        (["promote", "--model-name", "unheard-of"], "unheard-of"),
        (["promote", "--version", "99"], "99"),
        (["promote"], "nothing to promote"),
        (["rollback"], "nothing to roll back to"),
        (["rollback", "--version", "99"], "99"),
        (["history", "--model-name", "unheard-of"], "unheard-of"),
        (["rollback", "--model-name", "unheard-of"], "unheard-of"),
        (
            ["teachers", "--data", "wine", "--learning-rate", "1e30"],
            "use a lower learning_rate",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_1(run, request, tmp_path, arguments, words):
    """What a user can cause exits 1 with one line that names it, and no traceback."""
    writes = arguments[0] == "rollback" or "1e30" in arguments
    request.getfixturevalue("own_main" if writes else "finished")
    (tmp_path / "table.csv").write_text("x,y\n1,0\n2,1\n")
    (tmp_path / "empty.csv").write_text("")
    code, _, err = run(*arguments)
    assert code == 1
    lines = err.splitlines()
    if "1e30" in arguments:  # training had begun and said so
        lines = [line for line in lines if not line.startswith("networks: ")]
    (line,) = lines
    assert line.startswith("Error: ")
    assert words in line


def test_a_store_that_is_not_there_is_one_line(run, monkeypatch, tmp_path):
    """An address where nobody listens is exit 1 and one line, without the password in it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_store(monkeypatch, "http://me:hush@127.0.0.1:9", tmp_path)
    code, out, err = run("distill")
    forget_store()
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("Error: the tracking store http://me:***@127.0.0.1:9 cannot be reached")
    assert "MLFLOW_TRACKING_URI" in line


@pytest.mark.slow
@pytest.mark.parametrize(("strict", "code"), [("true", 1), ("false", 0)])
def test_strict_decides_how_a_rejection_ends(run, waiting, strict, code):
    """A rejected candidate exits 1 with strict and 0 without; either way the table says why."""
    ended, out, err = run("promote", "--min-compression", "1000", "--strict", strict)
    assert ended == code
    assert "at least 1000x required" in " ".join(out.split())
    assert "REJECTED" in out
    assert err.startswith("Error: rejected, and strict is true: ") if code else err == ""


@pytest.mark.slow
def test_a_promotion_and_its_rollback_print_what_moved(run, waiting):
    """``promote`` names the version replaced, ``rollback`` both, ``history`` all who were."""
    code, out, _ = run("promote", *PASSING)
    assert code == 0
    assert "version 2 is in production, replacing version 1" in out
    code, out, _ = run("rollback", "--reason", "alarms at night")
    assert code == 0
    assert out.startswith("kd-student: production is version 1 again; version 2 is now previous")
    code, out, _ = run("history")
    assert code == 0
    said = " ".join(out.split())
    assert re.search(r"version 1 \(now\) .* rolled back to by .*alarms at night version 2 ", said)
    assert re.findall(r"^version (\d)", out, re.M) == ["1", "2", "1"]


def test_main_prints_figures_and_how_to_pull_the_student(finished):
    """The closing table has every teacher, the comparison, the decision and the next step."""
    out = repr(finished.result)
    for words in (
        "teacher-03",
        "knowledge recovered",
        "compression ratio",
        'mlflow.pyfunc.load_model("models:/kd-student@production")',
    ):
        assert words in out


def test_reuse_is_said(run, own_main):
    """``teachers`` says that it reused an ensemble, and which run's."""
    options = part_of(TeachersConfig)
    given = [f"--{name}={text_value(value)}" for name, value in options.items()]
    code, out, err = run("teachers", *given)
    assert code == 0
    assert f"{own_main.result.taught.run_id} (reused)" in out
    assert err.startswith("ensemble reused: run ")


def test_version_option():
    """``--version`` prints the package's version."""
    result = CliRunner().invoke(cli.cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"kd-mlflow, version {cli.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["main", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    """Help answers at once: nothing of what training, tracking and drawing need is imported."""
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['kd_mlflow', *{arguments!r}]\n"
        "try:\n    runpy.run_module('kd_mlflow', run_name='__main__')\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "names = 'torch mlflow sklearn pandas numpy matplotlib jinja2'\n"
        "heavy = set(names.split()) & sys.modules.keys()\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout

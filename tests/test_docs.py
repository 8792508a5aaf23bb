"""README and docs: commands run, links lead somewhere, options are those declared."""

import dataclasses
import importlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from contextlib import ExitStack, contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from conftest import CLOSING_TABLE, ROOT, use_store
from forks import Forked
from imports import MODULES, PACKAGE, imported
from served import free_port, served

from kd_mlflow.cli import cli
from kd_mlflow.config.entry_points import ENTRY_POINTS, READERS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = {
    "recipe": "reference",
    "n_teachers": "2",
    "teacher_epochs": "2",
    "teacher_hidden": "16",
    "n_boosted": "2",
    "n_own": "2",
    "boosting_rounds": "20",
    "n_students": "2",
    "student_epochs": "2",
    "student_hidden": "8",
    "augment_factor": "1",
    "temperatures": "2,4",
    "alphas": "0.5,1",
    "sizes": "8;4",
    "max_accuracy_gap": "1",
    "max_log_loss_gap": "0",
    "allow_worse_than_baseline": "true",
    "min_compression": "0.01",
}
"""Options that make any command take seconds."""


def commands(block):
    """A block's commands without comments, continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if shlex.split(line, comments=True)]


def within(some, others):
    """Whether some commands stand among others, one after the other."""
    starts = range(len(others) - len(some) + 1)
    return any(others[start : start + len(some)] == some for start in starts)


def blocks():
    """The pages' blocks of commands, but for those that are parts of others: they are run there."""
    found = [
        (page, number, commands(block))
        for page in PAGES
        for number, block in enumerate(re.findall(r"```sh\n(.*?)```", page.read_text(), re.S), 1)
    ]
    for i in reversed(range(len(found))):
        if any(within(found[i][2], block) for *_, block in found[:i] + found[i + 1 :]):
            del found[i]
    return found


BLOCKS = blocks()


@pytest.fixture(scope="module")
def customers(tmp_path_factory):
    """A folder with a table, rows to score, and a store with teachers and two students of it."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    n = 400
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, n).astype(float),
            "plan": rng.choice(["basic", "plus", "pro"], n),
            "months": rng.integers(1, 60, n),
        }
    )
    frame.loc[::17, "age"] = np.nan
    risk = (frame["plan"] == "basic") * 2 - frame["months"] / 30 + rng.normal(size=n) / 4
    frame["churned"] = np.where(risk > 0, "yes", "no")
    frame.to_csv(folder / "customers.csv", index=False)
    rows = frame.drop(columns="churned").head(3).assign(customer_id=["007", "008", "009"])
    rows.to_csv(folder / "rows.csv", index=False)
    days = pd.date_range("2024-01-01", periods=n).strftime("%Y-%m-%d")
    visits = frame.assign(customer_id=rng.integers(0, 80, n), day=days)
    visits.to_csv(folder / "visits.csv", index=False)
    for _ in range(2):  # the second promotion gives `rollback` something to go back to
        run(folder, ["kd-mlflow", "main", "--data", "/data/customers.csv", "--target", "churned"])
    _own_teachers(folder, frame)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/families.md").read_text(), re.S)
    quick = code[0].replace("RandomForestClassifier(300", "RandomForestClassifier(20")
    assert quick != code[0]
    (folder / "my_models.py").write_text(quick)
    return folder


def _own_teachers(folder, frame):
    """Register the models that the pages call forest and boost."""
    (folder / "own_teachers.py").write_text("""
import mlflow, pandas as pd, sklearn.compose as c, sklearn.preprocessing as s
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
frame = pd.read_csv("customers.csv")
x, y = frame.drop(columns="churned").fillna(0), frame["churned"]
for name in ("forest", "boost"):
    coded = c.make_column_transformer((s.OneHotEncoder(), ["plan"]), ("passthrough", ["months"]))
    fitted = make_pipeline(coded, LogisticRegression(max_iter=500)).fit(x, y)
    for _ in range(2):
        mlflow.sklearn.log_model(fitted, name=name, registered_model_name=name,
                                 pip_requirements=[])
mlflow.MlflowClient().set_registered_model_alias("forest", "champion", 1)
""")
    module(folder, ["own_teachers"])


def environment(folder):
    """That of a shell in a folder with the folder's store."""
    taken = {"MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"}
    inherited = {key: value for key, value in os.environ.items() if key not in taken}
    return inherited | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }


def execute(folder, command):
    """Run a command in a folder against the folder's store; fail with what it said."""
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def module(folder, words, log=None):
    """Run ``python -m`` as ``execute`` would, without a start of Python."""
    log = log or folder / f"said-{time.monotonic_ns()}"
    process = Forked(*words, folder=folder, env=environment(folder), log=log)
    assert process.wait(240) == 0, f"{words}\n{log.read_text()[-3000:]}"
    return log.read_text()


def in_this_process(folder, arguments):
    """Run kd-mlflow as ``execute`` would, without another start of Python."""
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, f"sqlite:///{folder / 'mlflow.db'}", folder)
        done = CliRunner().invoke(cli, arguments)
        mlflow.set_tracking_uri(None)
    assert done.exit_code == 0, f"{arguments}\n{done.output[-3000:]}\n{done.exception}"
    return done.output


def quick(entry_point, given):
    """QUICK's options that an entry point has, but for those already given."""
    config = (ENTRY_POINTS | READERS)[entry_point]
    names = {field.name for field in dataclasses.fields(config)}
    return {k: v for k, v in QUICK.items() if k in names and k not in given}


def local(folder, words):
    """The words of a command with the table where it is, and a gate that lets quick models pass."""
    text = [re.sub(r"(?<!\w)/data/", f"{folder}/", w) for w in words]
    text = [w.replace("max_accuracy_gap=0.01", "max_accuracy_gap=1") for w in text]
    return ["1" if before == "--max-accuracy-gap" else w for before, w in pairs(text)]


def pairs(words):
    """Each word with the one before it."""
    return zip(["", *words], words, strict=False)


def run(folder, words):
    """Run one command of the pages, made quick."""
    words = local(folder, words)
    if words[-2:] in (["mlflow", "uv"], ["--env-manager", "uv"]):  # gigabytes: run by hand
        assert shlex.join(words) in (ROOT / ".ci/compatibility").read_text()
        return ""
    if words[:2] == ["mlflow", "run"]:
        return mlflow_run(folder, words)
    if words[0] == "kd-mlflow":
        given = {w.removeprefix("--").replace("-", "_") for w in words if w.startswith("--")}
        more = [w for k, v in quick(words[1], given).items() for w in (f"--{k}", v)]
        return in_this_process(folder, [*words[1:], *more])
    if words[0] == "make":
        return execute(ROOT, ["make", "--dry-run", "PYTHON=python3", words[1]])
    if words[:2] == ["pip", "install"]:
        extra = re.search(r"\[([\w-]+)\]", words[2])[1]
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert extra in project["optional-dependencies"]
        return ""
    assert words[0] in ("mlflow", "curl"), f"no way to run {words}"
    return module(folder, words) if words[0] == "mlflow" else execute(folder, words)


def mlflow_run(folder, words):
    """Run the project; a step by itself as MLproject says, since test_project has MLflow do it."""
    entry_point = words[words.index("-e") + 1] if "-e" in words else "main"
    given = dict(w.split("=", 1) for before, w in pairs(words) if before == "-P")
    more = quick(entry_point, given)
    if "-e" not in words:
        parameters = [w for name, value in more.items() for w in ("-P", f"{name}={value}")]
        words = [str(ROOT) if w == "." else w for w in words]
        return module(folder, [*words, *parameters])
    project = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"][entry_point]
    defaults = {name: each["default"] for name, each in project["parameters"].items()}
    values = {name: shlex.quote(str(v)) for name, v in (defaults | given | more).items()}
    command = shlex.split(project["command"].format(**values))
    assert command[:3] == ["python", "-m", "kd_mlflow"]
    return in_this_process(folder, command[3:])


@contextmanager
def dask(folder, words):
    """A process of Dask's command line, for as long as the block."""
    process = Forked(*words, folder=folder, env=os.environ, log=Path(os.devnull))
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "number", "block"), BLOCKS, ids=[f"{page.stem}-{number}" for page, number, _ in BLOCKS]
)
def test_every_command_runs(customers, tmp_path, page, number, block):
    """A block of a page runs from its first to its last command, against a store of its own."""
    for name in ("mlflow.db", "customers.csv", "visits.csv", "rows.csv", "my_models.py"):
        shutil.copy(customers / name, tmp_path)
    (tmp_path / "mlruns").symlink_to(customers / "mlruns")
    dask_port, served_at = free_port(), ""
    with ExitStack() as background:
        for words in block:
            words = [w.replace(":8786", f":{dask_port}") for w in words]
            words = [str(dask_port) if w == "8786" else w for w in words]
            if words[0] == "dask":
                background.enter_context(dask(tmp_path, [*words, "--no-dashboard"]))
            elif words[:3] == ["mlflow", "models", "serve"]:
                uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
                model = words[words.index("-m") + 1]
                served_at = background.enter_context(served(uri, tmp_path, model))
            else:
                words = [
                    w.replace("localhost:5001", served_at.removeprefix("http://")) for w in words
                ]
                answer = run(tmp_path, words)
                if words[0] == "curl":
                    assert "probability_yes" in answer


def anchors(page):
    """What can stand behind the # of a link to a page: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md")}), ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    """Every relative link and picture of a page is a file, and its # a heading there."""
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_question_leads_to_a_section():
    """Each line of the index by question ends at a section, not at the top of somewhere."""
    lines = [
        line for line in (ROOT / "docs/README.md").read_text().splitlines() if line[:2] == "- "
    ]
    assert len(lines) > 30
    assert [line for line in lines if not re.search(r"\(\w+\.md#[\w-]+\)", line)] == []


def test_the_readmes_table_is_that_of_its_pictures():
    """Every line of the README's closing table was printed by the main that its pictures show."""
    readme = (ROOT / "README.md").read_text()
    (table,) = re.findall(r"```\n(APPROVED .*?)```", readme, re.S)
    printed = (ROOT / "docs/images" / CLOSING_TABLE).read_text().splitlines()
    cut = [[part.strip() for part in line.split("...")] for line in table.splitlines()]
    lines = [parts for parts in cut if any(parts)]
    assert len(lines) > 15
    for start, *others in lines:
        found = [line for line in printed if line.strip().startswith(start)]
        assert any(all(part in line for part in others) for line in found), start


def test_every_page_of_docs_is_linked_from_the_readme():
    """Nobody has to list a folder to find a page."""
    readme = (ROOT / "README.md").read_text()
    assert [p.name for p in PAGES[1:] if f"docs/{p.name}" not in readme] == []


@pytest.mark.slow
def test_what_is_written_of_the_options_is_what_config_declares(tmp_path):
    """MLproject, docs/options.md and the recipes' table are what docs/options.py writes."""
    module(ROOT / "docs", ["options", "--check"], tmp_path / "said")


@pytest.mark.slow
def test_every_route_of_mlflow_has_a_role(tmp_path):
    """docs/routes.md is what docs/routes.py writes: a release with a route more fails here."""
    module(ROOT / "docs", ["routes", "--check"], tmp_path / "said")


@pytest.mark.slow
def test_the_api_page_is_what_the_docstrings_say(tmp_path):
    """docs/api.md is what docs/api.py writes."""
    module(ROOT / "docs", ["api", "--check"], tmp_path / "said")


@pytest.mark.parametrize(("page", "count"), [("report", 12), ("evaluation", 5)])
def test_pages_explain_their_words_as_the_glossary_does(page, count):
    """Each word at the end of a page stands in docs/glossary.md, in the same sentences."""
    terms = re.findall(r"### (.+)\n\n((?:.+\n)+)", (ROOT / "docs/glossary.md").read_text())
    glossary = {name.lower(): " ".join(text.split()) for name, text in terms}
    template = (ROOT / f"kd_mlflow/report/templates/{page}.html").read_text()
    words = template.partition("<h2>Words</h2>")[2]
    shown = re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", words, re.S)
    assert len(shown) == count
    for name, text in shown:
        assert " ".join(text.split()) == glossary[name.lower()]


def test_the_architecture_lists_every_module():
    """Each module of the package has its line, below those of the modules that it imports."""
    table, _, _ = (ROOT / "ARCHITECTURE.md").read_text().partition("## The way of one row")
    lines = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    listed = [name for line in lines for name in re.findall(r"`([\w/]*\w)`", line)]
    paths = {str(path.relative_to(PACKAGE).with_suffix("")): path for path in MODULES}
    modules = {name: path for name, path in paths.items() if "__" not in name}
    assert sorted(listed) == sorted(modules)
    for name, path in modules.items():
        names = {other.removeprefix("kd_mlflow.").replace(".", "/") for other in imported(path)}
        below = set(listed[listed.index(name) :])
        assert not names & below, f"{name} imports what is listed below it"


def test_the_way_of_one_row_is_there():
    """Each function on the way of one row is defined in the file that it is said to be in."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    way = re.findall(r"^\d+\. `([\w/]+)\.py:([\w.]+)`", text, re.M)
    assert 10 <= len(way) <= 18
    for module, function in way:
        found = importlib.import_module(f"kd_mlflow.{module.replace('/', '.')}")
        for name in function.split("."):
            found = getattr(found, name)
        assert found.__module__.endswith(module.replace("/", "."))


def test_every_command_block_is_looked_at():
    """Commands of the pages stand in blocks marked sh, which the tests run."""
    plain = itertools.chain.from_iterable(
        re.findall(r"```\n(.*?)```", page.read_text(), re.S) for page in PAGES
    )
    starts = ("mlflow ", "kd-mlflow ", "make ", "curl ", "dask ", "pip ")
    assert [line for block in plain for line in block.splitlines() if line.startswith(starts)] == []

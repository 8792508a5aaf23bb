"""Values, names and files that somebody made to do harm do none; nothing is pickled anywhere."""

import io
import json
import pickletools
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import TINY
from test_project import mlflow_run

from kd_mlflow import cli, pipeline
from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.errors import KDError

LONG = "x" * 100_000

VALUES = {
    "a second command": "wine; touch pwned",
    "a substitution": "$(touch pwned)",
    "backquotes": "`touch pwned`",
    "a pipe": "| touch pwned",
    "the folder above": "..",
    "a path upwards": "../../../etc/passwd",
    "a path upwards in a URI": "models:/../../etc/passwd",
    "a file's URI": "file:///etc/passwd",
    "a device": "/dev/zero",
    "a null byte": "a\x00b",
    "line breaks": "a\nb\rc\u2028d",
    "a terminal's escape": "\x1b[2J\x1b]0;title\x07",
    "markup": "<script>alert(1)</script>{{7*7}}%s%n",
    "SQL": "x' OR '1'='1' --",
    "a long text": LONG,
    "a long name": "é" * 300,
    "a huge number": str(10**30),
    "infinity": "1e999",
}

OPTIONS = [
    *(("teachers", name) for name in ("data", "target", "separator", "n_boosted", "seed")),
    *(("distill", name) for name in ("teachers", "model_name", "from_sweep", "alpha")),
    *(("promote", name) for name in ("model_name", "version", "max_accuracy_gap")),
    *(("evaluate", name) for name in ("model", "data", "against")),
    *(("sweep", name) for name in ("sizes", "temperatures")),
]


@pytest.mark.slow
@pytest.mark.parametrize("what", VALUES)
def test_any_value_is_an_answer_or_one_line(store, tmp_path, tmp_path_factory, monkeypatch, what):
    """Whatever an option is given, a command says one short line, and makes no file of it."""
    monkeypatch.setenv("KD_MLFLOW_STATE", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setattr(pipeline, "teachers_step", lambda *arguments, **more: None)
    before = sorted(path.name for path in tmp_path.iterdir())
    for command, option in OPTIONS:
        done = CliRunner().invoke(cli.cli, [command, f"--{option}={VALUES[what]}"])
        assert done.exit_code in (0, 1, 2), (command, option)
        if done.exit_code == 1:
            assert isinstance(done.exception, KDError), (command, option, done.exception)
            said = str(done.exception)
            assert said.isprintable(), (command, option, said)
            assert len(said) < 5_000
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_shell_sees_no_command_in_a_parameter(store, tmp_path):
    """``mlflow run``, which starts a shell, hands over each parameter as it was given."""
    values = ("data=$(touch>a)", "target=;touch>b;", "separator=`touch>c`", "model_name=|touch>d")
    status, said = mlflow_run(
        tmp_path, store.tracking_uri, " ".join(f"-P {value}" for value in values)
    )
    assert status == 1
    assert "Error: separator must be one ASCII character" in said
    assert "`touch>c`" in said
    for folder in (tmp_path, tmp_path.parent):
        assert not {path.name for path in folder.iterdir()} & set("abcd")


def unpickling(event, arguments):
    """Note what is looked up by a pickle that is being loaded, while somebody counts."""
    if event == "pickle.find_class" and LOADED is not None:
        LOADED.append(arguments)


LOADED = None
sys.addaudithook(
    unpickling
)  # hooks cannot be taken back: this one does nothing while LOADED is None


def parts(name, content):
    """A file and, where it is an archive, whatever is in it."""
    yield name, content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for inner in archive.namelist():
                yield from parts(f"{name}/{inner}", archive.read(inner))


def is_pickle(content):
    """Whether the whole content is one program for the unpickling machine."""
    try:
        *_, (last, _, position) = pickletools.genops(content)
    except Exception:  # it is none: the reader raises many kinds
        return False
    return last.name == "STOP" and position == len(content) - 1


def test_the_search_for_pickles_finds_them():
    """The three ways a pickle can lie in a folder are each found."""
    import pickle

    archive = io.BytesIO()
    np.savez(archive, a=np.array([{}], dtype=object))
    members = dict(parts("a.npz", archive.getvalue()))
    assert all(is_pickle(pickle.dumps({"a": 1}, protocol)) for protocol in range(6))
    assert b"|O" in members["a.npz/a.npy"][:128]


TENSORS = {"torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict"}


def test_artifacts_of_a_full_run_hold_no_code(finished_main):
    """No file that a ``main`` leaves is or holds a pickle, but for one record of tensors.

    torch's exported program has the shape of its input from an example of two rows, which it writes
    as it writes weights, and reads by its unpickler that knows tensors alone.
    """
    files = [path for path in (finished_main.folder / "mlruns").rglob("*") if path.is_file()]
    found = [part for path in files for part in parts(str(path), path.read_bytes())]
    kinds = {name.rpartition(".")[2] for name, _ in found}
    assert {"npz", "npy", "pt2", "json", "html", "png", "txt"} <= kinds, "not a full run"
    pickles = {name: content for name, content in found if is_pickle(content)}
    assert all(".pt2/model/data/sample_inputs/model.pt/" in name for name in pickles)
    operations = [op for content in pickles.values() for op in pickletools.genops(content)]
    assert {argument for code, argument, _ in operations if code.name == "GLOBAL"} == TENSORS
    assert not [code.name for code, _, _ in operations if code.name in ("STACK_GLOBAL", "INST")]
    assert [name for name, content in found if name[-4:] == ".npy" and b"O'" in content[:128]] == []
    assert not kinds & {"pickle", "pth", "joblib", "cloudpickle", "skops"}


@pytest.fixture
def hostile_table(tmp_path):
    """A table whose names and classes are paths, commands and markup."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(120, 2)), columns=["../../evil", "$(touch pwned)"])
    frame["<img src=x onerror=alert(1)>"] = rng.choice(["../up", "/etc/passwd", "`id`"], 120)
    frame["../label"] = np.where(frame["../../evil"] > 0, "../../yes", "'; drop table runs; --")
    path = tmp_path / "; touch pwned .csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_names_in_a_table_are_never_paths(store, tmp_path, hostile_table, monkeypatch):
    """A table of paths and commands is trained on like any other; all files are in the store.

    From the table to the promoted version, Python's unpickler looks nothing up.
    """
    monkeypatch.setattr(sys.modules[__name__], "LOADED", [])
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    outside = {path.name for path in tmp_path.parent.iterdir()}
    result = pipeline.run_main(MainConfig(**TINY, data=str(hostile_table), target="../label"))
    assert result.decision.promoted
    assert LOADED == []
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"mlflow.db", "mlruns", "state", hostile_table.name}
    assert {path.name for path in tmp_path.parent.iterdir()} == outside
    names = [path.name for path in (tmp_path / "mlruns").rglob("*")]
    assert not [name for name in names if "evil" in name or "touch" in name or "yes" in name]
    assert json.dumps("../../yes")[1:-1] in str(result.distill.comparison)

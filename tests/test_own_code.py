"""Nothing of a model is loaded that was not put there by this package."""

import re
import shutil

import mlflow
import pytest
import yaml
from conftest import ROOT

import kd_mlflow as kd
from kd_mlflow.errors import KDError
from kd_mlflow.models import own_code
from kd_mlflow.models.own_code import foreign
from kd_mlflow.tracking.saved_model import without_caches


@pytest.fixture
def model(finished, tmp_path):
    """The student in production, pulled into a folder of the test's own, and its source."""
    version = finished.client.get_model_version("kd-student", "1")
    pulled = mlflow.artifacts.download_artifacts(
        version.source, tracking_uri=finished.uri, dst_path=str(tmp_path / "pulled")
    )
    return without_caches(shutil.copytree(pulled, tmp_path / "model")), version.source


def described(**changes):
    """Change what MLmodel says of the pyfunc flavour."""

    def change(folder):
        path = folder / "MLmodel"
        content = yaml.safe_load(path.read_text())
        content["flavors"]["python_function"] |= changes
        path.write_text(yaml.safe_dump(content))

    return change


def flavoured(folder):
    """Give it a flavour more."""
    path = folder / "MLmodel"
    content = yaml.safe_load(path.read_text())
    content["flavors"]["sklearn"] = {"pickled_model": "model.pkl"}
    path.write_text(yaml.safe_dump(content))


CHANGES = {
    "a byte more": lambda f: f.joinpath("scoring.py").write_text(
        f.joinpath("scoring.py").read_text() + "\n"
    ),
    "another file of code": lambda f: f.joinpath("numpy.py").write_text(""),
    "a file of code below": lambda f: (
        f.joinpath("code").mkdir(),
        shutil.copy(f / "scoring.py", f / "code" / "scoring.py"),
    ),
    "one in place of the other": lambda f: shutil.copy(f / "scoring.py", f / "student.py"),
    "what Python would run in its place": lambda f: (
        f.joinpath("__pycache__").mkdir(),
        f.joinpath("__pycache__/scoring.cpython-311.pyc").write_bytes(b""),
    ),
    "a pickle": lambda f: f.joinpath("python_model.pkl").write_bytes(b""),
    "a link": lambda f: f.joinpath("weights").symlink_to("/etc/hosts"),
    "a pickle that is named": described(python_model="weights.npz"),
    "another loader": described(loader_module="mlflow.sklearn"),
    "another code file": described(model_code_path="encoding.json"),
    "paths of code": described(code="code"),
    "an artifact elsewhere": described(
        artifacts={"encoding": {"path": "../encoding.json", "uri": ""}}
    ),
    "a flavour more": flavoured,
}


def test_our_own_models_are_ours(model):
    """What distill has logged may be loaded."""
    assert foreign(*model) is None


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_not_ours_is_refused(model, what):
    """One line names it and the way out."""
    folder, source = model
    CHANGES[what](folder)
    said = foreign(folder, source)
    assert "kd-mlflow distill" in said
    assert "\n" not in said


def test_a_folder_of_a_run_is_no_source(model):
    """What can be replaced while it is judged is not judged."""
    assert "no logged model" in foreign(model[0], "mlflow-artifacts:/1/run/artifacts/model")


def test_code_of_an_earlier_release_is_known(model, tmp_path, monkeypatch):
    """A line of sha256sum makes it so."""
    folder, source = model
    CHANGES["a byte more"](folder)
    digest = own_code.hashlib.sha256((folder / "scoring.py").read_bytes()).hexdigest()
    released = tmp_path / "released.txt"
    released.write_text(f"{digest}  kd_mlflow/serving/scoring.py\n")
    monkeypatch.setattr(own_code, "RELEASED", released)
    own_code.known_code.cache_clear()
    try:
        assert foreign(folder, source) is None
    finally:
        own_code.known_code.cache_clear()


@pytest.mark.slow
def test_a_version_that_was_loaded_where_it_lies_is_judged_as_before(own_main):
    """MLflow leaves compiled code in a store's own folder: it is neither judged nor loaded."""
    source = own_main.client.get_model_version("kd-student", "1").source
    mlflow.pyfunc.load_model(source)
    assert kd.load_production(model_name="kd-student") is not None


def test_anybody_can_check_the_files(finished):
    """The lines of docs/promotion.md compare what is in production with what was judged."""
    page = (ROOT / "docs" / "promotion.md").read_text()
    exec(re.search(r"```python\n(import hashlib.*?)```", page, re.DOTALL)[1], {})


def test_files_that_are_gone_are_not_called_others(own_main, monkeypatch, tmp_path):
    """A store that was copied without its artifacts says where they are looked for."""
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda **given: str(nothing))
    with pytest.raises(KDError, match="has no files any more where the store says: models:/"):
        kd.load_production(model_name="kd-student")


def test_files_that_were_replaced_are_not_loaded(own_main, caplog):
    """Neither by load_production, nor by evaluate; rollback does not go to them either."""
    client = own_main.client
    version = client.get_model_version("kd-student", "1")
    client.set_model_version_tag("kd-student", "1", "kd.files_digest", "0" * 64)
    for use in (kd.load_production, lambda: kd.evaluate(model="kd-student", data="synthetic")):
        with pytest.raises(KDError, match="are not those that were promoted"):
            use()
    client.delete_model_version_tag("kd-student", "1", "kd.files_digest")
    assert kd.load_production() is not None
    assert "before digests of files were recorded" in caplog.text
    assert len(version.tags["kd.files_digest"]) == 64

"""Answers to test rows are kept with their run: found again by hash, or said to be lost."""

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from kd_mlflow.errors import Unavailable
from kd_mlflow.tracking import kept_rows as module
from kd_mlflow.tracking.kept_rows import ANSWERS, DIGEST, keep_answers, kept_answers
from kd_mlflow.tracking.runs import Tracker

RANDOM = np.random.default_rng(0)
HASHES = RANDOM.integers(2**63, size=50, dtype=np.uint64)
HASHES[[3, 17, 30]] = HASHES[3]
SHARES = RANDOM.dirichlet([1, 1, 1], 50)
SHARES[[17, 30]] = SHARES[3] + [[1e-8, -1e-8, 0.0], [0.0, 2e-8, -2e-8]]


@pytest.fixture
def kept(store):
    """A tracker, and the id of a run that kept answers."""
    tracker = Tracker()
    with tracker.run("distill", "distill") as run:
        keep_answers(run, HASHES, SHARES)
    return tracker, run.id


def found(kept, hashes=HASHES, classes=3):
    """What the run kept of rows of these hashes."""
    tracker, run_id = kept
    return kept_answers(tracker, tracker.get(run_id), hashes, classes=classes)


def artifact(kept):
    """The file in the store."""
    tracker, run_id = kept
    uri = tracker.client.get_run(run_id).info.artifact_uri
    return Path(uri.removeprefix("file://")) / ANSWERS


def replaced(kept, content):
    """Put another file in its place, as whoever may write the run can."""
    tracker, run_id = kept
    artifact(kept).write_bytes(content)
    tracker.client.set_tag(run_id, DIGEST, hashlib.sha256(content).hexdigest())


def test_each_row_gets_its_own_answer(kept):
    """By its hash, wherever it stands in the table; equal rows in turn."""
    for order in (np.arange(50), RANDOM.permutation(50)):
        places, shares = found(kept, HASHES[order])
        assert sorted(places) == list(range(50))
        np.testing.assert_allclose(shares, SHARES[order][places], atol=1e-7)


def test_the_file_holds_hashes_and_probabilities_alone(kept):
    """Eight bytes a row and four a class: no value of the table, no label, no pickle."""
    records = np.load(artifact(kept), allow_pickle=False)
    assert records.dtype == [("row", "<u8"), ("probabilities", "<f4", (3,))]
    assert artifact(kept).stat().st_size - records.nbytes < 200
    np.testing.assert_array_equal(records["row"], np.sort(HASHES))


def test_the_file_is_bounded(store, monkeypatch):
    """Of more rows than it may hold those with the least hashes are kept, and compared."""
    monkeypatch.setattr(module, "MOST_BYTES", 10 * (8 + 4 * 3))
    tracker = Tracker()
    with tracker.run("distill", "distill") as run:
        keep_answers(run, HASHES, SHARES)
    places, shares = found((tracker, run.id))
    assert len(places) == len(shares) == 10
    assert HASHES[places].max() <= np.sort(HASHES)[9]
    np.testing.assert_allclose(shares, SHARES[places], atol=1e-7)


def test_an_early_run_kept_nothing(store):
    """A run without the tag is from before answers were kept."""
    tracker = Tracker()
    with tracker.run("distill", "distill") as run:
        pass
    assert found((tracker, run.id)) is None


def damaged(content):
    """A file with one bit turned."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("change", ["gone", "damaged", "shorter"])
def test_a_file_that_is_not_as_it_was_logged_is_no_answer(kept, change):
    """Where it is missing or changed there is one line that says so."""
    path = artifact(kept)
    if change == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(damaged(content) if change == "damaged" else content[:-20])
    answer = found(kept)
    assert isinstance(answer, Unavailable)
    assert ("are gone" if change == "gone" else "are damaged") in answer.reason
    assert "\n" not in answer.reason


class Evil:
    """Says so if it is ever unpickled."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def no_numbers():
    """Answers to these rows, one of which is no number."""
    records = np.zeros(50, dtype=[("row", "<u8"), ("probabilities", "<f4", (3,))])
    records["row"] = np.sort(HASHES)
    records["probabilities"][7, 1] = np.nan
    return records


def archive():
    """Arrays in a zip archive, which numpy would open as well."""
    written = BytesIO()
    np.savez(written, row=np.sort(HASHES))
    return written.getvalue()


@pytest.mark.slow_cases
@pytest.mark.parametrize(
    "content",
    [
        b"no array",
        b"",
        np.array([Evil()], dtype=object),
        np.zeros(3),
        np.zeros(49, dtype=[("row", "<u8"), ("probabilities", "<f4", (3,))]),
        np.zeros(50, dtype=[("row", "<u8"), ("probabilities", "<f4", (3,))]),
        np.zeros(50, dtype=[("row", "<u8"), ("probabilities", "<f4", (2,))]),
        no_numbers(),
        archive(),
    ],
    ids=[
        *("text", "empty", "pickle", "numbers", "fewer rows", "other rows", "other classes"),
        *("no numbers", "archive"),
    ],
)
def test_what_is_no_file_of_these_rows_is_refused(kept, content, tmp_path):
    """Whatever lies in its place, with a tag that fits it: one line, nothing run."""
    if isinstance(content, np.ndarray):
        np.save(tmp_path / "other.npy", content, allow_pickle=True)
        content = (tmp_path / "other.npy").read_bytes()
    replaced(kept, content)
    answer = found(kept)
    assert isinstance(answer, Unavailable)
    assert ANSWERS in answer.reason
    assert "\n" not in answer.reason


def test_answers_to_other_rows_are_no_answers(kept):
    """A table with one row more, one less or other ones is not that of the answers."""
    for hashes in (HASHES[1:], np.append(HASHES, HASHES[:1]), HASHES ^ np.uint64(1)):
        answer = found(kept, hashes)
        assert isinstance(answer, Unavailable)
        assert "of other rows or classes" in answer.reason

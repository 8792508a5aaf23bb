"""A process that dies anywhere in a promotion or a rollback leaves what the next one can settle."""

import dataclasses
import shutil

import pytest
from conftest import ROOT, use_store
from kills import Calls, Killed, is_write, watched
from mlflow import MlflowClient
from test_promotion import registered_again

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import HistoryConfig, PromoteConfig, RollbackConfig
from kd_mlflow.tracking import lock, moves

NAME = "kd-student"
PASSING = PromoteConfig(
    version="3",
    max_accuracy_gap=1.0,
    min_compression=1.0,
    allow_worse_than_baseline=True,
    policy="any",
)
PAGE = ROOT / "docs" / "faults.md"

COMMANDS = {
    "promote": lambda: pipeline.run_promote(PASSING),
    "rollback": lambda: pipeline.run_rollback(RollbackConfig(reason="alarms")),
    "history": lambda: pipeline.run_history(HistoryConfig()),
}
OLD = ("2", "1")
NEW = {"promote": ("3", "2"), "rollback": ("1", "2")}
"""Production and previous before, and after the command that is killed."""


@pytest.fixture(scope="module")
def three_versions(finished_main, tmp_path_factory):
    """The database of a registry whose version 2 is in production, 1 was before, 3 waits."""
    folder = tmp_path_factory.mktemp("three")
    path = folder / "mlflow.db"
    shutil.copy(finished_main.folder / "mlflow.db", path)
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, f"sqlite:///{path}", folder)
        client = MlflowClient()
        for _ in range(2):
            registered_again(client)
        pipeline.run_promote(dataclasses.replace(PASSING, version="2"))
        use_store(patch, finished_main.uri, folder)
    return path


@pytest.fixture
def registry(three_versions, own_main, monkeypatch):
    """The test's own copy of that registry, where dead holders are waited for 0.2 seconds."""
    shutil.copy(three_versions, own_main.folder / "mlflow.db")
    for name, value in (("LEASE_S", 0.2), ("SAFETY_S", -60.0), ("POLL_S", 0.02)):
        monkeypatch.setattr(lock, name, value)
    return own_main.client


def state(client):
    """Production and previous as the registry has them, and whether a move is under way."""
    model = client.get_registered_model(NAME)
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    return (aliases.get("production"), aliases.get("previous")), moves.INTENTION in model.tags


def calls_of(command):
    """The calls of MLflow that a command makes."""
    with watched(Calls()) as calls:
        COMMANDS[command]()
    return calls.made


def killed(command, place, *, before):
    """Run a command that dies at one of its calls."""
    with pytest.raises(Killed), watched(Calls(place, before)):
        COMMANDS[command]()


def settled(client):
    """Assert that nothing is half done: no intention, no lock, and history ends in production."""
    aliases, moving = state(client)
    assert not moving
    assert [model.name for model in client.search_registered_models()] == [NAME]
    found = pipeline.run_history(HistoryConfig())
    assert found.settled is None
    assert found.periods[-1].version == aliases[0]
    assert [period.until for period in found.periods].count(None) == 1
    return aliases, [period.version for period in found.periods]


def survive(client, command, place, *, before):
    """Kill a command, look, run ``history``, look again; return the row of the table."""
    killed(command, place, before=before)
    left, moving = state(client)
    found = pipeline.run_history(HistoryConfig())
    (aliases, versions), new = settled(client), NEW[command]
    assert left[0] in (OLD[0], new[0])  # production is the old one or the new one
    assert aliases == (new if left[0] == new[0] else OLD)  # and stays so
    assert left in (OLD, new) or moving  # what is half done says so
    assert versions == (["1", "2"] if aliases == OLD else ["1", "2", new[0]])
    done = "nothing to do"
    if found.settled:
        done = "finished" if "is finished" in found.settled else "undone"
    return left, moving, aliases, done


def rows(client, path, copy):
    """Kill both commands before and after each of their calls; yield the table's rows."""
    COMMANDS["promote"]()  # what the model answers is remembered: later ones make fewer calls
    for command in NEW:
        shutil.copy(copy, path)
        for place, call in enumerate(calls_of(command)):
            for before in (True, False):
                if before or is_write(call):  # after a read is before the next call
                    shutil.copy(copy, path)
                    yield (
                        command,
                        place,
                        call,
                        before,
                        survive(client, command, place, before=before),
                    )


@pytest.mark.slow
def test_a_crash_at_any_call_leaves_the_old_or_the_new_state(
    registry, three_versions, own_main, monkeypatch, pytestconfig
):
    """Production is the old or the new version, the next command settles the rest, as shown."""
    monkeypatch.setattr("kd_mlflow.pipeline.CleanProcess", remembering())
    found = list(rows(registry, own_main.folder / "mlflow.db", three_versions))
    assert len(found) >= 25
    text = HEAD + "".join(row_text(*row) for row in found)
    if pytestconfig.getoption("write_faults"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "write it anew: pytest tests/test_faults.py --write-faults"


HEAD = """\
# What a crash leaves

Made by `pytest tests/test_faults.py --write-faults`, which kills `promote` and `rollback` before
each of their calls of MLflow, and after each that writes, and runs `history` then. Before the
command, version 2 is in production and version 1 is previous; `promote` moves version 3 there,
`rollback` goes back to version 1. A test holds this page to what it sees.

| command | call | killed | production, previous | the next command | production, previous |
|---|---|---|---|---|---|
"""


def row_text(command, place, call, before, row):
    """A row of the table."""
    left, moving, aliases, done = row
    return (
        f"| {command} | {place + 1} | {'before' if before else 'after'} `{call}` "
        f"| {left[0]}, {left[1]}{', intention' if moving else ''} | {done} "
        f"| {aliases[0]}, {aliases[1]} |\n"
    )


def remembering():
    """A clean process whose answers are computed once."""
    from conftest import OwnProcess

    class Remembering(OwnProcess):
        answers = None

        def ask(self, model, rows, *, timed):
            if Remembering.answers is None:
                Remembering.answers = super().ask(model, rows, timed=timed)
            return Remembering.answers

    return Remembering

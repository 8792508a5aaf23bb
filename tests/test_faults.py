"""A process that dies anywhere in a promotion or a rollback leaves what the next one can settle."""

import dataclasses
import functools
import shutil

import pytest
from conftest import copied_store, copy_store
from faults import PAGE
from mlflow import MlflowClient
from test_promotion import registered_again

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import HistoryConfig, PromoteConfig, RollbackConfig
from kd_mlflow.registry import lock, moves
from kd_mlflow.registry.moves import periods

NAME = "kd-student"
PASSING = PromoteConfig(
    version="3",
    max_accuracy_gap=1.0,
    max_log_loss_gap=0.0,
    min_compression=1.0,
    allow_worse_than_baseline=True,
    policy="any",
)
COMMANDS = {
    "promote": lambda: pipeline.run_promote(PASSING),
    "rollback": lambda: pipeline.run_rollback(RollbackConfig(reason="alarms")),
}
OLD = ("2", "1")
NEW = {"promote": ("3", "2"), "rollback": ("1", "2")}
"""Production and previous before, and after the command that is killed."""

MOMENTS = {
    (False, False, False): "before its intention is recorded",
    (False, False, True): "before `production` moves",
    (True, False, True): "before `previous` follows",
    (True, True, True): "before the move is recorded as done",
    (True, True, False): "after that",
}
"""When it died, by what is seen: production has moved, previous too, a move is under way."""

WRITES = ("set_", "create_", "delete_", "log_", "update_")


@pytest.fixture(scope="module")
def three_versions(finished_main, tmp_path_factory):
    """The database of a registry whose version 2 is in production, 1 was before, 3 waits."""
    folder = tmp_path_factory.mktemp("three")
    with copied_store(finished_main.folder / "mlflow.db", folder):
        client = MlflowClient()
        for _ in range(2):
            registered_again(client)
        pipeline.run_promote(dataclasses.replace(PASSING, version="2"))
    return folder / "mlflow.db"


@pytest.fixture
def registry(three_versions, own_main, monkeypatch):
    """The test's own copy of that registry, where dead holders are waited for 0.05 seconds."""
    copy_store(three_versions, own_main.folder)
    for name, value in (("LEASE_S", 0.05), ("SAFETY_S", -60.0), ("POLL_S", 0.02)):
        monkeypatch.setattr(lock, name, value)
    return own_main.client


def left_behind(command, folder, monkeypatch):
    """Copies of the database before a command, and after each write of it: what a kill leaves."""
    copies = []

    def keep():
        copies.append(shutil.copy(folder / "mlflow.db", folder / f"{command}-{len(copies)}.db"))

    def then_keep(write):
        @functools.wraps(write)
        def call(*given, **named):
            answer = write(*given, **named)
            keep()
            return answer

        return call

    keep()
    with monkeypatch.context() as patch:
        for name, write in vars(MlflowClient).items():
            if name.startswith(WRITES):
                patch.setattr(MlflowClient, name, then_keep(write))
        COMMANDS[command]()
    return copies


def state(client):
    """Production and previous as the registry has them, and whether a move is under way."""
    model = client.get_registered_model(NAME)
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    return (aliases.get("production"), aliases.get("previous")), moves.INTENTION in model.tags


def settled(client, command):
    """Look, run ``history``, look again: nothing is half done.  The row of the page."""
    new = NEW[command]
    left, moving = state(client)
    when = MOMENTS[left[0] == new[0], left[1] == new[1], moving]
    found = pipeline.run_history(HistoryConfig())
    aliases, still = state(client)
    assert not still
    assert aliases == (new if left[0] == new[0] else OLD)
    assert [model.name for model in client.search_registered_models()] == [NAME]  # no lock
    times = periods(client, NAME)
    assert times[-1].version == aliases[0]
    assert [period.until for period in times].count(None) == 1
    done = "has nothing to do"
    if found.settled:
        done = "finishes it" if "is finished" in found.settled else "undoes it"
    return f"| {command} | {when} | {', '.join(left)} | {done} | {', '.join(aliases)} |"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_crash_at_any_write_leaves_the_old_or_the_new_state(
    registry, own_main, monkeypatch, command
):
    """Production is the old or the new version, the next command settles the rest, as promised.

    A process that dies before or within a read leaves what it left after the write before that.
    """
    copies, rows = left_behind(command, own_main.folder, monkeypatch), []
    assert len(copies) >= 20
    for copy in copies:
        shutil.copy(copy, own_main.folder / "mlflow.db")
        rows.append(settled(registry, command))
    promised = [row for row in PAGE.read_text().splitlines() if row.startswith(f"| {command} | ")]
    assert list(dict.fromkeys(rows)) == promised

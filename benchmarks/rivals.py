"""Other libraries' models in benchmarks/tables.py, as a user would set them.

Each is trained on a dataset's train side and may look at its validation side. Boosted trees stop by
the validation rows; a forest and a logistic regression, which have nothing to choose, are trained
on both sides.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from measured import Measured, folder_bytes, latency_ms
from numpy.typing import NDArray
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from kd_mlflow.table.dataset import Dataset

LEARNING_RATE, ROUNDS, PATIENCE = 0.05, 5_000, 50
"""Of LightGBM and XGBoost: more rounds than any table here needs before it stops."""

TUNED = {
    "learning_rate": 0.04,
    "n_estimators": 1_000,
    "num_leaves": 50,
    "min_child_samples": 40,
    "subsample": 0.75,
    "subsample_freq": 1,
}
"""LightGBM's settings that are good on many tables: Holzmueller et al., 2024, arXiv 2407.04491."""

TUNED_PATIENCE = 300


@dataclass(frozen=True, kw_only=True)
class Sides:
    """A dataset as other libraries take it: frames of floats and categories, class numbers.

    Categories are those of the training rows; any other is a gap.
    """

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    train_labels: NDArray[np.int64]
    val_labels: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset) -> Sides:
        """Type the columns by the training rows."""
        train = dataset.features("train")
        types = {str(name): _column_type(train[name]) for name in train.columns}
        return cls(
            **{
                side: dataset.features(side).apply(lambda column: _typed(column, types))
                for side in ("train", "val", "test")
            },
            train_labels=dataset.labels("train"),
            val_labels=dataset.labels("val"),
        )

    def both(self) -> tuple[pd.DataFrame, NDArray[np.int64]]:
        """Training and validation rows and their labels."""
        labels = np.concatenate([self.train_labels, self.val_labels])
        return pd.concat([self.train, self.val]), labels


def _column_type(column: pd.Series) -> pd.CategoricalDtype | None:
    """The categories of a column of texts; None for numbers."""
    if pd.api.types.is_numeric_dtype(column):
        return None
    return pd.CategoricalDtype(sorted(column.dropna().astype(str).unique()))


def _typed(column: pd.Series, types: Mapping[str, pd.CategoricalDtype | None]) -> pd.Series:
    kind = types[str(column.name)]
    if kind is None:
        return column.astype("float64")
    texts = column.astype(object).where(column.notna())
    known = texts.isin(set(kind.categories))
    return texts.where(known, np.nan).astype(kind)


def light_gbm(sides: Sides, seed: int) -> Any:
    """LightGBM, stopped by the validation rows' log loss."""
    settings = {"learning_rate": LEARNING_RATE, "n_estimators": ROUNDS}
    return _light_gbm(sides, seed, settings, PATIENCE)


def tuned_light_gbm(sides: Sides, seed: int) -> Any:
    """The same with settings that others have tuned on many tables."""
    return _light_gbm(sides, seed, TUNED, TUNED_PATIENCE)


def _light_gbm(sides: Sides, seed: int, settings: Mapping[str, Any], patience: int) -> Any:
    import lightgbm

    model = lightgbm.LGBMClassifier(
        **settings, n_jobs=joblib.cpu_count(), random_state=seed, verbosity=-1
    )
    stop = lightgbm.early_stopping(patience, verbose=False)
    held = {"eval_X": sides.val, "eval_y": sides.val_labels}
    return model.fit(sides.train, sides.train_labels, **held, callbacks=[stop])


def xg_boost(sides: Sides, seed: int) -> Any:
    """XGBoost with its own categories, stopped by the validation rows' log loss."""
    import xgboost  # an extra: only this model needs it

    classes = len(np.unique(sides.train_labels))
    model = xgboost.XGBClassifier(
        learning_rate=LEARNING_RATE,
        n_estimators=ROUNDS,
        early_stopping_rounds=PATIENCE,
        enable_categorical=True,
        eval_metric="logloss" if classes == 2 else "mlogloss",
        n_jobs=joblib.cpu_count(),
        random_state=seed,
    )
    held = [(sides.val, sides.val_labels)]
    return model.fit(sides.train, sides.train_labels, eval_set=held, verbose=False)


@dataclass(frozen=True)
class Texts:
    """A model of CatBoost, whose categories are texts without gaps."""

    model: Any

    def predict_proba(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        """Each class's probability.  Shape: (n, classes)."""
        shares: NDArray[np.float64] = self.model.predict_proba(self.of(rows))
        return shares

    @staticmethod
    def of(rows: pd.DataFrame) -> pd.DataFrame:
        """Categories as texts, a gap as one more."""
        kinds = rows.select_dtypes("category").columns
        return rows.assign(**{n: rows[n].astype(object).fillna("gap").astype(str) for n in kinds})


def cat_boost(sides: Sides, seed: int) -> Any:
    """CatBoost by its defaults, stopped by the validation rows' log loss."""
    import catboost  # an extra: only this model needs it

    model = catboost.CatBoostClassifier(
        cat_features=list(sides.train.select_dtypes("category").columns),
        thread_count=joblib.cpu_count(),
        random_seed=seed,
        allow_writing_files=False,
        verbose=False,
    )
    held = Texts.of(sides.val), sides.val_labels
    stop = {"eval_set": held, "early_stopping_rounds": PATIENCE}
    return Texts(model.fit(Texts.of(sides.train), sides.train_labels, **stop))


def hist_gradient_boosting(sides: Sides, seed: int) -> Any:
    """scikit-learn's boosting by its defaults, stopped by the validation rows."""
    model = HistGradientBoostingClassifier(early_stopping=True, random_state=seed)
    return model.fit(sides.train, sides.train_labels, X_val=sides.val, y_val=sides.val_labels)


def random_forest(sides: Sides, seed: int) -> Any:
    """Five hundred trees on one-hot categories."""
    forest = RandomForestClassifier(500, n_jobs=joblib.cpu_count(), random_state=seed)
    return _one_hot(forest, scale=False).fit(*sides.both())


def logistic_regression(sides: Sides, seed: int) -> Any:
    """A linear model of standardised numbers and one-hot categories."""
    return _one_hot(LogisticRegression(max_iter=2_000, random_state=seed), scale=True).fit(
        *sides.both()
    )


def _one_hot(model: Any, *, scale: bool) -> Pipeline:
    filled = SimpleImputer(strategy="median", add_indicator=True)
    numbers = make_pipeline(filled, StandardScaler()) if scale else filled
    one_hot = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (one_hot, make_column_selector(dtype_include="category")),
    )
    return make_pipeline(columns, model)


RIVALS: dict[str, Callable[[Sides, int], Any]] = {
    "LightGBM": light_gbm,
    "LightGBM tuned": tuned_light_gbm,
    "XGBoost": xg_boost,
    "HistGradientBoosting": hist_gradient_boosting,
    "RandomForest": random_forest,
    "LogisticRegression": logistic_regression,
    "CatBoost": cat_boost,
}


def rival(name: str, dataset: Dataset, *, seed: int) -> Measured:
    """Train one of the others."""
    sides = Sides.of(dataset)
    start = time.perf_counter()
    model = RIVALS[name](sides, seed)
    train_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        joblib.dump(model, Path(folder) / "model.joblib")
        size = folder_bytes(Path(folder))
    return Measured(
        probabilities=model.predict_proba(sides.test)[None].astype(np.float64),
        train_s=train_s,
        latency_ms=latency_ms(model.predict_proba, sides.test),
        size_bytes=size,
        fitted_numbers=fitted_numbers(model),
    )


def fitted_numbers(model: Any) -> int:
    """Weights of a linear model; thresholds and leaf values of trees."""
    last = model[-1] if isinstance(model, Pipeline) else model
    if isinstance(last, Texts):  # a tree asks the same question at all nodes of a level
        leaves = np.asarray(last.model.get_tree_leaf_counts())
        return int(len(last.model.get_leaf_values()) + np.log2(leaves).sum())
    if isinstance(last, LogisticRegression):
        return int(last.coef_.size + last.intercept_.size)
    if isinstance(last, RandomForestClassifier):
        trees, classes = [tree.tree_ for tree in last.estimators_], len(last.classes_)
        return sum(int(t.node_count + (classes - 1) * t.n_leaves) for t in trees)
    if isinstance(last, HistGradientBoostingClassifier):
        return sum(2 * tree.get_n_leaf_nodes() - 1 for each in last._predictors for tree in each)
    if hasattr(last, "booster_"):
        trees = last.booster_.dump_model(num_iteration=last.best_iteration_)["tree_info"]
        return sum(2 * tree["num_leaves"] - 1 for tree in trees)
    booster = last.get_booster()[: last.best_iteration + 1]
    return sum(text.count("\n") for text in booster.get_dump())

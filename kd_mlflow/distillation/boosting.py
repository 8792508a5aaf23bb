"""Boosted trees as teachers: LightGBM's, each stopped by the rows that it leaves out.

Ke et al. (2017), "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS. Its
models are text files: an ensemble holds no pickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from joblib import cpu_count, delayed
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.config.recipes import HUGE
from kd_mlflow.distillation.families import ENCODING, Kind, Trained, read_json, write_json
from kd_mlflow.distillation.identity import BOOSTING_STREAM, MOST_SEED
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.errors import TrainingError
from kd_mlflow.population.checkpoints import NOWHERE, Checkpoints, Snapshot
from kd_mlflow.population.history import (
    HELD_OUT,
    OnEpoch,
    Watch,
    ignore_epoch,
    replay,
    side_by_side,
)
from kd_mlflow.population.sampling import RowNumbers
from kd_mlflow.population.workers import Workers
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding

if TYPE_CHECKING:  # it takes a third of a second, and commands that train nothing need none of it
    from lightgbm import Booster
    from lightgbm.callback import CallbackEnv

BOOSTING = "boosting"

SETTINGS = {"deterministic": True, "force_row_wise": True, "verbosity": -1}
"""Of every boosted model."""

SAMPLED = {"feature_fraction": 0.5, "bagging_fraction": 0.8, "bagging_freq": 1}
"""Of those whose trees see half of the columns and four fifths of the rows each."""

ALONE_ROUNDS = 1_000
"""Rounds of the model that students are compared with; few tables need more before they stop."""

ALONE_RATE, DEFAULT_RATE = 0.05, 0.1
"""Its learning rate, and the one from HUGE training rows on, LightGBM's own."""

MOST_TREES, MOST_TREES_ALONE = 4_000, 15_000
"""Trees of one model, and of the one alone: each round adds one per class, and thousands of classes
would take minutes."""

WORDS, SAMPLED_WORDS = "boosted models", "boosted models, columns sampled"

PATIENCE = 20
"""Rounds without a lower log loss after which a model is complete."""

SIDES = {"train": "train_loss", "held_out": HELD_OUT, "val": "val_loss"}
"""The rows that a booster is followed on, and the curves of its log loss there."""

TREE_WORK = 20
"""Weights of an ensemble's network that take as long per row as a threshold or leaf: measured, of
trees with 15 and 31 leaves, 27 to 50.
"""

TEXT = "text"
"""What a checkpoint calls a model that LightGBM wrote."""


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Boosted trees, with the encoding whose codes they take as they are."""

    encoding: Encoding
    boosters: tuple[Booster, ...]
    sampled: bool = False
    name: str = BOOSTING
    work: ClassVar[int] = TREE_WORK

    requirements: ClassVar[tuple[str, ...]] = ("lightgbm",)

    @property
    def words(self) -> str:
        """What its members are, for people."""
        return SAMPLED_WORDS if self.sampled else WORDS

    @cached_property
    def parameters(self) -> tuple[int, ...]:
        """Thresholds and leaf values of each member: a tree has one threshold fewer than leaves."""
        return tuple(
            sum(2 * tree["num_leaves"] - 1 for tree in booster.dump_model()["tree_info"])
            for booster in self.boosters
        )

    @property
    def gains(self) -> NDArray[np.float64]:
        """How much the splits on each column lowered the loss in training.  Shape: (columns,)."""
        each = [booster.feature_importance("gain") for booster in self.boosters]
        return np.asarray(np.sum(each, axis=0, dtype=np.float64))

    def members(self, members: slice) -> Trees:
        """Some members as a family of their own."""
        return replace(self, boosters=self.boosters[members])

    def logits(self, features: pd.DataFrame) -> Tensor:
        """Score raw rows with each member.  Shape: n rows -> (k, n, classes)."""
        matrix = self.encoding.encode(features)
        raw = [np.asarray(booster.predict(matrix, raw_score=True)) for booster in self.boosters]
        if len(self.encoding.classes) == 2:  # one number per row: the second class's log odds
            raw = [np.stack([np.zeros_like(odds), odds], axis=1) for odds in raw]
        return torch.from_numpy(np.stack(raw).astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write ``trees-01.txt`` ... in LightGBM's own format, two documents beside them."""
        write_json(folder / "trees.json", {"sampled": self.sampled})
        for i, booster in enumerate(self.boosters, 1):
            booster.save_model(folder / f"trees-{i:02d}.txt")
        write_json(folder / ENCODING, self.encoding.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Trees:
        """Rebuild what ``save`` wrote, bit for bit."""
        texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("trees-*.txt"))]
        return cls(
            encoding=Encoding.from_dict(read_json(folder / ENCODING)),
            boosters=tuple(map(_booster, texts)),
            sampled=read_json(folder / "trees.json")["sampled"],
        )


@dataclass(frozen=True, kw_only=True)
class BoostingTraining:
    """The training of boosted trees, a model per set of rows that one leaves out.

    A model grows until its log loss on those rows has not fallen for ``patience`` rounds, or for
    ``epochs``. Models are trained side by side, with one thread each unless ``threads`` says more.
    Curves have a value per round. ``penalty`` is LightGBM's on leaf values, L2.
    Shape: train (n, columns), val (m, columns), both encoded; labels (n,) and val_labels (m,).
    """

    encoding: Encoding
    train: NDArray[np.float32]
    val: NDArray[np.float32]
    labels: NDArray[np.int64]
    val_labels: NDArray[np.int64]
    held_out: tuple[RowNumbers, ...]
    seeds: Sequence[int]
    epochs: int
    patience: int
    leaves: int
    rate: float
    penalty: float = 1.0
    threads: int = 1
    sampled: bool = False
    name: str = field(default=BOOSTING, init=False)
    own_options: Mapping[str, str] = field(default_factory=dict, init=False)

    @property
    def label(self) -> str:
        """What is trained, for those who watch."""
        return SAMPLED_WORDS if self.sampled else WORDS

    def fit(
        self, workers: Workers, on_epoch: OnEpoch, checkpoints: Checkpoints = NOWHERE
    ) -> Trained:
        """Train all models side by side, one core each; those that checkpoints hold are complete.

        Raises TrainingError for what LightGBM makes of a table.
        """
        own = checkpoints.owned_by(seeds=self.seeds, rounds=self.epochs, sampled=self.sampled)
        grown = own.found(len(self.seeds))
        with workers.pool(self) as pool, Watch(ignore_epoch if pool.remote else on_epoch) as watch:
            calls = (
                delayed(_grow)(self, place, watch, NOWHERE if pool.remote else own, found)
                for place, found in enumerate(grown)
            )
            for place, model in pool(calls):
                grown[place] = model
                if pool.remote:
                    own.write(slice(place, place + 1), model)
                    replay(slice(place, place + 1), model.curves, on_epoch)
        models = [model for model in grown if model]
        boosters = tuple(_booster(model.documents[0][TEXT]) for model in models)
        return Trained(
            family=Trees(encoding=self.encoding, boosters=boosters, sampled=self.sampled),
            history=side_by_side([model.curves for model in models]),
            held_out=self.held_out,
        )

    def parameters(self, seed: int) -> dict[str, Any]:
        """LightGBM's parameters for one model."""
        classes = len(self.encoding.classes)
        many = {"objective": "multiclass", "num_class": classes}
        of, task = ("binary", {"objective": "binary"}) if classes == 2 else ("multi", many)
        own = {
            "metric": [f"{of}_logloss", f"{of}_error"],
            "learning_rate": self.rate,
            "num_leaves": self.leaves,
            "lambda_l2": self.penalty,
            "num_threads": self.threads,
            "seed": seed % MOST_SEED,
        }
        return {**SETTINGS, **task, **own, **(SAMPLED if self.sampled else {})}


def boosting_trainings(given: TeacherInputs) -> list[BoostingTraining]:
    """Each model is trained on the rows that it does not hold out.

    Trees of every second one see some of the columns and rows; each half is a family, as with
    networks.
    """
    config, encoding, dataset = given.config, given.encoding, given.dataset
    seeds = given.seeds(BOOSTING_STREAM, config.n_boosted)
    half = len(seeds) // 2
    train, val = (encoding.encode(dataset.features(side)) for side in ("train", "val"))
    return [
        BoostingTraining(
            encoding=encoding,
            train=train,
            val=val,
            labels=dataset.labels("train"),
            val_labels=dataset.labels("val"),
            held_out=given.folds(len(own)),
            seeds=own,
            epochs=min(config.boosting_rounds, max(1, MOST_TREES // len(encoding.classes))),
            patience=PATIENCE,
            leaves=config.boosting_leaves,
            rate=config.boosting_rate,
            sampled=sampled,
        )
        for sampled, own in ((False, seeds[half:]), (True, seeds[:half]))
        if own
    ]


def boosting_alone(dataset: Dataset, encoding: Encoding, seed: int) -> BoostingTraining:
    """What one would take instead of all this: one LightGBM, stopped by the validation rows.

    Its settings are LightGBM's own defaults, but that where rows are few the learning rate is half,
    and one thread grows it: several, which wait for each other at every leaf, are slower then.
    """
    encoded = encoding.encode(dataset.features("train")), encoding.encode(dataset.features("val"))
    labels = dataset.labels("train"), dataset.labels("val")
    rows = np.arange(len(labels[0]) + len(labels[1]), dtype=np.int32)
    return BoostingTraining(
        encoding=encoding,
        train=np.concatenate(encoded),
        val=encoded[1],
        labels=np.concatenate(labels),
        val_labels=labels[1],
        held_out=(rows[len(labels[0]) :],),
        seeds=(seed,),
        epochs=min(ALONE_ROUNDS, max(1, MOST_TREES_ALONE // len(encoding.classes))),
        patience=50,
        leaves=31,
        rate=ALONE_RATE if len(labels[0]) < HUGE else DEFAULT_RATE,
        penalty=0.0,
        threads=1 if len(labels[0]) < HUGE else cpu_count(),
    )


def _grow(
    training: BoostingTraining,
    place: int,
    watch: Watch,
    checkpoints: Checkpoints,
    found: Snapshot | None,
) -> tuple[int, Snapshot]:
    """Train one model, unless it was found; its text, cut at its best round, and its curves."""
    own = slice(place, place + 1)
    if found:
        replay(own, found.curves, watch.on_epoch)
        return place, found
    follow = _Follow(own, watch, patience=training.patience)
    text = _text(training, place, follow)
    curves = {name: np.array(values)[:, None] for name, values in follow.curves.items()}
    model = Snapshot.of(curves, {}, ({TEXT: text},))
    checkpoints.write(own, model)
    return place, model


def _text(training: BoostingTraining, place: int, follow: _Follow) -> str:
    """Train one model; what LightGBM writes of it."""
    import lightgbm

    held_out = training.held_out[place]
    kept = np.setdiff1d(np.arange(len(training.labels)), held_out)
    columns = enumerate(training.encoding.columns)
    options = training.parameters(training.seeds[place])
    try:
        train = lightgbm.Dataset(
            training.train[kept],
            training.labels[kept],
            categorical_feature=[i for i, column in columns if column.kind == "category"],
            params=options,
        )
        booster = lightgbm.train(
            options,
            train,
            training.epochs,
            valid_sets=[
                train,
                train.create_valid(training.train[held_out], training.labels[held_out]),
                train.create_valid(training.val, training.val_labels),
            ],
            valid_names=list(SIDES),
            callbacks=[follow],
        )
    except lightgbm.basic.LightGBMError as error:
        raise TrainingError(
            f"boosted teachers cannot be trained on this table: {error}; "
            "leave them out: teacher_families=mlp"
        ) from None
    return str(booster.model_to_string(num_iteration=follow.best))


class _Follow:
    """Passes each round on, and ends a model that no longer gets better on its held-out rows."""

    order = 30  # LightGBM calls smaller ones first; its own early stopping has this
    before_iteration = False

    def __init__(self, members: slice, watch: Watch, *, patience: int) -> None:
        self._members, self._watch, self._patience = members, watch, patience
        self.best, self._least = 0, np.inf
        self.curves: dict[str, list[float]] = {}

    def __call__(self, env: CallbackEnv) -> None:
        from lightgbm.callback import EarlyStopException

        if self._watch.over:
            raise TrainingError("training was stopped")
        results = env.evaluation_result_list or []
        found = {(side, name): value for side, name, value, *_ in results}
        values = {SIDES[side]: v for (side, name), v in found.items() if "logloss" in name}
        error = next(v for (side, name), v in found.items() if side == "val" and "error" in name)
        values["val_accuracy"] = 1 - error
        for name, value in values.items():
            self.curves.setdefault(name, []).append(value)
        self._watch.on_epoch(
            self._members, env.iteration + 1, {n: np.array([v]) for n, v in values.items()}
        )
        if values[HELD_OUT] < self._least:
            self.best, self._least = env.iteration + 1, values[HELD_OUT]
        elif env.iteration + 1 - self.best >= self._patience:
            raise EarlyStopException(env.iteration, results)


def _booster(text: str) -> Booster:
    from lightgbm import Booster

    return Booster(model_str=text)


FAMILY = Kind(name=BOOSTING, runs="boosting", trainings=boosting_trainings, load=Trees.load)

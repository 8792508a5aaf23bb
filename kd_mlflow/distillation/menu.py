"""Which student: the smallest of a menu that says nearly what its teacher says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TypeVar

import numpy as np

from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation.logits import teacher_student_kl
from kd_mlflow.distillation.students import StudentSetting, TransferSet, student_task
from kd_mlflow.population.history import History
from kd_mlflow.population.training import Task
from kd_mlflow.table.encoding import Scaler

TRIED_ROWS, LEAST_EPOCHS = 500_000, 10
"""Rows that a trial sees at most, over all its epochs, and the fewest epochs it has."""

LEAST_COMPRESSION = 10
"""How much smaller than its ensemble a student must be, where one of the menu can be."""

C = TypeVar("C", bound=StudentRecipe)

Fit = Callable[[Task, str], History]
"""Trains a population and returns its curves; the text says which one it is."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A student of the menu: its best temperature, and how far it is from its teacher there.

    ``divergence`` is KL(teacher || student) on the validation rows, in nats.
    """

    bins: int
    hidden: tuple[int, ...]
    temperature: float
    parameters: int
    divergence: float


def choose_student(
    recipe: StudentRecipe,
    lessons: TransferSet,
    *,
    seed: int,
    fit: Fit,
) -> tuple[Trial, ...]:
    """Try the sizes of a resolved recipe's menu, small to large; the last one is to be kept.

    That is the smallest whose divergence is within ``menu_tolerance`` of the least. No size can be
    better than one that is within it of 0, so nothing larger is tried; nor is a size above a tenth
    of the ensemble's, if any is below. Empty where the recipe leaves nothing to choose.
    """
    settings = [
        StudentSetting(seed=seed, temperature=t, alpha=recipe.alpha)
        for t in recipe.menu("temperature", lessons.labelled_rows)
    ]
    sizes = _sizes(recipe, lessons)
    if len(sizes) * len(settings) == 1:
        return ()
    trials: list[Trial] = []
    for size in sizes:
        trial = _try(recipe, lessons, settings, size, fit)
        trials.append(trial)
        if trial.divergence <= recipe.menu_tolerance:
            break
    least = min(trial.divergence for trial in trials)
    kept = next(t for t in trials if t.divergence <= least + recipe.menu_tolerance)
    return (*(trial for trial in trials if trial != kept), kept)


def chosen(recipe: C, lessons: TransferSet, *, seed: int, fit: Fit) -> tuple[C, tuple[Trial, ...]]:
    """A resolved recipe that names its student, and the trials by which it was chosen, if any."""
    trials = choose_student(recipe, lessons, seed=seed, fit=fit)
    n = lessons.labelled_rows
    bins, hidden, temperature = (
        (trials[-1].bins, trials[-1].hidden, trials[-1].temperature)
        if trials
        else (recipe.menu(name, n)[0] for name in ("student_bins", "student_hidden", "temperature"))
    )
    named = replace(recipe, student_bins=bins, student_hidden=hidden, temperature=temperature)
    return named, trials


def fit_here(task: Task, label: str) -> History:
    """Train with all cores of this machine; nobody listens, nothing is kept on the way."""
    return task.fit()


def _sizes(recipe: StudentRecipe, lessons: TransferSet) -> list[tuple[int, tuple[int, ...]]]:
    """Bins and hidden layers to choose from, small to large."""
    n, most = lessons.labelled_rows, math.inf
    if lessons.ensemble_parameters is not None:
        most = lessons.ensemble_parameters / LEAST_COMPRESSION
    sizes = {
        size: student_parameters(lessons, *size)
        for size in product(recipe.menu("student_bins", n), recipe.menu("student_hidden", n))
    }
    small = [size for size, own in sizes.items() if own <= most]
    return sorted(small or sizes, key=sizes.__getitem__)


def shortened(task: Task) -> Task:
    """The same training, of as many rows at most as tell sizes apart."""
    epoch_rows = min(task.sampling.epoch_rows, TRIED_ROWS // LEAST_EPOCHS)
    epochs = min(task.schedule.epochs, max(LEAST_EPOCHS, TRIED_ROWS // epoch_rows))
    return replace(
        task,
        schedule=replace(task.schedule, epochs=epochs),
        sampling=replace(task.sampling, epoch_rows=epoch_rows),
    )


def student_parameters(lessons: TransferSet, bins: int, hidden: tuple[int, ...]) -> int:
    """Weights and biases of a student."""
    widths = (Scaler(lessons.binned(bins)).width, *hidden, lessons.logits.shape[1])
    return sum((d_in + 1) * d_out for d_in, d_out in pairwise(widths))


def _try(
    recipe: StudentRecipe,
    lessons: TransferSet,
    settings: Sequence[StudentSetting],
    size: tuple[int, tuple[int, ...]],
    fit: Fit,
) -> Trial:
    """Train a student of each setting as one population; give the one nearest its teacher."""
    bins, hidden = size
    task = shortened(student_task(recipe, lessons, settings, lessons.binned(bins), hidden))
    inputs = f"{bins} bins" if bins else "plain inputs"
    fit(task, f"menu: {inputs}, {'-'.join(map(str, hidden))}")
    scored = task.population.logits(task.rows.val)
    found = [teacher_student_kl(lessons.val_logits, logits) for logits in scored]
    best = int(np.argmin(found))
    return Trial(
        bins=bins,
        hidden=hidden,
        temperature=settings[best].temperature,
        parameters=task.population.parameters_per_member,
        divergence=found[best],
    )

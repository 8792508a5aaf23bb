"""Which student: the smallest of a menu that says nearly what its teacher says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, TypeVar

import numpy as np

from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation.logits import teacher_student_kl, validation_metrics
from kd_mlflow.distillation.students import (
    StudentSetting,
    TransferSet,
    schedule_for,
    student_groups,
    student_task,
)
from kd_mlflow.population.history import History
from kd_mlflow.population.optimizers import ADAM, MUON
from kd_mlflow.population.training import Task
from kd_mlflow.table.encoding import Encoding, Scaler

TRIED_ROWS, LEAST_EPOCHS = 500_000, 10
"""Rows that a trial sees at most, over all its epochs, and the fewest epochs it has."""

LEAST_COMPRESSION = 10
"""How many times fewer numbers than its ensemble a student must have, or less work be, where one of
the menu can.
"""

ROW_WORK, NUMBER_WORK = 9_000, 1.5
"""What each of many rows costs a student, in weights of an ensemble's network: calls, and its
numbers, whose products are small. Measured on seven tables: the largest students that are a tenth
of their ensemble's work by this score many rows 18 times faster than it, or more.
"""

OPTIMIZERS = {
    "baseline": "baseline_optimizer",
    "strong_baseline": "strong_baseline_optimizer",
}
"""The options that name the optimizer of each kind of baseline."""

IN_PLAY = 2.0
"""Inputs whose divergence is at most so many times the least are tried with wider layers."""

C = TypeVar("C", bound=StudentRecipe)

Size = tuple[int, tuple[int, ...]]
"""Bins and hidden layers of a student."""

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

    @property
    def size(self) -> Size:
        """Its bins and hidden layers."""
        return self.bins, self.hidden


def choose_student(
    recipe: StudentRecipe,
    lessons: TransferSet,
    *,
    seed: int,
    fit: Fit,
) -> tuple[Trial, ...]:
    """Try sizes of a resolved recipe's menu; the last one is to be kept.

    Ever finer bins are tried with the smallest layers, until some are no nearer than those before;
    those within ``IN_PLAY`` of the nearest, with the widest; the best of all, with layers between.
    Nothing follows a student whose divergence is within ``menu_tolerance`` of 0. No size is tried
    that has more than a tenth of the ensemble's numbers and is more than a tenth of its work, if
    any is less. Temperatures are tried with the smallest. Kept is the smallest within
    ``menu_tolerance`` of the least divergence. Empty where the recipe leaves nothing to choose.
    """
    n, tolerance, alpha = lessons.labelled_rows, recipe.menu_tolerance, recipe.alpha
    temperatures, layers = recipe.menu("temperature", n), recipe.menu("student_hidden", n)
    encodings = _different_inputs(recipe, lessons)
    if len(encodings) * len(layers) * len(temperatures) == 1:
        return ()
    sizes, trials = _small_enough(lessons, encodings, layers), list[Trial]()

    def try_all(wanted: Iterable[Size]) -> list[Trial]:
        """Try sizes one after the other; give all trials so far, the nearest first."""
        for size in wanted:
            if any(trial.divergence <= tolerance for trial in trials):
                break
            if size in sizes and size not in [trial.size for trial in trials]:
                tried = [trials[0].temperature] if trials else temperatures
                settings = [StudentSetting(seed=seed, temperature=t, alpha=alpha) for t in tried]
                trials.append(_try(recipe, lessons, settings, size, fit))
        return sorted(trials, key=lambda trial: trial.divergence)

    for bins in encodings:
        nearest = try_all([(bins, layers[0])])
        if trials[-1] is not nearest[0]:
            break
    in_play = [t.bins for t in nearest if t.divergence <= IN_PLAY * nearest[0].divergence]
    widest = dict(sizes)  # of the same bins the last one stays
    nearest = try_all((bins, widest[bins]) for bins in in_play)
    nearest = try_all((nearest[0].bins, hidden) for hidden in layers)
    near = [trial for trial in nearest if trial.divergence <= nearest[0].divergence + tolerance]
    kept = min(near, key=lambda trial: trial.parameters)
    return (*(trial for trial in trials if trial is not kept), kept)


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
    optimizer = recipe.optimizer_for(n)
    return replace(named, augment=lessons.augment, student_optimizer=optimizer), trials


def baselines_named(recipe: C, lessons: TransferSet, *, seed: int, fit: Fit) -> C:
    """A recipe that names its student and the optimizer of each kind of baseline.

    Muon gets further than Adam where labels hold little noise, and learns more of it where they
    hold much: kept is, by kind, the one whose baseline has the lower log loss on validation rows.
    All are trained side by side, of the recipe's smallest layers, and in full: of short trainings
    the one wins that learns noise sooner.
    """
    groups, n = student_groups(recipe, [seed]), lessons.labelled_rows
    asked = {kind: name for kind, name in OPTIMIZERS.items() if getattr(recipe, name) == "auto"}

    def named(optimizers: Iterable[str]) -> C:
        options: dict[str, Any] = dict(zip(asked.values(), optimizers, strict=True))
        return replace(recipe, **options)

    adam, muon = (named([optimizer] * len(asked)) for optimizer in (ADAM, MUON))
    tried = [kind for kind in asked if kind in groups]
    if not tried or recipe.student_optimizer == ADAM:
        return adam
    both = [(each, groups[kind][0]) for kind in tried for each in (adam, muon)]
    menu = StudentRecipe(recipe=recipe.recipe).menu("student_hidden", n)
    hidden = min(recipe.student_hidden, *menu, key=sum)
    encoding, members = lessons.binned(recipe.student_bins), [member for _, member in both]
    task = student_task(adam, lessons, members, encoding, hidden)
    task = replace(task, schedule=tuple(schedule_for(each, n, member) for each, member in both))
    fit(task, "baselines: adam and muon")
    found = validation_metrics(task.population.logits(task.rows.val), lessons.val_labels)
    losses = dict(zip(tried, found["val_loss"].view(-1, 2), strict=True))
    return named((ADAM, MUON)[int(losses[k].argmin())] if k in losses else ADAM for k in asked)


def fit_here(task: Task, label: str) -> History:
    """Train with all cores of this machine; nobody listens, nothing is kept on the way."""
    return task.fit()


def _different_inputs(recipe: StudentRecipe, lessons: TransferSet) -> dict[int, Encoding]:
    """Inputs by the menu's bins, but for those that are as of fewer: with no numbers all are."""
    different: dict[int, Encoding] = {}
    for bins in recipe.menu("student_bins", lessons.labelled_rows):
        if (encoding := lessons.binned(bins)) not in different.values():
            different[bins] = encoding
    return different


def _small_enough(
    lessons: TransferSet, encodings: Mapping[int, Encoding], layers: Sequence[tuple[int, ...]]
) -> list[Size]:
    """Sizes ten times cheaper than the ensemble, or all where none is; the widest layers last."""
    numbers = {
        (bins, hidden): student_parameters(encodings[bins], hidden)
        for hidden, bins in product(layers, encodings)
    }
    return [size for size, n in numbers.items() if _is_cheap(n, lessons)] or list(numbers)


def _is_cheap(numbers: int, lessons: TransferSet) -> bool:
    """Whether a student has a tenth of the ensemble's numbers, or is a tenth of its work."""
    work = ROW_WORK + NUMBER_WORK * numbers
    pairs = ((numbers, lessons.ensemble_parameters), (work, lessons.ensemble_work))
    return any(whole is None or LEAST_COMPRESSION * own <= whole for own, whole in pairs)


def shortened(task: Task) -> Task:
    """The same training, of as many rows at most as tell sizes apart."""
    epoch_rows = min(task.sampling.epoch_rows, TRIED_ROWS // LEAST_EPOCHS)
    epochs = min(task.epochs, max(LEAST_EPOCHS, TRIED_ROWS // epoch_rows))
    return replace(
        task,
        schedule=tuple(replace(own, epochs=epochs) for own in task.schedules),
        sampling=replace(task.sampling, epoch_rows=epoch_rows),
    )


def student_parameters(encoding: Encoding, hidden: tuple[int, ...]) -> int:
    """Weights and biases of a student."""
    widths = (Scaler(encoding).width, *hidden, len(encoding.classes))
    return sum((d_in + 1) * d_out for d_in, d_out in pairwise(widths))


def _try(
    recipe: StudentRecipe,
    lessons: TransferSet,
    settings: Sequence[StudentSetting],
    size: Size,
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

"""Registered versions: register, gate, promote, roll back. Aliases, never stages."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from kd_mlflow.dataset import TestRows
from kd_mlflow.errors import RegistryError
from kd_mlflow.summary import decision_table

_log = logging.getLogger(__name__)

CANDIDATE, PRODUCTION, PREVIOUS = "candidate", "production", "previous"
REPRODUCTION_TOLERANCE = 1e-6
"""Accuracies are shares of whole rows: one row more or less is far above this."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the gate, its answer, and the figures that were compared.

    ``passed`` is None where the question has no answer; that stops nothing.
    """

    name: str
    passed: bool | None
    reason: str
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, repr=False)
class Decision:
    """What the gate said of a version and what was moved."""

    model_name: str
    version: str
    promoted: bool
    reason: str
    checks: tuple[Check, ...]
    replaced: str | None

    def __repr__(self) -> str:
        return decision_table(self)


class Rollback(NamedTuple):
    """The version that is in production again, and the one that it replaced."""

    restored: str
    replaced: str


def register(
    client: MlflowClient, *, model_name: str, model_id: str, run_id: str, digest: str, card: str
) -> str:
    """Make a logged model the next version and the candidate; return the version."""
    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        model_name,
        source=f"models:/{model_id}",
        run_id=run_id,
        model_id=model_id,
        description=card,
        tags={"kd.promotion": "pending", "kd.run_id": run_id, "kd.data_digest": digest},
    )
    versions = json.dumps([{"name": model_name, "version": str(created.version)}])
    client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: versions})  # for the UI's links
    client.set_registered_model_alias(model_name, CANDIDATE, created.version)
    return str(created.version)


def find_version(client: MlflowClient, model_name: str, version: str) -> ModelVersion:
    """Find the version that ``promote`` is asked for: a number, or candidate.

    Raises RegistryError for an unknown model or version, and where nothing waits.
    """
    _require_model(client, model_name)
    found = aliased(client, model_name, CANDIDATE) if version == CANDIDATE else None
    if version == CANDIDATE and found is None:
        raise RegistryError(
            f"nothing to promote: {model_name!r} has no candidate; distil one first"
        )
    if found is None:
        try:
            found = client.get_model_version(model_name, version)
        except MlflowException:
            known = client.search_model_versions(f"name='{model_name}'")
            listed = ", ".join(map(str, sorted(int(v.version) for v in known))) or "none"
            raise RegistryError(
                f"{model_name!r} has no version {version!r}; it has: {listed}"
            ) from None
    if version_in_production(client, model_name) == str(found.version):
        raise RegistryError(
            f"nothing to promote: version {found.version} of {model_name!r} "
            "is in production already"
        )
    return found


def aliased(client: MlflowClient, model_name: str, alias: str) -> ModelVersion | None:
    """The version under an alias, if the alias is set."""
    try:
        return client.get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def version_in_production(client: MlflowClient, model_name: str) -> str | None:
    """The number under ``production``, if it is set."""
    found = aliased(client, model_name, PRODUCTION)
    return str(found.version) if found else None


def gate(
    version: ModelVersion,
    run: Run,
    rows: TestRows | str,
    *,
    metric: str,
    max_accuracy_gap: float,
    min_compression: float,
) -> tuple[Check, ...]:
    """Ask every check; ``rows`` is a sentence where the test rows are not to be had."""
    figures = run.data.metrics
    return (
        _accuracy_check(figures, metric, max_accuracy_gap),
        _compression_check(figures, min_compression),
        _reproduction_check(version, figures, rows),
    )


def _accuracy_check(figures: Mapping[str, float], metric: str, max_accuracy_gap: float) -> Check:
    ours, theirs = f"registered_test_{metric}", f"ensemble_test_{metric}"
    if ours not in figures:
        raise RegistryError(f"gate_metric {metric} needs two classes; this run has no {ours}")
    ensemble, student = figures[theirs], figures[ours]
    gap = ensemble - student
    return Check(
        name="accuracy",
        passed=gap <= max_accuracy_gap + REPRODUCTION_TOLERANCE,
        reason=f"{metric.replace('_', ' ')} {student:.4f} against the ensemble's {ensemble:.4f}: "
        f"gap {gap:+.4f}, at most {max_accuracy_gap:g} allowed",
        figures={
            theirs: ensemble,
            ours: student,
            "accuracy_gap": gap,
            "max_accuracy_gap": max_accuracy_gap,
        },
    )


def _compression_check(figures: Mapping[str, float], min_compression: float) -> Check:
    ratio = figures.get("compression_ratio")
    if ratio is None:
        return Check(
            name="compression",
            passed=None,
            reason="compression not checked: the teachers' parameters cannot be counted",
            figures={},
        )
    return Check(
        name="compression",
        passed=ratio >= min_compression,
        reason=f"compression {ratio:.1f}x, at least {min_compression:g}x required",
        figures={"compression_ratio": ratio, "min_compression": min_compression},
    )


def _reproduction_check(
    version: ModelVersion, figures: Mapping[str, float], rows: TestRows | str
) -> Check:
    """Load the version from the registry as anyone would and score the test rows with it."""
    name, logged = "reproduction", figures["registered_test_accuracy"]
    if isinstance(rows, str):
        return Check(name=name, passed=False, reason=rows, figures={})
    try:
        reproduced = _accuracy(version.name, version.version, rows)
    except Exception as error:  # a version that cannot be loaded must be rejected, whatever it says
        first = (str(error).splitlines() or [type(error).__name__])[0]
        reason = f"version {version.version} does not load and score: {first[:200]}"
        return Check(name=name, passed=False, reason=reason, figures={})
    return Check(
        name=name,
        passed=abs(reproduced - logged) <= REPRODUCTION_TOLERANCE,
        reason=f"loaded from the registry it scores {reproduced:.4f}, logged {logged:.4f}",
        figures={"reproduced_test_accuracy": reproduced},
    )


def accuracy_in_production(
    client: MlflowClient, model_name: str, rows: TestRows | str
) -> float | None:
    """What the version in production scores on a candidate's test rows.

    None without one, without rows, and where it cannot score them: it may know other columns.
    """
    version = version_in_production(client, model_name)
    if version is None or isinstance(rows, str):
        return None
    try:
        return _accuracy(model_name, version, rows)
    except Exception as error:  # an older model may fail in any way; the newer one is what is gated
        _log.warning("version %s in production cannot score these rows: %s", version, error)
        return None


def _accuracy(model_name: str, version: str, rows: TestRows) -> float:
    """Load a version as anyone would and score rows with it."""
    model = mlflow.pyfunc.load_model(f"models:/{model_name}/{version}")
    columns = model.metadata.get_input_schema().input_names()
    predictions = model.predict(rows.features[columns])["prediction"].to_numpy()
    return float((predictions == rows.labels).mean())


def describe(client: MlflowClient, version: ModelVersion, text: str) -> None:
    """Add a paragraph to a version's model card."""
    card = f"{(version.description or '').rstrip()}\n\n{text}\n"
    client.update_model_version(version.name, version.version, description=card)


def decide(
    client: MlflowClient, version: ModelVersion, checks: tuple[Check, ...], *, seen: str | None
) -> Decision:
    """Record the gate's answer on the version and, where every check passed, move production.

    ``seen`` is the version that was in production before the gate was asked. Raises RegistryError
    where production moved since.
    """
    name, number = version.name, str(version.version)
    promoted = all(check.passed is not False for check in checks)
    reason = "; ".join(check.reason for check in checks if promoted or check.passed is False)
    if promoted:
        _move(client, name, {PREVIOUS: seen, PRODUCTION: number}, seen=seen)
    client.set_model_version_tag(
        name, number, "kd.promotion", "promoted" if promoted else "rejected"
    )
    client.set_model_version_tag(name, number, "kd.promotion_reason", reason)
    return Decision(
        model_name=name,
        version=number,
        promoted=promoted,
        reason=reason,
        checks=checks,
        replaced=seen if promoted else None,
    )


def rollback(client: MlflowClient, model_name: str) -> Rollback:
    """Exchange ``production`` and ``previous``; return the version restored and the one replaced.

    Raises RegistryError where nothing was promoted before.
    """
    _require_model(client, model_name)
    production = aliased(client, model_name, PRODUCTION)
    previous = aliased(client, model_name, PREVIOUS)
    if production is None or previous is None:
        what = "nothing is in production" if production is None else "production had no predecessor"
        raise RegistryError(f"nothing to roll back to: {what} under {model_name!r}")
    restored, replaced = str(previous.version), str(production.version)
    _move(client, model_name, {PREVIOUS: replaced, PRODUCTION: restored}, seen=replaced)
    client.set_model_version_tag(
        model_name, replaced, "kd.promotion_reason", f"rolled back to version {restored}"
    )
    client.set_model_version_tag(
        model_name, restored, "kd.promotion_reason", f"restored by rollback of version {replaced}"
    )
    return Rollback(restored, replaced)


def load_production(client: MlflowClient, model_name: str) -> Any:
    """Load the version in production as a pyfunc model.

    Raises RegistryError where there is none.
    """
    _require_model(client, model_name)
    version = version_in_production(client, model_name)
    if version is None:
        raise RegistryError(
            f"nothing is in production under {model_name!r}; promote a version first"
        )
    return mlflow.pyfunc.load_model(f"models:/{model_name}/{version}")


def _move(
    client: MlflowClient, model_name: str, aliases: Mapping[str, str | None], *, seen: str | None
) -> None:
    """Set aliases, unless production is no longer what was seen; then read production back.

    MLflow sets an alias without comparing: reading again just before and after narrows the window.
    """
    if version_in_production(client, model_name) != seen:
        raise RegistryError(f"production of {model_name!r} moved meanwhile; nothing was changed")
    for alias, version in aliases.items():
        if version:
            client.set_registered_model_alias(model_name, alias, version)
    if version_in_production(client, model_name) != aliases[PRODUCTION]:
        raise RegistryError(f"production of {model_name!r} was moved by someone else; look at it")


def _require_model(client: MlflowClient, model_name: str) -> None:
    try:
        client.get_registered_model(model_name)
    except MlflowException:
        known = [model.name for model in client.search_registered_models()]
        listed = ", ".join(known) or "none; distil a student first"
        raise RegistryError(
            f"no registered model {model_name!r}; the registry has: {listed}"
        ) from None

"""Promotion from one registered model to another: copied, gated there, moved there."""

import pytest
from mlflow.exceptions import MlflowException
from test_promotion import FREE, NAME, aliases

import kd_mlflow as kd
from kd_mlflow.errors import RegistryError

TO = "prod.churn"

pytestmark = pytest.mark.slow


def test_what_is_in_production_is_promoted_in_another_model(own_main):
    """The copy's alias moves there with its own history; where it came from nothing changes."""
    before = aliases(own_main.client), kd.history().periods
    decision = kd.promote(to=TO, **FREE)
    assert (decision.model_name, decision.promoted, decision.replaced) == (TO, True, None)
    copy = own_main.client.get_model_version(TO, decision.version)
    assert copy.source == f"models:/{NAME}/{before[0]['production']}"
    assert aliases(own_main.client, TO) == {"production": decision.version}
    (period,) = kd.history(model_name=TO).periods
    assert (period.version, period.kind) == (decision.version, "promote")
    assert (aliases(own_main.client), kd.history().periods) == before
    rows = kd.split(data=own_main.config.data).test.head(3)
    ours, theirs = kd.load_production(NAME), kd.load_production(TO)
    assert ours.predict(rows).equals(theirs.predict(rows))
    with pytest.raises(RegistryError, match=r"a copy of version 1 of 'kd-student', is in product"):
        kd.promote(to=TO, **FREE)


def test_a_copy_that_is_refused_is_asked_again_and_not_made_again(own_main):
    """A rejected copy says so on itself; the next command asks the gate about the same one."""
    refused = kd.promote(to=TO, **FREE | {"min_compression": 1e6})
    assert not refused.promoted
    assert aliases(own_main.client, TO) == {}
    tags = own_main.client.get_model_version(TO, refused.version).tags
    assert tags["kd.promotion"] == "rejected"
    assert kd.promote(to=TO, version="1", **FREE).version == refused.version
    assert len(own_main.client.search_model_versions(f"name='{TO}'")) == 1


def test_a_dry_run_copies_nothing(own_main):
    """The gate answers as it would, and the other model is not made."""
    assert kd.promote(to=TO, dry_run=True, **FREE).passed
    with pytest.raises(MlflowException, match="not found"):
        own_main.client.get_registered_model(TO)

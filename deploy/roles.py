"""Accounts and roles of a tracking server with basic-auth, by MLflow's own API.

    export MLFLOW_TRACKING_URI=https://mlflow.example.com MLFLOW_TRACKING_USERNAME=admin
    export MLFLOW_TRACKING_PASSWORD=...
    python deploy/roles.py setup               # makes the roles and the experiment, once
    python deploy/roles.py give ann trainer    # makes the account where there is none
    python deploy/roles.py remove ann

A reader pulls models and browses; a trainer logs runs and registers candidates; a releaser also
moves ``production``. A password is asked for, or read from standard input: it is no argument, which
others on the machine could see.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click
import mlflow
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

WORKSPACE = "default"
"""Where grants are kept on a server without workspaces."""

GRANTS = {
    "reader": {"experiment": "READ", "registered_model": "READ"},
    "trainer": {"experiment": "EDIT", "registered_model": "EDIT"},
    "releaser": {"experiment": "EDIT", "registered_model": "MANAGE"},
}
"""What each role may do with every experiment and model; access_guard.py narrows it further."""


@click.group(help=__doc__.split("\n\n")[0])
def cli() -> None:
    """Take one of the commands."""


@cli.command()
@click.option("--experiment", default="kd-mlflow", show_default=True, help="Made, and the admin's.")
def setup(experiment: str) -> None:
    """Make the three roles, and an experiment that no trainer owns."""
    client = _client()
    known = {role.name: role for role in client.list_roles(WORKSPACE)}
    for name, grants in GRANTS.items():
        role = known.get(f"kd-{name}") or client.create_role(WORKSPACE, f"kd-{name}")
        held = {grant.resource_type for grant in client.list_role_permissions(role.id)}
        for resource in grants.keys() - held:
            client.add_role_permission(role.id, resource, "*", grants[resource])
    if mlflow.get_experiment_by_name(experiment) is None:
        mlflow.create_experiment(experiment)
    click.echo(f"roles: {', '.join(GRANTS)}; experiment: {experiment}")


@cli.command()
@click.argument("user")
@click.argument("role", type=click.Choice(list(GRANTS)))
def give(user: str, role: str) -> None:
    """Give an account a role, in place of the one it had; make the account where there is none."""
    client = _client()
    ours = {known.name: known.id for known in client.list_roles(WORKSPACE)}
    if f"kd-{role}" not in ours:
        raise click.ClickException(f"there is no role {role} yet; run setup first")
    try:
        held = {known.name for known in client.list_user_roles(user)}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        held = set()
        client.create_user(user, _password(user))
    for name in held & {f"kd-{other}" for other in GRANTS if other != role}:
        client.unassign_role(user, ours[name])
    if f"kd-{role}" not in held:
        client.assign_role(user, ours[f"kd-{role}"])
    click.echo(f"{user}: {role}")


@cli.command()
@click.argument("user")
def remove(user: str) -> None:
    """Delete an account."""
    _client().delete_user(user)
    click.echo(f"{user}: removed")


def _client() -> Any:
    with warnings.catch_warnings():  # MLflow's server imports what starlette will remove
        warnings.simplefilter("ignore")
        return get_app_client("basic-auth", tracking_uri=mlflow.get_tracking_uri())


def _password(user: str) -> str:
    """A new account's password: asked for, or the first line of what is piped in."""
    if sys.stdin.isatty():
        return str(click.prompt(f"Password of {user}", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")


if __name__ == "__main__":
    try:
        cli()
    except MlflowException as error:
        sys.exit(f"Error: {error.message}")

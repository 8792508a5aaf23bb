"""What to type to load, serve and ask a student: for its card and its report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from kd_mlflow.distillation.evidence import Evidence
from kd_mlflow.report.markdown import one_line
from kd_mlflow.table.scored import as_written

JSON_COLUMNS = 30
"""With more columns than these an example of a request would be too long to read."""

ASK = "curl -s localhost:5001/invocations -H 'Content-Type: "


def commands(evidence: Evidence, model_id: str) -> dict[str, str]:
    """What to type to load, serve and ask the version in production, or this model by its id."""
    model, read = shlex.quote(_uri(evidence)), read_csv(as_written(evidence.encoding.columns))
    python = f"""\
import mlflow
import pandas as pd

{_loaded(evidence)}
student.predict({read})  # prediction, probability_<class>"""
    return {
        "python": python,
        "serve": f"mlflow models serve --env-manager local -m {model} -p 5001",
        "csv": f"{ASK}text/csv' --data-binary @rows.csv",
        "file": f"mlflow models predict --env-manager local -m {model} -t csv -i rows.csv",
        "json": json_request(evidence),
        "this": f"models:/{model_id}",
    }


def ways_to_ask(evidence: Evidence) -> list[str]:
    """How to load, serve and ask the version in production, in Markdown."""
    lines, said = commands(evidence, ""), written_text(evidence)
    warning = said and f"\n\n{said}"
    return [
        f"""\
**Load it.**

```python
import mlflow

{_loaded(evidence)}
student.predict(frame)  # prediction and one probability_<class> per class
```""",
        f"""\
**Serve it**, and ask it over HTTP; or score a file.

```
{lines["serve"]}
{lines["csv"]}
{lines["file"]}
```{warning}""",
    ]


def json_request(evidence: Evidence) -> str:
    """A request with an example row; empty where it would be too wide to read."""
    features = evidence.example.head(1)
    if features.shape[1] > JSON_COLUMNS:
        return ""
    rows = json.loads(features.to_json(orient="records", date_format="iso"))
    body = shlex.quote(json.dumps({"dataframe_records": rows}, ensure_ascii=False))
    return f"{ASK}application/json' -d {body}"


def written_text(evidence: Evidence) -> str:
    """Say which columns of a CSV file MLflow's commands do not read as they are written, if any."""
    if not (written := as_written(evidence.encoding.columns)):
        return ""
    names, verb = ", ".join(map(one_line, written)), "are" if len(written) > 1 else "is"
    taken = "NA and the like for gaps, 007 for 7" if any(written.values()) else "007 for 7"
    return (
        f"{names} {verb} read as written; of a CSV file MLflow takes {taken}. So send JSON, score "
        f"with `kd-mlflow predict`, or read the file by `{read_csv(written)}`."
    )


def read_csv(written: Mapping[str, bool]) -> str:
    """Python that reads rows.csv as the student does: see ``scored.as_written``.

    >>> print(read_csv({"city": True}))
    pd.read_csv("rows.csv", dtype={"city": str}, keep_default_na=False, na_values=[""])
    """
    kinds = ", ".join(f"{json.dumps(name, ensure_ascii=False)}: str" for name in written)
    options = [f", dtype={{{kinds}}}"] if written else []
    if any(written.values()):
        options.append(', keep_default_na=False, na_values=[""]')
    return f'pd.read_csv("rows.csv"{"".join(options)})'


def _uri(evidence: Evidence) -> str:
    return f"models:/{evidence.config.model_name}@production"


def _loaded(evidence: Evidence) -> str:
    uri = json.dumps(_uri(evidence), ensure_ascii=False)
    return f"student = mlflow.pyfunc.load_model({uri})"

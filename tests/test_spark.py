"""A student scores a Spark table."""

import json
import os
import re
import subprocess
import sys

import mlflow
import numpy as np
import pytest
from conftest import ROOT

from kd_mlflow import pipeline

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.S)
(JOB,) = [block for block in BLOCKS if "spark_udf" in block]


@pytest.mark.slow
def test_a_spark_job_gives_the_models_answers(finished, tmp_path):
    """The page's own job, types of columns as Spark reads them: prediction and probabilities."""
    folder = mlflow.artifacts.download_artifacts("models:/kd-student@production")
    rows = pipeline.read_dataset(finished.config).features("test").head(40)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-c", JOB, folder, str(tmp_path / "rows.csv"), str(tmp_path / "out")],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_SUBMIT_ARGS": "--master local[1] --conf spark.ui.enabled=false pyspark-shell",
            "SPARK_LOCAL_IP": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = (tmp_path / "out").glob("part-*.json")
    answers = [json.loads(line) for line in written.read_text().splitlines()]
    expected = mlflow.pyfunc.load_model(folder).predict(rows).to_dict("records")
    assert [set(answer) for answer in answers] == [set(answer) for answer in expected]
    for name in expected[0]:
        found, wanted = ([row[name] for row in some] for some in (answers, expected))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)

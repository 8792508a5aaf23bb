"""Run as a script: import what commands do that tests start, then fork one whenever asked."""

import gc
import sys

gc.disable()

import dask  # noqa: E402
import distributed.cli.dask_scheduler  # noqa: E402
import distributed.cli.dask_worker  # noqa: E402, F401
import forks  # noqa: E402
import lightgbm  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import mlflow.cli  # noqa: E402
import mlflow.server.fastapi_app  # noqa: E402
import mlflow.tracing.processor.base_mlflow  # noqa: E402, F401
import mlflow.utils.requirements_utils as requirements  # noqa: E402
import psycopg  # noqa: E402, F401
import shorter  # noqa: E402
import torch._dynamo  # noqa: E402, F401
import uvicorn  # noqa: E402, F401

import kd_mlflow.pipeline  # noqa: E402, F401

dask.config.set({"distributed.worker.multiprocessing-method": "fork"})  # for those of a nanny
shorter.any_graph()
if read := getattr(requirements, "_init_modules_to_packages_map", None):
    read()  # which package each module is of: MLflow asks it of each model

gc.freeze()
gc.enable()
if __name__ == "__main__":
    forks.serve(sys.argv[1], int(sys.argv[2]))

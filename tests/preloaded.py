"""What commands import that tests start: by the process that ``forks`` forks, once for all."""

import gc

gc.disable()

import dask  # noqa: E402
import distributed.cli.dask_scheduler  # noqa: E402
import distributed.cli.dask_worker  # noqa: E402, F401
import forks  # noqa: E402, F401
import mlflow.cli  # noqa: E402
import mlflow.server.fastapi_app  # noqa: E402, F401
import uvicorn  # noqa: E402, F401

import kd_mlflow.pipeline  # noqa: E402, F401

dask.config.set({"distributed.worker.multiprocessing-method": "fork"})  # for those of a nanny

gc.freeze()
gc.enable()

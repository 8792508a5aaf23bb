"""Where chunks of members are trained: threads of this process, or a Dask cluster by joblib."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

from joblib import Parallel, cpu_count, parallel_config

from kd_mlflow.errors import ClusterError

CONNECT_S = 10
"""How long a scheduler may take to answer, and its first worker to appear."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many to train with, 0 for all there are; the address of a Dask scheduler or none."""

    count: int = 0
    dask_scheduler: str = ""

    @contextmanager
    def pool(self, shared: object) -> Iterator[Pool]:
        """Open the workers; a cluster's receive ``shared``, an argument of every call, once each.

        Raises ClusterError when the cluster does not answer, has no workers or loses them.
        """
        if self.dask_scheduler:
            with _cluster(self.dask_scheduler, shared) as threads:
                yield Cluster(self.count or threads)
        else:
            with Threads(self.count or cpu_count()) as threads:
                yield threads


HERE = Workers()
"""All usable cores of this machine."""


Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function with its arguments, as ``joblib.delayed`` makes them."""


class Pool(Protocol):
    """Open workers: they make calls, and give results as they come."""

    @property
    def count(self) -> int:
        """How many."""

    @property
    def remote(self) -> bool:
        """Whether they are other processes, which hear of nothing until their call is made."""

    def __call__(self, calls: Iterable[Call]) -> Iterator[Any]:
        """Make the calls; a call's error is raised here."""


class Threads:
    """Threads of this process.

    The caller's own thread only waits: an interrupt, which Python raises there, meets no step half
    done. Leaving the block waits for the calls that have begun.
    """

    remote = False

    def __init__(self, count: int) -> None:
        self.count = count
        self._executor = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def __call__(self, calls: Iterable[Call]) -> Iterator[Any]:
        begun = [self._executor.submit(call, *given, **named) for call, given, named in calls]
        for future in as_completed(begun):
            yield future.result()


class Cluster(Parallel):  # type: ignore[misc]  # joblib has no annotations
    """A Dask cluster's workers, which joblib talks to."""

    remote = True

    def __init__(self, count: int) -> None:
        super().__init__(count, return_as="generator_unordered", batch_size=1, pre_dispatch="all")
        self.count = count


@contextmanager
def _cluster(address: str, shared: object) -> Iterator[int]:
    """Make a Dask cluster joblib's backend; give its number of threads."""
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise ClusterError(
            "dask_scheduler needs Dask, which is an extra: pip install 'kd_mlflow[dask]'"
        ) from None
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"dask_scheduler must be the address of a running scheduler, such as "
            f"tcp://host:8786; {address!r} does not answer: {error}"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
            with parallel_config("dask", client=client, scatter=[shared]):
                yield sum(client.ncores().values())
        except TimeoutError:
            raise ClusterError(
                f"the cluster at {address} has no worker after {CONNECT_S} s; start one with "
                f"dask worker {address}"
            ) from None
        except KilledWorker as error:
            raise ClusterError(f"the cluster at {address} gave up: {error}") from None

"""Where chunks of members are trained: threads of this process, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joblib import cpu_count

from kd_mlflow.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

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
            with _cluster(self.dask_scheduler, shared, self.count) as cluster:
                yield cluster
        else:
            threads = Threads(self.count or cpu_count())
            try:
                yield threads
            finally:  # waits for the calls that have begun
                threads.executor.shutdown(cancel_futures=True)


HERE = Workers()
"""All usable cores of this machine."""


Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function with its arguments, as ``joblib.delayed`` makes them."""


class Threads:
    """Threads of this process, which make calls and give results as they come.

    The caller's own thread only waits: an interrupt, which Python raises there, meets no step half
    done.
    """

    remote = False

    def __init__(self, count: int) -> None:
        self.count = count
        self.executor = ThreadPoolExecutor(count)

    def __call__(self, calls: Iterable[Call]) -> Iterator[Any]:
        begun = [self.executor.submit(call, *given, **named) for call, given, named in calls]
        for future in as_completed(begun):
            yield future.result()


class Cluster:
    """The same of a Dask cluster's workers, ``count`` threads or more; they hear nothing meanwhile.

    ``shared``, an argument of every call, is sent to each worker once. Dask makes a lost worker's
    calls again. Where that worker held the last copy of ``shared``, Dask cannot: the calls that are
    left are made anew.
    """

    remote = True

    def __init__(self, client: Client, shared: object, count: int) -> None:
        self._client, self._shared, self.count = client, shared, count

    def __call__(self, calls: Iterable[Call]) -> Iterator[Any]:
        from distributed import as_completed

        left = list(calls)
        while left:
            sent = self._client.scatter(self._shared, broadcast=True, hash=False)
            made = {}
            for call, given, named in left:
                own = (sent if each is self._shared else each for each in given)
                made[self._client.submit(call, *own, **named, pure=False)] = call, given, named
            left = []
            for future in as_completed(made, loop=self._client.loop):
                if future.cancelled():
                    left.append(made[future])
                else:
                    yield future.result()


Pool = Threads | Cluster


@contextmanager
def _cluster(address: str, shared: object, count: int) -> Iterator[Cluster]:
    """Open a Dask cluster: ``count`` of its threads, 0 for all."""
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
            yield Cluster(client, shared, count or sum(client.ncores().values()))
        except TimeoutError:
            raise ClusterError(
                f"the cluster at {address} has no worker after {CONNECT_S} s; start one with "
                f"dask worker {address}"
            ) from None
        except KilledWorker as error:
            raise ClusterError(f"the cluster at {address} gave up: {error}") from None

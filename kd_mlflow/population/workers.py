"""Where chunks of members are trained: threads, processes of this machine, or a Dask cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import current_process
from typing import TYPE_CHECKING, Any

from joblib import cpu_count

from kd_mlflow.errors import ClusterError, TrainingError
from kd_mlflow.population.history import Watch, ignore_epoch
from kd_mlflow.population.processes import Line, listening, opened

if TYPE_CHECKING:
    from distributed import Client

THREAD_WORK = 16_000_000
"""Fewest products of weights and rows in a step that are worth a thread: with less, threads wait
for Python's lock.
"""

ROOMY_WORK = 30_000_000
"""Products in a thread's part of a step with which it waits for no lock worth mentioning."""

PROCESS_WORK = 20_000_000_000
"""Products that are worth a process of their own: about three seconds."""

CONNECT_S = 10
"""How long a scheduler may take to answer, and its first worker to appear."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Products of weights and rows: in a step of models that learn alike, the least; and in all."""

    step: int
    whole: int

    @property
    def threads(self) -> int:
        """How many threads do not only wait for each other."""
        return max(1, self.step // THREAD_WORK)

    @property
    def processes(self) -> int:
        """How many processes are worth their start."""
        return max(1, self.whole // PROCESS_WORK)


LARGE = Size(step=sys.maxsize, whole=0)
"""That of calls which wait for no lock."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many to train with, 0 for all there are; the address of a Dask scheduler or none."""

    count: int = 0
    dask_scheduler: str = ""

    @contextmanager
    def pool(self, shared: object, size: Size = LARGE) -> Iterator[Pool]:
        """Open the workers; a cluster's receive ``shared``, an argument of every call, once each.

        Here they are processes or threads, as suits the size of what is called.
        Raises ClusterError when the cluster does not answer, has no workers or loses them.
        """
        if self.dask_scheduler:
            with _cluster(self.dask_scheduler, shared, self.count) as cluster:
                yield cluster
            return
        apart = self._apart(size)
        try:
            here = Processes(apart) if apart > 1 else self._threads(size)
        except OSError:  # a machine without semaphores
            here = self._threads(size)
        try:
            yield here
        finally:
            here.leave()

    def warm(self, size: Size) -> None:
        """Start the processes that calls of this size will be made in, and do not wait for them."""
        with suppress(OSError):
            if (count := self._apart(size)) > 1:
                started = opened(count)
                for _ in range(count):
                    started.submit(import_module, "kd_mlflow.population.training")

    @property
    def _cores(self) -> int:
        return self.count or cpu_count()

    def _threads(self, size: Size) -> Threads:
        return Threads(min(self._cores, size.threads))

    def _apart(self, size: Size) -> int:
        """How many processes calls are made in; 1 where threads do as well, or none may start."""
        if self.dask_scheduler or current_process().daemon or size.step > self._cores * ROOMY_WORK:
            return 1
        return min(self._cores, size.processes)


HERE = Workers()
"""All usable cores of this machine."""


Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function with its arguments, as ``joblib.delayed`` makes them."""


class Threads:
    """Threads of this process, which make calls and give results as they come.

    The caller's own thread only waits: an interrupt, which Python raises there, meets no step half
    done.
    """

    remote, apart = False, False

    def __init__(self, count: int) -> None:
        self.count = count
        self._begun: list[Future[Any]] = []
        self._executor = self._opened()

    def _opened(self) -> Executor:
        return ThreadPoolExecutor(self.count)

    def hearing(self, watch: Watch) -> AbstractContextManager[Watch | Line]:
        """What calls are given for a watch."""
        return nullcontext(watch)

    def __call__(self, calls: Iterable[Call]) -> Iterator[Any]:
        self._begun = [self._executor.submit(call, *given, **named) for call, given, named in calls]
        for future in as_completed(self._begun):
            yield future.result()

    def leave(self) -> None:
        """Wait for the calls that have begun; make no other."""
        self._executor.shutdown(cancel_futures=True)


class Processes(Threads):
    """The same of processes, which stay for the next training."""

    apart = True

    def _opened(self) -> Executor:
        return opened(self.count)

    @contextmanager
    def hearing(self, watch: Watch) -> Iterator[Line]:
        """A line to a watch, on which each call is made."""
        with listening(watch) as self._line:
            yield self._line

    def __call__(self, calls: Iterable[Call]) -> Iterator[Any]:
        made = self._line.made
        try:
            yield from super().__call__(
                (made, (call, *given), named) for call, given, named in calls
            )
        except BrokenExecutor as error:
            raise TrainingError(
                "a process that trained was killed, as it is where memory is short; the same "
                "command goes on from its checkpoint, with workers=1 in one process"
            ) from error

    def leave(self) -> None:
        """Wait for the calls that have begun; make no other."""
        for call in self._begun:
            call.cancel()
        wait(self._begun)


class Cluster:
    """The same of a Dask cluster's workers, ``count`` threads or more; they hear nothing meanwhile.

    ``shared``, an argument of every call, is sent to each worker once. Dask makes a lost worker's
    calls again. Where that worker held the last copy of ``shared``, Dask cannot: the calls that are
    left are made anew.
    """

    remote, apart = True, True

    def __init__(self, client: Client, shared: object, count: int) -> None:
        self._client, self._shared, self.count = client, shared, count

    def hearing(self, watch: Watch) -> AbstractContextManager[Watch]:
        """What calls are given for a watch; it hears nothing."""
        return nullcontext(Watch(ignore_epoch))

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

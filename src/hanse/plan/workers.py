"""Who computes: this process, all cores of this machine, or a Ray cluster; the numbers are the same.

Here: `workers`, which yields one that runs a function over tasks and gives results as they end. A task carries all that it needs and draws nothing
of its own, so that neither order nor place can change a number. Not here: what is computed (`solve`), what is kept of it (`steps`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Final, Protocol

from hanse.errors import ConfigError

Function = Callable[..., Any]
Task = tuple[Any, ...]
"""Arguments of one call."""
REACH_S: Final = 3.0
"""A cluster's head across an ocean answers within a tenth of it."""


class Workers(Protocol):
    """Runs tasks."""

    def run(self, function: Function, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Number of a task and its result, as they end."""
        ...


class Here:
    """This process, one task after the other."""

    def run(self, function: Function, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Number of a task and its result, in order."""
        for number, task in enumerate(tasks):
            yield number, function(*task)


class Cores:
    """Processes of this machine, started when first needed.

    They are spawned, not forked: a fork would copy locks of the progress bar's and the solvers' threads as they happen to be held.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.before = {p.pid for p in multiprocessing.active_children()}
        self.pool: ProcessPoolExecutor | None = None

    def run(self, function: Function, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Number of a task and its result, as they end."""
        if len(tasks) < 2:
            yield from Here().run(function, tasks)
            return
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(self.processes, context, _begin)
        sent: dict[Future[Any], int] = {
            self.pool.submit(function, *task): n for n, task in enumerate(tasks)
        }
        try:
            for done in as_completed(sent):
                yield sent[done], done.result()
        except BrokenProcessPool as error:
            raise ConfigError(
                "--processes",
                got="a process that ended by itself",
                allowed="processes that have the memory they need",
                fix="use fewer; what was done is kept",
            ) from error

    def close(self, *, at_once: bool) -> None:
        """End the processes; `at_once`: without waiting for what they do."""
        if self.pool is None:
            return
        if at_once:
            for process in multiprocessing.active_children():
                if process.pid not in self.before:
                    process.kill()
        self.pool.shutdown(wait=True, cancel_futures=True)


class Ray:
    """A Ray cluster that is there already; its nodes must have the same version of Hanse."""

    def __init__(self, address: str) -> None:
        try:
            import ray  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise ConfigError(
                "--ray",
                got="no package ray here",
                allowed="a Python that has it",
                fix="pip install 'hanse[ray]', in the version that the cluster runs",
            ) from error
        self.ray: Any = ray
        try:
            _reach(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--ray {address}",
                got=str(error).strip().splitlines()[0] if str(error).strip() else repr(error),
                allowed="the address of a running Ray cluster, as `ray status` knows it",
                fix="start one with `ray start --head`, or leave --ray out",
            ) from error

    def run(self, function: Function, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Number of a task and its result, as they end."""
        remote = self.ray.remote(function)
        waiting = {remote.remote(*task): n for n, task in enumerate(tasks)}
        while waiting:
            ended, _ = self.ray.wait(list(waiting), num_returns=1)
            for reference in ended:
                number = waiting.pop(reference)
                yield number, self.ray.get(reference)

    def close(self) -> None:
        """Leave the cluster as it is."""
        self.ray.shutdown()


@contextmanager
def workers(*, processes: int | None = None, ray: str | None = None) -> Iterator[Workers]:
    """Who computes, until the block is left.

    Args:
        processes: At most so many; None: one for each core that this process may use; 1: this process itself.
        ray: Address of a Ray cluster instead.

    Raises:
        ConfigError: the cluster cannot be reached, or the package is not there.
    """
    count = len(os.sched_getaffinity(0)) if processes is None else processes
    if ray is not None:
        cluster = Ray(ray)
        try:
            yield cluster
        finally:
            cluster.close()
    elif count < 2:
        yield Here()
    else:
        cores = Cores(count)
        try:
            yield cores
        except BaseException:
            cores.close(at_once=True)
            raise
        cores.close(at_once=False)


def _reach(address: str) -> None:
    """Of an address with a port: whether anybody listens there. Ray itself tries for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        with socket.create_connection((host, int(port)), timeout=REACH_S):
            pass


def _begin() -> None:
    """In a new process: an interrupt is its parent's to handle, and without a parent it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "it was started by one"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

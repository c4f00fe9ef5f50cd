# SPDX-License-Identifier: LGPL-2.1-only
"""A job as a process: detached, ended by its work or by SIGTERM, its end always written down unless it is killed."""

import os
import signal
import threading
import time

import daemon

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host import lock, process
from zfsvol.repository.job import FAILED, Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


class Stopped(StorageError):
    """The job was told to end at once."""


class Orders:
    """What others have told the process since it started. `stop`: end at once. `finish`: come to a good end."""

    def __init__(self) -> None:
        self.stop = False
        self.finish = False
        self.changed = threading.Event()
        self._since = 0.0

    def take(self, number: int, _frame: object = None) -> None:
        """A signal has come."""
        if number == signal.SIGTERM:
            self.stop = True
        elif not self.finish:
            self.finish = True
            self._since = time.monotonic()
        self.changed.set()

    def waited(self) -> float:
        """Seconds since it was told to finish."""
        return time.monotonic() - self._since

    def obey(self) -> None:
        """Raises Stopped if it is to end at once."""
        if self.stop:
            raise Stopped("It was told to stop.")


def run(job: Job, work: "Callable[[Job, Orders], object]") -> None:
    """Detaches this process from the verb that has started it and does the work. Never returns."""
    process.limit_descriptors()
    orders = Orders()
    context = daemon.DaemonContext(
        detach_process=True,
        files_preserve=_descriptors_of(os.path.join(lock.DIRECTORY, job.lock_name)),
        signal_map={signal.SIGTERM: orders.take, signal.SIGUSR1: orders.take, signal.SIGHUP: None},
        umask=0o077,
    )
    title = f"{job.sr.volume(job.key)}: the {job.kind}"
    with context:
        job.write(dict(job.read(), pid=os.getpid(), started=int(time.time())))
        try:
            work(job, orders)
        except Exception as error:  # noqa: BLE001 - whoever waits for it must learn of its end
            reason = str(error) if isinstance(error, StorageError) else repr(error)
            log.warning(f"{title} has failed: {reason}")
            job.write(dict(job.read(), state=FAILED, error=reason))
    os._exit(0)


def _descriptors_of(path: str) -> "list[int]":
    """The descriptors of this process that lead to a file."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == path:
                found.append(int(name))
        except OSError:
            continue  # the one that listed them
    return found

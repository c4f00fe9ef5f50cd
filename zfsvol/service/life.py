# SPDX-License-Identifier: LGPL-2.1-only
"""The service as a process: one on a host, detached or in the foreground, ended by SIGTERM or SIGINT.

A lock of the kernel, which ends with the process however that ends, decides which process is the service. The file with
its process id is only for people and other programs, so one that a killed service left is replaced.
"""

import os
import signal
import sys
import threading

import daemon
from lockfile.pidlockfile import PIDLockFile

from zfsvol import log
from zfsvol.errors import LockTimeout
from zfsvol.host import lock, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

PID_FILE = "/run/zfs-vol.pid"


class RunsAlready(Exception):
    """Another process is the service."""


def run(work: "Callable[[threading.Event], object]", *, detached: bool) -> None:
    """Becomes the service and runs `work`, which must return soon after the event that it is given is set.

    Never returns: threads of `work` may hang on a sick pool, and must not keep the process. Its status is 0; 1 if
    `work` raised an error, which the log has. Raises RunsAlready. A kill leaves the file with the process id.
    """
    only = lock.Lock("service", 0, queued=False)
    try:
        only.__enter__()
    except LockTimeout:
        pid = PIDLockFile(PID_FILE).read_pid()
        raise RunsAlready(f"The service of zfs-vol runs already{f', as process {pid}' if pid else ''}.") from None
    process.limit_descriptors()
    pid_file = PIDLockFile(PID_FILE)
    pid_file.break_lock()
    stop = threading.Event()

    def end(_number: int, _frame: object) -> None:
        stop.set()

    context = daemon.DaemonContext(
        detach_process=detached,
        pidfile=pid_file,
        files_preserve=[only.descriptor],
        signal_map={signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: None},
        umask=0o077,
        stderr=None if detached else sys.stderr,
    )
    status = 0
    with context:
        log.info("the service starts")
        try:
            work(stop)
        except Exception as error:  # noqa: BLE001 - systemd starts it again, and the log must say why
            log.warning(f"the service fails: {error!r}")
            status = 1
        log.info("the service ends")
    os._exit(status)

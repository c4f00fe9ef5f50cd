# SPDX-License-Identifier: LGPL-2.1-only
"""System calls that may never return run in a process of their own, which can be left behind.

Whoever opens a device of a pool with a failed disk may sleep in the kernel for ever and cannot be killed. The process
that opens it here has none of the caller's descriptors, so it holds no lock.
"""

import os
import select
import signal

from zfsvol import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

_LONGEST = 4096  # bytes of an answer


class Stuck(Exception):
    """The process did not answer in time. It was killed, or left behind if it could not be killed."""


class Process:
    """A process that runs `action` and then stays until `close`, so that what it opened stays open.

    `action` may only make system calls and compute: the caller's other threads do not exist in the process.
    """

    def __init__(self, action: "Callable[[], str]") -> None:
        answer, self._answers = os.pipe()
        stays, self._stays = os.pipe()
        self._answer = answer
        self._pid = os.fork()
        if self._pid == 0:
            self._run(action, stays)
        os.close(self._answers)
        os.close(stays)

    def _run(self, action: "Callable[[], str]", stays: int) -> None:
        try:
            keep = sorted((self._answers, stays))
            os.closerange(3, keep[0])
            os.closerange(keep[0] + 1, keep[1])
            os.closerange(keep[1] + 1, 1024)
            data = action().encode("utf-8", "surrogateescape")
            os.write(self._answers, data)
            os.close(self._answers)
            os.read(stays, 1)  # returns when the other end is closed: by `close`, or because the caller died
        finally:
            os._exit(0)

    def answer(self, limit: float) -> str:
        """The action's result; "" if it failed. Raises Stuck after `limit` seconds."""
        poll = select.poll()
        poll.register(self._answer, select.POLLIN | select.POLLHUP)
        if not poll.poll(limit * 1000):
            raise Stuck
        return os.read(self._answer, _LONGEST).decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Ends the process. Idempotent."""
        if self._pid == 0:
            return
        pid, self._pid = self._pid, 0
        os.close(self._stays)
        os.close(self._answer)
        try:
            os.kill(pid, signal.SIGKILL)
            for _ in range(100):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    return
                select.select((), (), (), 0.01)
        except (ProcessLookupError, ChildProcessError):
            return
        log.warning(f"pid {pid}, which opens a device that does not answer, cannot be killed and is left behind")


def call(action: "Callable[[], str]", limit: float) -> str:
    """Runs the action in a process of its own and returns its result. Raises Stuck."""
    process = Process(action)
    try:
        return process.answer(limit)
    finally:
        process.close()

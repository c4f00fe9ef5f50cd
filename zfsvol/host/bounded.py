# SPDX-License-Identifier: LGPL-2.1-only
"""System calls that may never return, done in a process of their own that can be left behind.

To open the device of a pool whose disk has failed puts the caller to sleep in the kernel for good, and nothing can
kill it. The process that does it here has none of the caller's descriptors, so no lock stays held with it.
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
    """The process did not answer in time; it was killed, or left behind where that is impossible."""


class Process:
    """A process that carries `action` out, and then stays until `close` is called: what it has opened stays open.

    `action` must do no more than system calls and plain computation: other threads are not there in the process.
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
            os.read(stays, 1)  # until the other end is closed, by `close` or with the process that has it
        finally:
            os._exit(0)

    def answer(self, limit: float) -> str:
        """What the action has returned; "" where it has failed. Raises Stuck after `limit` seconds."""
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
        log.warning(f"left behind, not to be killed: pid {pid}, which opens a device that does not answer")


def call(action: "Callable[[], str]", limit: float) -> str:
    """The action's answer, from a process of its own. Raises Stuck."""
    process = Process(action)
    try:
        return process.answer(limit)
    finally:
        process.close()

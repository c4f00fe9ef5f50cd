# SPDX-License-Identifier: LGPL-2.1-only
"""A process of the driver that works for one VDI longer than a verb: its state, how it is started and ended.

The process (`zfsvol.motion`) writes its state to the file `<SR's directory>/<vdi>.<kind>`. While it lives, it holds a
lock, which the kernel releases however it ends. The lock is passed on by the verb that starts the process, so there is
no moment without one of the two. A boot removes file and lock.
"""

import json
import os
import signal
import time

from zfsvol.errors import LockTimeout, StorageError
from zfsvol.host import files, lock
from zfsvol.host.command import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zfsvol.repository.sr import SR

# dom0's own, which has the libraries for long-lived processes; a verb may run under another one in tests.
_PYTHON = "/usr/bin/python3"

# Seconds.
_START_LIMIT = 60
_PID_LIMIT = 10
_LOCK_LIMIT = 5
_PAUSE = 0.02

FAILED = "failed"
FINISHED = "finished"


class Job:
    """The job of this kind for a VDI. A VDI has at most one of each kind.

    `start` and `forget` need the VDI's lock; the other functions do not.
    """

    def __init__(self, sr: "SR", key: str, kind: str) -> None:
        self.sr = sr
        self.key = key
        self.kind = kind

    @property
    def path(self) -> str:
        """The file with its state."""
        return os.path.join(self.sr.directory, f"{self.key}.{self.kind}")

    @property
    def lock_name(self) -> str:
        """The name of its lock."""
        return f"srs/{self.sr.dataset}/{self.kind}-{self.key}"

    def exists(self) -> bool:
        """Whether there is or was one since the VDI was attached."""
        return os.path.exists(self.path)

    def read(self) -> "dict[str, Any]":
        """Its state: `state` (FAILED, FINISHED or a word of the job), `error` if it failed, and what the kind adds.

        `pid` and `started` (seconds since 1970) are there once its process runs; they are for people and for `signal`.

        One whose process was killed has failed. Raises FileNotFoundError if there is none.
        """
        is_running = self.is_running()  # before the file is read: it may end in between
        try:
            found: "dict[str, Any]" = dict(json.loads(files.text(self.path)))
        except ValueError as error:
            found = {"error": f"its state is damaged: {error}"}
        if not is_running and found.get("state") not in (FAILED, FINISHED):
            found.update(state=FAILED, error=found.get("error", "its process was killed"))
        return found

    def write(self, state: "dict[str, Any]") -> None:
        """Replaces its state, atomically."""
        files.write(self.path, json.dumps(state))

    def forget(self) -> None:
        """Removes its state. Idempotent."""
        files.remove(self.path)

    def is_running(self) -> bool:
        """Whether its process lives."""
        if not os.path.exists(os.path.join(lock.DIRECTORY, self.lock_name)):
            return False
        try:
            with lock.Lock(self.lock_name, 0, shared=True, queued=False):
                return False
        except LockTimeout:
            return True

    def start(self, state: "dict[str, Any]") -> None:
        """Starts its process, with this state. Raises LockTimeout if one runs, CommandFailed if it does not start."""
        # Somebody may look whether it runs, and hold the lock for a moment.
        with lock.Lock(self.lock_name, _LOCK_LIMIT, queued=False) as held:
            self.write(state)
            argv = [_PYTHON, "-m", "zfsvol.motion", self.kind, self.sr.dataset, self.key]
            library = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
            try:
                Child(argv, held=[held.descriptor], daemon={"PYTHONPATH": library}).finish(_START_LIMIT)
            except StorageError:
                self.forget()
                raise

    def signal(self, number: "signal.Signals") -> None:
        """Sends its process a signal, if it lives."""
        end = time.monotonic() + _PID_LIMIT
        while self.is_running() and time.monotonic() < end:
            pid = json.loads(files.text(self.path)).get("pid")
            if pid is not None:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass  # it has just ended
                return
            time.sleep(_PAUSE)  # it has just started

    def concludes(self, limit: float) -> bool:
        """Waits until its state is its last one, for up to `limit` seconds; returns whether it is."""
        end = time.monotonic() + limit
        while self.read()["state"] not in (FAILED, FINISHED):
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE)
        return True

    def ends(self, limit: float) -> bool:
        """Waits until its process has ended, for up to `limit` seconds; returns whether it has."""
        end = time.monotonic() + limit
        while self.is_running():
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE)
        return True

# SPDX-License-Identifier: LGPL-2.1-only
"""Follows one attached SR: looks at it once a minute, and soon after something has happened to its pool.

A look may hang with the pool, so each SR has a thread of its own, and no other thread waits for it.
"""

import threading
import time

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.repository.sr import SR
from zfsvol.service.events import Event
from zfsvol.service.sight import Sight
from zfsvol.service.upkeep import Upkeep
from zfsvol.zfs import kernel

# Seconds.
_INTERVAL = 60
_BURST = 2  # between two looks: events come in hundreds


class Follower:
    """What the service does for one SR. `sight`: what the last look saw; None before the first has ended."""

    def __init__(self, sr: SR, guid: str) -> None:
        self.sr = sr
        self.sight: "Sight | None" = None
        self._guid = guid
        self._state = kernel.state(sr.pool)
        self._upkeep = Upkeep(sr)
        self._wake = threading.Event()
        self._left = threading.Event()

    def start(self) -> None:
        """Starts to follow the SR."""
        threading.Thread(target=self._run, name=self.sr.dataset, daemon=True).start()

    def leave(self) -> None:
        """Ends it: at once, or when a look that hangs returns."""
        self._left.set()
        self._wake.set()

    def tick(self) -> None:
        """Called every second, in the supervisor's thread: notices a change of the pool's state. Never waits."""
        state = kernel.state(self.sr.pool)
        if state != self._state:
            log.info(f"{self.sr.pool} was {self._state} and is {state}")
            self._state = state
            self._wake.set()

    def happened(self, event: Event) -> None:
        """Something happened to the pool."""
        if event.is_history:
            self._upkeep.note_change()
        else:
            self._wake.set()

    def _run(self) -> None:
        due = 0.0
        while not self._left.is_set():
            try:
                if self._wake.is_set() or time.monotonic() >= due:
                    self._wake.clear()
                    due = time.monotonic() + _INTERVAL
                    self.sight = Sight(self.sr)
                self._upkeep.run()
            except StorageError as error:
                log.warning(f"{self.sr.dataset}: {error}")
            except Exception as error:  # noqa: BLE001 - one failure must not end the service for this SR
                log.warning(f"{self.sr.dataset}: a fault of the service: {error!r}")
            self._left.wait(_BURST)

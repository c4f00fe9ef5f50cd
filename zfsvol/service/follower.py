# SPDX-License-Identifier: LGPL-2.1-only
"""Follows one attached SR: looks at it once a minute, and soon after something has happened to its pool.

A look may hang with the pool, so each SR has a thread of its own, and no other thread waits for it.
"""

from collections import deque
import threading
import time

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.repository.journal import Journal
from zfsvol.repository.sr import SR
from zfsvol.service import alarms
from zfsvol.service.events import Event
from zfsvol.service.maintenance import Maintenance
from zfsvol.service.messages import Sender
from zfsvol.service.sight import Looker, Sight
from zfsvol.service.upkeep import Upkeep
from zfsvol.zfs import kernel

# Seconds.
_INTERVAL = 60
_PAUSE = 2  # between two looks: events come in hundreds
_UPKEEP = 10  # between two questions whether there is something to clear up
_CHANGE_PAUSE = 8  # between a change of the datasets and the look: verbs make many, none of which is urgent

# Part of the free space. When that much was written, an alarm may be due.
_NOTICEABLE = 0.01

# How many calls of `note_written` back a write may be that the numbers do not have yet: ZFS counts space when it has
# written it to the pool, which may be five seconds later (zfs_txg_timeout), and takes a while.
_UNCOUNTED = 2


class Follower:
    """What the service does for one SR. `sight`: what the last look saw; None before the first has ended."""

    def __init__(self, sr: SR, guid: str, sender: Sender) -> None:
        self.sr = sr
        self.sight: "Sight | None" = None
        self._journal = Journal(sr, guid)
        self._sender = sender
        self._name = ""
        self._state = kernel.state(sr.pool)
        self._upkeep = Upkeep(sr)
        self._maintenance = Maintenance(sr)
        self._due = 0.0
        self._looker = Looker(sr)
        self._written = 0  # bytes that the last look may not have seen
        self._latest: "deque[int]" = deque(maxlen=_UNCOUNTED)
        self._is_changed = True  # since the last look
        self._left = threading.Event()
        self._wake = threading.Event()

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
            self._look_at(0)

    def happened(self, event: Event) -> None:
        """Something happened to the pool."""
        if event.is_history:
            self._upkeep.note_change()
            self._is_changed = True
            self._look_at(time.monotonic() + _CHANGE_PAUSE)
        else:
            self._look_at(0)

    def note_written(self, size: int) -> None:
        """Called at each update of the statistics: so many more bytes were written to its disks.

        ZFS reports nothing of a pool that fills up.
        """
        self._latest.append(size)
        self._written += size
        numbers = self.sight.numbers if self.sight is not None else None
        if numbers is not None and self._written > _NOTICEABLE * numbers.available:
            self._look_at(0)

    def _look_at(self, due: float) -> None:
        """Has the next look come at this time, if it is not due before."""
        if due < self._due:
            self._due = due
            self._wake.set()

    def _run(self) -> None:
        while not self._left.is_set():
            self._wake.clear()
            try:
                if time.monotonic() >= self._due:
                    self._due = time.monotonic() + _INTERVAL  # before the look: what happens during it counts
                    self._look()
                if not self._left.is_set():
                    self._upkeep.run()
            except StorageError as error:
                log.warning(f"{self.sr.dataset}: {error}")
            except Exception as error:  # noqa: BLE001 - one failure must not end the service for this SR
                log.warning(f"{self.sr.dataset}: a fault of the service: {error!r}")
            self._left.wait(_PAUSE)
            self._wake.wait(min(_UPKEEP, max(0.0, self._due - time.monotonic())))

    def _look(self) -> None:
        # Nothing tells of the space that guests give back by discards.
        is_changed = self._is_changed or self._written > 0 or alarms.SPACE in self._journal.open
        self._written, self._is_changed = sum(self._latest), False
        self.sight = self._looker.look(changed=is_changed)
        if self._left.is_set():
            return  # after a look that hung, another follower of this SR may have the journal
        self._name = self.sight.name or self._name
        title = f'SR "{self._name}" ({self.sr.uuid})' if self._name else f"SR {self.sr.uuid}"
        late = self._maintenance.days_without_scrub(self.sight)
        told = alarms.messages(title, self.sight, self.sr.unfinished, late, self._journal)
        for message in told:
            log.warning(f"{message.name}: {message.text}")
        self._journal.note(told)
        self._sender.send(self.sr.uuid, self._journal)
        self._maintenance.run(self.sight)

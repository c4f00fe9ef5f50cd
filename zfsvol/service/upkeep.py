# SPDX-License-Identifier: LGPL-2.1-only
"""Does what verbs leave for later: what a killed one left half done, removed disks that nothing needs any more, users
of disks that are gone, device nodes that could not be hidden.

SR.attach does the same, by the same code. The datasets are only read after somebody has changed some: while nothing
changes, nothing can be left.
"""

import time

from zfsvol import log
from zfsvol.errors import LockTimeout, StorageError
from zfsvol.repository import attachment, family, leftovers, release, repair
from zfsvol.repository.record import Record
from zfsvol.repository.sr import READ, SR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Seconds.
_QUIET = 10  # without changes before a look: verbs that are at work have nothing left yet
_LATEST = 300  # a look comes after this time even if changes do not end
_RETRY = 60  # while a verb has the lock
_USERS_INTERVAL = 600
_SHARE = 20  # a look that took a second is followed by at least 20 without one


class Upkeep:
    """Looks after what is left in one SR. `clock`: seconds, from any beginning."""

    def __init__(self, sr: SR, clock: "Callable[[], float]" = time.monotonic) -> None:
        self._sr = sr
        self._clock = clock
        self._first: "float | None" = clock()  # change since the last look
        self._last = 0.0
        self._not_before = 0.0
        self._users_due = 0.0
        self._ended: "set[tuple[str, str]]" = set()  # storage migrations that had no connection at the last time

    def note_change(self) -> None:
        """Some dataset of the pool has changed. Called in another thread."""
        self._last = self._clock()
        if self._first is None:
            self._first = self._last

    def run(self) -> None:
        """Looks, and mends, if it is time for that.

        It never makes a verb wait for its turn: if one has the SR's lock, it tries again later. Raises SRUnavailable
        and others; then it tries again, too.
        """
        now = self._clock()
        if now >= self._users_due:
            self._users_due = now + _USERS_INTERVAL
            release.for_each(self._sr, self._drop_users)
        first = self._first
        if first is None or now < self._not_before or (now - self._last < _QUIET and now - first < _LATEST):
            return
        self._first = None
        try:
            self._look()
            self._not_before = now + _SHARE * (self._clock() - now)
        except StorageError as error:
            self._first = first
            self._not_before = now + _RETRY
            if not isinstance(error, LockTimeout):
                raise

    def _drop_users(self, record: Record) -> None:
        """Drops users that are gone, and storage migrations that had no connection at the last time either.

        Afterwards xapi's cancelling of an ended migration can be told from that of a new one, see `repository.moved`.
        """
        attachment.drop_dead(record)
        ended = attachment.ended_migrations(record, list(record.active))
        attachment.drop_ended_migrations(record, [domain for domain in ended if (record.key, domain) in self._ended])
        self._ended.difference_update({(record.key, domain) for domain in record.attached})
        self._ended.update((record.key, domain) for domain in ended if domain in record.active)

    def _look(self) -> None:
        sr = self._sr
        with sr.locked(READ):
            todo = [finding for finding in repair.inspect(family.read(sr)) if finding.mend]
        with sr.unused():
            if todo:
                log.info(f"{sr.dataset}: {len(todo)} things are half done")
                repair.repair(sr)
            leftovers.hide_unused(sr)

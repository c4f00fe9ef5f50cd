# SPDX-License-Identifier: LGPL-2.1-only
"""Starts the scrubs and trims of an SR's pool that are due, and tells if the last scrub is too long ago.

When the last run was is read from the pool. So one that an administrator, the operating system or another SR of the
pool has started counts, and nothing is done twice.
"""

from zfsvol import log, naming
from zfsvol.care import scrub, status
from zfsvol.repository import schedule
from zfsvol.repository.sr import SR
from zfsvol.service.sight import Sight
from zfsvol.zfs import progress
from zfsvol.zfs.topology import Topology

_DAY = 86400

# Seconds until a run that could not be started is tried again.
_RETRY = 600


class Maintenance:
    """The scrubs and trims of one SR's pool."""

    def __init__(self, sr: SR) -> None:
        self._sr = sr
        self._known: "tuple[list[str], int | None] | None" = None
        self._not_before = 0.0

    def run(self, sight: Sight) -> None:
        """Starts what is due. Never a scrub and a trim at once, and nothing while the pool is resilvered or ill.

        Raises SRUnavailable and others.
        """
        found = sight.topology
        if found is None or sight.state not in ("ONLINE", "DEGRADED") or sight.time < self._not_before:
            return
        if _is_busy(found):
            return
        for name, last, start in (
            (naming.SR_SCRUB, self._last_scrub(found), scrub.scrub),
            (naming.SR_TRIM, status.last_trim(found), scrub.trim),
        ):
            plan = _plan(sight, name)
            if plan is None or (name == naming.SR_TRIM and not status.can_trim(found)):
                continue
            due = schedule.next_due(plan, _since(sight, last), sight.time)
            if due is not None and due <= sight.time:
                self._not_before = sight.time + _RETRY
                start(self._sr.dataset)
                log.info(f"{self._sr.pool}: a {'scrub' if name == naming.SR_SCRUB else 'trim'} as planned: {plan}")
                return

    def days_without_scrub(self, sight: Sight) -> "int | None":
        """How many days ago the last scrub was, if it should have been repeated long since; else None."""
        plan = _plan(sight, naming.SR_SCRUB)
        if plan is None or sight.topology is None:
            return None
        since = _since(sight, self._last_scrub(sight.topology))
        return int((sight.time - since) / _DAY) if schedule.is_late(plan, since, sight.time) else None

    def _last_scrub(self, found: Topology) -> "int | None":
        # It may have to be looked up in the pool's history, which is long.
        if self._known is None or self._known[0] != found.described.scans:
            self._known = (found.described.scans, status.last_scrub(self._sr, found))
        return self._known[1]


def _is_busy(found: Topology) -> bool:
    scans = any(scan["state"] in (progress.RUNNING, progress.PAUSED) for scan in found.scans)
    return scans or any((disk.trim or {}).get("state") == progress.RUNNING for disk in found.disks)


def _plan(sight: Sight, name: str) -> "schedule.Schedule | None":
    if sight.numbers is None or sight.autotrim is None:
        return None
    return schedule.of(sight.numbers.properties, name, autotrim=sight.autotrim)


def _since(sight: Sight, last: "int | None") -> int:
    """When the last run was; a new SR has nothing to be looked through yet."""
    assert sight.numbers is not None  # noqa: S101 - the callers have looked
    return int(sight.numbers.properties["creation"]) if last is None else last

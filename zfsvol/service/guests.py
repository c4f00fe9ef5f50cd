# SPDX-License-Identifier: LGPL-2.1-only
"""Which VM has a disk that blkback serves, and under which name: xenstore knows, and it takes a few children to ask it.

They are started when a disk appears that was not asked for yet, in a thread of their own, and again after a while if
the toolstack has not written everything yet.
"""

from collections import deque
import threading

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host import xen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Seconds from one attempt to the next: twice as many each time, while the same disks are missing.
_FIRST_PAUSE = 4
_LONGEST_PAUSE = 300


class Guests:
    """The VMs of disks. A disk is a domain's id and the device node that the domain was given."""

    def __init__(self) -> None:
        self._known: "dict[tuple[str, str], tuple[str, str]]" = {}
        self._answers: "deque[dict[tuple[str, str], tuple[str, str]]]" = deque()  # filled by the thread
        self._missing: "set[tuple[str, str]]" = set()
        self._pause = 0.0
        self._due = 0.0
        self._thread: "threading.Thread | None" = None

    def of(self, now: float, disks: "Iterable[tuple[str, str]]") -> "dict[tuple[str, str], tuple[str, str]]":
        """The VM's uuid and the device's name in it, of those of the disks of which they are known. Never waits.

        Forgets all other disks. `now`: seconds of a clock that never goes back.
        """
        wanted = set(disks)
        while self._answers:
            self._known.update(self._answers.popleft())
        self._known = {disk: names for disk, names in self._known.items() if disk in wanted}
        missing = wanted - set(self._known)
        if missing - self._missing:
            self._pause = 0.0
            self._due = now
        self._missing = missing
        if missing and now >= self._due and (self._thread is None or not self._thread.is_alive()):
            self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * self._pause))
            self._due = now + self._pause
            self._thread = threading.Thread(target=self._ask, args=(missing,), name="guests", daemon=True)
            self._thread.start()
        return dict(self._known)

    def _ask(self, missing: "set[tuple[str, str]]") -> None:
        for domid in sorted({domid for domid, _ in missing}):
            try:
                guest = xen.guest(domid)
            except StorageError as error:
                log.info(f"the disks of the VM with domain id {domid} are not known yet: {error}")
                continue
            self._answers.append(
                {
                    (domid, node): (guest.uuid, guest.devices[node])
                    for one, node in missing
                    if one == domid and node in guest.devices
                }
            )

# SPDX-License-Identifier: LGPL-2.1-only
"""A mirror job: copies a disk to an NBD server while a VM writes it, and keeps the copy in step until its end.

It works in passes. Each makes a ZFS snapshot of the disk and copies what `zfs send` says was written since the one
before: for the first pass, all that the disk holds. When a pass is short, the copy is in step, and the passes go on so
that the rest stays small. The last pass comes when nobody writes the disk any more.

The disk itself is only read, through its snapshots, of which there are at most two. However the job ends, they go with
it, or by `repository.mirror.clear` if it was killed. A server that has a part of a pass has a copy that is of no use:
so the job fails as soon as anything does, and never begins again.
"""

from contextlib import closing
import time

from zfsvol import log, naming
from zfsvol.errors import InvalidSize, NoSpace, StorageError
from zfsvol.motion.filled import Filled
from zfsvol.motion.pace import Pace
from zfsvol.nbd.client import Client
from zfsvol.repository import mirror
from zfsvol.repository.family import human
from zfsvol.repository.job import FINISHED
from zfsvol.zfs import changes, datasets, sendstream
from zfsvol.zfs.counters import Datasets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zfsvol.motion.process import Orders
    from zfsvol.repository.job import Job

# Bytes of neighbouring blocks that are sent at once.
_RUN = 1 << 20

# Seconds.
_REPORT_INTERVAL = 0.25
_LOOK_INTERVAL = 0.2  # for orders and the end of the connection, while there is nothing to copy
_PASS_INTERVAL = 1.0  # between two passes of a copy that is in step, at least
_SHARE = 3  # a pass that took a second is followed by three without one: of twelve jobs at once, none slows all others
_BLIND_INTERVAL = 30.0  # likewise, if nothing was written: the kernel does not count what is freed
# Until a ZFS at the other end has written what it got: it begins to do so every five seconds (zfs_txg_timeout).
_DURABLE_AFTER = 10.0

_NEARLY = 0.99  # the progress before the copy is in step


def run(job: "Job", orders: "Orders") -> None:
    """Does the job to its end. Raises StorageError, whatever fails."""
    client = Client(job.read()["remote"])
    try:
        _Mirror(job, orders, client).run()
    finally:
        client.abandon()


class _Moment:
    """A ZFS snapshot of the disk. `size`: bytes that it holds. `written`: the disk's counter before it was made."""

    def __init__(self, name: str, guid: int, size: int, written: "int | None") -> None:
        self.name = name
        self.guid = guid
        self.size = size
        self.written = written


class _Mirror:
    def __init__(self, job: "Job", orders: "Orders", client: Client) -> None:
        self._job = job
        self._orders = orders
        self._client = client
        self._state: "dict[str, Any]" = job.read()
        self._reported = 0.0
        self._pool = job.sr.zfs
        vdi = job.sr.vdi(job.key)
        vdi.require_data("mirrored")
        self._zvol = vdi.zvol
        if client.size < vdi.size:
            raise InvalidSize(f"the disk at the other end has {client.size} bytes, and the VDI {vdi.key} {vdi.size}.")
        self._counters = Datasets()
        self._pace = Pace()
        self._passes = 0
        self._base: "_Moment | None" = None
        self._moved = 0  # bytes, in all passes
        self._filled = Filled(vdi.size)

    def run(self) -> None:
        try:
            while not self._orders.finish:
                self._pass()
                if self._pace.is_close:
                    if "was_in_step" not in self._state:
                        self._become_durable()
                    self._report(state=mirror.IN_STEP, was_in_step=True, progress=1.0)
                    self._wait()
            self._obey()
            self._pass()
            self._client.close()
            log.info(f"{self._zvol}: the mirror is complete; the VM waited {self._orders.waited():.1f} s for it")
            self._report(state=FINISHED)
        finally:
            try:
                mirror.drop_snapshots(self._job.sr, self._job.key, self._state["operation"])
            except StorageError as error:
                log.warning(f"{self._zvol}: snapshots of the mirror stay until the SR is attached again: {error}")

    def _become_durable(self) -> None:
        """Waits until a power cut at the other end cannot harm the copy of a halted VM's disk, or until an order comes.

        xapi destroys the source as soon as the copy is complete, and leaves the other end open. What closes the disk of
        a running VM there, before that goes on, also waits for its data.
        """
        if self._client.can_flush or self._state["domain"] != mirror.NOBODY:
            return  # `flush` has seen to it, or the close will
        end = time.monotonic() + _DURABLE_AFTER
        while time.monotonic() < end and not self._orders.finish:
            self._orders.obey()
            self._client.check()
            self._orders.changed.wait(_LOOK_INTERVAL)

    def _obey(self) -> None:
        self._orders.obey()
        if self._orders.finish and not self._pace.is_close:
            raise StorageError("The disk was deactivated before the copy was complete.")

    def _pass(self) -> None:
        """Copies what was written since the last pass."""
        began, before = time.monotonic(), self._moved
        base = self._base
        target = self._snapshot()
        run = _Run(self._client)
        stream = datasets.sent_data(self._pool, None if base is None else base.name, target.name)
        # A zfs send that still runs after a failure would keep its snapshots from being destroyed.
        with closing(stream):
            since = 0 if base is None else base.guid
            for start, end, data in sendstream.contents(stream, base=since, target=target.guid):
                self._obey()
                if data:
                    self._filled.add(start, end)
                    self._moved += end - start
                    if run.add(start, end, data):
                        self._progress(target)
                elif base is not None:  # a full stream frees nothing that it has written
                    for first, last in self._filled.within(start, end):
                        self._client.zero(first, last - first)
        run.send()
        self._client.flush()
        self._base = target
        if base is not None and not self._orders.finish:  # the last ones go while nobody waits
            changes.destroy(self._pool, base.name)
        seconds, moved = time.monotonic() - began, self._moved - before
        self._passes += 1
        if moved or self._passes == 1:
            log.info(f"{self._zvol}: pass {self._passes} of the mirror: {human(moved)} in {seconds:.1f} s")
        if not self._orders.finish:
            self._pace.passed(moved, seconds)

    def _snapshot(self) -> _Moment:
        written = self._written()
        name = f"{self._zvol}@{naming.mirror_snapshot(self._state['operation'], self._passes + 1)}"
        try:
            changes.create_snapshots(self._pool, name)
        except NoSpace as error:
            raise NoSpace(
                "There is no room for the snapshot that a disk is copied from. That of a thick disk needs as much "
                f"space as the disk holds. Make room, or make the disk thin while it moves. {error}"
            ) from None
        ((guid, size),) = datasets.listing(self._pool, name, types="snapshot", columns=("guid", "logicalreferenced"))
        return _Moment(name, int(guid), int(size), written)

    def _written(self) -> "int | None":
        """The bytes that were written to the disk since it has a device node, as the kernel counts them."""
        found = self._counters.read([self._zvol]).get(self._zvol)
        return None if found is None else found.bytes_written

    def _wait(self) -> None:
        """Returns when there is something to copy, or an order. Raises NbdFailed if the connection ends."""
        began = time.monotonic()
        while not self._orders.finish:
            self._orders.obey()
            self._client.check()
            waited = time.monotonic() - began
            is_written = self._base is None or self._written() != self._base.written
            if waited >= (max(_PASS_INTERVAL, _SHARE * self._pace.pause) if is_written else _BLIND_INTERVAL):
                return
            self._orders.changed.wait(_LOOK_INTERVAL)

    def _progress(self, target: _Moment) -> None:
        """Tells how far the copy is: the first pass is nearly all."""
        if self._pace.is_close or time.monotonic() - self._reported < _REPORT_INTERVAL:
            return
        done = self._moved / max(target.size, self._moved) if self._base is None else 1.0
        self._report(progress=round(_NEARLY * done, 4))

    def _report(self, **changed: "Any") -> None:
        """Writes the state, unless it is as it was. `moved`: bytes so far; `pause`: seconds that the last pass took."""
        self._state.update(changed, moved=self._moved, passes=self._passes, pause=round(self._pace.pause, 2))
        self._job.write(self._state)
        self._reported = time.monotonic()


class _Run:
    """Neighbouring blocks, which are sent together."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._start = 0
        self._end = -1
        self._data: "list[memoryview]" = []

    def add(self, start: int, end: int, data: "list[memoryview]") -> bool:
        """Adds a block; sends those before it if it is no neighbour, or if they are enough. Whether it did."""
        is_next = start == self._end and end - self._start <= _RUN
        if not is_next:
            self.send()
            self._start = start
        self._data += data
        self._end = end
        return not is_next

    def send(self) -> None:
        """Sends what there is."""
        if self._data:
            self._client.write(self._start, self._data)
            self._data = []

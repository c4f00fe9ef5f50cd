# SPDX-License-Identifier: LGPL-2.1-only
"""An SR as an object: its root dataset, its pool, its locks, its records and its access to ZFS.

A verb starts with `opened`, which checks that the pool can answer and takes the SR's lock. Nothing is looked up by the
SR's uuid, because a copy of the SR has the same one. Locks and records are named by the root dataset, which is unique
on a host at any time. The pool's guid, stored beside the records, distinguishes the pool from an earlier one of the
same name.
"""

import json
import os

from zfsvol import naming
from zfsvol.errors import SRUnavailable, VDIUnavailable
from zfsvol.host import files, lock
from zfsvol.naming import Root
from zfsvol.repository import vdi as vdis
from zfsvol.repository.vdi import VDI
from zfsvol.zfs import datasets
from zfsvol.zfs.pool import Missing, Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# In memory: a boot removes it, together with all that it records.
DIRECTORY = "/var/run/nonpersistent/zfs-vol"
# On the host's disk: what outlives a boot, or is too large for memory.
LASTING = "/var/lib/zfs-vol"

_ATTACHED = "attached"
_UNFINISHED = "unfinished"
_KEPT = "kept"
LET_GO = "released"  # a directory, see repository.moved

# How a verb opens an SR.
READ = "read"  # changes nothing; shares the lock and does not queue behind waiting verbs
CHANGE = "change"  # shares the lock with verbs that change something else
ALONE = "alone"  # excludes all other verbs


class SR(Root):
    """An SR on an imported pool. `zfs`: access to that pool."""

    def __init__(self, dataset: str) -> None:
        super().__init__(dataset)
        self.zfs = Pool(self.pool)

    def locked(self, mode: str) -> "Held":
        """The SR's lock, for a `with`; commands on the pool inherit it."""
        shared = mode != ALONE
        return Held(self, lock.Lock(f"srs/{self.dataset}/sr", lock.SR_LIMIT, shared=shared, queued=mode != READ))

    def unused(self) -> "Held":
        """Its lock, alone, if no verb has it, for a `with`: for work that no verb should have to wait for.

        Raises LockTimeout at once if one has.
        """
        return Held(self, lock.Lock(f"srs/{self.dataset}/sr", 0, queued=False))

    def vdi_locked(self, key: str, limit: float = lock.VDI_LIMIT) -> "Held":
        """The lock of a VDI, for a `with`, to change its users or to keep it unused. Taken before the SR's lock."""
        return Held(self, lock.Lock(f"srs/{self.dataset}/vdi-{key}", limit))

    def read(self) -> "dict[str, str]":
        """The root's own properties. Raises SRUnavailable if the pool holds no such SR."""
        try:
            return self.require(datasets.properties(self.zfs, self.dataset))
        except Missing:
            raise self.missing() from None

    def require(self, values: "dict[str, str]") -> "dict[str, str]":
        """`values`, after a check that they are those of this SR's root. Raises SRUnavailable."""
        if values.get(naming.SR_UUID) != self.uuid:
            raise self.missing()
        return values

    def missing(self) -> SRUnavailable:
        """The error for a root that does not exist, or is not the root of this SR."""
        return SRUnavailable(f"The pool {self.pool} holds no SR {self.uuid}.")

    def vdi(self, key: str, reader: "Callable[[Pool, str], dict[str, str]]" = datasets.properties) -> VDI:
        """A VDI of the SR, with the properties that `reader` reads. Raises VDIUnavailable, SRUnavailable."""
        naming.require_uuid(key, "The VDI")
        for name in (key, naming.revert_name(key)):
            try:
                found = vdis.found(self, key, {name: reader(self.zfs, self.volume(name))})
            except Missing:
                continue
            if found is not None:
                return found
        self.read()  # raises if the SR itself is missing
        raise VDIUnavailable(f"The SR {self.uuid} has no VDI {key}.")

    def zvols(self) -> "tuple[dict[str, str], dict[str, dict[str, str]]]":
        """The root's own properties, and those of all zvols below it by name. Complete, or raises SRUnavailable."""
        try:
            values, found = datasets.volumes(self.zfs, self.dataset)
        except Missing:
            raise self.missing() from None
        return self.require(values), found

    # --- state of an attached SR, kept in memory

    @property
    def directory(self) -> str:
        """The directory of its VDIs' records."""
        return os.path.join(DIRECTORY, self.dataset)

    @property
    def attached_from(self) -> "str | None":
        """The guid of the pool that the SR was attached from; None if it is not attached."""
        try:
            return files.text(os.path.join(self.directory, _ATTACHED))
        except OSError:
            return None

    @property
    def guid(self) -> str:
        """The guid of its pool. Raises SRUnavailable."""
        return self.attached_from or self.zfs.guid()

    def mark_attached(self, guid: str) -> None:
        """Marks the SR as attached from this pool."""
        files.write(os.path.join(self.directory, _ATTACHED), guid)
        os.utime(DIRECTORY)  # see `attached_changed`

    def mark_detached(self) -> None:
        """Marks the SR as not attached. Idempotent."""
        moved = [os.path.join(LET_GO, name) for name in files.names(os.path.join(self.directory, LET_GO))]
        for name in (_ATTACHED, _UNFINISHED, _KEPT, *moved):
            files.remove(os.path.join(self.directory, name))
        try:
            os.rmdir(os.path.join(self.directory, LET_GO))
        except FileNotFoundError:
            pass
        if os.path.isdir(DIRECTORY):
            os.utime(DIRECTORY)
        path = self.directory
        while path != DIRECTORY:
            try:
                os.rmdir(path)
            except OSError:
                return  # another SR uses it
            path = os.path.dirname(path)

    def forget_records(self) -> None:
        """Removes all records without acting on them: they belong to an SR that is gone."""
        for name in files.names(self.directory):
            if not os.path.isdir(os.path.join(self.directory, name)):
                files.remove(os.path.join(self.directory, name))

    @property
    def unfinished(self) -> "list[str]":
        """What is half done in the SR and could not be finished, as sentences."""
        try:
            found = json.loads(files.text(os.path.join(self.directory, _UNFINISHED)))
        except (OSError, ValueError):
            return []
        return [str(sentence) for sentence in found]

    def note_unfinished(self, sentences: "list[str]") -> None:
        """Stores what could not be finished, for the SR's health."""
        if sentences:
            files.write(os.path.join(self.directory, _UNFINISHED), json.dumps(sentences))
        else:
            files.remove(os.path.join(self.directory, _UNFINISHED))

    @property
    def may_keep(self) -> bool:
        """Whether other programs' snapshots may keep deleted disks: they did at the last check."""
        return os.path.exists(os.path.join(self.directory, _KEPT))

    def note_kept(self, *, is_any: bool) -> None:
        """Stores whether they do."""
        if is_any:
            files.write(os.path.join(self.directory, _KEPT), "")
        else:
            files.remove(os.path.join(self.directory, _KEPT))


class Held:
    """Holds a lock of an SR or of a VDI within its `with`, which yields the SR."""

    def __init__(self, sr: SR, wanted: lock.Lock) -> None:
        self._sr = sr
        self._lock = wanted

    def __enter__(self) -> SR:
        """Raises LockTimeout."""
        self._lock.__enter__()
        self._sr.zfs.held.append(self._lock.descriptor)
        return self._sr

    def __exit__(self, *_exception: object) -> None:
        self._sr.zfs.held.remove(self._lock.descriptor)
        self._lock.release()


def find(sr: str) -> SR:
    """The SR that the client's `sr` names, after a check that its pool is imported and can answer.

    Raises InvalidArgument (no SR of this driver), SRUnavailable. Starts no child process, and leaves it to the next
    command to find out whether the dataset exists.
    """
    found = SR(naming.parse_sr(sr).dataset)
    found.zfs.require()
    return found


def opened(sr: str, mode: str) -> Held:
    """The SR that the client's `sr` names, for a `with`. Raises as `find`, and LockTimeout."""
    return find(sr).locked(mode)


def below(pool: Pool, dataset: str) -> "list[SR]":
    """All SRs in a pool, or below a dataset. Raises Missing."""
    found = listed_roots(pool, dataset)
    return [SR(name) for name, uuid in found if naming.is_root(name) and Root(name).uuid == uuid]


def listed_roots(pool: Pool, dataset: str) -> "list[tuple[str, str]]":
    """The datasets marked as an SR's root, whatever their names, each with that SR's uuid."""
    rows = datasets.listing(pool, dataset, types="filesystem", columns=("name", naming.SR_UUID))
    return [(name, uuid) for name, uuid in rows if naming.is_uuid(uuid)]


def attached() -> "list[SR]":
    """The SRs that are attached on this host."""
    found = []
    for directory, _, names in os.walk(DIRECTORY):
        dataset = os.path.relpath(directory, DIRECTORY)
        if _ATTACHED in names and naming.is_root(dataset):
            found.append(SR(dataset))
    return sorted(found, key=lambda sr: sr.dataset)


def attached_changed() -> int:
    """A number that is another one after an SR was attached or detached. A verb killed in between may not change it."""
    try:
        return os.stat(DIRECTORY).st_mtime_ns
    except FileNotFoundError:
        return 0

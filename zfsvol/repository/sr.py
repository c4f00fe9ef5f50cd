# SPDX-License-Identifier: LGPL-2.1-only
"""An SR as an object: it knows its root dataset and its pool, and owns its locks, its records and the way to ZFS.

A verb comes in by `opened`, which looks whether the pool can answer and takes the SR's lock. Nothing is found by the
SR's uuid: a copy of the SR has the same one. Locks and records are named by the root dataset, which no two SRs of a
host share at a time; the pool's guid, kept beside the records, tells a pool from an earlier one of its name.
"""

import json
import os

from zfsvol import naming
from zfsvol.errors import SRUnavailable, VDIUnavailable
from zfsvol.host import files, lock
from zfsvol.naming import Root
from zfsvol.repository import vdi as vdis
from zfsvol.repository.vdi import VDI
from zfsvol.zfs import datasets, pools
from zfsvol.zfs.pool import Missing, Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# In memory: gone with the boot, as is all that it tells of.
DIRECTORY = "/var/run/nonpersistent/zfs-vol"

_ATTACHED = "attached"
_UNFINISHED = "unfinished"
_KEPT = "kept"

# How a verb opens an SR.
READ = "read"  # it changes nothing, and does not wait behind those that wait
CHANGE = "change"  # beside others that change something else
ALONE = "alone"  # nobody else is at work in the SR


class SR(Root):
    """An SR on an imported pool. `zfs`: the way to that pool."""

    def __init__(self, dataset: str) -> None:
        super().__init__(dataset)
        self.zfs = Pool(self.pool)

    def locked(self, mode: str) -> "Held":
        """The SR's lock for its `with`; every command on the pool keeps it, too."""
        shared = mode != ALONE
        return Held(self, lock.Lock(f"srs/{self.dataset}/sr", lock.SR_LIMIT, shared=shared, queued=mode != READ))

    def vdi_locked(self, key: str, limit: float = lock.VDI_LIMIT) -> "Held":
        """The lock of a VDI, for who changes who uses it, or needs it unused. Taken before the SR's."""
        return Held(self, lock.Lock(f"srs/{self.dataset}/vdi-{key}", limit))

    def read(self) -> "dict[str, str]":
        """The root's own properties. Raises SRUnavailable where the pool holds no such SR."""
        try:
            return self.require(datasets.properties(self.zfs, self.dataset))
        except Missing:
            raise self.missing() from None

    def require(self, values: "dict[str, str]") -> "dict[str, str]":
        """`values`, if they are those of the root of this SR. Raises SRUnavailable."""
        if values.get(naming.SR_UUID) != self.uuid:
            raise self.missing()
        return values

    def missing(self) -> SRUnavailable:
        """The error for a root that is not there, or is not the root of this SR."""
        return SRUnavailable(f"The pool {self.pool} holds no SR {self.uuid}.")

    def vdi(self, key: str, reader: "Callable[[Pool, str], dict[str, str]]" = datasets.properties) -> VDI:
        """A VDI of the SR, with what `reader` reads of its zvol. Raises VDIUnavailable, SRUnavailable."""
        naming.require_uuid(key, "The VDI")
        for name in (key, naming.revert_name(key)):
            try:
                found = vdis.found(self, key, {name: reader(self.zfs, self.volume(name))})
            except Missing:
                continue
            if found is not None:
                return found
        self.read()  # it may be the SR that is missing
        raise VDIUnavailable(f"The SR {self.uuid} has no VDI {key}.")

    def zvols(self) -> "tuple[dict[str, str], dict[str, dict[str, str]]]":
        """The root's own properties, and those of all zvols below it by name. Complete, or raises SRUnavailable."""
        try:
            values, found = datasets.volumes(self.zfs, self.dataset)
        except Missing:
            raise self.missing() from None
        return self.require(values), found

    # --- what is kept in memory of an SR that is attached

    @property
    def directory(self) -> str:
        """Where the records of its attached VDIs are."""
        return os.path.join(DIRECTORY, self.dataset)

    @property
    def attached_from(self) -> "str | None":
        """The guid of the pool that the SR was attached from; None where it is not attached."""
        try:
            return files.text(os.path.join(self.directory, _ATTACHED))
        except OSError:
            return None

    @property
    def guid(self) -> str:
        """The guid of its pool. Raises SRUnavailable."""
        return self.attached_from or pools.guid(self.zfs)

    def mark_attached(self, guid: str) -> None:
        """From now on the SR is attached."""
        files.write(os.path.join(self.directory, _ATTACHED), guid)

    def mark_detached(self) -> None:
        """The SR is not attached any more. Idempotent."""
        for name in (_ATTACHED, _UNFINISHED, _KEPT):
            files.remove(os.path.join(self.directory, name))
        path = self.directory
        while path != DIRECTORY:
            try:
                os.rmdir(path)
            except OSError:
                return  # another SR's are in it
            path = os.path.dirname(path)

    def forget_records(self) -> None:
        """Forgets all attachments, without a look at what they tell of: they are of an SR that is here no more."""
        for name in files.names(self.directory):
            if not os.path.isdir(os.path.join(self.directory, name)):
                files.remove(os.path.join(self.directory, name))

    @property
    def unfinished(self) -> "list[str]":
        """What is half done in the SR and could not be finished, a sentence each."""
        try:
            found = json.loads(files.text(os.path.join(self.directory, _UNFINISHED)))
        except (OSError, ValueError):
            return []
        return [str(sentence) for sentence in found]

    def note_unfinished(self, sentences: "list[str]") -> None:
        """Keeps what could not be finished, for the SR's health."""
        if sentences:
            files.write(os.path.join(self.directory, _UNFINISHED), json.dumps(sentences))
        else:
            files.remove(os.path.join(self.directory, _UNFINISHED))

    @property
    def may_keep(self) -> bool:
        """Whether snapshots of other programs may keep what was deleted: they did when it was looked at last."""
        return os.path.exists(os.path.join(self.directory, _KEPT))

    def note_kept(self, *, is_any: bool) -> None:
        """Whether they do."""
        if is_any:
            files.write(os.path.join(self.directory, _KEPT), "")
        else:
            files.remove(os.path.join(self.directory, _KEPT))


class Held:
    """A lock of an SR or of a VDI within its `with`, which hands over the SR."""

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
    """The SR that the client's `sr` names, its pool imported and able to answer.

    Raises InvalidArgument (no SR of this driver), SRUnavailable. No child process; whether the dataset is there is
    for the command that follows to tell.
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
    """The datasets that say of themselves that they are an SR's root, with that SR's uuid, whatever their names are."""
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

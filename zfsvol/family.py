# SPDX-License-Identifier: LGPL-2.1-only
"""The families of an SR's disks: which zvol was made from which, what is left of removed ones, what was half done.

Every VDI, snapshot or not, is a zvol. One that was made from another is ZFS's clone of a ZFS snapshot of it; that
snapshot has the uuid of the VDI it was made for, and exists as long as a zvol was made from it. A removed VDI that
others were made from is moved to the SR's graveyard. So this is all that there is below an SR's root:

  <uuid>              a VDI; it has the property zfsvol:name
  <zvol>@<uuid>       what at least one zvol was made from
  .gone/<uuid>.<n>    a removed VDI that at least one zvol was made from; it has the property zfsvol:removed
  .revert-<uuid>      while Volume.revert is at work: what is about to be the VDI

`repair` makes it so after a verb was killed, or the power failed, between two steps.
"""

import functools
import os
import time

from zfsvol import lock, log, naming, zfs
from zfsvol.errors import NoSpace, StorageError, Unfinished
from zfsvol.naming import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    _Answer = TypeVar("_Answer")

# A zvol that nobody has written to refers to less than this, in bytes; one made from another has less than this of its
# own: the blocks that describe it.
_EMPTY = 1 << 20
_EMPTY_CLONE = 64 << 10

_ROUNDS = 5

_SPACE_TRIES = 40
_SPACE_PAUSE = 0.25


class Interrupted(Unfinished):
    """A Volume.revert in this SR was killed when its outcome was certain already.

    Verbs do not let it reach the client.
    """

    def __init__(self, root: Root) -> None:
        super().__init__(f"A revert in the SR {root.uuid} was interrupted.")
        self.root = root

    def end(self) -> None:
        """Gives the disk the content that it was reverted to."""
        with lock.sr(self.root.uuid, exclusive=True):
            repair(self.root)


def resuming(verb: "Callable[..., _Answer]") -> "Callable[..., _Answer]":
    """Makes a verb that meets what is Unfinished end that, and begin again; raises what comes back."""

    @functools.wraps(verb)
    def carry_out(*arguments: "Any", **named: "Any") -> "_Answer":
        deadline = time.monotonic() + lock.VDI_LIMIT
        ended: "set[object]" = set()
        while True:
            try:
                return verb(*arguments, **named)
            except Unfinished as unfinished:
                what = unfinished.what()
                if what in ended or time.monotonic() > deadline:
                    raise
                if what is not None:
                    ended.add(what)
                unfinished.end()

    return carry_out


class Finding:
    """What is not as it should be, in a sentence; `mend` puts it right, None is what only a person may."""

    def __init__(self, text: str, mend: "Callable[[], object] | None" = None) -> None:
        self.text = text
        self.mend = mend


class Family:
    """All datasets below an SR's root, by their names without it, with some of their properties."""

    def __init__(self, root: Root, datasets: "dict[str, dict[str, str]]") -> None:
        self.root = root
        self.zvols = {name: values for name, values in datasets.items() if values["type"] == "volume"}
        self.snapshots = {name: values for name, values in datasets.items() if values["type"] == "snapshot"}
        self.others = [name for name, values in datasets.items() if values["type"] not in ("volume", "snapshot")]

    def parent(self, name: str) -> "str | None":
        """The zvol that this one was made from; None for a first of its family, or one from outside the SR."""
        return _parent(self.root, self.zvols, name)

    def children(self) -> "dict[str | None, list[str]]":
        """The zvols by that which they were made from, the oldest first; the first of each family by None."""
        return _children(self.root, self.zvols)

    def dataset(self, name: str) -> str:
        """The whole name."""
        return f"{self.root.dataset}/{name}"


def _parent(root: Root, zvols: "dict[str, dict[str, str]]", name: str) -> "str | None":
    prefix = root.dataset + "/"
    origin = zvols[name].get("origin", "").partition("@")[0]
    parent = origin[len(prefix) :]
    return parent if origin.startswith(prefix) and parent in zvols else None


def _children(root: Root, zvols: "dict[str, dict[str, str]]") -> "dict[str | None, list[str]]":
    found: "dict[str | None, list[str]]" = {}
    for name in sorted(zvols, key=lambda name: (int(zvols[name]["createtxg"]), name)):
        found.setdefault(_parent(root, zvols, name), []).append(name)
    return found


def is_vdi(name: str, values: "dict[str, str]") -> bool:
    """Whether a zvol below a root, with these properties, is a VDI: completely made, and not removed."""
    return naming.is_uuid(name) and naming.VDI_NAME in values and naming.VDI_REMOVED not in values


def is_removed(values: "dict[str, str]") -> bool:
    """Whether a zvol with these properties was a VDI."""
    return naming.VDI_REMOVED in values


def charges(root: Root, zvols: "dict[str, dict[str, str]]") -> "dict[str, int]":
    """What each VDI takes of the pool, in bytes: the numbers of all VDIs add up to what all zvols take.

    That is what its own zvol takes; and what the zvol of a removed VDI still takes counts for the oldest VDI of those
    that were made from it.
    """
    children = _children(root, zvols)
    found = {name: int(values["used"]) for name, values in zvols.items() if is_vdi(name, values)}
    for name, values in zvols.items():
        candidates = [name] if is_removed(values) else []
        while candidates:
            candidate = candidates.pop()
            if candidate in found:
                found[candidate] += int(values["used"])
                break
            candidates += reversed(children.get(candidate, []))
    return found


def read(root: Root) -> Family:
    """All that is below the root. Raises zfs.Missing."""
    prefix = root.dataset + "/"
    found = zfs.tree(root.dataset)
    return Family(root, {name[len(prefix) :]: values for name, values in found.items() if name.startswith(prefix)})


def inspect(family: Family) -> "list[Finding]":
    """Everything that is not as the model has it."""
    found: "list[Finding]" = []
    for name, values in sorted(family.zvols.items()):
        found += _inspect_zvol(family, name, values)
    for name, values in sorted(family.snapshots.items()):
        found += _inspect_snapshot(family, name, values)
    everything = [*family.zvols, *family.snapshots, *family.others]
    for name in family.others:
        if family.dataset(name) != family.root.graveyard:
            found.append(Finding(f"{name} is no disk of this SR"))
        elif not any(other.startswith((name + "/", name + "@")) for other in everything):
            found.append(Finding(f"{name} is empty", lambda: zfs.destroy(family.root.graveyard)))
    return found


def _inspect_zvol(family: Family, name: str, values: "dict[str, str]") -> "list[Finding]":
    if is_removed(values):
        return _inspect_removed(family, name, values)
    if is_vdi(name, values):
        return []
    target = naming.reverted(name)
    if target is not None and naming.VDI_NAME in values:
        return [_inspect_revert(family, name, target)]
    if target is None and not naming.is_uuid(name):
        return [Finding(f"{name} is no disk of this SR")]
    if _was_never_used(family, name, values):
        return [Finding(f"{name} is only half made", lambda: zfs.remove(family.root.dataset, name, "discard"))]
    return [Finding(f"{name} is no disk of this SR and holds data; it is left alone")]


def _inspect_revert(family: Family, name: str, target: str) -> Finding:
    root = family.root
    if is_vdi(target, family.zvols.get(target, {})):
        text = f"a revert of {target} was interrupted before it had any effect"
        return Finding(text, lambda: zfs.remove(root.dataset, name, "discard"))
    return Finding(f"a revert of {target} was interrupted", lambda: finish_revert(root, target))


def _was_never_used(family: Family, name: str, values: "dict[str, str]") -> bool:
    if any(snapshot.startswith(name + "@") for snapshot in family.snapshots):
        return False
    if "origin" in values:
        return naming.is_uuid(values["origin"].rpartition("@")[2]) and int(values["written"]) < _EMPTY_CLONE
    return int(values["logicalreferenced"]) < _EMPTY


def _inspect_removed(family: Family, name: str, values: "dict[str, str]") -> "list[Finding]":
    root, dataset = family.root, family.dataset(name)
    own = [snapshot for snapshot in family.snapshots if snapshot.startswith(name + "@")]
    if not any(_is_needed(family.snapshots[snapshot]) or not _is_ours(snapshot) for snapshot in own):
        return [Finding(f"{name} is removed and nothing needs it", lambda: zfs.settle(root.dataset, [dataset]))]
    found = []
    if not any(_is_needed(family.snapshots[snapshot]) for snapshot in own):
        # What takes its space is theirs, and they have it without the driver.
        names = ", ".join(snapshot for snapshot in own if not _is_ours(snapshot))
        found.append(Finding(f"{name} is removed; snapshots of another program or person keep it: {names}"))
    elif int(values["written"]) >= _EMPTY_CLONE:
        text = "{} is removed and takes {} bytes for nobody".format(name, values["written"])
        found.append(Finding(text, lambda: zfs.settle(root.dataset, [dataset])))
    if naming.revert_name(name) in family.zvols:
        # Another zvol is about to have this name: finish_revert does both.
        return found
    if int(values.get("refreservation", "0")) > 0:
        found.append(Finding(f"{name} is removed and has a reservation", lambda: _unreserve(dataset)))
    if naming.is_uuid(name):
        found.append(Finding(f"{name} is removed and not yet in the graveyard", lambda: bury(root, {dataset: 0})))
    return found


def _inspect_snapshot(family: Family, name: str, values: "dict[str, str]") -> "list[Finding]":
    zvol = name.partition("@")[0]
    if not _is_ours(name) or _is_needed(values) or is_removed(family.zvols.get(zvol, {})):
        return []
    dataset = family.dataset(name)
    text = f"{name} was made for a disk that is not there"
    return [Finding(text, lambda: zfs.settle(family.root.dataset, [dataset]))]


def _is_ours(snapshot: str) -> bool:
    return naming.is_uuid(snapshot.rpartition("@")[2])


def _is_needed(values: "dict[str, str]") -> bool:
    return values.get("clones", "") not in ("", "-")


def bury(root: Root, kept: "dict[str, int]") -> None:
    """Moves removed zvols to the graveyard and lets go of their reservations; `kept` is what zfs.remove answers.

    A crash leaves some of it for `repair`; for clients the VDIs are gone already.
    """
    for dataset, reserved in kept.items():
        if reserved:
            _unreserve(dataset)
        _move_to_grave(root, dataset)


def _move_to_grave(root: Root, dataset: str) -> None:
    for _ in range(_SPACE_TRIES):
        try:
            zfs.rename(dataset, root.grave(dataset.rpartition("/")[2], os.urandom(4).hex()))
            return
        except NoSpace:  # what the removal has freed takes a moment to be free
            time.sleep(_SPACE_PAUSE)
    raise NoSpace(f"The pool is so full that {dataset}, which is removed, cannot be moved to {root.graveyard}.")


def _unreserve(dataset: str) -> None:
    zfs.set_properties(dataset, {"refreservation": "none"})


def finish_revert(root: Root, uuid: str) -> None:
    """The last steps of Volume.revert: what is left of the VDI makes way for what it is to be."""
    try:
        values = zfs.properties(root.volume(uuid))
    except zfs.Missing:
        pass
    else:
        bury(root, {root.volume(uuid): int(values.get("refreservation", "0"))})
    zfs.rename(root.volume(naming.revert_name(uuid)), root.volume(uuid))


def repair(root: Root) -> "list[Finding]":
    """Finishes or undoes what was half done, and answers with what is left for a person to look at.

    For the holder of the SR's exclusive lock. It touches nothing that the driver has not made; what cannot be mended
    now is told of in the log and left for the next time.
    """
    found = inspect(read(root))
    for _ in range(_ROUNDS):
        if not any(finding.mend for finding in found):
            break
        for finding in found:
            _mend(root, finding)
        found = inspect(read(root))
    for finding in found:
        log.warning(f"{root.dataset}: {finding.text}")
    return found


def _mend(root: Root, finding: Finding) -> None:
    if finding.mend is None:
        return
    log.warning(f"{root.dataset}: repairing: {finding.text}")
    try:
        finding.mend()
    except zfs.Missing:
        pass  # mending what was found before has done it
    except StorageError as error:
        log.warning(f"{root.dataset}: not repaired: {finding.text}: {error}")

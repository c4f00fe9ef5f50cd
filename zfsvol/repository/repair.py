# SPDX-License-Identifier: LGPL-2.1-only
"""Finds and repairs what is wrong in an SR: mostly states that a killed verb left between two steps."""

from zfsvol import log, naming
from zfsvol.errors import StorageError
from zfsvol.repository import family, lineage, vdi
from zfsvol.repository.family import Family
from zfsvol.repository.sr import SR
from zfsvol.zfs import changes, programs
from zfsvol.zfs.pool import Missing
from zfsvol.zfs.programs import Left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Bytes. A zvol that was never written to references less than this.
_EMPTY = 1 << 20

_ROUNDS = 5


class Finding:
    """Something wrong, in a sentence. `mend` fixes it; None: only a person may fix it.

    Without `is_wrong` it is only worth knowing: others want it so.
    """

    def __init__(self, text: str, mend: "Callable[[SR], object] | None" = None, *, is_wrong: bool = True) -> None:
        self.text = text
        self.mend = mend
        self.is_wrong = is_wrong


def inspect(found: Family) -> "list[Finding]":
    """Everything in the family that is wrong. Pure."""
    findings: "list[Finding]" = []
    for name, values in sorted(found.zvols.items()):
        findings += _inspect_zvol(found, name, values)
    for name, values in sorted(found.snapshots.items()):
        findings += _inspect_snapshot(found, name, values)
    findings += _inspect_bookmarks(found)
    findings += [Finding(f"{name} is no disk of this SR") for name in found.others]
    return findings


def _inspect_bookmarks(found: Family) -> "list[Finding]":
    named = {
        vdi.Base.parsed(values[naming.VDI_METADATA]).bookmark: name
        for name, values in found.zvols.items()
        if naming.VDI_METADATA in values and not vdi.is_removed(values)
    }
    own = {name.rpartition("#")[2]: name for name in found.bookmarks if naming.is_bookmark(name.rpartition("#")[2])}
    findings = [_unneeded_bookmark(found, name) for short, name in sorted(own.items()) if short not in named]
    findings += [
        Finding(f"{name} has lost its bookmark: changes since it are not known any more", is_wrong=False)
        for short, name in sorted(named.items())
        if short not in own and naming.reverted(name) is None
    ]
    return findings


def _unneeded_bookmark(found: Family, name: str) -> Finding:
    dataset = found.dataset(name)
    text = f"{name} was made for a snapshot that is not there"
    return Finding(text, lambda sr: changes.destroy(sr.zfs, dataset))


def _inspect_zvol(found: Family, name: str, values: "dict[str, str]") -> "list[Finding]":
    if vdi.is_removed(values):
        return _inspect_removed(found, name, values)
    if vdi.is_vdi(name, values):
        return []
    target = naming.reverted(name)
    if target is not None and naming.VDI_NAME in values:
        return [_inspect_revert(found, name, target)]
    if target is None and not naming.is_uuid(name):
        return [Finding(f"{name} is no disk of this SR")]
    if _was_never_used(found, name, values):
        return [Finding(f"{name} is only half made", lambda sr: lineage.discard(sr, name))]
    return [Finding(f"{name} is no disk of this SR and holds data; it is left alone")]


def _inspect_revert(found: Family, name: str, target: str) -> Finding:
    parent = found.zvols[name].get(naming.VDI_COMPOSED)
    what = "a revert or a data_destroy" if parent is None else f"a compose with {parent}"
    if vdi.is_vdi(target, found.zvols.get(target, {})):
        text = f"{what} of {target} was interrupted before it had any effect"
        return Finding(text, lambda sr: lineage.give_up(sr, target))
    return Finding(f"{what} of {target} was interrupted", lambda sr: lineage.finish_revert(sr, target))


def _was_never_used(found: Family, name: str, values: "dict[str, str]") -> bool:
    if any(snapshot.startswith(name + "@") for snapshot in found.snapshots):
        return False
    if "origin" in values:
        return naming.is_uuid(values["origin"].rpartition("@")[2]) and int(values["written"]) < family.EMPTY_CLONE
    return int(values["logicalreferenced"]) < _EMPTY


def _inspect_removed(found: Family, name: str, values: "dict[str, str]") -> "list[Finding]":
    dataset = found.dataset(name)

    def prune(sr: SR) -> None:
        programs.prune(sr.zfs, sr.dataset, [dataset])

    own = {snapshot: point for snapshot, point in found.snapshots.items() if snapshot.startswith(name + "@")}
    theirs = [snapshot.rpartition("@")[2] for snapshot, point in own.items() if family.is_of_others(snapshot, point)]
    is_needed = any(family.is_needed(point) and family.is_ours(snapshot) for snapshot, point in own.items())
    if not is_needed and not theirs:
        return [Finding(f"{name} is removed and nothing needs it", prune)]
    findings = []
    if not is_needed:
        size = family.human(int(values["used"]))
        text = f"{name} is removed; snapshots or holds of another program or person keep {size}: {', '.join(theirs)}"
        findings.append(Finding(text, is_wrong=False))
    if int(values["written"]) >= family.EMPTY_CLONE:
        findings.append(
            Finding("{} is removed and holds {} bytes that nobody needs".format(name, values["written"]), prune)
        )
    heir = found.zvols.get(naming.revert_name(name))
    if heir is not None and not vdi.is_removed(heir):
        # Another zvol is due to get this name: finish_revert does both.
        return findings
    reserved = int(values.get("refreservation", "0"))
    if naming.is_uuid(name) or naming.reverted(name):
        text = f"{name} is removed and still has its name"
        findings.append(Finding(text, lambda sr: lineage.bury(sr, Left({dataset: reserved}))))
    elif reserved > 0:
        text = f"{name} is removed and has a reservation"
        findings.append(Finding(text, lambda sr: changes.set_properties(sr.zfs, dataset, {"refreservation": "none"})))
    return findings


def _inspect_snapshot(found: Family, name: str, values: "dict[str, str]") -> "list[Finding]":
    zvol, _, short = name.partition("@")
    operation = naming.mirrored(short)
    if operation is not None:
        if operation in found.mirrors:
            return []
        mirrored = found.dataset(name)
        return [Finding(f"{name} was made by a mirror that has ended", lambda sr: changes.destroy(sr.zfs, mirrored))]
    if family.is_kept(name, values) or vdi.is_removed(found.zvols.get(zvol, {})):
        return []
    dataset = found.dataset(name)
    text = f"{name} was made for a disk that is not there"
    return [Finding(text, lambda sr: programs.prune(sr.zfs, sr.dataset, [dataset]))]


def repair(sr: SR) -> "list[Finding]":
    """Finishes or undoes what is half done. Returns the findings that remain.

    The caller holds the SR's exclusive lock. It touches only what the driver made. A repair that fails does not stop
    the others: the log and the SR's health report it, and the next repair tries again.
    """
    found = family.read(sr)
    findings = inspect(found)
    given_up: "set[str]" = set()
    for _ in range(_ROUNDS):
        todo = [finding for finding in findings if finding.mend and finding.text not in given_up]
        if not todo:
            break
        given_up.update(finding.text for finding in todo if not _mend(sr, finding))
        found = family.read(sr)
        findings = inspect(found)
    for finding in findings:
        log.warning(f"{sr.dataset}: {finding.text}")
    sr.note_unfinished([finding.text for finding in findings if finding.mend])
    removed = {name: values for name, values in found.zvols.items() if vdi.is_removed(values)}
    sr.note_kept(is_any=bool(family.kept_by_others(removed, found.snapshots)))
    return findings


def _mend(sr: SR, finding: Finding) -> bool:
    assert finding.mend is not None  # noqa: S101 - for the type checker
    log.warning(f"{sr.dataset}: repairing: {finding.text}")
    try:
        finding.mend(sr)
    except Missing:
        pass  # an earlier repair has fixed this, too
    except StorageError as error:
        log.warning(f"{sr.dataset}: not repaired: {finding.text}: {error}")
        return False
    return True

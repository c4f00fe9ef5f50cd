# SPDX-License-Identifier: LGPL-2.1-only
"""What `python3 -m zfsvol check` tells: an SR's disks as a picture of their families, and what is wrong with them.

What is wrong, and its repair, is `family`'s: SR.attach does the same. Here it is put into words.
"""

from zfsvol import family, lock, naming, properties, zfs
from zfsvol import root as roots
from zfsvol.errors import InvalidArgument
from zfsvol.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

_GIB = 1 << 30
_MIB = 1 << 20


def check(dataset: str, *, repair: bool, tell: "Callable[[str], object]") -> bool:
    """Tells, line by line, of each SR in a pool or below a dataset; whether all is (with `repair`: is now) well.

    Raises InvalidArgument (there is no SR), SRUnavailable (the pool is missing or suspended). Without `repair` it
    changes nothing.
    """
    naming.require_dataset_name(dataset)
    zfs.require_pool(dataset.partition("/")[0])
    try:
        found = roots.below(dataset)
    except zfs.Missing:
        raise InvalidArgument(f"There is no dataset {dataset}.") from None
    if not found:
        raise InvalidArgument(f"There is no SR in {dataset}.")
    wrong = 0
    for root in found:
        with lock.sr(root.uuid, exclusive=repair):
            before = family.inspect(family.read(root))
            findings = family.repair(root) if repair else before
            now = family.read(root)
        for line in picture(now):
            tell(line)
        left = [finding.text for finding in findings]
        for finding in before:
            if finding.text not in left:
                tell(f"repaired: {finding.text}")
        for finding in findings:
            tell(f"WRONG: {finding.text}{' (--repair mends it)' if finding.mend and not repair else ''}")
        if not before:
            tell("all is well")
        tell("")
        wrong += len(findings)
    return wrong == 0


def picture(family_: Family) -> "list[str]":
    """The families as trees, a line for each zvol: what it is, how large, what it takes of the pool."""
    children = family_.children()
    lines = [f"SR {family_.root.uuid} ({family_.root.dataset})"]
    # By hand and not by recursion: a family may be deeper than Python's stack.
    todo = [(name, "", index == 0) for index, name in enumerate(reversed(children.get(None, [])))]
    while todo:
        name, indent, is_last = todo.pop()
        lines.append(f"{indent}{'└─' if is_last else '├─'} {describe(name, family_.zvols[name])}")
        below = indent + ("   " if is_last else "│  ")
        todo += [(child, below, index == 0) for index, child in enumerate(reversed(children.get(name, [])))]
    lines.append(_sums(family_))
    return lines


def describe(name: str, values: "dict[str, str]") -> str:
    """One zvol in words."""
    called = properties.text(values, naming.VDI_NAME)
    if not called.isprintable():
        called = called.encode("unicode_escape").decode()
    size = "{}, takes {}".format(human(int(values["volsize"])), human(int(values["used"])))
    if family.is_removed(values):
        return f"{name} “{called}”, removed {values[naming.VDI_REMOVED]}: {size}"
    if not family.is_vdi(name, values):
        return f"{name}, no disk: {size}"
    kind = "snapshot" if naming.VDI_SNAPSHOT in values else "disk"
    return f"{name} {kind} “{called}”: {size}"


def _sums(family_: Family) -> str:
    disks = [name for name, values in family_.zvols.items() if family.is_vdi(name, values)]
    snapshots = [name for name in disks if naming.VDI_SNAPSHOT in family_.zvols[name]]
    removed = [values for values in family_.zvols.values() if family.is_removed(values)]
    total = sum(int(values["used"]) for values in family_.zvols.values())
    kept = sum(int(values["used"]) for values in removed)
    return (
        f"{len(disks) - len(snapshots)} disks, {len(snapshots)} snapshots, {len(removed)} removed but needed by these; "
        f"they take {human(total)}, {human(kept)} of it the removed ones"
    )


def human(size: int) -> str:
    """Bytes for people."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB // 10 else f"{size / _MIB:.1f} MiB"

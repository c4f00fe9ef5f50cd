# SPDX-License-Identifier: LGPL-2.1-only
"""An SR's disks as family trees, and what is wrong with them.

`repository.repair` finds and repairs what is wrong, as for SR.attach.
"""

from zfsvol import naming, properties
from zfsvol.care import target
from zfsvol.care.plan import Plan
from zfsvol.errors import InvalidArgument
from zfsvol.repository import family, repair, vdi
from zfsvol.repository import sr as srs
from zfsvol.repository.family import Family
from zfsvol.repository.sr import SR
from zfsvol.zfs.pool import Missing, Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


def check(dataset: str, *, mend: bool, say: "Callable[[str], object]") -> bool:
    """Reports, line by line, on each SR in a pool or below a dataset. Returns whether all is well, or is well now.

    Raises InvalidArgument (there is no SR), SRUnavailable (the pool is missing or suspended). Changes nothing unless
    `mend`.
    """
    naming.require_dataset_name(dataset)
    pool = Pool(dataset.partition("/")[0])
    pool.require()
    try:
        found = srs.below(pool, dataset)
    except Missing:
        raise InvalidArgument(f"There is no dataset {dataset}.") from None
    if not found:
        raise InvalidArgument(f"There is no SR in {dataset}.")
    is_well = True
    for sr in found:
        answer = _checked(sr, mend=mend)
        for line in [*answer["lines"], ""]:
            say(line)
        is_well = is_well and answer["well"]
    return is_well


def report(sr_uuid: str) -> "dict[str, Any]":
    """The report on an SR: `lines`, and whether all is `well`. Changes nothing. Raises as `check`."""
    answer = _checked(target.ready(sr_uuid), mend=False)
    return {name: answer[name] for name in ("sr", "well", "lines")}


def repaired(sr_uuid: str, *, dry_run: bool = False) -> "dict[str, Any]":
    """Finishes or undoes what is half done, the `repairs`, as SR.attach does; then as `report`.

    A crash leaves the rest half done.
    """
    return _checked(target.ready(sr_uuid), mend=not dry_run)


def _checked(sr: SR, *, mend: bool) -> "dict[str, Any]":
    plan = Plan(sr)
    with sr.locked(srs.ALONE if mend else srs.CHANGE):
        before = repair.inspect(family.read(sr))
        plan.repairs = [finding.text for finding in before if finding.mend]
        answer = plan.answer(dry_run=not mend)
        now = family.read(sr)
    lines = picture(now)
    findings = repair.inspect(now)
    left = [finding.text for finding in findings]
    lines += [f"repaired: {text}" for text in plan.repairs if text not in left]
    for finding in findings:
        hint = " (--repair mends it)" if finding.mend and not mend else ""
        lines.append(f"{'WRONG' if finding.is_wrong else 'note'}: {finding.text}{hint}")
    if not any(finding.is_wrong for finding in before):
        lines.append("all is well")
    return dict(answer, well=not any(finding.is_wrong for finding in findings), lines=lines)


def picture(family_: Family) -> "list[str]":
    """The families as trees, one line per zvol: its kind, its size, the space it uses."""
    children = family_.children()
    lines = [f"SR {family_.root.uuid} ({family_.root.dataset})"]
    # No recursion: a family may be deeper than Python's stack.
    todo = [(name, "", index == 0) for index, name in enumerate(reversed(children.get(None, [])))]
    while todo:
        name, indent, is_last = todo.pop()
        lines.append(f"{indent}{'└─' if is_last else '├─'} {describe(name, family_.zvols[name])}")
        below = indent + ("   " if is_last else "│  ")
        todo += [(child, below, index == 0) for index, child in enumerate(reversed(children.get(name, [])))]
    lines.append(_sums(family_))
    return lines


def describe(name: str, values: "dict[str, str]") -> str:
    """A zvol in words."""
    called = properties.text(values, naming.VDI_NAME)
    if not called.isprintable():
        called = called.encode("unicode_escape").decode()
    size = "{}, takes {}".format(family.human(int(values["volsize"])), family.human(int(values["used"])))
    if vdi.is_removed(values):
        return f"{name} “{called}”, removed {values[naming.VDI_REMOVED]}: {size}"
    if not vdi.is_vdi(name, values):
        return f"{name}, no disk: {size}"
    kind = "snapshot" if naming.VDI_SNAPSHOT in values else "disk"
    if naming.VDI_METADATA in values:
        kind = "snapshot without data"
    return f"{name} {kind} “{called}”: {size}"


def _sums(family_: Family) -> str:
    disks = [name for name, values in family_.zvols.items() if vdi.is_vdi(name, values)]
    snapshots = [name for name in disks if naming.VDI_SNAPSHOT in family_.zvols[name]]
    removed = [values for values in family_.zvols.values() if vdi.is_removed(values)]
    total = sum(int(values["used"]) for values in family_.zvols.values())
    kept = sum(int(values["used"]) for values in removed)
    return (
        f"{len(disks) - len(snapshots)} disks, {len(snapshots)} snapshots, {len(removed)} removed but needed; "
        f"they take {family.human(total)}, {family.human(kept)} of it the removed ones"
    )

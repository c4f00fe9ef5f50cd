# SPDX-License-Identifier: LGPL-2.1-only
"""Pools: which are imported and which can be, made, imported by their guid, exported, destroyed.

A pool is known by its guid. Two pools may have one name, and a guest may give any name to a pool on its disk.
"""

from zfsvol import log
from zfsvol.errors import LockTimeout, SRInUse, SRUnavailable
from zfsvol.host import command, lock
from zfsvol.host.command import READ_LIMIT, CommandFailed
from zfsvol.zfs import text
from zfsvol.zfs.changes import options
from zfsvol.zfs.pool import Missing, Pool

# A pool that is imported only to be looked at has a name of this kind, so that one left behind by a crash is known.
_PROBE = "zfs-vol-probe-"

# Seconds. An import reads the pool's log and may wait for slow disks; multihost adds a wait of its own.
IMPORT_LIMIT = 1200


class UsedElsewhere(SRInUse):
    """Another host has the pool imported, or had when it died. An import by force is possible."""


def imported() -> "dict[str, str]":
    """The names of the imported pools, by guid."""
    rows = command.run(["zpool", "list", "-Hp", "-o", "guid,name"], READ_LIMIT).splitlines()
    return dict(row.split("\t") for row in rows)


def disks_in_use() -> "list[str]":
    """The paths of the disks of all imported pools, links resolved. Answers for a pool whose disk does not, too."""
    output = command.run(["zpool", "list", "-vHPL", "-o", "name"], READ_LIMIT)
    words = [line.split("\t")[1] for line in output.splitlines() if line.startswith("\t")]
    return [word for word in words if word.startswith("/")]


def version() -> "list[str]":
    """The versions of the commands and of the kernel module, a line each."""
    return command.run(["zfs", "version"], READ_LIMIT).splitlines()


def importable(devices: "list[str]") -> "list[text.Pool]":
    """The pools on these devices that are not imported.

    One search at a time: of 30 that ran five at a time in the lab, 10 found no pool that was there (2.1).
    """
    if not devices:
        return []
    try:
        return text.read(_searching(["zpool", "import", *_search(devices)]))
    except CommandFailed as error:
        if "no pools available" in error.stderr or not error.stderr.strip():
            return []
        raise


def _searching(argv: "list[str]") -> str:
    """The output of a `zpool import`; of one at a time, unless that takes too long."""
    try:
        with lock.search():
            return command.run(argv, IMPORT_LIMIT)
    except LockTimeout as error:
        log.warning(f"disks are searched for pools beside another search: {error}")
    return command.run(argv, IMPORT_LIMIT)


def _search(devices: "list[str]") -> "list[str]":
    return [word for device in devices for word in ("-d", device)]


def label(device: str) -> "dict[str, str]":
    """The ZFS label on a block device: `name` and `pool_guid` of the pool, its `state` (2: destroyed); or nothing."""
    try:
        output = command.run(["zdb", "-l", device], READ_LIMIT)
    except CommandFailed:
        return {}
    found: "dict[str, str]" = {}
    for line in output.splitlines():
        name, colon, value = line.strip().partition(": ")
        if colon:  # the vdev tree below the pool's own lines has names of the same
            found.setdefault(name, value.strip("'"))
    return found


def create(
    pool: Pool,
    vdevs: "list[str]",
    *,
    force: bool,
    pool_properties: "dict[str, str]",
    root_properties: "dict[str, str]",
) -> None:
    """`zpool create` without mountpoint or cache file. `vdevs`: words that `layout` has checked.

    Raises CommandFailed with zpool's reason. A dry run comes first: zpool writes partition tables before it has looked
    at everything, and a refusal must have written nothing.
    """
    for rehearsal in (["-n"], []):
        pool.change(
            [
                *("zpool", "create", *rehearsal, *(["-f"] if force else []), "-m", "none", "-o", "cachefile=none"),
                *options("-o", pool_properties),
                *options("-O", root_properties),
                pool.name,
                *vdevs,
            ]
        )


def import_(guid: str, devices: "list[str]", *, force: bool, own: bool) -> None:
    """Imports the pool with this guid from these devices. Nothing is mounted.

    `own`: one that the driver made, which no boot script shall import before SR.attach does (no cache file). Raises
    Missing, UsedElsewhere (force would help) and CommandFailed with zpool's reason.
    """
    words = ["-N", *(["-o", "cachefile=none"] if own else []), *(["-f"] if force else [])]
    _import([*words, *_search(devices), guid])


def import_to_look(guid: str, devices: "list[str]", *, force: bool) -> Pool:
    """Imports a pool read-only, without mounts and under another name; `export` must follow. Raises as `import_`."""
    name = _PROBE + guid
    words = ["-N", "-t", "-o", "readonly=on", *(["-f"] if force else [])]
    _import([*words, *_search(devices), guid, name])
    return Pool(name)


def import_as(guid: str, devices: "list[str]", name: str) -> Pool:
    """Imports a pool under a new name, which it keeps. Nothing is mounted. Raises as `import_`."""
    _import(["-N", "-o", "cachefile=none", *_search(devices), guid, name])
    return Pool(name)


def new_guid(pool: Pool) -> None:
    """Gives the pool a new guid: it was copied with the one that it has."""
    pool.change(["zpool", "reguid", pool.name])


def devices(pool: Pool) -> "list[str]":
    """The paths of the pool's disks."""
    return [device.name for device in text.read(pool.status())[0].devices if device.name.startswith("/")]


def is_to_look(name: str) -> bool:
    """Whether `import_to_look` has given a pool this name."""
    return name.startswith(_PROBE)


def _import(words: "list[str]") -> None:
    lock.note_change()
    try:
        _searching(["zpool", "import", *words])
    except CommandFailed as error:
        said = " ".join(error.stderr.split())
        if "no such pool available" in said:
            raise Missing(said) from None
        if "another system" in said or "currently imported" in said or "is active" in said or "hostid" in said:
            raise UsedElsewhere(said) from None
        raise
    finally:
        lock.note_change()


def export(pool: Pool) -> None:
    """Raises Missing, and Busy where something still has a dataset of it open."""
    lock.note_change()
    try:
        pool.change(["zpool", "export", pool.name])
    finally:
        lock.note_change()


def destroy(pool: Pool) -> None:
    """Raises as `export`. `zpool import -D` can still bring the pool back until its disks are used again."""
    pool.change(["zpool", "destroy", pool.name])


def guid(pool: Pool) -> str:
    """The pool's guid, a decimal number. Raises SRUnavailable where the pool is not imported."""
    try:
        return pool.values("guid")[0]
    except Missing:
        raise SRUnavailable(f"The pool {pool.name} is not imported on this host.") from None

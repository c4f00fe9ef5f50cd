# SPDX-License-Identifier: LGPL-2.1-only
"""Pools: listed, created, imported by their guid, exported, destroyed.

The guid identifies a pool. Two pools may have the same name, and a guest may give any name to a pool on its disk.
"""

from zfsvol import log
from zfsvol.errors import LockTimeout, SRInUse
from zfsvol.host import command, lock
from zfsvol.host.command import READ_LIMIT, CommandFailed
from zfsvol.zfs import text
from zfsvol.zfs.changes import options
from zfsvol.zfs.pool import Missing, Pool

# The name of a pool that is imported only for a look. One that a crash leaves behind is recognised by it.
_PROBE = "zfs-vol-probe-"

# Seconds. An import reads the pool's intent log and may wait for slow disks; multihost adds its own wait.
IMPORT_LIMIT = 1200


class UsedElsewhere(SRInUse):
    """Another host has the pool imported, or had it imported when it died. A forced import is possible."""


def imported() -> "dict[str, str]":
    """The names of the imported pools, by guid."""
    rows = command.run(["zpool", "list", "-Hp", "-o", "guid,name"], READ_LIMIT).splitlines()
    return dict(row.split("\t") for row in rows)


def disks_in_use() -> "list[str]":
    """The paths of the disks of all imported pools, links resolved. Answers even if a pool's disk does not."""
    output = command.run(["zpool", "list", "-vHPL", "-o", "name"], READ_LIMIT)
    words = [line.split("\t")[1] for line in output.splitlines() if line.startswith("\t")]
    return [word for word in words if word.startswith("/")]


def version() -> "list[str]":
    """The versions of the commands and of the kernel module, one line each."""
    return command.run(["zfs", "version"], READ_LIMIT).splitlines()


def importable(devices: "list[str]") -> "list[text.Pool]":
    """The pools on these devices that are not imported.

    One search at a time: in the lab, of 30 searches that ran five at a time, 10 missed a pool that was there (2.1).
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
    """The output of a `zpool import`. One at a time, unless the wait for its turn takes too long."""
    try:
        with lock.search():
            return command.run(argv, IMPORT_LIMIT)
    except LockTimeout as error:
        log.warning(f"searching disks for pools while another search runs: {error}")
    return command.run(argv, IMPORT_LIMIT)


def _search(devices: "list[str]") -> "list[str]":
    return [word for device in devices for word in ("-d", device)]


def label(device: str) -> "dict[str, str]":
    """The ZFS label on a block device: the pool's `name`, `pool_guid`, `state` (2: destroyed) …; empty if none."""
    try:
        output = command.run(["zdb", "-l", device], READ_LIMIT)
    except CommandFailed:
        return {}
    found: "dict[str, str]" = {}
    for line in output.splitlines():
        name, colon, value = line.strip().partition(": ")
        if colon:  # the first counts: the vdev tree below the pool's own lines repeats some names
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

    Raises CommandFailed with zpool's reason. A dry run comes first: zpool writes partition tables before it has checked
    everything, and a refusal must write nothing.
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

    `own`: the driver made the pool, and no boot script may import it before SR.attach does (no cache file). Raises
    Missing, UsedElsewhere (force would help) and CommandFailed with zpool's reason.
    """
    words = ["-N", *(["-o", "cachefile=none"] if own else []), *(["-f"] if force else [])]
    _import([*words, *_search(devices), guid])


def import_to_look(guid: str, devices: "list[str]", *, force: bool) -> Pool:
    """Imports a pool read-only and under another name, without mounts; `export` must follow. Raises as `import_`."""
    name = _PROBE + guid
    words = ["-N", "-t", "-o", "readonly=on", *(["-f"] if force else [])]
    _import([*words, *_search(devices), guid, name])
    return Pool(name)


def import_as(guid: str, devices: "list[str]", name: str) -> Pool:
    """Imports a pool under a new name for good. Nothing is mounted. Raises as `import_`."""
    _import(["-N", "-o", "cachefile=none", *_search(devices), guid, name])
    return Pool(name)


def new_guid(pool: Pool) -> None:
    """Gives the pool a new guid: as a copy, it has the original's."""
    pool.change(["zpool", "reguid", pool.name])


def devices(pool: Pool) -> "list[str]":
    """The paths of the pool's disks."""
    return [device.name for device in text.read(pool.status())[0].devices if device.name.startswith("/")]


def is_to_look(name: str) -> bool:
    """Whether `import_to_look` gave a pool this name."""
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
    """Raises Missing, and Busy if something still has a dataset of the pool open."""
    lock.note_change()
    try:
        pool.change(["zpool", "export", pool.name])
    finally:
        lock.note_change()


def destroy(pool: Pool) -> None:
    """Raises as `export`. `zpool import -D` can bring the pool back until its disks are used again."""
    pool.change(["zpool", "destroy", pool.name])

# SPDX-License-Identifier: LGPL-2.1-only
"""Every zpool and zfs command line of the project, and the meaning of what they answer.

Functions take names of pools and datasets as ZFS writes them and return plain dictionaries and lists. Sizes are in
bytes. Each function that changes something is one command, and so one or two ZFS transactions: a crash in the middle
leaves either nothing or all of it, where its docstring says nothing else.
"""

import errno
import json
import os
import time

from zfsvol import command, log, naming, zpool_text
from zfsvol.command import READ_LIMIT, WRITE_LIMIT, CommandFailed, CommandTimeout
from zfsvol.errors import (
    ForeignSnapshots,
    InvalidArgument,
    NoSpace,
    SRExists,
    SRInUse,
    SRUnavailable,
    StorageError,
    VDIInUse,
)
from zfsvol.properties import key_property

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    _Answer = TypeVar("_Answer")

KSTAT = "/proc/spl/kstat/zfs"

# Where to look for the disks of a pool. The first directory that knows a disk names it, and the names there stay the
# same when disks are plugged elsewhere; /dev is for disks without such a name.
DEVICE_DIRECTORIES = ("/dev/disk/by-id", "/dev/mapper", "/dev")

# A pool that is imported only to be looked at has this altroot, so that one left behind by a crash is recognised.
PROBE_ALTROOT = "/run/zfs-vol-probe"

# Seconds. An import reads the pool's log and may wait for slow disks; multihost adds a wait of its own.
IMPORT_LIMIT = 1200
_SUSPENDED_LIMIT = 10

_BUSY_TRIES = 20
_BUSY_PAUSE = 0.25

# Programs that ZFS runs within one transaction: the first lines of each tell what it is given and what it answers.
_REMOVE, _SET = (os.path.join(os.path.dirname(os.path.abspath(__file__)), name) for name in ("remove.lua", "set.lua"))
# Datasets at a time: the pool's other changes wait meanwhile.
_SETTLED_AT_ONCE = 100
_SET_AT_ONCE = 1000


class Missing(StorageError):
    """The dataset or pool does not exist. Callers know what it was to be, and raise the error that says so."""


# What a message of zfs or zpool means, by a part of it: the wording of 2.1 to 2.3. What a later release words
# differently is told as it is, by CommandFailed.
_MEANINGS: "tuple[tuple[str, type[StorageError]], ...]" = (
    ("pool I/O is currently suspended", SRUnavailable),
    ("dataset does not exist", Missing),
    ("no such pool", Missing),
    ("parent does not exist", Missing),
    ("already exists", SRExists),
    ("out of space", NoSpace),
    ("no space left", NoSpace),
    ("size is greater than available space", NoSpace),
    ("dataset is busy", VDIInUse),
    ("pool is busy", SRInUse),
    ("read-only", SRUnavailable),
)


def _translate(error: CommandFailed) -> StorageError:
    for part, meaning in _MEANINGS:
        if part in error.stderr:
            return meaning(" ".join(error.stderr.split()))
    return error


def _change(dataset: str, argv: "list[str]") -> str:
    """One command that changes `dataset`, repeated for some seconds while it is busy.

    Two changes of one zvol at a time, and udev or blkid that have just opened a device node, make it so for a moment.
    """
    return _when_idle(lambda: _run(dataset, argv, WRITE_LIMIT))


def _when_idle(action: "Callable[[], _Answer]") -> "_Answer":
    for _ in range(_BUSY_TRIES):
        try:
            return action()
        except (SRInUse, VDIInUse):
            time.sleep(_BUSY_PAUSE)
    return action()


def _run(dataset: str, argv: "list[str]", limit: int) -> str:
    """One command on `dataset`, a pool or a dataset in one; given up when that pool is suspended."""
    return _finish(dataset, command.Child(argv), limit)


def _finish(dataset: str, child: command.Child, limit: int) -> str:
    pool = dataset.partition("/")[0]
    try:
        return child.finish(limit, lambda: pool_state(pool) == "SUSPENDED")
    except CommandFailed as error:
        if "suspended" in error.stderr:
            require_pool(pool)  # it says which disk is the reason
        raise _translate(error) from None
    except CommandTimeout as error:
        log.warning(str(error))
        require_pool(pool)
        raise


def _options(flag: str, values: "dict[str, str]") -> "list[str]":
    return [word for name, value in values.items() for word in (flag, f"{name}={value}")]


# --- the module and its pools, without a child process


def is_loaded() -> bool:
    """Whether the kernel module is there."""
    return os.path.exists("/dev/zfs")


def load_module() -> None:
    """Loads the kernel module where it is not there. Raises SRUnavailable where that fails."""
    if is_loaded():
        return
    try:
        command.run(["modprobe", "zfs"], READ_LIMIT)
    except CommandFailed as error:
        raise SRUnavailable(f"The ZFS kernel module cannot be loaded: {error}") from None


def has_hostid() -> bool:
    """Whether the kernel has a host id to write into the labels of pools."""
    if os.path.exists("/etc/hostid"):
        return True
    with open("/sys/module/spl/parameters/spl_hostid") as file:
        return int(file.read()) != 0


def pool_state(pool: str) -> "str | None":
    """ONLINE, DEGRADED, FAULTED, SUSPENDED … as the kernel has it now; None where the pool is not imported.

    A read of a kernel statistic: never waits, whatever the pool does.
    """
    try:
        with open(os.path.join(KSTAT, pool, "state")) as file:
            return file.read().strip()
    except OSError:
        return None


def require_pool(pool: str) -> None:
    """Raises SRUnavailable where commands on this pool would fail or hang."""
    state = pool_state(pool)
    if state is None:
        raise SRUnavailable(f"The pool {pool} is not imported on this host. Plug the SR's PBD to import it.")
    if state == "SUSPENDED":
        raise SRUnavailable(
            f"The pool {pool} is suspended, as it lost a disk that it cannot do without: {_illness(pool)}. Reconnect "
            f"the disk, then run 'zpool clear {pool}'."
        )


def _illness(pool: str) -> str:
    """What a suspended pool suffers from: `zpool status` still answers, as a rule."""
    try:
        return zpool_text.read(command.run(_zpool_status(pool), _SUSPENDED_LIMIT))[0].health()
    except StorageError as error:
        return str(error)


# --- reading: one child process each


_GET = ["zfs", "get", "-Hp", "-o", "name,property,value"]
_PROPERTIES = [*_GET, "-s", "local,received,temporary,none"]


def properties(dataset: str) -> "dict[str, str]":
    """What ZFS knows of one dataset: statistics and what was set on the dataset itself, nothing inherited.

    Raises Missing.
    """
    return _properties(dataset, _PROPERTIES)


def inherited_properties(dataset: str) -> "dict[str, str]":
    """The same with what the dataset inherits. Raises Missing."""
    return _properties(dataset, _GET)


def settings(dataset: str) -> "dict[str, str]":
    """What was set on the dataset itself, ZFS's own properties and user properties alike. Raises Missing."""
    return _properties(dataset, [*_GET, "-s", "local,received"])


def _properties(dataset: str, argv: "list[str]") -> "dict[str, str]":
    return _parse_properties(_run(dataset, [*argv, "all", dataset], READ_LIMIT)).get(dataset, {})


def _parse_properties(output: str) -> "dict[str, dict[str, str]]":
    """By dataset. Another program's property may hold line breaks: what is not a line of three fields is its own."""
    found: "dict[str, dict[str, str]]" = {}
    for line in output.split("\n"):
        fields = line.split("\t", 2)
        if len(fields) == 3:
            found.setdefault(fields[0], {})[fields[1]] = fields[2]
    return found


def properties_and_status(dataset: str) -> "tuple[dict[str, str], str]":
    """`properties` of the dataset and the text of `zpool status` of its pool, asked for at the same time.

    Raises Missing.
    """
    status_child = command.Child(_zpool_status(dataset.partition("/")[0]))
    try:
        values = properties(dataset)
    finally:
        text = _finish(dataset, status_child, READ_LIMIT)
    return values, text


def volumes(root: str) -> "tuple[dict[str, str], dict[str, dict[str, str]]]":
    """The `properties` of `root`, and those of the zvols below it, by name without the root's: `a`, `.gone/b`.

    Complete or an error. Raises Missing where the root does not exist.
    """
    argv = [*_PROPERTIES, "-t", "filesystem,volume", "-d", "2", "all", root]
    found = _parse_properties(_run(root, argv, READ_LIMIT))
    own = found.pop(root, {})
    prefix = root + "/"
    return own, {
        name[len(prefix) :]: values
        for name, values in found.items()
        if name.startswith(prefix) and values.get("type") == "volume"
    }


def with_own_volmode(root: str) -> "list[str]":
    """The zvols below `root` whose volmode is set on themselves. Raises Missing."""
    argv = ["zfs", "get", "-H", "-o", "name", "-s", "local,received", "-t", "volume", "-r", "volmode", root]
    return _run(root, argv, READ_LIMIT).splitlines()


def tree(root: str) -> "dict[str, dict[str, str]]":
    """The `properties` of `root` and of all datasets and snapshots below it. Raises Missing."""
    argv = [*_PROPERTIES, "-t", "filesystem,volume,snapshot", "-r", "all", root]
    return _parse_properties(_run(root, argv, READ_LIMIT))


def datasets(root: str, *, types: str, columns: "tuple[str, ...]") -> "list[list[str]]":
    """`columns` of `root` and of the datasets below it; "-" stands for an unset value. Raises Missing."""
    output = _run(root, ["zfs", "list", "-Hp", "-t", types, "-o", ",".join(columns), "-r", root], READ_LIMIT)
    return [line.split("\t") for line in output.splitlines()]


def _zpool_status(pool: str) -> "list[str]":
    return ["zpool", "status", "-P", "-p", pool]


def status(pool: str) -> str:
    """The text of `zpool status`, with whole device paths. Answers for a suspended pool, too. Raises Missing."""
    return _run(pool, _zpool_status(pool), READ_LIMIT)


def pool_values(pool: str, columns: "tuple[str, ...]") -> "list[str]":
    """Properties of a pool, in the order asked for. Raises Missing."""
    return _run(pool, ["zpool", "list", "-Hp", "-o", ",".join(columns), pool], READ_LIMIT).rstrip("\n").split("\t")


def version() -> "list[str]":
    """The versions of the commands and of the kernel module, a line each."""
    return command.run(["zfs", "version"], READ_LIMIT).splitlines()


def imported_pools() -> "list[tuple[str, str, bool]]":
    """The imported pools: guid, name, and whether it was imported by `import_for_probe`."""
    lines = command.run(["zpool", "list", "-Hp", "-o", "guid,name,altroot"], READ_LIMIT).splitlines()
    rows = [line.split("\t") for line in lines]
    return [(guid, name, altroot == PROBE_ALTROOT) for guid, name, altroot in rows]


def importable() -> str:
    """The text of `zpool import`: the pools on this host's disks that are not imported."""
    try:
        return command.run(["zpool", "import", *_search()], IMPORT_LIMIT)
    except CommandFailed as error:
        if "no pools available" in error.stderr or not error.stderr.strip():
            return ""
        raise


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


# --- changing


def create_pool(
    pool: str,
    vdevs: "list[str]",
    *,
    force: bool,
    pool_properties: "dict[str, str]",
    root_properties: "dict[str, str]",
) -> None:
    """`zpool create` without mountpoint or cache file. `vdevs`: words that `layout` has checked.

    Raises CommandFailed with zpool's reason. zpool may have written partition tables to the disks when it fails;
    everything that can be known before is checked by the caller.
    """
    _change(
        pool,
        [
            *("zpool", "create", *(["-f"] if force else []), "-m", "none", "-o", "cachefile=none"),
            *_options("-o", pool_properties),
            *_options("-O", root_properties),
            pool,
            *vdevs,
        ],
    )


def _search() -> "list[str]":
    return [word for directory in DEVICE_DIRECTORIES if os.path.isdir(directory) for word in ("-d", directory)]


def import_pool(pool: str, *, force: bool, own: bool) -> None:
    """Imports a pool by its name or guid.

    `own`: one that the driver made, which no boot script shall import before SR.attach does (no cache file);
    another one is imported as its administrator would. Raises Missing, SRInUse (in use by another host), SRExists
    (imported already) and CommandFailed with zpool's reason.
    """
    own_options = ["-N", "-o", "cachefile=none"] if own else []
    _import([*own_options, *(["-f"] if force else []), pool])


def import_for_probe(pool: str) -> None:
    """Imports a pool read-only and without mounts, to look at it; ends with `export_pool`. Raises as `import_pool`."""
    _import(["-N", "-o", "readonly=on", "-R", PROBE_ALTROOT, pool])


def _import(words: "list[str]") -> None:
    try:
        command.run(["zpool", "import", *_search(), *words], IMPORT_LIMIT)
    except CommandFailed as error:
        said = " ".join(error.stderr.split())
        if "no such pool available" in said:
            raise Missing(said) from None
        if "a pool with that name already exists" in said or "a pool with that name is already created" in said:
            raise SRExists(said) from None
        if "another system" in said or "currently imported" in said or "is active" in said or "hostid" in said:
            raise SRInUse(said) from None
        raise


def export_pool(pool: str) -> None:
    """Raises Missing and SRInUse (something still holds a dataset of it)."""
    _change(pool, ["zpool", "export", pool])


def destroy_pool(pool: str) -> None:
    """Raises Missing and SRInUse. `zpool import -D` can still bring the pool back until its disks are used again."""
    _change(pool, ["zpool", "destroy", pool])


def create_filesystem(dataset: str, values: "dict[str, str]") -> None:
    """Raises Missing (no parent), SRExists, NoSpace. After a power cut it may be there without its properties."""
    _change(dataset, ["zfs", "create", *_options("-o", values), dataset])


def create_volume(dataset: str, size: int, *, volblocksize: int, sparse: bool, values: "dict[str, str]") -> None:
    """A zvol of `size` bytes, a multiple of `volblocksize`; not sparse: its whole size is reserved in the pool.

    Raises Missing (no parent), SRExists, NoSpace. ZFS sets the properties in a second transaction: after a power cut
    between the two the zvol is there without them.
    """
    argv = ["zfs", "create", *(["-s"] if sparse else []), "-b", str(volblocksize), "-V", str(size)]
    _change(dataset, [*argv, *_options("-o", values), dataset])


def create_snapshot(snapshot: str) -> None:
    """Raises Missing (no such zvol), SRExists, NoSpace."""
    _change(snapshot, ["zfs", "snapshot", snapshot])


def clone(snapshot: str, dataset: str, values: "dict[str, str]") -> None:
    """A zvol with the snapshot's content and size. Raises Missing (no such snapshot), SRExists, NoSpace.

    As in `create_volume`, a power cut may leave it without its properties.
    """
    _change(snapshot, ["zfs", "clone", *_options("-o", values), snapshot, dataset])


def rename(dataset: str, name: str) -> None:
    """Makes the parents of `name` where they are missing. Raises Missing, SRExists."""
    _change(dataset, ["zfs", "rename", "-p", dataset, name])


def remove(root: str, name: str, action: str = "remove") -> "dict[str, int]":
    """Removes the VDI `name` below `root`, its clone-on-boot temporary, and what only these needed, at once.

    That is the action "remove", which takes what a killed Volume.revert has left for the VDI along; "replace" does
    not, and "discard" removes any zvol.

    What others were made from stays, marked as removed, with nothing in it but what they share. The answer is what
    stays: dataset and bytes of its reservation. Raises Missing, VDIInUse (open; snapshots that the driver has not
    made), NoSpace, StorageError (ZFS's own reason); then nothing has changed.
    """
    answer = _remove(root, action, name)
    while "bookmarks" in answer:
        # They hold no data, and would have gone with the zvol if nothing had been made from it.
        for bookmark in answer["bookmarks"].values():
            destroy(bookmark)
        answer = _remove(root, action, name)
    if "missing" in answer:
        raise Missing(answer["missing"])
    if "foreign" in answer:
        raise ForeignSnapshots(list(answer["foreign"].values()))
    if "error" in answer:
        raise _refused(answer["error"], "{} cannot be removed".format(answer["at"]))
    kept: "dict[str, int]" = answer["kept"]
    return kept


def _refused(number: int, what: str) -> StorageError:
    """The error for an errno that a channel program answered with."""
    kind = NoSpace if number == errno.ENOSPC else StorageError
    return kind(f"{what}: {os.strerror(number)}.")


def _remove(root: str, action: str, name: str) -> "dict[str, Any]":
    def attempt() -> "dict[str, Any]":
        output = _run(root, _program(root, action, name), WRITE_LIMIT)
        answer: "dict[str, Any]" = json.loads(output)["return"]
        if "busy" in answer:
            raise VDIInUse(answer["busy"])
        return answer

    return _when_idle(attempt)


def settle(root: str, datasets: "list[str]") -> None:
    """Destroys those of the removed zvols, and of the driver's snapshots, that nothing was made from.

    What only these needed goes, too; a removed zvol that is still needed is rolled back to its newest snapshot. All
    at once, and nothing that is no such zvol or snapshot is touched.
    """
    for start in range(0, len(datasets), _SETTLED_AT_ONCE):
        _change(root, _program(root, "settle", *datasets[start : start + _SETTLED_AT_ONCE]))


def _program(root: str, *words: str) -> "list[str]":
    removed = time.strftime(naming.DATE, time.gmtime())
    own = [root, naming.VDI_NAME, naming.VDI_REMOVED, removed, key_property(naming.TEMPORARY)]
    return ["zfs", "program", "-j", root.partition("/")[0], _REMOVE, *own, *words]


def set_properties(dataset: str, values: "dict[str, str]") -> None:
    """All of them in one transaction. Raises Missing, NoSpace."""
    _change(dataset, ["zfs", "set", *(f"{name}={value}" for name, value in values.items()), dataset])


def inherit(dataset: str, name: str) -> None:
    """Lets the dataset have the property from its parent. Raises Missing."""
    _change(dataset, ["zfs", "inherit", name, dataset])


def set_on_vdis(datasets: "list[str]", values: "dict[str, str]") -> int:
    """Sets user properties on VDIs, a thousand in one transaction; how many of `datasets` are VDIs (and so changed).

    A zvol that is not there, or was removed, is passed over: `zfs set` would change what is left of a removed one.
    Raises NoSpace.
    """
    pairs = [word for pair in values.items() for word in pair]
    return _set(datasets, ["set", str(len(values)), *pairs])


def unset_on_vdi(dataset: str, name: str) -> int:
    """Unsets a user property of a VDI; one that is not set is no error. 0 where it is no VDI."""
    return _set([dataset], ["unset", "1", name, "-"])


def _set(datasets: "list[str]", words: "list[str]") -> int:
    changed = 0
    for start in range(0, len(datasets), _SET_AT_ONCE):
        some = datasets[start : start + _SET_AT_ONCE]
        argv = ["zfs", "program", "-j", some[0].partition("/")[0], _SET, naming.VDI_NAME, naming.VDI_REMOVED]
        answer = json.loads(_change(some[0], [*argv, *words, *some]))["return"]
        if "error" in answer:
            raise _refused(answer["error"], f"The properties of {some[0]} cannot be changed")
        changed += answer["changed"]
    return changed


def destroy(dataset: str) -> None:
    """Raises Missing and VDIInUse (it is open)."""
    _change(dataset, ["zfs", "destroy", dataset])


def destroy_all(dataset: str) -> None:
    """The dataset and all below it. Raises Missing and VDIInUse (one of them is open).

    A crash or an error in the middle leaves some of them, itself among these; a repetition removes them.
    """
    _change(dataset, ["zfs", "destroy", "-r", dataset])


def load_key(dataset: str) -> None:
    """Loads the dataset's encryption key from its keylocation. Raises InvalidArgument with zfs's reason."""
    try:
        command.run(["zfs", "load-key", dataset], READ_LIMIT)
    except CommandFailed as error:
        if "already loaded" not in error.stderr:
            said = " ".join(error.stderr.split())
            raise InvalidArgument(f"The encryption key of {dataset} cannot be loaded: {said}") from None


def unload_key(dataset: str) -> None:
    """Forgets the dataset's encryption key. Raises VDIInUse while a dataset below it is open."""
    _change(dataset, ["zfs", "unload-key", dataset])

# SPDX-License-Identifier: LGPL-2.1-only
"""Changes to datasets: each function is one `zfs` command, and so one or two ZFS transactions.

All or nothing at a crash, unless the docstring says otherwise. Sizes are bytes. Each function raises Missing if the
dataset does not exist, Busy if it stays in use, NoSpace, and SRUnavailable if the pool does not answer.
"""

from zfsvol.errors import InvalidArgument
from zfsvol.host import command
from zfsvol.zfs.pool import Pool


def options(flag: str, values: "dict[str, str]") -> "list[str]":
    """The properties as words of a command line: -o name=value."""
    return [word for name, value in values.items() for word in (flag, f"{name}={value}")]


def create_filesystem(pool: Pool, dataset: str, values: "dict[str, str]") -> None:
    """Raises Exists, and Missing if it has no parent. After a power cut it may exist without its properties."""
    pool.change(["zfs", "create", *options("-o", values), dataset])


def create_volume(
    pool: Pool, dataset: str, size: int, *, volblocksize: int, sparse: bool, values: "dict[str, str]"
) -> None:
    """Makes a zvol of `size` bytes, a multiple of `volblocksize`. Unless `sparse`, the pool reserves the whole size.

    Raises Exists, and Missing if it has no parent. ZFS sets the properties in a second transaction: after a power cut
    between the two the zvol exists without them.
    """
    argv = ["zfs", "create", *(["-s"] if sparse else []), "-b", str(volblocksize), "-V", str(size)]
    pool.change([*argv, *options("-o", values), dataset])


def create_snapshots(pool: Pool, *snapshots: str) -> None:
    """Makes all of them in one transaction. Raises Exists."""
    pool.change(["zfs", "snapshot", *snapshots])


def clone(pool: Pool, snapshot: str, dataset: str, values: "dict[str, str]") -> None:
    """Makes a zvol with the snapshot's content and size. Raises Exists.

    As in `create_volume`, a power cut may leave it without its properties.
    """
    pool.change(["zfs", "clone", *options("-o", values), snapshot, dataset])


def rename(pool: Pool, dataset: str, name: str) -> None:
    """Raises Exists, and Missing if `name` has no parent."""
    pool.change(["zfs", "rename", dataset, name])


def set_properties(pool: Pool, dataset: str, values: "dict[str, str]") -> None:
    """Sets all of them in one transaction."""
    pool.change(setting(dataset, values))


def setting(dataset: str, values: "dict[str, str]") -> "list[str]":
    """The words of the command that sets properties."""
    return ["zfs", "set", *(f"{name}={value}" for name, value in values.items()), dataset]


def inherit(pool: Pool, dataset: str, name: str) -> None:
    """Makes the dataset inherit the property from its parent."""
    pool.change(inheriting(dataset, name))


def inheriting(dataset: str, name: str) -> "list[str]":
    """The words of the command that makes a dataset inherit a property."""
    return ["zfs", "inherit", name, dataset]


def inherit_below(pool: Pool, dataset: str, name: str) -> None:
    """Makes the dataset and all below it inherit the property."""
    pool.change(["zfs", "inherit", "-r", name, dataset])


def destroy(pool: Pool, dataset: str) -> None:
    """Destroys a dataset, snapshot or bookmark that nothing depends on."""
    pool.change(["zfs", "destroy", dataset])


def destroy_all(pool: Pool, dataset: str) -> None:
    """Destroys the dataset and all below it.

    After a crash or an error in the middle the dataset and some of those below it remain; a repetition removes them.
    """
    pool.change(["zfs", "destroy", "-r", dataset])


def load_key(pool: Pool, dataset: str, path: "str | None") -> None:
    """Loads the dataset's encryption key from the file `path`, or else from its keylocation.

    Raises InvalidArgument with zfs's reason, also for a key that would have to be typed in: nobody is there to do it.
    """
    place = ["-L", "file://" + path] if path is not None else []
    try:
        command.run(["zfs", "load-key", *place, dataset], command.READ_LIMIT, held=pool.held)
    except command.CommandFailed as error:
        if "already loaded" not in error.stderr:
            said = " ".join(error.stderr.split())
            raise InvalidArgument(
                f"The encryption key of {dataset} cannot be loaded: {said or 'zfs gives no reason'} Name the file with "
                "the key in device-config:encryption-key-file, or load the key with 'zfs load-key' before you plug the "
                "PBD."
            ) from None


def unload_key(pool: Pool, dataset: str) -> None:
    """Forgets the dataset's encryption key."""
    pool.change(["zfs", "unload-key", dataset])


def mount(pool: Pool, dataset: str) -> None:
    """Mounts a file system at its mountpoint."""
    pool.change(["zfs", "mount", dataset])

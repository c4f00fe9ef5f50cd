# SPDX-License-Identifier: LGPL-2.1-only
"""Reads of datasets: each function is one `zfs` command that changes nothing.

Names are ZFS's, sizes are bytes, results are plain dictionaries and lists of texts. Each function raises Missing if the
dataset does not exist, and SRUnavailable if the pool does not answer.
"""

from zfsvol.host.command import READ_LIMIT
from zfsvol.zfs.pool import Pool, status_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_GET = ["zfs", "get", "-Hp", "-o", "name,property,value"]
_OWN = [*_GET, "-s", "local,received,temporary,none"]


def properties(pool: Pool, dataset: str) -> "dict[str, str]":
    """The dataset's statistics and the properties set on itself, none that are inherited."""
    return _properties(pool, dataset, _OWN)


def inherited_properties(pool: Pool, dataset: str) -> "dict[str, str]":
    """`properties`, and those that are inherited or have their defaults."""
    return _properties(pool, dataset, _GET)


def settings(pool: Pool, dataset: str) -> "dict[str, str]":
    """The properties set on the dataset itself, native ones and user properties; no statistics."""
    return _properties(pool, dataset, [*_GET, "-s", "local,received"])


def with_sources(pool: Pool, dataset: str, names: "list[str]") -> "dict[str, tuple[str, str]]":
    """The values of properties, each with the dataset that it is set on: "" if on none. Unset ones are left out."""
    output = pool.read(["zfs", "get", "-Hp", "-o", "property,value,source", ",".join(names), dataset])
    found: "dict[str, tuple[str, str]]" = {}
    for line in output.splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[1:] != ["-", "-"]:
            name, value, source = fields
            inherited = source[len("inherited from ") :] if source.startswith("inherited from ") else ""
            found[name] = value, dataset if source in ("local", "received") else inherited
    return found


def _properties(pool: Pool, dataset: str, argv: "list[str]") -> "dict[str, str]":
    return _parse(pool.read([*argv, "all", dataset])).get(dataset, {})


def _parse(output: str) -> "dict[str, dict[str, str]]":
    """The values by dataset and property. Skips other lines: another program's value may hold line breaks."""
    found: "dict[str, dict[str, str]]" = {}
    for line in output.split("\n"):
        fields = line.split("\t", 2)
        if len(fields) == 3:
            found.setdefault(fields[0], {})[fields[1]] = fields[2]
    return found


def properties_and_status(pool: Pool, dataset: str) -> "tuple[dict[str, str], str]":
    """`properties` of the dataset, and the text of `zpool status` of its pool. Both commands run at the same time."""
    child = pool.start(status_command(pool.name))
    try:
        values = properties(pool, dataset)
    finally:
        status = pool.finish(child, READ_LIMIT)
    return values, status


def volumes(pool: Pool, root: str) -> "tuple[dict[str, str], dict[str, dict[str, str]]]":
    """The `properties` of `root`, and those of the zvols below it by name without `root`. Complete, or an error."""
    found = _parse(pool.read([*_OWN, "-t", "filesystem,volume", "-d", "1", "all", root]))
    own = found.pop(root, {})
    prefix = root + "/"
    return own, {
        name[len(prefix) :]: values
        for name, values in found.items()
        if name.startswith(prefix) and values.get("type") == "volume"
    }


def with_own_volmode(pool: Pool, root: str) -> "dict[str, str]":
    """The zvols below `root` that have a volmode of their own, with its value."""
    argv = ["zfs", "get", "-H", "-o", "name,value", "-s", "local,received", "-t", "volume", "-r", "volmode", root]
    rows = [line.split("\t") for line in pool.read(argv).splitlines()]
    return {row[0]: row[1] for row in rows}


def tree(pool: Pool, root: str) -> "dict[str, dict[str, str]]":
    """The `properties` of `root` and of all datasets, snapshots and bookmarks below it."""
    return _parse(pool.read([*_OWN, "-t", "filesystem,volume,snapshot,bookmark", "-r", "all", root]))


def listing(pool: Pool, root: str, *, types: str, columns: "tuple[str, ...]") -> "list[list[str]]":
    """`columns` of `root` and of the datasets below it; "-" stands for an unset value."""
    output = pool.read(["zfs", "list", "-Hp", "-t", types, "-o", ",".join(columns), "-r", root])
    return [line.split("\t") for line in output.splitlines()]


def sent(pool: Pool, base: "str | None", target: str) -> "Iterator[bytes]":
    """The stream that `zfs send` makes of the snapshot `target`, from the snapshot or bookmark `base` on if given.

    It is raw: compressed and encrypted as on disk, so it needs no key. Raises while it is read.
    """
    return pool.stream(["zfs", "send", "-w", *([] if base is None else ["-i", base]), target])


def sent_data(pool: Pool, base: "str | None", target: str) -> "Generator[bytes, None, None]":
    """The same with the data as a reader of the zvol gets it; an encrypted dataset's key must be loaded."""
    return pool.stream(["zfs", "send", *([] if base is None else ["-i", base]), target])

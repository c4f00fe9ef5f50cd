# SPDX-License-Identifier: LGPL-2.1-only
"""Parses the output of `zpool status` and `zpool import`. Pure: text in, records out.

Both have the same format: `key: value` lines, indented continuations, and a `config:` table of devices. Unknown lines
are skipped, so a release that adds some breaks nothing.
"""

import re

# States of devices that work.
GOOD = ("ONLINE", "AVAIL", "INUSE")

NO_ERRORS = "No known data errors"  # in the field `errors`

_DATA_ERRORS = re.compile(r"([0-9]+) data errors")


class Device:
    """A row of the config table: a pool, a vdev or a disk, `depth` levels below the pool."""

    def __init__(self, depth: int, name: str, state: str, errors: "tuple[int, int, int]", note: str) -> None:
        self.depth = depth
        self.name = name
        self.state = state
        self.errors = errors  # read, write, checksum
        self.note = note
        self.slow = 0  # requests that took long; only `zpool status -s` prints them


class Pool:
    """One pool as zpool describes it."""

    def __init__(self) -> None:
        self.fields: "dict[str, str]" = {}
        self.scans: "list[str]" = []  # one for the pool, and one for each rebuilt vdev
        self.devices: "list[Device]" = []
        self.counts_slow = False  # whether the table has a column for slow requests

    @property
    def name(self) -> str:
        """Its name."""
        return self.fields.get("pool", "")

    @property
    def guid(self) -> str:
        """Its guid; only `zpool import` prints it."""
        return self.fields.get("id", "")

    @property
    def state(self) -> str:
        """ONLINE, DEGRADED, FAULTED, UNAVAIL, SUSPENDED ….

        When a disk fails a probe, OpenZFS 2.3 changes the state of that disk only, and leaves the pool ONLINE.
        """
        told = self.fields.get("state", "")
        return "DEGRADED" if told == GOOD[0] and self._has_lost_a_disk() else told

    def _has_lost_a_disk(self) -> bool:
        heading = ""
        for device in self.devices[1:]:
            if device.depth == 0:
                heading = device.name
            elif device.state == "FAULTED" and heading not in ("cache", "spares"):
                return True
        return False

    @property
    def layout(self) -> "list[tuple[str, int]]":
        """The top-level data vdevs as (kind, number of disks): ("mirror", 2), ("raidz2", 6), ("draid1:4d:8c:0s", 8).

        A disk of its own is ("", 1). Logs, caches, spares and special vdevs are left out: zvols do not live there.
        """
        found: "list[tuple[str, int]]" = []
        for device in self.devices:
            if device.depth == 0 and device is not self.devices[0]:
                break  # "logs", "cache", "spares", "special", "dedup": the data vdevs come before all of them
            if device.depth == 1:
                is_disk = "/" in device.name  # `zpool status -P` names disks by their paths
                found.append(("", 1) if is_disk else (device.name.rpartition("-")[0], 0))
            elif device.depth == 2 and found:
                found[-1] = (found[-1][0], found[-1][1] + 1)
        return found

    @property
    def data_errors(self) -> "int | None":
        """How many blocks are known to be lost for good; None if ZFS does not say."""
        told = self.fields.get("errors", "")
        found = _DATA_ERRORS.match(told)
        return int(found.group(1)) if found else 0 if told == NO_ERRORS else None

    def health(self) -> str:
        """One sentence for people: the state, repairs in progress, faulty devices, lost data."""
        parts = [self.state]
        for scan in self.scans:
            if "in progress" in scan:
                parts.append(_progress(scan))
            elif " with " in scan and " with 0 errors" not in scan:
                parts.append(scan)
        for device in self.devices:
            if device.depth > 0 and (device.state not in (*GOOD, "") or any(device.errors)):
                parts.append(_complaint(device))
        errors = self.fields.get("errors", NO_ERRORS)
        if errors != NO_ERRORS:
            parts.append(errors.replace(", use '-v' for a list", " ('zpool status -v' lists them)"))
        return "; ".join(parts)


def _progress(scan: str) -> str:
    """Shortens `resilver in progress since …, 1.2G scanned …, 42.10% done, 00:10:05 to go` by the numbers between."""
    kind = scan.partition(" in progress")[0]
    done = [part.strip() for part in scan.split(",") if part.strip().endswith(("% done", "to go"))]
    return "{} in progress, {}".format(kind, ", ".join(done)) if done else f"{kind} in progress"


def _complaint(device: Device) -> str:
    words = [device.name] if device.state in GOOD else [device.name, device.state]
    if device.note:
        words.append(f"({device.note})")
    if any(device.errors):
        words.append("{} read, {} write, {} checksum errors".format(*device.errors))
    return " ".join(words)


def read(text: str) -> "list[Pool]":
    """The pools in the output of `zpool status` or `zpool import`, in its order."""
    pools: "list[Pool]" = []
    key = ""
    for line in text.splitlines():
        name, colon, value = line.strip().partition(":")
        if line.startswith("\t"):
            if key == "config" and pools:
                _read_row(pools[-1], line[1:])
            elif key == "scan" and pools:
                pools[-1].scans[-1] += ", " + line.strip()
            elif key and pools:
                pools[-1].fields[key] += ", " + line.strip()
        elif colon and name.isalpha() and name.islower():
            key = name
            if key == "pool":
                pools.append(Pool())
            if pools and key == "scan":
                pools[-1].scans.append(value.strip())
            elif pools:
                pools[-1].fields[key] = value.strip()
    return pools


def _read_row(pool: Pool, row: str) -> None:
    words = row.split()
    if not words or words[:2] == ["NAME", "STATE"]:
        pool.counts_slow = words[-1:] == ["SLOW"]
        return
    depth = (len(row) - len(row.lstrip(" "))) // 2
    # The first row is the pool's own. Only its name may contain spaces.
    name = words[0] if pool.devices else pool.name
    rest = row.strip()[len(name) :].split()
    columns = 4 if pool.counts_slow else 3
    counts = [int(word) for word in rest[1 : 1 + columns] if word.isdigit()]
    # Spares and headings have no counts.
    has_counts = len(counts) == columns
    read_errors, write_errors, checksum_errors = counts[:3] if has_counts else (0, 0, 0)
    device = Device(
        depth,
        name,
        rest[0] if rest else "",
        (read_errors, write_errors, checksum_errors),
        " ".join(rest[1 + columns :] if has_counts else rest[1:]),
    )
    if has_counts and pool.counts_slow:
        device.slow = counts[3]
    pool.devices.append(device)

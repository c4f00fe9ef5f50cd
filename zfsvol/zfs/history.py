# SPDX-License-Identifier: LGPL-2.1-only
"""What happened to a pool, by ZFS's own records: `zpool history`, which the pool keeps, and `zpool events`, which the
kernel keeps until it restarts.

An event is a dictionary for JSON: `time` (seconds since 1970, by the host's time zone), `source` ("history" or
"kernel"), `what`, and for some `user`, `device`. Pure except the functions that take a pool.
"""

import re
import time

from zfsvol.host import command
from zfsvol.zfs.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

HISTORY, KERNEL = "history", "kernel"

_LINE = re.compile(r"(\d{4}-\d\d-\d\d\.\d\d:\d\d:\d\d) (.*)\Z")
_USER = re.compile(r" \[user (\d+)(?: \((\S+)\))? on (\S+?)(?::\S+)?\]\Z")
_HOST = re.compile(r" \[on \S+\]\Z")
_SCAN = re.compile(r"\[txg:\d+\] scan (setup|done|cancelled)\b(?: func=(\d))?")
_SCRUB = "1"  # POOL_SCAN_SCRUB

_KERNEL = re.compile(r"(\w{3} +\d+ \d{4} \d\d:\d\d:\d\d)\.\d+ (\S+)\Z")
_FIELD = re.compile(r' +(\w+) = "([^"]*)"')

# They tell what the history tells, or nothing.
_DULL = ("history_event", "config_sync")


def history(pool: Pool) -> "list[dict[str, Any]]":
    """What people and ZFS itself did to the pool, the oldest first. Raises Missing, SRUnavailable."""
    return list(parse_history(_lines(pool)))


def events(pool: Pool) -> "list[dict[str, Any]]":
    """What the kernel noticed since it started: errors, changed states. The oldest first. Raises as `history`."""
    return list(parse_events(pool.read(["zpool", "events", "-v", pool.name]).splitlines()))


def last_scrub(pool: Pool) -> "int | None":
    """When the last complete scrub of the pool ended; None if there was none. Reads the whole history."""
    return scrub_end(_lines(pool))


def _lines(pool: Pool) -> "Iterator[str]":
    return command.lines(pool.stream(["zpool", "history", "-i", "-l", pool.name]))


def parse_history(lines: "Iterable[str]") -> "Iterator[dict[str, Any]]":
    """The events of `zpool history -il`; skips other lines, such as headings and a long command's continuations."""
    for line in lines:
        found = _LINE.match(line)
        if not found:
            continue
        when, what = found.groups()
        user = _USER.search(what)
        event: "dict[str, Any]" = {"time": _time(when, "%Y-%m-%d.%H:%M:%S"), "source": HISTORY}
        if user:
            event["user"] = f"{user.group(2) or user.group(1)} on {user.group(3)}"
            what = what[: user.start()]
        event["what"] = _HOST.sub("", what)
        yield event


def scrub_end(lines: "Iterable[str]") -> "int | None":
    """When the last complete scrub ended, by the lines of `zpool history -i`."""
    ended = None
    is_scrub = False
    for line in lines:
        found = _SCAN.search(line)
        if not found:
            continue
        step, kind = found.groups()
        if step == "setup":
            is_scrub = kind == _SCRUB
        elif step == "done" and is_scrub:
            ended = _time(line.partition(" ")[0], "%Y-%m-%d.%H:%M:%S")
    return ended


def parse_events(lines: "Iterable[str]") -> "Iterator[dict[str, Any]]":
    """The events of `zpool events -v`, without those that the history tells, too."""
    event: "dict[str, Any] | None" = None
    for line in lines:
        found = _KERNEL.match(line)
        if found:
            if event is not None:
                yield event
            when, kind = found.groups()
            what = kind.rpartition("fs.zfs.")[2]
            event = {"time": _time(when, "%b %d %Y %H:%M:%S"), "source": KERNEL, "what": what}
            if what in _DULL:
                event = None
        elif event is not None:
            _take_field(event, line)
    if event is not None:
        yield event


def _take_field(event: "dict[str, Any]", line: str) -> None:
    found = _FIELD.match(line)
    name, value = found.groups() if found else ("", "")
    if name == "vdev_path":
        event["device"] = value
    elif name == "vdev_state":
        event["what"] += f": {value}"
    elif name == "vdev_laststate":
        event["what"] += f", was {value}"


def _time(text: str, form: str) -> int:
    return int(time.mktime(time.strptime(text, form)))

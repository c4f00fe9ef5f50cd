# SPDX-License-Identifier: LGPL-2.1-only
"""What a pool is doing, by the texts of `zpool status`. Pure: text in, records out.

Scrubs, resilvers and rebuilds; removals; expansions of raidz; trims.

A record is a dictionary for JSON. Sizes are bytes, as exact as zpool prints them ("61.4M"); times are seconds since
1970; zpool prints them in the host's time zone. What zpool does not print is None.
"""

import re
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUNNING, PAUSED, FINISHED, CANCELED = "running", "paused", "finished", "canceled"
SCRUB, RESILVER = "scrub", "resilver"

_UNITS = "BKMGTPEZ"
_SIZE = r"[0-9.]+[BKMGTPEZ]?"
_DATE = r"\w{3} \w{3} +\d+ [\d:]{8} \d{4}"

_SCAN = re.compile(r"(?P<kind>scrub|resilver)(ed)?( \((?P<vdev>[^)]+)\))? ")
_LEFT = re.compile(r"(?:(\d+) days )?(\d+):(\d\d):(\d\d) to go")
_LEFT_OF_REMOVAL = re.compile(r"(\d+)h(\d+)m to go")
_EXPANSION = re.compile(r"(?:expansion of|expanded) (?P<vdev>\S+) ")
_TRIM = re.compile(
    rf"\((?:(?P<none>untrimmed|trim unsupported)|(?P<percent>\d+)% trimmed, (?P<how>[a-z, ]+) at (?P<when>{_DATE}))\)"
)


def size(text: str) -> int:
    """The bytes that zpool's short form stands for: 61.4M."""
    exponent = max(0, _UNITS.find(text[-1]))
    return round(float(text.rstrip(_UNITS)) * float(1024**exponent))


def moment(text: str) -> "int | None":
    """The time that zpool prints as `Sun Nov 29 22:56:00 2026`; None if it is none."""
    try:
        return int(time.mktime(time.strptime(" ".join(text.split()), "%a %b %d %H:%M:%S %Y")))
    except (ValueError, OverflowError):
        return None


def scan(text: str) -> "dict[str, Any] | None":
    """A scrub or resilver by one of `text.Pool.scans`; None if nothing was ever scanned.

    `percent` of a resilver says how much of the pool is read, not how much is written to the new disk.
    """
    found = _SCAN.match(text)
    if found is None:
        return None
    record: "dict[str, Any]" = {
        "kind": found.group("kind"),
        "vdev": found.group("vdev"),  # of a rebuild; other scans are of the whole pool
        "state": FINISHED,
        "began": _date(text, "(?:in progress since|started on)"),
        "paused": _date(text, "paused since"),
        "ended": _date(text, "on") if " in progress " not in text and " paused " not in text else None,
        "percent": _number(text, r"([0-9.]+)% done"),
        "scanned": _bytes(text, rf"({_SIZE})(?: / {_SIZE})? scanned"),
        "issued": _bytes(text, rf"({_SIZE})(?: / {_SIZE})? issued"),
        "total": _bytes(text, rf"({_SIZE}) total", rf"/ ({_SIZE}) scanned"),
        # Running, it is printed after the number; finished, before it.
        "repaired": _bytes(
            text, rf"({_SIZE}) (?:repaired|resilvered)", rf"(?:repaired|resilvered)(?: \([^)]+\))? ({_SIZE}) in"
        ),
        "errors": _count(text, r"with (\d+) errors"),
        "seconds-left": _left(text),
    }
    for mark, state in ((" in progress", RUNNING), (" paused", PAUSED), (" canceled", CANCELED)):
        if mark in text:
            record["state"] = state
    return record


def removal(text: str) -> "dict[str, Any] | None":
    """The removal of a vdev by the field `remove` of `zpool status`; None if there was none."""
    if not text:
        return None
    state = RUNNING if " in progress" in text else CANCELED if "canceled" in text else FINISHED
    return {
        "kind": "removal",
        "state": state,
        "began": _date(text, "in progress since"),
        "ended": _date(text, "on"),
        "percent": _number(text, r"([0-9.]+)% done"),
        "copied": _bytes(text, rf"({_SIZE}) copied out", rf"copied ({_SIZE}) in"),
        "total": _bytes(text, rf"out of ({_SIZE})"),
        "seconds-left": _left(text),
    }


def expansion(text: str) -> "dict[str, Any] | None":
    """The expansion of a raidz group by the field `expand` of `zpool status`; None if there was none."""
    found = _EXPANSION.match(text)
    if found is None:
        return None
    return {
        "kind": "expansion",
        "vdev": found.group("vdev"),
        # It waits by itself while a disk is away or resilvered, and goes on then.
        "state": RUNNING if " in progress" in text else FINISHED,
        "began": _date(text, "in progress since"),
        "ended": _date(text, "on"),
        "percent": _number(text, r"([0-9.]+)% done"),
        "copied": _bytes(text, rf"({_SIZE}) / {_SIZE} copied", rf"copied ({_SIZE}) in"),
        "total": _bytes(text, rf"/ ({_SIZE}) copied"),
        "seconds-left": _left(text),
    }


def trim(note: str) -> "tuple[dict[str, Any] | None, str]":
    """The trim of a device by its note in `zpool status -t`, and the rest of the note.

    None if the note says nothing on it. `state`: also "never" and "unsupported".
    """
    found = _TRIM.search(note)
    if found is None:
        return None, note
    rest = " ".join((note[: found.start()] + note[found.end() :]).split())
    if found.group("none"):
        state = "never" if found.group("none") == "untrimmed" else "unsupported"
        return {"state": state, "percent": None, "began": None, "ended": None}, rest
    when = moment(found.group("when"))
    how = found.group("how")
    state = FINISHED if how.startswith("completed") else PAUSED if how.startswith("suspended") else RUNNING
    return {
        "state": state,
        "percent": float(found.group("percent")),
        "began": when if state != FINISHED else None,
        "ended": when if state == FINISHED else None,
    }, rest


def trims(found: "list[dict[str, Any]]") -> "dict[str, Any] | None":
    """The trims of a pool's devices, as by `trim`, together; None if no device was ever trimmed.

    `percent`: of the device that is furthest behind. zpool tells no time that is left.
    """
    for state in (RUNNING, PAUSED, FINISHED):
        those = [record for record in found if record["state"] == state]
        if those:
            return {
                "kind": "trim",
                "state": state,
                "percent": min(record["percent"] for record in those),
                "began": min(filter(None, (record["began"] for record in those)), default=None),
                "ended": max(filter(None, (record["ended"] for record in those)), default=None),
            }
    return None


def _date(text: str, before: str) -> "int | None":
    found = re.search(rf"\b{before} ({_DATE})", text)
    return moment(found.group(1)) if found else None


def _number(text: str, pattern: str) -> "float | None":
    found = re.search(pattern, text)
    return float(found.group(1)) if found else None


def _count(text: str, pattern: str) -> "int | None":
    found = re.search(pattern, text)
    return int(found.group(1)) if found else None


def _bytes(text: str, *patterns: str) -> "int | None":
    """The size by the first of the patterns that is found."""
    for pattern in patterns:
        found = re.search(r"(?<![\w.])" + pattern, text)
        if found:
            return size(found.group(1))
    return None


def _left(text: str) -> "int | None":
    found = _LEFT.search(text)
    if found:
        days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    found = _LEFT_OF_REMOVAL.search(text)
    return (int(found.group(1)) * 60 + int(found.group(2))) * 60 if found else None

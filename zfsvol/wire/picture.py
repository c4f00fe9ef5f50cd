# SPDX-License-Identifier: LGPL-2.1-only
"""Answers of the functions of care as text for people. Pure: records in, lines out."""

import json
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BAR = 30  # characters
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(number: "int | None") -> str:
    """Bytes in words."""
    if number is None:
        return "?"
    value, unit = float(number), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{number} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def moment(seconds: "float | None") -> str:
    """A time in words."""
    return "never" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def duration(seconds: "int | None") -> str:
    """A number of seconds in words."""
    if seconds is None:
        return "no estimate yet"
    days, rest = divmod(seconds, 86400)
    shown = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02} to go"
    return f"{days} days {shown}" if days else shown


def bar(percent: "float | None") -> str:
    """A progress bar."""
    done = min(_BAR, max(0, int((percent or 0) * _BAR / 100)))
    return "[{}{}] {:.1f} %".format("#" * done, "." * (_BAR - done), percent or 0)


def progress(record: "dict[str, Any]") -> str:
    """What a pool is doing, in one line."""
    kind = record["kind"] + (f" of {record['vdev']}" if record.get("vdev") else "")
    if record["state"] == "running":
        left = f", {duration(record['seconds-left'])}" if "seconds-left" in record else ""
        return f"{kind} {bar(record['percent'])}{left}"
    if record["state"] == "paused":
        since = f" since {moment(record['paused'])}" if record.get("paused") else ""
        return f"{kind} {bar(record['percent'])}, paused{since}"
    words = f"{kind} {record['state']} {moment(record['ended'])}"
    if record.get("errors") is not None:
        words += f", {size(record['repaired'])} repaired, {record['errors']} errors"
    return words


def doing(status: "dict[str, Any]") -> "list[dict[str, Any]]":
    """What the pool of an SR is doing or has done: its scrub, resilver, rebuilds, removal, expansion, trim."""
    return [*status["scans"], *filter(None, (status[name] for name in ("removal", "expansion", "trim")))]


def is_unfinished(record: "dict[str, Any]") -> bool:
    """Whether the pool is still doing that."""
    return record["state"] in ("running", "paused")


def status(found: "dict[str, Any]") -> "list[str]":
    """An SR: its pool, devices, scrubs, space and disks."""
    pool = found["pool"]
    lines = [
        "SR {} “{}”{}".format(found["sr"], _printable(found["name"]), "" if found["attached"] else ", not attached"),
        f"pool {pool['name']}: {pool['health'] or pool['state'] or 'missing'}",
    ]
    lines += [f"  {pool[name]}" for name in ("status", "action") if pool[name]]
    if found["layout"] is not None:
        lines += _devices(found["layout"])
    if found["scans"] is not None:
        # Finished trims are told with their schedule.
        lines += [progress(record) for record in doing(found) if record["kind"] != "trim" or is_unfinished(record)]
    for word, plan in (found["schedule"] or {}).items():
        upcoming = "" if plan["next"] is None else f", next {moment(plan['next'])}"
        lines.append(f"{word}: {plan['when']}, last {moment(found['last-' + word])}{upcoming}")
    if found["space"]:
        lines += _space(found["space"], found["takes-space"])
    lines += map(_disk, found["disks"] or [])
    lines += [f"unfinished: {sentence}" for sentence in found["unfinished"]]
    lines += [f"not readable: {sentence}" for sentence in found["obstacles"]]
    return lines


def _disk(disk: "dict[str, Any]") -> str:
    notes = f", used by {', '.join(disk['users'])}" if disk["users"] else ""
    notes += f", {disk['migration']}" if disk["migration"] else ""
    kind = f"{disk['kind']} “{_printable(disk['name'])}”"
    return f"  {disk['vdi']} {kind}: {size(disk['size'])} {disk['provisioning']}, takes {size(disk['used'])}{notes}"


def _printable(name: str) -> str:
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def _space(space: "dict[str, Any]", taken: "dict[str, Any]") -> "list[str]":
    promise = f"thin disks may ask for {size(space['promised'])} more"
    if space["promised"] > space["available"]:
        promise += ", which is more than there is"
    shares = ("disks", "snapshots", "deleted-but-needed", "reserved-for-thick-disks")
    return [
        f"space: {size(space['used'])} used, {size(space['available'])} available; {promise}",
        "  compressed {:.2f} times; the pool is {} % full, its free space {} % fragmented".format(
            space["compression-ratio"], space["pool-used-percent"], space["fragmentation-percent"]
        ),
        "  taken by " + ", ".join(f"{name.replace('-', ' ')} {size(taken[name])}" for name in shares),
    ]


def _devices(layout: "list[dict[str, Any]]") -> "list[str]":
    """The tree of devices as a table."""
    rows: "list[tuple[str, str, str, str]]" = []
    role = "data"
    for index, top in enumerate(layout):
        if top["role"] != role:
            role = top["role"]
            rows.append((role, "", "", ""))
        is_last = index == len(layout) - 1 or layout[index + 1]["role"] != role
        rows += _rows(top, "", is_last=is_last)
    widths = [max([*(len(row[column]) for row in rows), 0]) for column in range(3)]
    return ["  " + "  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]


def _rows(vdev: "dict[str, Any]", indent: str, *, is_last: bool) -> "list[tuple[str, str, str, str]]":
    errors = vdev["errors"]
    counts = "{read} read, {write} write, {checksum} checksum errors".format(**errors) if any(errors.values()) else ""
    if errors["slow"]:
        counts += f", {errors['slow']} slow"
    about = [vdev["note"].strip("()")] if vdev["note"] else []
    if vdev.get("serial"):
        about.append(" ".join(filter(None, (vdev["model"], "serial", vdev["serial"]))))
    trim = vdev.get("trim") or {}
    if trim.get("state") in ("running", "paused"):
        about.append(f"trim {trim['state']}, {trim['percent']:.0f} %")
    rows = [(indent + ("└─ " if is_last else "├─ ") + vdev["name"], vdev["state"], counts, "; ".join(about))]
    children = vdev.get("children", [])
    for index, child in enumerate(children):
        below = indent + ("   " if is_last else "│  ")
        rows += _rows(child, below, is_last=index == len(children) - 1)
    return rows


def listed(found: "list[dict[str, Any]]") -> "list[str]":
    """The answer of `list`."""
    return [f"{line['sr']} “{_printable(line['name'])}” {line['dataset']}: {line['health']}" for line in found]


def settings(answer: "dict[str, Any]") -> "list[str]":
    """The answer of `get`."""
    places = {"sr": "the SR's", "disk": "the disk's own", "default": "default"}
    return [
        f"{name:15} {setting['value']:15} {places.get(setting['from'], setting['from'])}"
        for name, setting in answer["settings"].items()
    ]


def events(found: "list[dict[str, Any]]") -> "list[str]":
    """The answer of `events`."""
    return [
        " ".join(filter(None, (moment(event["time"]), event["what"], event.get("device"), event.get("user"))))
        for event in found
    ]


def repair(answer: "dict[str, Any]") -> "list[str]":
    """The answer of `repair`."""
    return [*answer["lines"], *(f"would repair: {text}" for text in answer["repairs"] if not answer["done"])]


def plain(answer: "Any") -> "list[str]":
    """Any other answer: that of a change as its commands and notes, the rest as JSON."""
    if not isinstance(answer, dict) or "commands" not in answer:
        return json.dumps(answer, indent=2, ensure_ascii=False).splitlines()
    lines = [*answer["notes"]]
    lines += [("" if answer["done"] else "would run: ") + line for line in answer["commands"]]
    lines += [f"needs force=true: {sentence}" for sentence in answer.get("needs-force", [])]
    return lines or ["There was nothing to do."]

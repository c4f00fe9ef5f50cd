# SPDX-License-Identifier: LGPL-2.1-only
"""What is wrong with an SR, and what of that people have to be told. Pure: a sight and a journal in, messages out.

An alarm is told when it begins, again when it gets worse, and when it is over. What could not be read this time is as
it was the last time.
"""

from zfsvol.repository.family import human
from zfsvol.repository.journal import Journal, Message
from zfsvol.service.sight import Sight
from zfsvol.zfs import kernel, progress, text
from zfsvol.zfs.core import Numbers
from zfsvol.zfs.topology import Topology, Vdev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# xapi's priorities of messages.
LOSS, MAJOR, MINOR, OVER, INFORMATION = 1, 2, 3, 4, 5

SPACE = "space"  # the alarm's key in a journal

_PREFIX = "ZFSVOL_"

_SCANS_SEEN = "scans"

# Percent of the space in use at which an alarm begins and gets worse. It is over _EASED below.
_FULL = ((80, INFORMATION), (90, MINOR), (95, MAJOR))
_EASED = 2

# How bad the states of a device are; all others are worse.
_RANKS = {"OFFLINE": 0, "DEGRADED": 1}

# Of a pool, from the least bad.
_LOST = {
    "FAULTED": "Its data cannot be read.",
    "UNAVAIL": "Its data cannot be read.",
    kernel.SUSPENDED: "VMs wait for their disks until it returns.",
}


class Alarm:
    """Something that is wrong. `level`: it is worse if that is higher. `text`: what, what it means, what to do."""

    def __init__(self, name: str, level: int, priority: int, text_: str, over: str) -> None:
        self.name = name
        self.level = level
        self.priority = priority
        self.text = text_
        self.over = over


def messages(
    title: str, sight: Sight, unfinished: "list[str]", late: "int | None", journal: Journal
) -> "list[Message]":
    """What is to be told now; enters it into `open` and `known` of the journal, which the caller stores.

    `title`: the SR, for people. `unfinished`: what is half done in it. `late`: days without a scrub, if too many.
    """
    for guid, label in sight.labels.items():
        journal.known[f"disk {guid}"] = label
    found, unread = _alarms(title, sight, unfinished, journal)
    if late is not None:
        found["late"] = _late(title, late)
    if sight.numbers is not None:
        found.update(_capacity(title, 100 * sight.numbers.filled, journal))
    told = []
    for key, alarm in found.items():
        before = journal.open.get(key)
        if before is None or alarm.level > before["level"]:
            told.append(Message(sight.time, _PREFIX + alarm.name, alarm.priority, alarm.text))
            journal.open[key] = {"level": alarm.level, "name": alarm.name, "over": alarm.over}
    for key in [key for key in journal.open if key not in found and not key.startswith(unread)]:
        before = journal.open.pop(key)
        told.append(
            Message(sight.time, f"{_PREFIX}{before['name']}_OVER", OVER, f"{before['over']} The pool is {sight.state}.")
        )
    return [*told, *_ended_scans(title, sight, journal)]


def _alarms(
    title: str, sight: Sight, unfinished: "list[str]", journal: Journal
) -> "tuple[dict[str, Alarm], tuple[str, ...]]":
    """What is wrong, by key, but for the space; and how the keys begin of which nothing is known this time."""
    found: "dict[str, Alarm]" = {}
    unread: "tuple[str, ...]" = ()
    if sight.topology is None:
        unread += ("device ", "errors ", "data", "late")
    else:
        found.update(_devices(title, sight.topology, journal))
        # Whether the errors of a device that has failed meanwhile are over is not known.
        unread += tuple(key.replace("device", "errors", 1) for key in found if key.startswith("device "))
    pool = _pool(title, sight, devices_tell=bool(found))
    if pool is not None:
        found["pool"] = pool
    if sight.numbers is None:
        unread += (SPACE, "promise", "late")
    elif sight.numbers.promised > sight.numbers.available:
        found["promise"] = _promise(title, sight.numbers)
    if unfinished:
        found["unfinished"] = Alarm(
            "UNFINISHED",
            0,
            MINOR,
            f"{title}: something is half done and could not be finished: {'; '.join(unfinished)}. It is tried again "
            "after each change; 'python3 -m zfsvol check --repair' tells why it fails.",
            f"{title}: what was half done is finished.",
        )
    return found, unread


def _pool(title: str, sight: Sight, *, devices_tell: bool) -> "Alarm | None":
    state = sight.state
    if state in (None, *text.GOOD) or (state == "DEGRADED" and devices_tell):
        return None
    priority = LOSS if state in _LOST else MINOR
    meaning = _LOST.get(str(state), "It has less redundancy, or none.")
    level = [*_LOST].index(state) + 1 if state in _LOST else 0
    illness = sight.topology.described.health() if sight.topology is not None else str(state)
    advice = "Reconnect the disk, then run the plugin's 'clear'" if state == kernel.SUSPENDED else "See 'zpool status'"
    return Alarm(
        "POOL_" + str(state),
        level,
        priority,
        f"{title}: the pool is {state}. {meaning} {illness}. {advice}.",
        f"{title}: the pool works again.",
    )


def _devices(title: str, found: Topology, journal: Journal) -> "dict[str, Alarm]":
    alarms_: "dict[str, Alarm]" = {}
    state = found.described.state
    for disk in found.disks:
        called = _called(disk, journal)
        if disk.state not in (*text.GOOD, ""):
            alarms_[f"device {disk.guid}"] = Alarm(
                "DEVICE_" + disk.state,
                _RANKS.get(disk.state, len(_RANKS)),
                INFORMATION if disk.state == "OFFLINE" else _danger(disk),
                f"{title}: {called} is {disk.state}. The pool is {state}: {_left(disk)} {_advice(disk)}",
                f"{title}: {called} is no longer {disk.state}.",
            )
        elif any(disk.errors):
            read, write, checksum = disk.errors
            total = read + write + checksum
            alarms_[f"errors {disk.guid}"] = Alarm(
                "DEVICE_ERRORS",
                len(str(total)),  # told again at ten times as many
                MINOR,
                f"{title}: {called} works, with {read} read, {write} write and {checksum} checksum errors. "
                "Look at its cable and its own report (smartctl). Replace it if they become more; 'clear' of the "
                "plugin zfs-vol resets the numbers.",
                f"{title}: the errors of {called} are counted no more: they were cleared, or it was replaced.",
            )
    errors = found.described.fields.get("errors", text.NO_ERRORS)
    if errors != text.NO_ERRORS:
        alarms_["data"] = Alarm(
            "DATA_ERRORS",
            0,
            LOSS,
            f"{title}: data is damaged, and no copy of it is left in the pool: {errors}. 'zpool status -v' names the "
            "disks of VMs that it belongs to. Restore them from a backup, then scrub the pool.",
            f"{title}: no data is known to be damaged any more.",
        )
    return alarms_


def _called(disk: Vdev, journal: Journal) -> str:
    label = journal.known.get(f"disk {disk.guid}", disk.title)
    return f"the disk {label}" if disk.is_vital else f"the {disk.role} device {label}"


def _danger(disk: Vdev) -> int:
    if not disk.is_vital:
        return MINOR
    return LOSS if disk.top.spare_disks < 0 else MINOR


def _left(disk: Vdev) -> str:
    if not disk.is_vital:
        return "no data of VMs is lost with it."
    spare = disk.top.spare_disks
    if spare < 0:
        return "data is lost unless it returns."
    return "no other disk may fail now." if spare == 0 else f"{spare} more of its group may fail."


def _advice(disk: Vdev) -> str:
    if disk.state == "OFFLINE":
        return "Somebody took it offline; 'online' of the plugin zfs-vol takes it back."
    return "Reconnect it, or replace it with 'replace' of the plugin zfs-vol."


def _promise(title: str, numbers: Numbers) -> Alarm:
    return Alarm(
        "OVERCOMMITTED",
        0,
        INFORMATION,
        f"{title}: its thin disks may grow by {human(numbers.promised)} more, and {human(numbers.available)} are free. "
        "Watch the space: disks of VMs cannot be written any more when the pool is full.",
        f"{title}: there is space for all that its disks may grow by.",
    )


def _late(title: str, days: int) -> Alarm:
    return Alarm(
        "SCRUB_LATE",
        0,
        MINOR,
        f"{title}: its pool was not scrubbed for {days} days, which is against its schedule. Errors that nobody has "
        "read stay unknown. Use the plugin's 'scrub'; a paused scrub keeps others from being started.",
        f"{title}: its pool was scrubbed.",
    )


def _capacity(title: str, percent: float, journal: Journal) -> "dict[str, Alarm]":
    before = journal.open.get(SPACE, {"level": 0})["level"]
    level = sum(percent >= bound - (_EASED if before > number else 0) for number, (bound, _) in enumerate(_FULL))
    if level == 0:
        return {}
    if level < before:
        journal.open[SPACE]["level"] = level
    return {
        SPACE: Alarm(
            "SPACE",
            level,
            _FULL[level - 1][1],
            f"{title}: {percent:.0f} % of its space is used. When all is, disks of VMs cannot be written any more. "
            "Delete snapshots or disks, or add devices.",
            f"{title}: less than {_FULL[0][0] - _EASED} % of its space is used.",
        )
    }


def _ended_scans(title: str, sight: Sight, journal: Journal) -> "Iterator[Message]":
    """A scrub or resilver that has ended since the last sight. What had ended before the first one is not told."""
    if sight.topology is None:
        return
    is_first = _SCANS_SEEN not in journal.known
    journal.known[_SCANS_SEEN] = ""
    for scan in sight.topology.scans:
        if scan["state"] != progress.FINISHED:
            continue
        key, end = f"scan {scan['kind']}", str(scan["ended"])
        if journal.known.get(key) == end:
            continue
        journal.known[key] = end
        if is_first:
            continue
        errors, size = scan["errors"], scan["repaired"] or 0
        if scan["kind"] == progress.RESILVER:
            priority, done = OVER, f"{human(size)} were copied to the new or returned device"
        else:
            priority, done = MINOR if size else INFORMATION, f"{human(size)} were repaired"
        result = f"{errors} errors could not be repaired" if errors else "everything is readable"
        yield Message(
            sight.time,
            f"{_PREFIX}{scan['kind'].upper()}_FINISHED",
            LOSS if errors else priority,
            f"{title}: the {scan['kind']} of the pool has finished. {done}; {result}.",
        )

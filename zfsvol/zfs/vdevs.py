# SPDX-License-Identifier: LGPL-2.1-only
"""Command lines that care for the devices of a pool. Pure: each function returns the words of one command.

The caller runs them with `Pool.change`, or shows them. Devices are named by their guids, which no other device has; new
ones by their paths. Each command is atomic in the kernel, but those that take a new device write to it first: partition
table and labels stay on a device that zpool refuses afterwards.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

START, PAUSE, STOP = "start", "pause", "stop"


def scrub(pool: str, action: str) -> "list[str]":
    """Starts or resumes, pauses, or stops a scrub."""
    return ["zpool", "scrub", *{START: [], PAUSE: ["-p"], STOP: ["-s"]}[action], pool]


def trim(pool: str, action: str, devices: "Sequence[str]") -> "list[str]":
    """Starts or resumes, pauses, or stops the trim of these devices; of all if there are none."""
    return ["zpool", "trim", *{START: [], PAUSE: ["-s"], STOP: ["-c"]}[action], pool, *devices]


def replace(pool: str, old: str, new: str, *, force: bool) -> "list[str]":
    """Puts a new device in the place of another, and has it filled."""
    return ["zpool", "replace", *_forced(force), pool, old, new]


def attach(pool: str, device: str, new: str, *, force: bool) -> "list[str]":
    """Makes a new device another half of a mirror, and has it filled; or makes a raidz group wider."""
    return ["zpool", "attach", *_forced(force), pool, device, new]


def detach(pool: str, device: str) -> "list[str]":
    """Takes a half off a mirror."""
    return ["zpool", "detach", pool, device]


def online(pool: str, device: str, *, expand: bool = False) -> "list[str]":
    """Uses a device again; `expand`: with all the space that it has now."""
    return ["zpool", "online", *(["-e"] if expand else []), pool, device]


def offline(pool: str, device: str) -> "list[str]":
    """Stops using a device."""
    return ["zpool", "offline", pool, device]


def add(pool: str, words: "list[str]", *, force: bool, rehearse: bool = False) -> "list[str]":
    """Adds devices or groups of them. `rehearse`: only tells whether zpool would."""
    return ["zpool", "add", *(["-n"] if rehearse else []), *_forced(force), pool, *words]


def remove(pool: str, device: str) -> "list[str]":
    """Removes a device or group; what holds data is first copied to the others, in the background."""
    return ["zpool", "remove", pool, device]


def stop_removal(pool: str) -> "list[str]":
    """Stops the removal that runs."""
    return ["zpool", "remove", "-s", pool]


def clear(pool: str, devices: "Sequence[str]") -> "list[str]":
    """Forgets the errors of these devices, or of all, and uses them again; a suspended pool goes on."""
    return ["zpool", "clear", pool, *devices]


def _forced(force: bool) -> "list[str]":  # noqa: FBT001 - of the functions above
    return ["-f"] if force else []

# SPDX-License-Identifier: LGPL-2.1-only
"""The functions of care: which there are, with which arguments, and how one is called by texts.

The XenAPI plugin and the command line for people offer the same functions, with the same arguments, from this table.
"""

import importlib

from zfsvol import log
from zfsvol.care.tuning import SETTINGS
from zfsvol.errors import InvalidArgument
from zfsvol.repository.configuration import KEYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Argument:
    """An argument, which is a text. `choices`: the words it may be; None: any text."""

    def __init__(self, name: str, told: str, choices: "tuple[str, ...] | None" = None) -> None:
        self.name = name
        self.told = told
        self.choices = choices

    def parsed(self, value: str) -> "str | bool":
        """The value as the function takes it. Raises InvalidArgument."""
        if self.choices is not None and value not in self.choices:
            raise InvalidArgument(f"{self.name}={value} is not allowed; choose one of {', '.join(self.choices)}.")
        return value == "true" if self.choices == _FLAG else value


class Function:
    """A function of a module of the room `care`; an argument a-b is its parameter a_b.

    `required`: the names of the arguments that it cannot do without.
    """

    def __init__(self, place: str, told: str, *arguments: Argument, required: "tuple[str, ...]" = ()) -> None:
        self.module, _, self.name = place.partition(".")
        self.told = told
        self.arguments = {argument.name: argument for argument in arguments}
        self.required = required


_FLAG = ("true", "false")

_SR = Argument("sr-uuid", "the SR, by its uuid or its root dataset")
_VDI = Argument("vdi-uuid", "the disk; without it, the SR and all its disks that have no setting of their own")
_DEVICE = Argument("device", "a device of the pool, by its path, by-id name or guid, or as zpool calls it")
_NEW = Argument("new-device", "the path of the new device, or a spare of the pool")
_FORCE = Argument("force", "true: do it although something would be lost, as the refusal says", _FLAG)
_DRY_RUN = Argument("dry-run", "true: only tell what would be done", _FLAG)

_ACTIONS = ("start", "pause", "stop")


def _setting(name: str) -> Argument:
    return Argument(name, f"{KEYS[name].description}; or inherit")


FUNCTIONS = {
    "list": Function("status.list_", "the SRs on this host, with their health"),
    "status": Function(
        "status.status",
        "everything about an SR: its pool, devices, scrubs, space and disks; without sr-uuid, about all SRs",
        _SR,
    ),
    "scrub": Function(
        "scrub.scrub",
        "have ZFS read and check all data of the pool",
        _SR,
        Argument("action", "start (default), which also resumes, pause or stop", _ACTIONS),
        _DRY_RUN,
        required=("sr-uuid",),
    ),
    "trim": Function(
        "scrub.trim",
        "have ZFS tell the devices which space is free",
        _SR,
        Argument("action", "start (default), which also resumes, pause or stop", _ACTIONS),
        _DEVICE,
        _DRY_RUN,
        required=("sr-uuid",),
    ),
    "replace": Function(
        "devices.replace",
        "put a new device in the place of another",
        *(_SR, _DEVICE, _NEW, _FORCE, _DRY_RUN),
        required=("sr-uuid", "device", "new-device"),
    ),
    "attach": Function(
        "devices.attach",
        "make a new device another half of a mirror, a single device a mirror, or a raidz group wider",
        *(_SR, _DEVICE, _NEW, _FORCE, _DRY_RUN),
        required=("sr-uuid", "device", "new-device"),
    ),
    "detach": Function(
        "devices.detach",
        "take a device off its mirror",
        *(_SR, _DEVICE, _FORCE, _DRY_RUN),
        required=("sr-uuid", "device"),
    ),
    "online": Function("devices.online", "use a device again", _SR, _DEVICE, _DRY_RUN, required=("sr-uuid", "device")),
    "offline": Function(
        "devices.offline",
        "stop using a device",
        *(_SR, _DEVICE, _FORCE, _DRY_RUN),
        required=("sr-uuid", "device"),
    ),
    "add": Function(
        "groups.add",
        "add devices to the pool",
        _SR,
        Argument("vdev", "the devices, in the words of zpool add: mirror /dev/sdd /dev/sde; spare /dev/sdf"),
        _FORCE,
        _DRY_RUN,
        required=("sr-uuid", "vdev"),
    ),
    "remove": Function(
        "groups.remove",
        "remove a log, cache or spare, or a group that holds data",
        _SR,
        _DEVICE,
        Argument("action", "start (default), or stop: end the removal that runs", ("start", "stop")),
        _FORCE,
        _DRY_RUN,
        required=("sr-uuid",),
    ),
    "clear": Function(
        "devices.clear",
        "forget the errors of a device or of all, and use it again; a suspended pool goes on",
        *(_SR, _DEVICE, _DRY_RUN),
        required=("sr-uuid",),
    ),
    "grow": Function(
        "groups.grow",
        "use all the space of devices that have become larger",
        *(_SR, _DEVICE, _DRY_RUN),
        required=("sr-uuid",),
    ),
    "check": Function(
        "check.report",
        "the disks of the SR, their families, and what is wrong with them",
        _SR,
        required=("sr-uuid",),
    ),
    "repair": Function("check.repaired", "finish or undo what is half done", _SR, _DRY_RUN, required=("sr-uuid",)),
    "events": Function(
        "events.events",
        "what happened to the pool, the newest first",
        _SR,
        Argument("limit", "how many events at most; 100 by default"),
        required=("sr-uuid",),
    ),
    "get": Function(
        "tuning.get", "the settings of an SR or a disk, and where each comes from", _SR, _VDI, required=("sr-uuid",)
    ),
    "set": Function(
        "tuning.set_",
        "change settings of an SR or a disk",
        *(_SR, _VDI, *map(_setting, SETTINGS), _FORCE, _DRY_RUN),
        required=("sr-uuid",),
    ),
    "diagnose": Function(
        "diagnose.diagnose",
        "write an archive for a bug report",
        Argument("file", "its path; by default a new file in /var/tmp"),
    ),
}


def call(name: str, given: "dict[str, str]") -> "Any":
    """Calls a function. Returns its answer, made of what JSON has.

    Raises InvalidArgument (no such function; an argument is unknown, missing or wrong), and what the function raises.
    """
    if name not in FUNCTIONS:
        raise InvalidArgument(f"There is no function '{name}'. There are {', '.join(FUNCTIONS)}.")
    function = FUNCTIONS[name]
    arguments = {}
    for argument, value in given.items():
        if argument not in function.arguments:
            takes = f"it takes {', '.join(function.arguments)}" if function.arguments else "it takes none"
            raise InvalidArgument(f"{name} has no argument '{argument}': {takes}.")
        if not isinstance(value, str):
            raise InvalidArgument(f"{name}: the argument '{argument}' is not a text.")
        arguments[argument.replace("-", "_")] = function.arguments[argument].parsed(value)
    for argument in function.required:
        if not given.get(argument):
            raise InvalidArgument(f"{name} needs the argument '{argument}': {function.arguments[argument].told}.")
    module = importlib.import_module("zfsvol.care." + function.module)
    try:
        return getattr(module, function.name)(**arguments)
    except Exception as error:
        # What is changed has a line in the log, too. What is only read has none: it may be read every few seconds.
        words = " ".join([name, *(f"{argument}={value}" for argument, value in given.items())])
        log.warning(f"{words}: failed: {type(error).__name__}: {error}")
        raise

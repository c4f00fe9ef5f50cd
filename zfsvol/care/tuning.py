# SPDX-License-Identifier: LGPL-2.1-only
"""The settings of an SR and of one disk: told with where they come from, set, inherited again.

All are properties of the SR's root or of the disk's zvol, so a disk without one of its own has its SR's. Setting
several takes one transaction; a reservation, and each one that is inherited again, takes one more. A crash leaves the
rest as it was.
"""

from zfsvol import naming
from zfsvol.care import target
from zfsvol.care.plan import Plan
from zfsvol.errors import InvalidArgument, NoSpace
from zfsvol.repository import configuration, schedule
from zfsvol.repository.sr import CHANGE, SR
from zfsvol.repository.vdi import VDI
from zfsvol.zfs import changes, datasets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INHERIT = "inherit"

# The properties of the settings; those of ZFS's own have their names.
_STORED = {
    "provisioning": naming.SR_PROVISIONING,
    "volblocksize": naming.SR_VOLBLOCKSIZE,
    "datapath": naming.SR_DATAPATH,
    **configuration.SCHEDULES,
}
_OF_ZFS = ("compression", "sync", "logbias", "primarycache", "secondarycache", "copies")
SETTINGS = (*_OF_ZFS, *_STORED)
_OF_SR_ONLY = tuple(configuration.SCHEDULES)

_RESERVED = "refreservation"
_BLOCK = "volblocksize"

# What does not take effect at once, or not on everything.
_EFFECTS = {
    "compression": "compression applies to what is written from now on; what is there stays as it is.",
    "copies": "copies applies to what is written from now on; what is there keeps its number of copies.",
    "datapath": "datapath takes effect when a disk is attached the next time: at the next start of its VM.",
}
_EFFECTS_ON_SR = {
    "provisioning": "provisioning of the SR applies to disks made from now on; 'set' with vdi-uuid changes one that is "
    "there.",
    "volblocksize": "volblocksize applies to disks made from now on; a disk keeps the block size it was made with.",
}

_UNSAFE = {
    (
        "sync",
        "disabled",
    ): "With sync=disabled a power cut loses up to five seconds of what guests have flushed, and may "
    "damage their databases."
}


def get(sr_uuid: str, vdi_uuid: "str | None" = None) -> "dict[str, Any]":
    """The settings of an SR, or of a disk: for each its `value`, and `from`: disk, sr, default, or a dataset above.

    Raises InvalidArgument, SRUnavailable, VDIUnavailable.
    """
    sr = target.ready(sr_uuid)
    vdi = None if vdi_uuid is None else sr.vdi(vdi_uuid, datasets.inherited_properties)
    return {"sr": sr.uuid, "vdi": vdi_uuid, "settings": _settings(sr, vdi)}


def _settings(sr: SR, vdi: "VDI | None") -> "dict[str, Any]":
    names = [*_OF_ZFS, *_STORED.values(), *([_BLOCK] if vdi is not None else [])]
    found = datasets.with_sources(sr.zfs, sr.dataset if vdi is None else vdi.zvol, names)
    answer = {}
    for name in SETTINGS:
        if vdi is not None and name in _OF_SR_ONLY:
            continue
        default = configuration.KEYS[name].default or ""
        value, place = found.get(_STORED.get(name, name), (default, ""))
        answer[name] = {"value": value, "from": _place(sr, vdi, place)}
    if vdi is not None:
        answer["provisioning"] = {"value": "thick" if int(vdi.values.get(_RESERVED, "0")) else "thin", "from": "disk"}
        answer[_BLOCK] = {"value": found[_BLOCK][0], "from": "disk"}
        return answer
    (autotrim,) = sr.zfs.values("autotrim")
    for name, key in configuration.SCHEDULES.items():
        own = {key: found[key][0]} if key in found else {}
        answer[name]["value"] = str(schedule.of(own, key, autotrim=autotrim == "on"))
    return answer


def _place(sr: SR, vdi: "VDI | None", dataset: str) -> str:
    if vdi is not None and dataset == vdi.zvol:
        return "disk"
    return {"": "default", sr.dataset: "sr"}.get(dataset, dataset)


def set_(
    sr_uuid: str, vdi_uuid: "str | None" = None, *, force: bool = False, dry_run: bool = False, **settings: str
) -> "dict[str, Any]":
    """Sets settings of an SR or of a disk; the value "inherit" makes it have what is set above again, or the default.

    Raises InvalidArgument (a value that is not allowed; a setting that a disk cannot have or change; a risk without
    `force`), SRUnavailable, VDIUnavailable, NoSpace (a thick disk does not fit).
    """
    if not settings:
        raise InvalidArgument(f"Nothing is to be set. Give one of {', '.join(SETTINGS)}.")
    sr = target.ready(sr_uuid)
    # Shared with all verbs but those that remove or rename a zvol.
    with sr.locked(CHANGE):
        plan = Plan(sr)
        values: "dict[str, str]" = {}
        removed: "list[str]" = []
        vdi = None if vdi_uuid is None else sr.vdi(vdi_uuid, datasets.inherited_properties)
        for name, value in settings.items():
            wanted = value if value == INHERIT else configuration.checked(name, value, "")
            stored, wanted = (_for_disk if vdi is not None else _for_sr)(sr, vdi, name, wanted)  # type: ignore[arg-type]
            if wanted == INHERIT:
                removed.append(stored)
            else:
                values[stored] = wanted
            effects = _EFFECTS if vdi is not None else {**_EFFECTS, **_EFFECTS_ON_SR}
            plan.notes += [effects[name]] if name in effects else []
            plan.risks += [_UNSAFE[name, wanted]] if (name, wanted) in _UNSAFE else []
        dataset = sr.dataset if vdi is None else vdi.zvol
        if vdi is not None and values.get(_RESERVED) == "auto":
            plan.notes.append(
                f"A thick disk of {vdi.size} bytes needs that much free space, less what is written to it already. "
                f"{vdi.values['available']} are available to it."
            )
        if _RESERVED in values:
            # First and alone: it may find no space, and `zfs set` would have set the others by then.
            plan.commands.append(changes.setting(dataset, {_RESERVED: values.pop(_RESERVED)}))
        plan.commands += [changes.setting(dataset, values)] if values else []
        plan.commands += [changes.inheriting(dataset, name) for name in removed]
        try:
            answer = plan.answer(force=force, dry_run=dry_run)
        except NoSpace as error:
            raise NoSpace(f"The disk does not fit as a thick one: {error}") from None
        if vdi_uuid is not None:
            vdi = sr.vdi(vdi_uuid, datasets.inherited_properties)
        return dict(answer, vdi=vdi_uuid, settings=_settings(sr, vdi))


def _for_sr(_sr: SR, _vdi: None, name: str, value: str) -> "tuple[str, str]":
    if name == _BLOCK and value == INHERIT:
        raise InvalidArgument("The SR must have a volblocksize: name one, from 4K to 128K.")
    return _STORED.get(name, name), value


def _for_disk(sr: SR, vdi: VDI, name: str, value: str) -> "tuple[str, str]":
    """The property of a disk's zvol that stores a setting, and its value. Raises InvalidArgument."""
    if name in _OF_SR_ONLY:
        raise InvalidArgument(f"{name} is a setting of the SR, whose pool it is about: leave vdi-uuid out.")
    if name == _BLOCK:
        raise InvalidArgument(
            f"The block size of a disk is fixed when it is made: {vdi.key} has {vdi.values.get(_BLOCK, 'its own')}. "
            "Set that of the SR, make a new disk and copy this one's content to it."
        )
    if name != "provisioning":
        return _STORED.get(name, name), value
    if vdi.is_snapshot:
        raise InvalidArgument(f"{vdi.key} is a snapshot: nothing is ever written to it that needs a reservation.")
    if value == INHERIT:
        value = "thick" if configuration.is_thick(sr.read(), sr.dataset) else "thin"
    return _RESERVED, "auto" if value == "thick" else "none"

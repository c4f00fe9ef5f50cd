# SPDX-License-Identifier: LGPL-2.1-only
"""The wire contract between xapi-storage-script and a SMAPIv3 plugin, as a table and three checks.

The table `VERBS` names every verb of the interface with its arguments, in the order of the interface
description, and its result. It also feeds the stand-in of the generated library in tests/fakes.

The checks are as strict as the client, and in places a little more: where the client silently drops
what it does not expect (a misspelt member) or trips over it later (two volumes with one key), a plugin
is wrong too. They raise AssertionError, whose text begins with the path of the offending member.
"""

import base64
import binascii
import re
from typing import Any, Callable, Dict, FrozenSet, NamedTuple, Optional, Tuple, Union

# ----------------------------------------------------------------------------------------------------
# Types
# ----------------------------------------------------------------------------------------------------

TEXT = "text"
BOOL = "boolean"
INT = "integer"
SIZE = "size"  # An integer on the wire that cannot be negative.
FLOAT = "float"
UNIT = "null"
TEXT_MAP = "object of texts"
PAIR = "pair of integers"

Rule = Callable[[str, Any], None]


class Struct(NamedTuple):
    """An object with named members. Optional members are left out rather than null."""

    fields: Dict[str, Any]
    optional: FrozenSet[str] = frozenset()
    rule: Optional[Rule] = None


class ListOf(NamedTuple):
    """A list of items of one type."""

    item: Any
    rule: Optional[Rule] = None


class Variant(NamedTuple):
    """One of several named alternatives: a list of the name and the value it carries."""

    tags: Dict[str, Any]


Type = Union[str, Struct, ListOf, Variant]


class Verb(NamedTuple):
    """The arguments and the result of one executable of a plugin."""

    arguments: Dict[str, Type]
    result: Type


# ----------------------------------------------------------------------------------------------------
# Rules that types cannot express
# ----------------------------------------------------------------------------------------------------

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NBD_URI = re.compile(r"nbd:unix:[^:]+:exportname=.+")
_INT64 = 1 << 63


def _require(condition: object, path: str, complaint: str) -> None:
    if not condition:
        raise AssertionError(f"{path}: {complaint}")


def _query_rule(path: str, value: Any) -> None:
    # xapi lower-cases SR types before it looks for the plugin.
    plugin = value["plugin"]
    _require(plugin and plugin == plugin.lower(), path + ".plugin", f"{plugin!r} is not in lower case")
    version = value["required_api_version"]
    _require(version in ("3.0", "5.0"), path + ".required_api_version", f"the client refuses {version!r}")


def _volume_rule(path: str, value: Any) -> None:
    # xapi mixes location (the key) and uuid in several places; a plugin is only safe if they are equal.
    key = value["key"]
    _require(_UUID.fullmatch(key), path + ".key", f"{key!r} is not a uuid")
    _require("uuid" in value, path, "uuid is missing")
    _require(value["uuid"] == key, path + ".uuid", "{!r} is not the key {!r}".format(value["uuid"], key))
    # Any other text makes the scan of the whole SR fail.
    flag = value["keys"].get("is_a_snapshot", "false")
    _require(flag in ("true", "false"), path + ".keys.is_a_snapshot", f'{flag!r} is not "true" or "false"')


def _volumes_rule(path: str, value: Any) -> None:
    keys = set()
    for index, volume in enumerate(value):
        key = volume["key"]
        _require(key not in keys, f"{path}[{index}].key", f"{key!r} is listed twice")
        keys.add(key)


def _sr_stat_rule(path: str, value: Any) -> None:
    _require("uuid" in value, path, "uuid is missing")
    _require(_UUID.fullmatch(value["uuid"]), path + ".uuid", "{!r} is not a uuid".format(value["uuid"]))
    _require(value["free_space"] <= value["total_space"], path + ".free_space", "is more than total_space")


def _probe_rule(path: str, value: Any) -> None:
    sr_uuid = value["configuration"].get("sr_uuid")
    if not value["complete"]:
        _require(sr_uuid is None, path + ".configuration.sr_uuid", "is present in an incomplete result")
    if "sr" in value:
        _require(sr_uuid is not None, path + ".configuration", "sr_uuid is missing beside sr")
        found = value["sr"]["uuid"]
        _require(found == sr_uuid, path + ".sr.uuid", f"{found!r} is not configuration.sr_uuid {sr_uuid!r}")


def _changed_blocks_rule(path: str, value: Any) -> None:
    _require(value["granularity"] > 0, path + ".granularity", "is not positive")
    try:
        base64.b64decode(value["bitmap"], validate=True)
    except (binascii.Error, ValueError):
        raise AssertionError(path + ".bitmap: is not base64") from None


def _path_rule(path: str, value: Any) -> None:
    _require(value["path"].startswith("/dev/"), path + ".path", "does not begin with /dev/, so dom0 cannot use it")


def _nbd_rule(path: str, value: Any) -> None:
    _require(_NBD_URI.fullmatch(value["uri"]), path + ".uri", "is not nbd:unix:<socket>:exportname=<name>")


def _implementations_rule(path: str, value: Any) -> None:
    kinds = [implementation[0] for implementation in value]
    for index, kind in enumerate(kinds):
        _require(kind not in kinds[:index], f"{path}[{index}]", f"a second {kind}")


def _status_rule(path: str, value: Any) -> None:
    _require(0 <= value.get("progress", 0) <= 1, path + ".progress", "is not between 0 and 1")


def _backtrace_rule(path: str, value: Any) -> None:
    _require(len(value["files"]) == len(value["lines"]), path, "files and lines differ in length")


def _error_rule(path: str, value: Any) -> None:
    _require(value["code"], path + ".code", "is empty")


# ----------------------------------------------------------------------------------------------------
# Types of the interface
# ----------------------------------------------------------------------------------------------------

QUERY_RESULT = Struct(
    {
        "plugin": TEXT,
        "name": TEXT,
        "description": TEXT,
        "vendor": TEXT,
        "copyright": TEXT,
        "version": TEXT,
        "required_api_version": TEXT,
        "features": ListOf(TEXT),
        "configuration": TEXT_MAP,
        "required_cluster_stack": ListOf(TEXT),
        "supported_image_formats": ListOf(TEXT),
    },
    # Some versions of xapi know it, but none uses it.
    optional=frozenset(["supported_image_formats"]),
    rule=_query_rule,
)

HEALTH = Variant({"Healthy": TEXT, "Recovering": TEXT, "Unreachable": TEXT, "Unavailable": TEXT})

SR_STAT = Struct(
    {
        "sr": TEXT,
        "name": TEXT,
        "uuid": TEXT,
        "description": TEXT,
        "free_space": SIZE,
        "total_space": SIZE,
        "datasources": ListOf(TEXT),
        "clustered": BOOL,
        "health": HEALTH,
    },
    optional=frozenset(["uuid"]),
    rule=_sr_stat_rule,
)

PROBE_RESULT = Struct(
    {"configuration": TEXT_MAP, "complete": BOOL, "sr": SR_STAT, "extra_info": TEXT_MAP},
    optional=frozenset(["sr"]),
    rule=_probe_rule,
)

# The interface has another optional member, volume_type. Its generated check refuses every value, so a plugin
# must never give it.
VOLUME = Struct(
    {
        "key": TEXT,
        "uuid": TEXT,
        "name": TEXT,
        "description": TEXT,
        "read_write": BOOL,
        "sharable": BOOL,
        "virtual_size": SIZE,
        "physical_utilisation": SIZE,
        "uri": ListOf(TEXT),
        "keys": TEXT_MAP,
        "cbt_enabled": BOOL,
    },
    optional=frozenset(["uuid", "cbt_enabled"]),
    rule=_volume_rule,
)

BLOCKLIST = Struct({"blocksize": SIZE, "ranges": ListOf(PAIR)})

CHANGED_BLOCKS = Struct({"granularity": SIZE, "bitmap": TEXT}, rule=_changed_blocks_rule)

IMPLEMENTATION = Variant(
    {
        "XenDisk": Struct({"params": TEXT, "extra": TEXT_MAP, "backend_type": TEXT}),
        "BlockDevice": Struct({"path": TEXT}, rule=_path_rule),
        "File": Struct({"path": TEXT}, rule=_path_rule),
        "Nbd": Struct({"uri": TEXT}, rule=_nbd_rule),
    }
)

BACKEND = Struct({"implementations": ListOf(IMPLEMENTATION, rule=_implementations_rule)})

OPERATION = Variant({"CopyV1": TEXT, "MirrorV1": TEXT})

STATUS = Struct(
    {"failed": BOOL, "complete": BOOL, "progress": FLOAT}, optional=frozenset(["progress"]), rule=_status_rule
)

ERROR = Struct(
    {
        "code": TEXT,
        "params": ListOf(TEXT),
        "backtrace": Struct({"error": TEXT, "files": ListOf(TEXT), "lines": ListOf(INT)}, rule=_backtrace_rule),
    },
    rule=_error_rule,
)

# ----------------------------------------------------------------------------------------------------
# Verbs
# ----------------------------------------------------------------------------------------------------


def _verb(result: Type, **arguments: Type) -> Verb:
    return Verb(arguments=dict(dbg=TEXT, **arguments), result=result)


def _sr(result: Type, **arguments: Type) -> Verb:
    return _verb(result, sr=TEXT, **arguments)


def _volume(result: Type, **arguments: Type) -> Verb:
    return _sr(result, key=TEXT, **arguments)


def _domain(result: Type, **arguments: Type) -> Verb:
    return _verb(result, uri=TEXT, domain=TEXT, **arguments)


VERBS: Dict[str, Verb] = {
    "Plugin.query": _verb(QUERY_RESULT),
    "Plugin.ls": _verb(ListOf(TEXT)),
    "Plugin.diagnostics": _verb(TEXT),
    "SR.probe": _verb(ListOf(PROBE_RESULT), configuration=TEXT_MAP),
    "SR.create": _verb(TEXT_MAP, uuid=TEXT, configuration=TEXT_MAP, name=TEXT, description=TEXT),
    "SR.attach": _verb(TEXT, configuration=TEXT_MAP),
    "SR.detach": _sr(UNIT),
    "SR.destroy": _sr(UNIT),
    "SR.stat": _sr(SR_STAT),
    "SR.set_name": _sr(UNIT, new_name=TEXT),
    "SR.set_description": _sr(UNIT, new_description=TEXT),
    "SR.ls": _sr(ListOf(VOLUME, rule=_volumes_rule)),
    "Volume.create": _sr(VOLUME, name=TEXT, description=TEXT, size=SIZE, sharable=BOOL),
    "Volume.snapshot": _volume(VOLUME),
    "Volume.clone": _volume(VOLUME),
    "Volume.copy": _volume(VOLUME, dest_sr=TEXT),
    "Volume.destroy": _volume(UNIT),
    "Volume.set_name": _volume(UNIT, new_name=TEXT),
    "Volume.set_description": _volume(UNIT, new_description=TEXT),
    "Volume.set": _volume(UNIT, k=TEXT, v=TEXT),
    "Volume.unset": _volume(UNIT, k=TEXT),
    "Volume.resize": _volume(UNIT, new_size=SIZE),
    "Volume.revert": _sr(UNIT, snapshot=TEXT, key=TEXT),
    "Volume.stat": _volume(VOLUME),
    "Volume.compare": _volume(BLOCKLIST, key2=TEXT),
    "Volume.similar_content": _volume(ListOf(TEXT)),
    "Volume.enable_cbt": _volume(UNIT),
    "Volume.disable_cbt": _volume(UNIT),
    "Volume.data_destroy": _volume(UNIT),
    "Volume.list_changed_blocks": _volume(CHANGED_BLOCKS, key2=TEXT, offset=SIZE, length=INT),
    "Volume.compose": _volume(UNIT, key2=TEXT),
    "Datapath.open": _verb(UNIT, uri=TEXT, persistent=BOOL),
    "Datapath.attach": _domain(BACKEND),
    "Datapath.activate": _domain(UNIT),
    "Datapath.activate_readonly": _domain(UNIT),
    "Datapath.deactivate": _domain(UNIT),
    "Datapath.detach": _domain(UNIT),
    "Datapath.close": _verb(UNIT, uri=TEXT),
    "Datapath.import_activate": _domain(TEXT),
    "Data.copy": _domain(OPERATION, remote=TEXT, blocklist=BLOCKLIST),
    "Data.mirror": _domain(OPERATION, remote=TEXT),
    "Data.stat": _verb(STATUS, operation=OPERATION),
    "Data.cancel": _verb(UNIT, operation=OPERATION),
    "Data.destroy": _verb(UNIT, operation=OPERATION),
    "Data.ls": _verb(ListOf(OPERATION)),
}

_BY_LOWER_NAME = {name.lower(): verb for name, verb in VERBS.items()}


def find_verb(name: str) -> Verb:
    """Return the verb that an executable of this name serves. Like the client, ignore the case."""
    _require(name.lower() in _BY_LOWER_NAME, name, "is not a verb of the interface")
    return _BY_LOWER_NAME[name.lower()]


# ----------------------------------------------------------------------------------------------------
# Checks
# ----------------------------------------------------------------------------------------------------

_SCALARS: Dict[str, Tuple[type, ...]] = {
    TEXT: (str,),
    BOOL: (bool,),
    INT: (int,),
    SIZE: (int,),
    FLOAT: (float,),
    UNIT: (type(None),),
}


def _check_struct(struct: Struct, value: Any, path: str) -> None:
    _require(isinstance(value, dict), path, f"{value!r} is not an object")
    for name in value:
        _require(name in struct.fields, f"{path}.{name}", "the interface has no such member")
    for name, field in struct.fields.items():
        if name in value:
            _check(field, value[name], f"{path}.{name}")
        else:
            _require(name in struct.optional, path, f"{name} is missing")
    if struct.rule:
        struct.rule(path, value)


def _check_list(listing: ListOf, value: Any, path: str) -> None:
    _require(isinstance(value, list), path, f"{value!r} is not a list")
    for index, item in enumerate(value):
        _check(listing.item, item, f"{path}[{index}]")
    if listing.rule:
        listing.rule(path, value)


def _check_variant(variant: Variant, value: Any, path: str) -> None:
    _require(isinstance(value, list) and len(value) == 2, path, f"{value!r} is not [name, value]")
    tag = value[0]
    _require(isinstance(tag, str) and tag in variant.tags, path + "[0]", f"{tag!r} is not known")
    _check(variant.tags[tag], value[1], path + "[1]")


def _check_text_map(value: Any, path: str) -> None:
    _require(isinstance(value, dict), path, f"{value!r} is not an object")
    for key, item in value.items():
        _require(isinstance(key, str), path, f"key {key!r} is not a text")
        _check(TEXT, item, f"{path}.{key}")


def _check_pair(value: Any, path: str) -> None:
    _require(isinstance(value, list) and len(value) == 2, path, f"{value!r} is not a pair")
    for index, item in enumerate(value):
        _check(SIZE, item, f"{path}[{index}]")


def _check_scalar(kind: str, value: Any, path: str) -> None:
    # A boolean is an integer in Python, but not for the client.
    right = isinstance(value, _SCALARS[kind]) and (kind == BOOL or not isinstance(value, bool))
    _require(right, path, f"{value!r} is not of type {kind}")
    if kind in (INT, SIZE):
        _require(-_INT64 <= value < _INT64, path, f"{value} does not fit in 64 bits")
    if kind == SIZE:
        _require(value >= 0, path, f"{value} is negative")


def _check(kind: Type, value: Any, path: str) -> None:
    if isinstance(kind, Struct):
        _check_struct(kind, value, path)
    elif isinstance(kind, ListOf):
        _check_list(kind, value, path)
    elif isinstance(kind, Variant):
        _check_variant(kind, value, path)
    elif kind == TEXT_MAP:
        _check_text_map(value, path)
    elif kind == PAIR:
        _check_pair(value, path)
    else:
        _check_scalar(kind, value, path)


def check_arguments(verb: str, arguments: Any) -> None:
    """Check what the client writes to a verb's standard input, as read from JSON."""
    _check_struct(Struct(find_verb(verb).arguments), arguments, "arguments")


def check_result(verb: str, value: Any) -> None:
    """Check what a verb prints when it succeeds, as read from JSON."""
    _check(find_verb(verb).result, value, "result")


def check_error(value: Any) -> None:
    """Check what a verb prints when it fails, as read from JSON."""
    _check(ERROR, value, "error")

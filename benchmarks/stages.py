# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs, each with a stage that prepares one call of it.

A stage returns the arguments of that call. If the verb changes something, no other call has the same names and values.
"""

from benchmarks.pools import MIB, VOLUME, Pools, run
from tests import client
from zfsvol import properties

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


def _key_of(pools: Pools) -> str:
    """One of the SR's volumes, a different one for each call."""
    return pools.volumes[pools.number % len(pools.volumes)]


def _existing(pools: Pools, **more: "Any") -> "dict[str, Any]":
    return dict(sr=pools.sr, key=_key_of(pools), **more)


def _nothing(_pools: Pools) -> "dict[str, Any]":
    return {}


def _sr_create(pools: Pools) -> "dict[str, Any]":
    pools.no_spare()
    configuration = pools.spare_device()
    return {"uuid": client.new_uuid(), "configuration": configuration, "name": "sr", "description": ""}


def _attach(pools: Pools, *, imported: bool) -> "dict[str, Any]":
    pools.spare(imported=imported)
    return {"configuration": pools.spare_configuration}


def _attached(pools: Pools) -> "dict[str, Any]":
    """The spare SR, attached by the driver: it knows the guid of its pool then, and need not ask."""
    return {"sr": client.call("SR.attach", **_attach(pools, imported=True))}


def _probe(pools: Pools) -> "dict[str, Any]":
    pools.spare(imported=False)
    return {"configuration": {"device": pools.spare_disk}}


def _new_volume(pools: Pools) -> "dict[str, Any]":
    return {"sr": pools.sr, "name": "disk", "description": "", "size": VOLUME, "sharable": False}


def _doomed(pools: Pools) -> "dict[str, Any]":
    return {"sr": pools.sr, "key": pools.add(client.new_uuid())}


def _snapshot_of(pools: Pools, key: str) -> str:
    return str(client.call_inside("Volume.snapshot", sr=pools.sr, key=key)["key"])


def _a_snapshot(pools: Pools) -> "dict[str, Any]":
    return {"sr": pools.sr, "key": _snapshot_of(pools, pools.volumes[0])}


def _revert(pools: Pools) -> "dict[str, Any]":
    key = pools.add(client.new_uuid())
    return {"sr": pools.sr, "snapshot": _snapshot_of(pools, key), "key": key}


def _with_a_dependent(pools: Pools) -> "dict[str, Any]":
    key = pools.add(client.new_uuid())
    _snapshot_of(pools, key)
    return {"sr": pools.sr, "key": key}


def _last_dependent(pools: Pools) -> "dict[str, Any]":
    key = pools.add(client.new_uuid())
    snapshot = _snapshot_of(pools, key)
    client.call_inside("Volume.destroy", sr=pools.sr, key=key)
    return {"sr": pools.sr, "key": snapshot}


def _tracked(pools: Pools) -> "dict[str, Any]":
    key = pools.add(client.new_uuid())
    client.call_inside("Volume.enable_cbt", sr=pools.sr, key=key)
    return {"sr": pools.sr, "key": key}


def _tracked_snapshot(pools: Pools) -> "dict[str, Any]":
    # Of the same disk each time, as its name is in the commands.
    client.call_inside("Volume.enable_cbt", sr=pools.sr, key=pools.volumes[0])
    return {"sr": pools.sr, "key": _snapshot_of(pools, pools.volumes[0])}


def _two_snapshots(pools: Pools) -> "dict[str, Any]":
    first, second = (_snapshot_of(pools, pools.volumes[0]) for _ in range(2))
    return {"sr": pools.sr, "key": first, "key2": second, "offset": 0, "length": -1}


def _unset(pools: Pools) -> "dict[str, Any]":
    key = _key_of(pools)
    values = properties.encode_key("content_id", "x")
    run("zfs", "set", *(f"{name}={value}" for name, value in values.items()), pools.volume(key))
    return {"sr": pools.sr, "key": key, "k": "content_id"}


STAGES: "list[tuple[str, str, Callable[[Pools], dict[str, Any]]]]" = [
    ("Plugin.Query", "", _nothing),
    ("Plugin.ls", "", _nothing),
    ("Plugin.diagnostics", "", _nothing),
    ("SR.create", "", _sr_create),
    ("SR.attach", "imports", lambda pools: _attach(pools, imported=False)),
    ("SR.attach", "again", lambda pools: _attach(pools, imported=True)),
    ("SR.detach", "", _attached),
    ("SR.destroy", "", _attached),
    ("SR.probe", "imports", _probe),
    ("SR.stat", "", lambda pools: {"sr": pools.sr}),
    ("SR.ls", "", lambda pools: {"sr": pools.sr}),
    ("SR.set_name", "", lambda pools: {"sr": pools.sr, "new_name": client.new_uuid()}),
    ("SR.set_description", "", lambda pools: {"sr": pools.sr, "new_description": client.new_uuid()}),
    ("Volume.create", "", _new_volume),
    ("Volume.snapshot", "", _existing),
    ("Volume.clone", "disk", _existing),
    ("Volume.clone", "snapshot", _a_snapshot),
    ("Volume.revert", "", _revert),
    ("Volume.destroy", "", _doomed),
    ("Volume.destroy", "has snapshot", _with_a_dependent),
    ("Volume.destroy", "last of it", _last_dependent),
    ("Volume.data_destroy", "", _tracked_snapshot),
    ("Volume.enable_cbt", "", _doomed),
    ("Volume.disable_cbt", "", _tracked),
    ("Volume.list_changed_blocks", "", _two_snapshots),
    ("Volume.resize", "", lambda pools: _existing(pools, new_size=VOLUME + 2 * MIB * pools.number)),
    ("Volume.stat", "", _existing),
    ("Volume.set", "", lambda pools: _existing(pools, k="vdi-type", v=client.new_uuid())),
    ("Volume.unset", "", _unset),
    ("Volume.set_name", "", lambda pools: _existing(pools, new_name=client.new_uuid())),
    ("Volume.set_description", "", lambda pools: _existing(pools, new_description=client.new_uuid())),
]

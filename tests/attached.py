# SPDX-License-Identifier: LGPL-2.1-only
"""What there is on this host for VDIs that are attached: records, nodes, links; and a look into those that are not."""

import json
import os
from pathlib import Path
import time
from typing import Any, Dict, List

from tests import zvol
from zfsvol import command, lock, zfs
from zfsvol.naming import Root

RECORDS = Path("/var/run/nonpersistent/zfs-vol")
SERVERS = Path("/run/blktap-control/nbd")
STATISTICS = Path("/dev/sm/phy")
DEVICES = Path("/dev/zfs-vol")
_PLACES = (RECORDS, SERVERS, STATISTICS, DEVICES)

_LIMIT = 30


def records(sr: str) -> "Dict[str, Any]":
    """The driver's records by VDI; what else is beside them, by name."""
    found = {path.name: path for path in (RECORDS / Root(sr).uuid).glob("*")}
    return {
        name[: -len(".json")] if name.endswith(".json") else name: json.loads(path.read_text())
        for name, path in found.items()
    }


def links(directory: Path, sr: str) -> "Dict[str, str]":
    """The links to what serves the SR's VDIs."""
    return {path.name: os.readlink(str(path)) for path in (directory / Root(sr).uuid).glob("*")}


def nodes(sr: str) -> "Dict[str, str]":
    """The device nodes of the SR's zvols, by VDI."""
    return {name[len(sr) + 1 :]: path for name, path in zvol.nodes().items() if name.startswith(sr + "/")}


def directories(sr: str) -> "List[str]":
    """Those of the SR: they stay until it is detached."""
    uuid = Root(sr).uuid
    return [str(place / uuid) for place in _PLACES if (place / uuid).exists()]


def left(sr: str) -> "List[str]":
    """All of it in words: nothing where nobody has a VDI attached."""
    uuid = Root(sr).uuid
    return [
        *(f"node {path} of {key}" for key, path in nodes(sr).items()),
        *(f"volmode of {name}" for name in zfs.with_own_volmode(sr)),
        *(str(path) for place in _PLACES for path in place.glob(f"{uuid}/*")),
        *(str(path) for path in Path(lock.DIRECTORY).glob("vdi-*")),
    ]


def checksums(zvols: "Dict[str, int]") -> "Dict[str, str]":
    """As `zvol.checksums`, of zvols with or without a node: those have one for a moment."""
    there = zvol.nodes()
    hidden = sorted(set(zvols) - set(there))
    if hidden:
        command.run(["zfs", "set", "volmode=dev", *hidden], _LIMIT)
    found = zvol.checksums(zvols)
    if hidden:
        end = time.monotonic() + _LIMIT
        while set(hidden).intersection(zvol.nodes()):
            assert time.monotonic() < end, f"{hidden} keep their nodes"
            command.run(["zfs", "inherit", "volmode", *hidden], _LIMIT)
    return found

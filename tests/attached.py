# SPDX-License-Identifier: LGPL-2.1-only
"""What exists on this host for attached VDIs: records, nodes, links. And checksums of VDIs that are not attached."""

import json
import os
from pathlib import Path
import time
from typing import Any, Dict, List

from tests import zvol
from zfsvol.host import command
from zfsvol.naming import Root
from zfsvol.repository.sr import SR
from zfsvol.zfs import datasets

RECORDS = Path("/var/run/nonpersistent/zfs-vol")
SERVERS = Path("/run/blktap-control/nbd")
STATISTICS = Path("/dev/sm/phy")
DEVICES = Path("/dev/zfs-vol")
_LINKS = (SERVERS, STATISTICS, DEVICES)

_LIMIT = 30


def records(sr: str) -> "Dict[str, Any]":
    """The driver's records by VDI, and other files beside them by name."""
    found = {path.name: path for path in (RECORDS / sr).glob("*-*")}
    return {
        name[: -len(".json")] if name.endswith(".json") else name: json.loads(path.read_text())
        for name, path in found.items()
    }


def links(directory: Path, sr: str) -> "Dict[str, str]":
    """The links to the nodes and sockets of the SR's VDIs."""
    return {path.name: os.readlink(str(path)) for path in (directory / Root(sr).uuid).glob("*")}


def nodes(sr: str) -> "Dict[str, str]":
    """The device nodes of the SR's zvols, by VDI."""
    return {name[len(sr) + 1 :]: path for name, path in zvol.nodes().items() if name.startswith(sr + "/")}


def directories(sr: str) -> "List[str]":
    """The SR's directories, which stay until it is detached."""
    uuid = Root(sr).uuid
    found = [RECORDS / sr, *(place / uuid for place in _LINKS)]
    return [str(path) for path in found if path.exists()]


def left(sr: str) -> "List[str]":
    """All of that in words; empty if nobody has a VDI attached."""
    uuid = Root(sr).uuid
    return [
        *(f"node {path} of {key}" for key, path in nodes(sr).items()),
        *(f"volmode of {name}" for name in datasets.with_own_volmode(SR(sr).zfs, sr)),
        *(str(path) for place in _LINKS for path in place.glob(f"{uuid}/*")),
        *(str(path) for path in (RECORDS / sr).glob("*-*")),
    ]


def checksums(zvols: "Dict[str, int]") -> "Dict[str, str]":
    """As `zvol.checksums`, but also of zvols without a node, which get one for a moment."""
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

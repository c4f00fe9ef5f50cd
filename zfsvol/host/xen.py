# SPDX-License-Identifier: LGPL-2.1-only
"""Xen's domains. Reads only."""

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host import blockdevice, command, files

_LIMIT = 10

# While a VM migrates, its domain has a uuid made for that, which ends in one of these. The VM's own is in xenstore,
# under the key beside it (xen-api, ocaml/xcp-rrdd/bin/rrdd/xcp_rrdd.ml).
_MIGRATING = {"000000000000": "origin-uuid", "000000000001": "final-uuid"}


class Guest:
    """A VM as xenstore shows it. `devices`: the name in the VM, such as xvda, of each disk that blkback serves, by the
    path that blkback was given.
    """

    def __init__(self, uuid: str, devices: "dict[str, str]") -> None:
        self.uuid = uuid
        self.devices = devices


def gone(domids: "list[str]") -> "list[str]":
    """Those of the domains that are certainly gone; none if xenstore cannot be asked."""
    try:
        alive = command.run(["xenstore-list", "/local/domain"], _LIMIT).split()
    except StorageError as error:
        log.warning(f"the running VMs cannot be listed: {error}")
        return []
    if "0" not in alive:  # dom0 is always there
        return []
    return [domid for domid in domids if domid not in alive and not _has_backend(domid)]


def _has_backend(domid: str) -> bool:
    return any(name.startswith(f"vbd-{domid}-") for name in files.names(blockdevice.BACKENDS))


def guest(domid: str) -> Guest:
    """The VM in a domain. Two children, and one for each of its disks.

    Raises CommandFailed, also while the toolstack still writes what is asked for; CommandTimeout.
    """
    (path,) = _read(f"/local/domain/{domid}/vm")  # /vm/<uuid>
    uuid = path.rpartition("/")[2]
    key = _MIGRATING.get(uuid[-12:])
    if key is not None:
        (uuid,) = _read(f"/vm/{uuid}/{key}")
    backends = f"/local/domain/0/backend/vbd/{domid}"
    devices: "dict[str, str]" = {}
    for device in command.run(["xenstore-list", backends], _LIMIT).split():
        params, name = _read(f"{backends}/{device}/params", f"{backends}/{device}/dev")
        devices[params] = name
    return Guest(uuid, devices)


def _read(*paths: str) -> "list[str]":
    """The values at these paths of xenstore, one line of output each. Raises CommandFailed, CommandTimeout."""
    argv = ["xenstore-read", *paths]
    values = command.run(argv, _LIMIT).split("\n")[:-1]
    if len(values) != len(paths):
        raise command.CommandFailed(argv, 0, f"it printed {len(values)} lines")
    return values

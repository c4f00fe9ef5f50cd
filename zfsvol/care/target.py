# SPDX-License-Identifier: LGPL-2.1-only
"""The SR that a person means, and the locks to care for its pool's devices."""

from contextlib import contextmanager

from zfsvol import naming
from zfsvol.errors import InvalidArgument, SRUnavailable, StorageError
from zfsvol.host import lock
from zfsvol.naming import Root
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import SR
from zfsvol.zfs import kernel, pools
from zfsvol.zfs.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds. A person waits for the answer, and xapi has one thread less meanwhile.
_POOL_LIMIT = 120


def all_srs() -> "list[SR]":
    """The SRs on this host: those that are attached, and those on imported pools. Passes over pools that are ill."""
    found = {sr.dataset: sr for sr in srs.attached()}
    names = pools.imported().values() if kernel.is_loaded() else ()
    for name in names:
        if pools.is_to_look(name) or kernel.state(name) == kernel.SUSPENDED:
            continue
        try:
            found.update({sr.dataset: sr for sr in srs.below(Pool(name), name)})
        except StorageError:
            continue  # it was exported or has fallen ill a moment ago
    return [found[dataset] for dataset in sorted(found)]


def find(name: str) -> SR:
    """The SR by its uuid, or by its root dataset. Its pool is imported, but may be ill.

    Raises InvalidArgument (no such name, or several SRs), SRUnavailable (it is not on this host).
    """
    if naming.is_root(name):
        return _imported(SR(naming.parse_sr(name).dataset))
    naming.require_uuid(name, "The SR's uuid")
    found = [sr for sr in srs.attached() if sr.uuid == name]
    if not found and kernel.state(Root(naming.PREFIX + name).pool) is not None:
        found = [SR(naming.PREFIX + name)]
    if not found:
        found = [sr for sr in all_srs() if sr.uuid == name]
    if not found:
        raise SRUnavailable(f"There is no SR {name} on the imported pools of this host. Plug its PBD, and see 'list'.")
    if len(found) > 1:
        raise InvalidArgument(
            "There are several SRs {}: {}. Name one by its dataset.".format(name, ", ".join(sr.dataset for sr in found))
        )
    return _imported(found[0])


def ready(name: str) -> SR:
    """The same, after a check that its pool can answer. Raises as `find`."""
    sr = find(name)
    sr.zfs.require()
    return sr


def _imported(sr: SR) -> SR:
    if kernel.state(sr.pool) is None:
        sr.zfs.require()
    return sr


@contextmanager
def pool_locked(sr: SR) -> "Iterator[None]":
    """Holds the lock of whoever changes the devices of the SR's pool, or imports or exports it. Commands inherit it.

    Raises LockTimeout, SRUnavailable.
    """
    with lock.pool(sr.guid, _POOL_LIMIT) as held:
        sr.zfs.held.append(held.descriptor)
        try:
            yield
        finally:
            sr.zfs.held.remove(held.descriptor)


@contextmanager
def devices_locked(sr: SR) -> "Iterator[None]":
    """Holds that lock, and the one of whoever labels a device that is new to its pool. Raises as `pool_locked`."""
    with lock.devices() as held:
        sr.zfs.held.append(held.descriptor)
        try:
            with pool_locked(sr):
                yield
        finally:
            sr.zfs.held.remove(held.descriptor)

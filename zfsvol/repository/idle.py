# SPDX-License-Identifier: LGPL-2.1-only
"""For verbs that need an idle VDI: checks its record, and cleans up after users that are gone.

The datapath's modules are imported only for VDIs that somebody has attached: the import is a fifth of the time that a
destroy of an idle disk takes.
"""

import os

from zfsvol.errors import VDIInUse
from zfsvol.repository.record import NODE, TAPDISK, Record


def require_idle(record: Record, done: str, *, served_by: "tuple[str, ...]" = (NODE, TAPDISK)) -> None:
    """Raises VDIInUse if the VDI is mirrored, or activated in one of the ways in `served_by`.

    `done`: what the caller wants to do, as in "was not resized".
    """
    if not os.path.exists(record.path):
        return
    from zfsvol.repository import attachment, mirror  # see above

    mirror.require_none(record.sr, record.key, done)
    if _users(record, served_by):
        attachment.drop_dead(record)
        attachment.drop_ended_migrations(record, list(record.active))
    users = _users(record, served_by)
    if users:
        raise VDIInUse(
            f"The VDI {record.key} is in use by {record.holders(users)}, and was not {done}. "
            f"{attachment.advice(record, users)}"
        )
    attachment.forget_unused(record)


def require_no_ended_migration(record: Record) -> None:
    """Raises VDIInUse if xapi may be about to destroy a disk that it has moved: see `moved`."""
    if os.path.exists(record.let_go):
        from zfsvol.repository import moved  # see above

        moved.require_no_detach(record)


def withdraw_node(record: Record) -> None:
    """Removes the node of a VDI that was just removed; its zvol may remain, but needs no node."""
    if record.node is not None:
        from zfsvol.zfs import node  # see above

        node.hide(record.sr.zfs, record.zvol, record.node)
        record.node = None
        record.save()


def _users(record: Record, served_by: "tuple[str, ...]") -> "list[str]":
    return [domain for way in served_by for domain in record.users(way)]

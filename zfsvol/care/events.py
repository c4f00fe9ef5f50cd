# SPDX-License-Identifier: LGPL-2.1-only
"""What happened to an SR's pool, from the records that there are of it. Changes nothing."""

from zfsvol.care import target
from zfsvol.errors import InvalidArgument
from zfsvol.repository.sr import SR
from zfsvol.zfs import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_MOST = 100

# Each gives events of an SR's pool, the oldest first, as `zfs.history` describes them.
SOURCES: "tuple[Callable[[SR], list[dict[str, Any]]], ...]" = (
    lambda sr: history.history(sr.zfs),
    lambda sr: history.events(sr.zfs),
)


def events(sr_uuid: str, *, limit: str = str(_MOST)) -> "list[dict[str, Any]]":
    """The last `limit` events of the SR's pool, the newest first. Raises InvalidArgument, SRUnavailable."""
    if not limit.isdecimal() or int(limit) < 1:
        raise InvalidArgument(f"limit={limit} is no number of events.")
    sr = target.ready(sr_uuid)
    found = [event for source in SOURCES for event in source(sr)]
    # Sorting keeps the order of events of the same second.
    return sorted(found, key=lambda event: int(event["time"]))[: -int(limit) - 1 : -1]

# SPDX-License-Identifier: LGPL-2.1-only
"""What happened to an SR's pool, from the records that there are of it. Changes nothing."""

from zfsvol.care import target
from zfsvol.errors import InvalidArgument
from zfsvol.repository.journal import Journal
from zfsvol.repository.sr import SR
from zfsvol.zfs import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST = 100


def events(sr_uuid: str, *, limit: str = str(_MOST)) -> "list[dict[str, Any]]":
    """The last `limit` events of the SR's pool, the newest first. Raises InvalidArgument, SRUnavailable."""
    if not limit.isdecimal() or int(limit) < 1:
        raise InvalidArgument(f"limit={limit} is no number of events.")
    sr = target.ready(sr_uuid)
    found = [*history.history(sr.zfs), *history.events(sr.zfs), *_told(sr)]
    # Sorting keeps the order of events of the same second.
    return sorted(found, key=lambda event: int(event["time"]))[: -int(limit) - 1 : -1]


def _told(sr: SR) -> "list[dict[str, Any]]":
    """What the service has told people about it."""
    return [
        {"time": int(message.time), "source": "alarm", "what": f"{message.name}: {message.text}"}
        for message in Journal(sr, sr.guid).happened
    ]

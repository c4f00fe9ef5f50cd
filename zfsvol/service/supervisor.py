# SPDX-License-Identifier: LGPL-2.1-only
"""Follows the SRs of this host as they are attached and detached, each in a thread of its own.

The supervisor's own thread never waits for a pool: it reads memory and /proc. So it notices a stop within a second,
whatever hangs.
"""

import threading
import time

from zfsvol import log
from zfsvol.repository import sr as srs
from zfsvol.service import events
from zfsvol.service.follower import Follower
from zfsvol.service.messages import Sender
from zfsvol.service.statistics import BEAT, Statistics

# Seconds.
_TICK = 1
_LOOK = 60  # for SRs that were attached unnoticed


class Supervisor:
    """All followers of this host."""

    def __init__(self) -> None:
        self._followers: "dict[tuple[str, str], Follower]" = {}
        self._events = events.Listener(self._happened)
        self._sender = Sender()
        self._known: "tuple[int, int]" = (-1, -1)  # when the attached SRs were looked for

    def run(self, stop: threading.Event) -> None:
        """Follows until `stop` is set."""
        self._events.start(stop)
        self._sender.start(stop)
        statistics = Statistics()
        due = time.monotonic()
        while not stop.is_set():
            self._follow()
            for follower in self._followers.values():
                follower.tick()
            now = time.monotonic()
            if now >= due:
                statistics.update(now, list(self._followers.values()))
                due = due + BEAT if now < due + BEAT else now + BEAT
            stop.wait(min(_TICK, max(0.0, due - time.monotonic())))
        statistics.close()
        for follower in self._followers.values():
            follower.leave()
        self._events.wait(_TICK + 0.5)

    def _follow(self) -> None:
        """Starts to follow SRs that were attached since the last call, and leaves those that were detached."""
        known = (srs.attached_changed(), int(time.monotonic()) // _LOOK)
        if known == self._known:
            return
        self._known = known
        attached = {(sr.dataset, sr.attached_from or ""): sr for sr in srs.attached()}
        for key in set(self._followers) - set(attached):
            log.info(f"{key[0]} is not followed any more")
            self._followers.pop(key).leave()
        for key in set(attached) - set(self._followers):
            log.info(f"{key[0]} is followed")
            self._followers[key] = Follower(attached[key], key[1], self._sender)
            self._followers[key].start()

    def _happened(self, event: events.Event) -> None:
        """Called in the listener's thread."""
        for follower in list(self._followers.values()):
            if follower.sr.pool == event.pool:
                follower.happened(event)

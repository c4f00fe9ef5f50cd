# SPDX-License-Identifier: LGPL-2.1-only
"""What ZFS tells of its pools as it happens: errors, devices that fail or return, scrubs, changes of datasets.

One `zpool events -f` runs as long as the service does and sleeps in the kernel until there is something to tell. The
alternative, to ask `zpool status` every few seconds, would start a child process each time.
"""

import threading

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host import command
from zfsvol.zfs import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable

_COMMAND = ["zpool", "events", "-f", "-v", "-H"]
_HISTORY = "sysevent.fs.zfs.history_event"

# Seconds between two starts of the command: it ends if the kernel module is not loaded yet.
_PAUSE = 5


class Event:
    """Something that happened to a pool."""

    def __init__(self, kind: str, pool: str) -> None:
        self.kind = kind
        self.pool = pool

    @property
    def is_history(self) -> bool:
        """Whether somebody changed the pool or one of its datasets, rather than something happened to it."""
        return self.kind == _HISTORY


def parse(lines: "Iterable[str]") -> "Iterator[Event]":
    """The events in the command's output, each as soon as the line with its pool is there. Pure.

    An event is a line with its time and its kind, then an indented line for each of its properties.
    """
    kind = ""
    for line in lines:
        if line[:1].strip():
            kind = line.rpartition("\t")[2]
        elif kind:
            name, _, value = line.strip().partition(" = ")
            # An error has its detector before that, whose pool is a number.
            if name == "pool" and value.startswith('"'):
                yield Event(kind, value.strip('"'))
                kind = ""


class Listener:
    """Calls `happened`, in a thread of its own, for each event."""

    def __init__(self, happened: "Callable[[Event], object]") -> None:
        self._happened = happened
        self._thread: "threading.Thread | None" = None

    def start(self, stop: threading.Event) -> None:
        """Listens until `stop` is set."""
        self._thread = threading.Thread(target=self._run, args=(stop,), name="events", daemon=True)
        self._thread.start()

    def wait(self, limit: float) -> None:
        """Waits up to `limit` seconds until the command has ended, after `stop` was set."""
        if self._thread is not None:
            self._thread.join(limit)

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if kernel.is_loaded():
                try:
                    self._listen(stop)
                except StorageError as error:
                    if not stop.is_set():
                        log.warning(f"the events of ZFS cannot be read: {error}")
            stop.wait(_PAUSE)

    def _listen(self, stop: threading.Event) -> None:
        pieces = command.Child(_COMMAND).chunks(float("inf"), stop.is_set)
        for event in parse(command.lines(pieces)):
            self._happened(event)

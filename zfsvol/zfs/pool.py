# SPDX-License-Identifier: LGPL-2.1-only
"""The way to one imported pool: its state, and the one place that runs commands on it and reads their complaints."""

import time

from zfsvol import log
from zfsvol.errors import NoSpace, SRUnavailable, StorageError
from zfsvol.host import command
from zfsvol.host.command import READ_LIMIT, WRITE_LIMIT, CommandFailed, CommandTimeout
from zfsvol.zfs import kernel, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, TypeVar

    _Answer = TypeVar("_Answer")

# Seconds.
_SUSPENDED_LIMIT = 10
_BUSY_LIMIT = 5
_BUSY_PAUSE = 0.25


class Missing(StorageError):
    """The dataset or pool does not exist. Callers know what it was to be, and raise the error that says so."""


class Exists(StorageError):
    """The dataset or pool exists already. Callers know what it was to be."""


class Busy(StorageError):
    """Something has the dataset or pool open, or did a moment ago. Callers find out what."""


# What a message of zfs or zpool means, by a part of it: the wording of 2.1 to 2.4. What a later release words
# differently is told as it is, by CommandFailed.
_MEANINGS: "tuple[tuple[str, type[StorageError]], ...]" = (
    ("pool I/O is currently suspended", SRUnavailable),
    ("dataset does not exist", Missing),
    ("no such pool", Missing),
    ("parent does not exist", Missing),
    ("already exists", Exists),
    ("out of space", NoSpace),
    ("no space left", NoSpace),
    ("size is greater than available space", NoSpace),
    ("dataset is busy", Busy),
    ("it's being held", Busy),
    ("pool is busy", Busy),
    ("encryption key not loaded", SRUnavailable),
    ("key must be loaded", SRUnavailable),
    ("is read-only", SRUnavailable),
    ("pool is read only", SRUnavailable),
    ("Read-only file system", SRUnavailable),
)


def meaning(error: CommandFailed) -> StorageError:
    """The error of this driver for what a zfs or zpool command said; `error` itself where there is none."""
    for part, kind in _MEANINGS:
        if part in error.stderr:
            return kind(" ".join(error.stderr.split()))
    return error


class Pool:
    """One imported pool. `held`: descriptors of the locks under which its commands run, and which they keep."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: "list[int]" = []

    def require(self) -> None:
        """Raises SRUnavailable where commands on this pool would fail or hang. No child process for a healthy one."""
        state = kernel.state(self.name)
        if state is None:
            raise SRUnavailable(f"The pool {self.name} is not imported on this host. Plug the SR's PBD to import it.")
        if state == kernel.SUSPENDED:
            raise SRUnavailable(
                f"The pool {self.name} is suspended, as it lost a disk that it cannot do without: {self._illness()}. "
                f"Reconnect the disk, then run 'zpool clear {self.name}'."
            )

    def read(self, argv: "list[str]") -> str:
        """The output of one command that changes nothing. Raises Missing, SRUnavailable, CommandFailed and so on."""
        return self.finish(self.start(argv), READ_LIMIT)

    def change(self, argv: "list[str]") -> str:
        """The output of one command that changes something; repeated for some seconds while its target is busy."""
        return when_idle(lambda: self.finish(self.start(argv), WRITE_LIMIT))

    def start(self, argv: "list[str]") -> command.Child:
        """A command that runs beside this process; `finish` must follow."""
        return command.Child(argv, held=self.held)

    def finish(self, child: command.Child, limit: float) -> str:
        """The output of a started command, which is given up when the pool is suspended. Raises as `read`."""
        try:
            return child.finish(limit, lambda: kernel.state(self.name) == kernel.SUSPENDED)
        except CommandFailed as error:
            if "suspended" in error.stderr:
                self.require()  # it says which disk is the reason
            raise meaning(error) from None
        except CommandTimeout as error:
            log.warning(str(error))
            self.require()
            raise

    def status(self) -> str:
        """The text of `zpool status`, with whole device paths. Raises Missing."""
        return self.read(status_command(self.name))

    def values(self, *columns: str) -> "list[str]":
        """Properties of the pool, in the order asked for. Raises Missing."""
        return self.read(["zpool", "list", "-Hp", "-o", ",".join(columns), self.name]).rstrip("\n").split("\t")

    def _illness(self) -> str:
        """What a suspended pool suffers from: `zpool status` still answers, as a rule."""
        try:
            return text.read(command.run(status_command(self.name), _SUSPENDED_LIMIT))[0].health()
        except (StorageError, IndexError) as error:
            return str(error) or "'zpool status' tells nothing"


def status_command(pool: str) -> "list[str]":
    """`zpool status` of the pool, with whole device paths."""
    return ["zpool", "status", "-P", "-p", pool]


def when_idle(action: "Callable[[], _Answer]") -> "_Answer":
    """The action's answer. It is repeated for some seconds while it raises Busy.

    Two changes of one zvol at a time, and udev or blkid that have just opened a device node, make it so for a moment.
    """
    end = time.monotonic() + _BUSY_LIMIT
    while True:
        try:
            return action()
        except Busy:
            if time.monotonic() > end:
                raise
        time.sleep(_BUSY_PAUSE)

# SPDX-License-Identifier: LGPL-2.1-only
"""Access to one imported pool: its state, its commands and the meaning of their error messages."""

import time

from zfsvol import log
from zfsvol.errors import NoSpace, SRUnavailable, StorageError
from zfsvol.host import command
from zfsvol.host.command import READ_LIMIT, STREAM_LIMIT, WRITE_LIMIT, CommandFailed, CommandTimeout
from zfsvol.zfs import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Callable, TypeVar

    _Answer = TypeVar("_Answer")

# Seconds.
_SUSPENDED_LIMIT = 10
_BUSY_LIMIT = 5
_BUSY_PAUSE = 0.25


class Missing(StorageError):
    """The dataset or pool does not exist. Callers know what it stands for, and raise the error that says so."""


class Exists(StorageError):
    """The dataset or pool exists already. Callers know what it stands for."""


class Busy(StorageError):
    """Something has the dataset or pool open, or had a moment ago. Callers find out what."""


# The errors for parts of zfs's and zpool's messages, as 2.1 to 2.4 word them. If a later release words one differently,
# CommandFailed shows it as it is.
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
    ("' is busy", Busy),  # unload-key
    ("it's being held", Busy),
    ("pool is busy", Busy),
    ("encryption key not loaded", SRUnavailable),
    ("key must be loaded", SRUnavailable),
    ("is read-only", SRUnavailable),
    ("pool is read only", SRUnavailable),
    ("Read-only file system", SRUnavailable),
)


def meaning(error: CommandFailed) -> StorageError:
    """The driver's error for the message of a zfs or zpool command; `error` itself if the message is unknown."""
    for part, kind in _MEANINGS:
        if part in error.stderr:
            return kind(" ".join(error.stderr.split()))
    return error


class Pool:
    """One imported pool. `held`: descriptors of the locks that its commands inherit."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: "list[int]" = []

    def require(self) -> None:
        """Raises SRUnavailable if commands on this pool would fail or hang. No child process if the pool is healthy."""
        state = kernel.state(self.name)
        if state is None:
            raise SRUnavailable(f"The pool {self.name} is not imported on this host. Plug the SR's PBD to import it.")
        if state == kernel.SUSPENDED:
            raise SRUnavailable(
                f"The pool {self.name} is suspended because it lost a disk that it needs: {self._illness()}. "
                f"Reconnect the disk, then run 'zpool clear {self.name}'."
            )

    def read(self, argv: "list[str]") -> str:
        """The output of one command that changes nothing. Raises Missing, SRUnavailable, CommandFailed and others."""
        return self.finish(self.start(argv), READ_LIMIT)

    def change(self, argv: "list[str]") -> str:
        """The output of one command that changes something. Repeats it for some seconds while its target is busy."""
        return when_idle(lambda: self.finish(self.start(argv), WRITE_LIMIT))

    def start(self, argv: "list[str]") -> command.Child:
        """Starts a command beside this process; `finish` must follow."""
        return command.Child(argv, held=self.held)

    def stream(self, argv: "list[str]") -> "Generator[bytes, None, None]":
        """The output of one command that changes nothing, piece by piece, as it comes. Raises as `read`."""
        child = self.start(argv)
        child.widen()
        return self._pieces(child, STREAM_LIMIT)

    def finish(self, child: command.Child, limit: float) -> str:
        """The output of a started command. Gives the command up if the pool is suspended. Raises as `read`."""
        return command.decoded(self._pieces(child, limit))

    def _pieces(self, child: command.Child, limit: float) -> "Generator[bytes, None, None]":
        try:
            yield from child.chunks(limit, lambda: kernel.state(self.name) == kernel.SUSPENDED)
        except CommandFailed as error:
            if "suspended" in error.stderr:
                self.require()  # its error names the disk
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

    def guid(self) -> str:
        """The pool's guid, a decimal number. Raises SRUnavailable if the pool is not imported."""
        try:
            return self.values("guid")[0]
        except Missing:
            raise SRUnavailable(f"The pool {self.name} is not imported on this host.") from None

    def _illness(self) -> str:
        """Why the pool is suspended, by `zpool status`, which usually still answers."""
        from zfsvol.zfs import text  # for the message only

        try:
            return text.read(command.run(status_command(self.name), _SUSPENDED_LIMIT))[0].health()
        except (StorageError, IndexError) as error:
            return str(error) or "'zpool status' shows nothing"


def status_command(pool: str) -> "list[str]":
    """`zpool status` of the pool, with whole device paths."""
    return ["zpool", "status", "-P", "-p", pool]


def when_idle(action: "Callable[[], _Answer]") -> "_Answer":
    """Runs the action, again for some seconds while it raises Busy, and returns its result.

    A zvol is busy for a moment while another command changes it, or while udev or blkid have its device node open.
    """
    end = time.monotonic() + _BUSY_LIMIT
    while True:
        try:
            return action()
        except Busy:
            if time.monotonic() > end:
                raise
        time.sleep(_BUSY_PAUSE)

# SPDX-License-Identifier: LGPL-2.1-only
"""Child processes of the driver, each from its start to its end.

Every child gets a list of words (never a shell), the C locale (the driver parses its messages), an environment of its
own (xapi-storage-script's LD_PRELOAD must not reach zfs) and a time limit. A child that waits for a pool that does not
answer sleeps in the kernel and cannot be killed: it is left behind.

A child inherits the locks that its caller names. So if a verb is killed, the next verb waits until the command that
the first one started has ended. A child that starts a daemon runs outside the control group of xapi-storage-script,
because systemd ends the processes of that group at a toolstack restart; it must not inherit the locks of a verb.

Nothing here depends on signals or on the calling thread.
"""

import fcntl
import os
import select
import signal
import time

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host import files, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Callable

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

# Seconds. The client has no time limit of its own, so these are generous: they are for hangs, not for slow commands.
READ_LIMIT = 120
WRITE_LIMIT = 600
STREAM_LIMIT = 86400  # what reads whole disks
_KILL_LIMIT = 2
_LOOK_INTERVAL = 1
# Nearly all children end as soon as they have closed their pipes.
_PAUSE = 0.0005
_PAUSE_MOST = 0.02

# Bytes read at once. A larger buffer would be allocated anew for each read, and each of its pages costs a page fault.
_CHUNK = 1 << 16
_PIPE = 1 << 20  # bytes
_F_SETPIPE_SZ = 1031  # Linux; Python 3.6 does not name it
# A shell that enters the control groups before "--" and becomes the program behind it. 0 stands for who writes it.
_IN_GROUPS = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit; shift; done; shift; exec "$@"'

_LONGEST_SHOWN = 300  # characters of a command line in a message


# Children that could not be killed. Each is a zombie once its pool lets it go, until somebody asks how it ended.
_left_behind: "list[int]" = []


class CommandFailed(StorageError):
    """A child failed, and no caller has a more specific error for it. `stderr` is the child's error output."""

    def __init__(self, argv: "list[str]", status: int, stderr: str) -> None:
        said = " ".join(stderr.split()) or "it gave no reason"
        super().__init__(f"'{_short(argv)}' failed with status {status}: {said}")
        self.argv = argv
        self.status = status
        self.stderr = stderr


class CommandTimeout(StorageError):
    """A child did not end in time, or never would have. It was killed, or left behind if it could not be killed."""

    def __init__(self, argv: "list[str]", seconds: float) -> None:
        super().__init__(
            f"'{_short(argv)}' did not end within {seconds:.0f} seconds and was given up. Look for a disk that "
            "does not answer in 'zpool status' and the kernel's log. The command may still take effect later."
        )


def _short(argv: "list[str]") -> str:
    line = " ".join(argv)
    return line if len(line) <= _LONGEST_SHOWN else line[:_LONGEST_SHOWN] + " …"


class Child:
    """A started child process. The caller must call either `finish` or `chunks`, once.

    `held`: descriptors of locks that the child inherits. `output`: a file that takes the child's output in place of a
    pipe. It survives if this process is killed, and nobody waits for a daemon that keeps it open. `daemon`: the child
    starts a daemon, outside the control group of this process and with these variables in its environment.
    """

    def __init__(
        self,
        argv: "list[str]",
        *,
        held: "Sequence[int]" = (),
        output: "str | None" = None,
        daemon: "dict[str, str] | None" = None,
    ) -> None:
        _left_behind[:] = [pid for pid in _left_behind if spawn.status(pid) is None]
        self.argv = argv
        # Its exit status, or the negative number of the signal that ended it; None before its end was noticed.
        self.returncode: "int | None" = None
        self._output = output
        self._pipes: "list[int]" = []  # of stdout and stderr; none if the output goes to a file
        theirs: "list[int]" = []
        try:
            theirs.append(os.open("/dev/null", os.O_RDONLY))
            if output is not None:
                theirs += 2 * [os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)]
            else:
                for _ in ("stdout", "stderr"):
                    reader, writer = os.pipe()
                    self._pipes.append(reader)
                    theirs.append(writer)
            if daemon is not None:
                argv = ["sh", "-c", _IN_GROUPS, "sh", *_service_groups(), "--", *argv]
            self._pid = spawn.start(argv, dict(ENVIRONMENT, **(daemon or {})), theirs, held=held)
        except OSError as error:
            self._close()
            raise CommandFailed(argv, 127, str(error)) from None
        finally:
            for descriptor in {*theirs}:
                os.close(descriptor)

    def widen(self) -> None:
        """Lets the pipe of stdout hold more, so that the child and who streams from it take turns less often."""
        try:
            fcntl.fcntl(self._pipes[0], _F_SETPIPE_SZ, _PIPE)
        except OSError:
            pass  # the host allows no more

    def finish(self, limit: float, hopeless: "Callable[[], bool]" = lambda: False) -> str:
        """Waits until the child ends and returns its stdout as text.

        Replaces bytes that are not UTF-8: another program's property value must not make a verb fail. Raises
        CommandFailed (status not 0) and CommandTimeout (`limit` seconds have passed, or `hopeless`, called every
        second, says that the child will never end).
        """
        return decoded(self.chunks(limit, hopeless))

    def chunks(self, limit: float, hopeless: "Callable[[], bool]" = lambda: False) -> "Iterator[bytes]":
        """Yields stdout as it comes, in pieces of up to 64 KiB. Raises as `finish`, after the last piece.

        The child waits for a slow reader, so memory is bounded. If the caller stops reading, the child is killed.
        """
        began = time.monotonic()
        said: "list[bytes]" = []

        def look() -> None:
            waited = time.monotonic() - began
            if waited > limit or hopeless():
                raise CommandTimeout(self.argv, waited)

        try:
            for is_error, data in self._read(look):
                if is_error:
                    said.append(data)
                else:
                    yield data
            while not self._ends(_LOOK_INTERVAL):
                look()
        finally:
            # Reached after an error, and when the caller stops reading.
            if self.returncode is None:
                self._give_up()
        if self._output is not None:
            with open(self._output, "rb") as file:
                said = [file.read()]
            yield said[0]
        if self.returncode:
            raise CommandFailed(self.argv, self.returncode, b"".join(said).decode("utf-8", "replace"))

    def _read(self, look: "Callable[[], None]") -> "Iterator[tuple[bool, bytes]]":
        """Yields (is_error, data) from both pipes until both are closed; `is_error` marks stderr."""
        poll = select.poll()
        errors = self._pipes[-1:]
        for descriptor in self._pipes:
            poll.register(descriptor, select.POLLIN | select.POLLHUP)
            os.set_blocking(descriptor, False)
        looked = time.monotonic()
        ready: "list[int]" = []
        while self._pipes:
            # Without a poll for each piece: a stream may be hundreds of thousands of them.
            ready = ready or [descriptor for descriptor, _ in poll.poll(_LOOK_INTERVAL * 1000)]
            if time.monotonic() - looked >= _LOOK_INTERVAL:
                look()
                looked = time.monotonic()
            for descriptor in list(ready):
                try:
                    data = os.read(descriptor, _CHUNK)
                except BlockingIOError:
                    ready.remove(descriptor)
                    continue
                if data:
                    yield descriptor in errors, data
                else:
                    ready.remove(descriptor)
                    poll.unregister(descriptor)
                    self._pipes.remove(descriptor)
                    os.close(descriptor)

    def _ends(self, seconds: float) -> bool:
        """Waits for its end up to this long. Whether it has ended."""
        end = time.monotonic() + seconds
        pause = _PAUSE
        while True:
            self.returncode = spawn.status(self._pid)
            if self.returncode is not None:
                return True
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_MOST)

    def _give_up(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        if not self._ends(_KILL_LIMIT):
            log.warning(f"pid {self._pid} cannot be killed and is left behind: {_short(self.argv)}")
            _left_behind.append(self._pid)
        self._close()

    def _close(self) -> None:
        while self._pipes:
            os.close(self._pipes.pop())


def decoded(pieces: "Iterable[bytes]") -> str:
    """A child's output as text, with what is not UTF-8 replaced."""
    return b"".join(pieces).decode("utf-8", "replace")


def lines(pieces: "Iterable[bytes]") -> "Iterator[str]":
    """A child's output line by line, as it comes, with what is not UTF-8 replaced. Leaves out a line without an end."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")


def _service_groups() -> "list[str]":
    """`cgroup.procs` of the root groups of the cgroup hierarchies by which systemd assigns processes to services.

    That is the named hierarchy of cgroup v1, as in XCP-ng 8.3, or the unified one. Empty without systemd.
    """
    return [
        os.path.join(mount.path, "cgroup.procs")
        for mount in files.mounts()
        if mount.kind == "cgroup2" or (mount.kind == "cgroup" and "name=systemd" in mount.options)
    ]


def run(argv: "list[str]", limit: float, *, held: "Sequence[int]" = ()) -> str:
    """Runs one child to its end. Returns and raises as Child.finish."""
    return Child(argv, held=held).finish(limit)

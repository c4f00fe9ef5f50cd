# SPDX-License-Identifier: LGPL-2.1-only
"""Child processes: the only place that starts programs.

Every child gets a list of words (never a shell), the C locale (its messages are read), an environment of its own
(xapi-storage-script's LD_PRELOAD must not reach zfs) and a time limit. A child that waits for a pool that does not
answer sleeps in the kernel and cannot be killed: it is left behind.

A child keeps the locks that its caller names, so that what a killed verb has begun is over before the next verb begins.
A child that leaves a daemon behind has none of them, and is started outside the control group of xapi-storage-script,
whose processes systemd ends at a toolstack restart.

Nothing here depends on signals or on the thread it runs in.
"""

import os
import select
import time

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Callable

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

# Seconds. The client waits without any limit of its own, so these are generous: they end hangs, not slowness.
READ_LIMIT = 120
WRITE_LIMIT = 600
_KILL_LIMIT = 2
_LOOK_INTERVAL = 1

_CHUNK = 1 << 18  # bytes
_LONGEST_SHOWN = 300  # characters of a command line in a message


class CommandFailed(StorageError):
    """A child ended with an error that no caller has a better word for; `stderr` is what it said."""

    def __init__(self, argv: "list[str]", status: int, stderr: str) -> None:
        said = " ".join(stderr.split()) or "it gave no reason"
        super().__init__(f"'{_short(argv)}' failed with status {status}: {said}")
        self.argv = argv
        self.status = status
        self.stderr = stderr


class CommandTimeout(StorageError):
    """A child did not end in time, or never would have; it was killed, or left behind where that is impossible."""

    def __init__(self, argv: "list[str]", seconds: float) -> None:
        super().__init__(
            f"'{_short(argv)}' did not end within {seconds:.0f} seconds and was given up. Look at 'zpool status' and "
            "the kernel's log for a disk that does not answer; what was asked may still be done later."
        )


def _short(argv: "list[str]") -> str:
    line = " ".join(argv)
    return line if len(line) <= _LONGEST_SHOWN else line[:_LONGEST_SHOWN] + " …"


class Child:
    """A started child process. One of `finish` and `chunks` must be called, once.

    `held`: descriptors of locks that the child keeps. `output`: a file that gets what the child says, in place of a
    pipe: it is there if this process is killed, and a daemon that keeps it open keeps nobody waiting. `daemon`: the
    child leaves a process behind that has these variables in its environment; it gets no locks.
    """

    def __init__(
        self,
        argv: "list[str]",
        *,
        held: "Sequence[int]" = (),
        output: "str | None" = None,
        daemon: "dict[str, str] | None" = None,
    ) -> None:
        import subprocess  # a fifth of a verb's start; the verbs of a disk that others use, too, need no child

        self.argv = argv
        self._output = output
        groups: "list[int]" = []
        opened: "list[int]" = []
        try:
            if output is not None:
                opened.append(os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
            file = opened[0] if opened else subprocess.PIPE
            if daemon is not None:
                groups = _service_groups()
                opened += groups
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=dict(ENVIRONMENT, **(daemon or {})),
                cwd="/",
                pass_fds=tuple(held) if daemon is None else (),
                # What runs between fork and exec is one write: it can wait for no other thread.
                preexec_fn=(lambda: _move(groups)) if groups else None,  # noqa: PLW1509
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise CommandFailed(argv, 127, str(error)) from None
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def finish(self, limit: float, hopeless: "Callable[[], bool]" = lambda: False) -> str:
        """Waits for the end and returns stdout as text.

        Bytes that are not UTF-8 are replaced: another program's property value must not fail a verb.
        Raises CommandFailed (status not 0) and CommandTimeout (`limit` seconds are over, or `hopeless`, asked every
        second, says that the child will never end).
        """
        return b"".join(self.chunks(limit, hopeless)).decode("utf-8", "replace")

    def chunks(self, limit: float, hopeless: "Callable[[], bool]" = lambda: False) -> "Iterator[bytes]":
        """Yields stdout as it comes, in pieces of up to 256 KiB; raises as `finish`, after the last piece.

        What reads too slowly makes the child wait, so memory is bounded. A caller that stops reading ends the child.
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
            self._wait(look)
        finally:
            # After an error, and where the caller has stopped reading.
            if self._process.returncode is None:
                self._give_up()
        if self._output is not None:
            with open(self._output, "rb") as file:
                said = [file.read()]
            yield said[0]
        if self._process.returncode != 0:
            raise CommandFailed(self.argv, self._process.returncode, b"".join(said).decode("utf-8", "replace"))

    def _read(self, look: "Callable[[], None]") -> "Iterator[tuple[bool, bytes]]":
        """What comes through the pipes until both are closed; and whether it came through that of errors."""
        # By hand: Popen.communicate with a timeout cannot be called again in Python 3.6 once the child has closed one
        # of its pipes (bpo-35182), and holds all of the output in memory.
        pipes = [pipe for pipe in (self._process.stdout, self._process.stderr) if pipe is not None]
        poll = select.poll()
        for pipe in pipes:
            poll.register(pipe, select.POLLIN | select.POLLHUP)
        while pipes:
            ready = {descriptor for descriptor, _ in poll.poll(_LOOK_INTERVAL * 1000)}
            look()
            for pipe in [pipe for pipe in pipes if pipe.fileno() in ready]:
                data = os.read(pipe.fileno(), _CHUNK)
                if data:
                    yield pipe is self._process.stderr, data
                else:
                    poll.unregister(pipe)
                    pipes.remove(pipe)
                    pipe.close()

    def _wait(self, look: "Callable[[], None]") -> None:
        import subprocess  # it is there already

        while True:
            try:
                self._process.wait(_LOOK_INTERVAL)
                return
            except subprocess.TimeoutExpired:
                look()

    def _give_up(self) -> None:
        import subprocess  # likewise

        self._process.kill()
        try:
            self._process.wait(_KILL_LIMIT)
        except subprocess.TimeoutExpired:
            log.warning(f"left behind, not to be killed: pid {self._process.pid} {_short(self.argv)}")
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def _service_groups() -> "list[int]":
    """Descriptors of the roots of the hierarchies by which systemd knows which process is whose.

    That is the named one of cgroup v1, which XCP-ng 8.3 has, or the unified one. None where there is no systemd.
    """
    return [
        os.open(os.path.join(mount.path, "cgroup.procs"), os.O_WRONLY)
        for mount in files.mounts()
        if mount.kind == "cgroup2" or (mount.kind == "cgroup" and "name=systemd" in mount.options)
    ]


def _move(groups: "list[int]") -> None:
    for descriptor in groups:
        os.write(descriptor, b"0")  # the process that writes


def run(argv: "list[str]", limit: float, *, held: "Sequence[int]" = ()) -> str:
    """Runs one child to its end: see Child.finish for the result and what is raised."""
    return Child(argv, held=held).finish(limit)

# SPDX-License-Identifier: LGPL-2.1-only
"""Child processes: the only place that starts any.

Every child gets a list of words (never a shell), the C locale (its messages are read), an environment of its own
(xapi-storage-script's LD_PRELOAD must not reach zfs) and a time limit. A child that waits for a suspended pool
sleeps in the kernel and cannot be killed: it is left behind rather than waited for.

A child that leaves a daemon behind is started outside of the control group of xapi-storage-script, whose processes
systemd ends at a toolstack restart.
"""

import os
import time

from zfsvol import lock, log
from zfsvol.errors import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

# Seconds. The client waits without any limit of its own, so these are generous: they end hangs, not slowness.
READ_LIMIT = 120
WRITE_LIMIT = 600
_KILL_LIMIT = 2
_LOOK_INTERVAL = 1


class Count:
    """Children that this process has started so far, for the log line."""

    started = 0


class CommandFailed(StorageError):
    """A child ended with an error that no caller had a better word for; `stderr` is what it said."""

    def __init__(self, argv: "list[str]", status: int, stderr: str) -> None:
        said = " ".join(stderr.split()) or "it gave no reason"
        super().__init__("'{}' failed with status {}: {}".format(" ".join(argv), status, said))
        self.argv = argv
        self.status = status
        self.stderr = stderr


class CommandTimeout(StorageError):
    """A child did not end in time, or was not going to; it was killed, or left behind where it cannot be."""

    def __init__(self, argv: "list[str]", seconds: float) -> None:
        super().__init__(
            "'{}' did not end within {:.0f} seconds and was given up. Look at 'zpool status' and the kernel's log for "
            "a disk that does not answer; what was asked may still be done later.".format(" ".join(argv), seconds)
        )


class Child:
    """A started child process; `finish` must be called once.

    `output`: a file that gets what the child says, in place of a pipe: it is there if this process is killed, and a
    daemon that keeps it open keeps nobody waiting. `daemon`: the child leaves a process behind, with these variables
    in its environment; it has none of our locks and is in no service's control group.
    """

    def __init__(
        self, argv: "list[str]", *, output: "str | None" = None, daemon: "dict[str, str] | None" = None
    ) -> None:
        import subprocess  # a fifth of a verb's start; the verbs of a disk that others use, too, need no child

        Count.started += 1
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
                pass_fds=lock.held if daemon is None else (),
                preexec_fn=(lambda: _move(groups)) if groups else None,  # noqa: PLW1509 - no verb has threads
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise CommandFailed(argv, 127, str(error)) from None
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def finish(self, limit: int, hopeless: "Callable[[], bool]" = lambda: False) -> str:
        """Waits for the end and returns stdout as text.

        Bytes that are not UTF-8 are replaced: another program's property value must not fail a verb.
        Raises CommandFailed (status not 0) and CommandTimeout (`limit` seconds are over, or `hopeless`, asked every
        second, says that the child will not end; it was killed).
        """
        import signal

        began = time.monotonic()

        def look(_signal: int, _frame: object) -> None:
            waited = time.monotonic() - began
            if hopeless() or waited > limit:
                raise CommandTimeout(self.argv, waited)

        # An alarm, because communicate() with a timeout cannot be called again in Python 3.6 once the child has
        # closed one of its pipes (bpo-35182).
        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, _LOOK_INTERVAL, _LOOK_INTERVAL)
        try:
            stdout, stderr = self._process.communicate()
            if self._output is not None:
                with open(self._output, "rb") as file:
                    stdout = stderr = file.read()
        except CommandTimeout:
            self._give_up()
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if self._process.returncode != 0:
            message = stderr.decode("utf-8", "replace")
            raise CommandFailed(self.argv, self._process.returncode, message)
        return stdout.decode("utf-8", "replace")

    def _give_up(self) -> None:
        import subprocess

        self._process.kill()
        try:
            self._process.wait(_KILL_LIMIT)
        except subprocess.TimeoutExpired:
            lock.left_to_a_child.append(self._process.pid)
            log.warning(f"left behind, not to be killed: pid {self._process.pid} {self.argv}")


def _service_groups() -> "list[int]":
    """Descriptors of the roots of the hierarchies by which systemd knows which process is whose.

    That is the named one of cgroup v1, which XCP-ng 8.3 has, or the unified one. None where there is no systemd.
    """
    with open("/proc/self/mounts") as file:
        mounts = [line.split() for line in file]
    return [
        os.open(os.path.join(fields[1], "cgroup.procs"), os.O_WRONLY)
        for fields in mounts
        if fields[2] == "cgroup2" or (fields[2] == "cgroup" and "name=systemd" in fields[3].split(","))
    ]


def _move(groups: "list[int]") -> None:
    for descriptor in groups:
        os.write(descriptor, b"0")  # the process that writes


def run(argv: "list[str]", limit: int) -> str:
    """Runs one child to its end: see Child.finish for the result and what is raised."""
    return Child(argv).finish(limit)

# SPDX-License-Identifier: LGPL-2.1-only
"""Starts programs, and tells how they ended.

This is the part of Python's subprocess that the driver needs: see "Programs are started without subprocess" in
docs/decisions.md. A program starts in this process's directory.
"""

import errno
import fcntl
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import NoReturn

_STREAMS = 3  # stdin, stdout, stderr
_LONGEST = 4096  # bytes that a pipe passes on at once
_NOT_STARTED = 127
_UNKNOWN = 255

# Python ignores them, and a program inherits that.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)

# It does not copy the process first. Python 3.6 does not have it.
_posix_spawn = getattr(os, "posix_spawn", None)
_DUP2 = getattr(os, "POSIX_SPAWN_DUP2", None)


def start(
    argv: "list[str]",
    environment: "Mapping[str, str]",
    streams: "Sequence[int]",
    *,
    held: "Iterable[int]" = (),
    groups: "Sequence[int]" = (),
) -> int:
    """Starts the program `argv`, which the PATH of `environment` leads to, and returns its pid.

    `streams`: its stdin, stdout and stderr. It also gets duplicates of the descriptors `held`, under any number, and no
    others. `groups`: opened `cgroup.procs` of the control groups in which it starts. Raises OSError if it does not
    start; otherwise the caller must call `status` until it has ended.
    """
    _close_at_exec()
    path = _path(argv[0], environment["PATH"])
    opened = []

    def above(descriptor: int) -> int:
        """A duplicate that is no stream: this process may have been started without some, and so reuse their numbers.

        A descriptor that is duplicated onto itself would still be closed when the program starts.
        """
        opened.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _STREAMS))
        return opened[-1]

    try:
        # Pairs of a descriptor here and one in the program.
        pairs = [(above(descriptor), number) for number, descriptor in enumerate(streams)]
        pairs += [(above(descriptor), above(descriptor)) for descriptor in held]
        if _posix_spawn is None or groups:
            return _fork(path, argv, environment, pairs, groups)
        actions = [(_DUP2, *pair) for pair in pairs]
        pid: int = _posix_spawn(path, argv, environment, file_actions=actions, setsigdef=_IGNORED)
        return pid
    finally:
        for descriptor in opened:
            os.close(descriptor)


def status(pid: int) -> "int | None":
    """The exit status of a process that `start` returned, or the negative number of the signal that ended it.

    None while it runs. Once it has ended, its pid may be another's.
    """
    try:
        ended, found = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # who started the driver ignores SIGCHLD; what nobody knows is no success
        return _UNKNOWN
    if not ended:
        return None
    return -os.WTERMSIG(found) if os.WIFSIGNALED(found) else os.WEXITSTATUS(found)


def _close_at_exec() -> None:
    """Marks all descriptors, as those that this process was started with are inherited otherwise."""
    with os.scandir("/proc/self/fd") as entries:
        for entry in entries:
            if int(entry.name) >= _STREAMS:
                try:
                    fcntl.fcntl(int(entry.name), fcntl.F_SETFD, fcntl.FD_CLOEXEC)
                except OSError:
                    pass  # another thread has closed it


def _path(name: str, directories: str) -> str:
    # Not os.get_exec_path, which imports a module.
    for path in [name] if "/" in name else [os.path.join(directory, name) for directory in directories.split(":")]:
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(errno.ENOENT, "No such program", name)


def _fork(
    path: str,
    argv: "list[str]",
    environment: "Mapping[str, str]",
    pairs: "list[tuple[int, int]]",
    groups: "Iterable[int]",
) -> int:
    report, reports = os.pipe()
    try:
        try:
            pid = os.fork()
            if pid == 0:
                _exec(path, argv, environment, pairs, groups, reports)
        finally:
            os.close(reports)
        said = os.read(report, _LONGEST)  # nothing if the program has started, since that closes the pipe
    finally:
        os.close(report)
    if said:
        os.waitpid(pid, 0)
        raise OSError(said.decode("utf-8", "replace"))
    return pid


def _exec(
    path: str,
    argv: "list[str]",
    environment: "Mapping[str, str]",
    pairs: "list[tuple[int, int]]",
    groups: "Iterable[int]",
    reports: int,
) -> "NoReturn":
    """Makes this fork of the driver the program. Only system calls: other threads' locks are held for ever here."""
    try:
        reports = fcntl.fcntl(reports, fcntl.F_DUPFD_CLOEXEC, _STREAMS)  # it may have a stream's number, too
        for group in groups:
            os.write(group, b"0")  # 0 stands for the writing process
        for descriptor, number in pairs:
            os.dup2(descriptor, number)
        for ignored in _IGNORED:
            signal.signal(ignored, signal.SIG_DFL)
        os.execve(path, argv, environment)  # noqa: S606 - no shell, on purpose
    except Exception as error:  # noqa: BLE001 - the parent raises it
        os.write(reports, str(error).encode("utf-8", "replace")[:_LONGEST])
    finally:
        os._exit(_NOT_STARTED)

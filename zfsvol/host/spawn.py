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

_STREAMS = 3  # stdin, stdout, stderr
_LONGEST = 4096  # bytes that a pipe passes on at once
_UNKNOWN = 255
_NONE = -1  # in place of a descriptor
_YES, _NO = True, False

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
) -> int:
    """Starts the program `argv`, which the PATH of `environment` leads to, and returns its pid.

    `streams`: its stdin, stdout and stderr. It also gets duplicates of the descriptors `held`, under any number, and no
    others. Raises OSError if it does not start; otherwise the caller must call `status` until it has ended.
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
        theirs = [above(descriptor) for descriptor in streams]
        kept = [above(descriptor) for descriptor in held]
        if _posix_spawn is not None:
            pairs = [*zip(theirs, range(_STREAMS)), *((descriptor, above(descriptor)) for descriptor in kept)]
            actions = [(_DUP2, *pair) for pair in pairs]
            pid: int = _posix_spawn(path, argv, environment, file_actions=actions, setsigdef=_IGNORED)
            return pid
        return _fork_exec(path, argv, environment, theirs, kept)
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


def _fork_exec(
    path: str, argv: "list[str]", environment: "Mapping[str, str]", streams: "list[int]", held: "list[int]"
) -> int:
    """What Python 3.6's and 3.7's subprocess calls: a fork in which no Python runs, so that it copies few pages."""
    from _posixsubprocess import fork_exec  # here, as later versions do not need its library

    report, reports = os.pipe()
    try:
        # What it keeps must be no stream, as their numbers are given anew.
        kept = fcntl.fcntl(reports, fcntl.F_DUPFD_CLOEXEC, _STREAMS)
        os.close(reports)
        try:
            pid: int = fork_exec(  # type: ignore[call-arg]
                argv,
                (os.fsencode(path),),
                _NO,  # close_fds
                tuple(sorted([*held, kept])),
                None,  # type: ignore[arg-type] # cwd
                [os.fsencode(f"{name}={value}") for name, value in environment.items()],
                *(streams[0], _NONE, _NONE, streams[1], _NONE, streams[2], report, kept),
                _YES,  # restore_signals
                _NO,  # call_setsid
                None,  # type: ignore[arg-type] # preexec_fn
            )
        finally:
            os.close(kept)
        said = b"".join(iter(lambda: os.read(report, _LONGEST), b""))  # nothing once the program has started
    finally:
        os.close(report)
    if said:
        os.waitpid(pid, 0)
        code = int(said.split(b":")[1], 16)
        raise OSError(code, os.strerror(code), path)
    return pid

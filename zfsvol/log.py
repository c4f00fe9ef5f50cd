# SPDX-License-Identifier: LGPL-2.1-only
"""Messages to syslog LOCAL2, which dom0 writes to /var/log/SMlog as for the other storage drivers."""

import syslog

syslog.openlog("zfs-vol", syslog.LOG_PID, syslog.LOG_LOCAL2)


def _write(priority: int, message: str) -> None:
    # One event, one line: names of disks may hold line breaks, and lone surrogates that syslog cannot encode.
    syslog.syslog(priority, message.encode("unicode_escape").decode("ascii"))


def info(message: str) -> None:
    """What was done."""
    _write(syslog.LOG_INFO, message)


def warning(message: str) -> None:
    """What went wrong or needs somebody's eye."""
    _write(syslog.LOG_WARNING, message)

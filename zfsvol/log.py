# SPDX-License-Identifier: LGPL-2.1-only
"""Messages to syslog LOCAL2, which dom0 writes to /var/log/SMlog as for the other storage drivers."""

import syslog

syslog.openlog("zfs-vol", syslog.LOG_PID, syslog.LOG_LOCAL2)


def _write(priority: int, message: str) -> None:
    # One line per event: disk names may contain line breaks, and lone surrogates, which syslog cannot encode.
    syslog.syslog(priority, message.encode("unicode_escape").decode("ascii"))


def info(message: str) -> None:
    """Logs an action."""
    _write(syslog.LOG_INFO, message)


def warning(message: str) -> None:
    """Logs a failure, or something that needs attention."""
    _write(syslog.LOG_WARNING, message)

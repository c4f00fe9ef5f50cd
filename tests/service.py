# SPDX-License-Identifier: LGPL-2.1-only
"""Runs the resident service as systemd does, or by hand, and reads what it logs."""

import os
from pathlib import Path
import signal
import socket
import subprocess
import time

from tests import client

# Debian's Python, which has the libraries that the service needs.
PYTHON = "/usr/bin/python3"
_LIMIT = 60


def environment() -> "dict[str, str]":
    """Its environment: with the XenAPI module, which dom0 has among its own."""
    path = [client.environment()["PYTHONPATH"], *filter(None, [os.environ.get("ZFSVOL_XENAPI")])]
    return {**client.environment(), "PYTHONPATH": ":".join(path)}


def argv(*options: str) -> "list[str]":
    """The service's command line."""
    return [PYTHON, "-m", "zfsvol.service", *options]


class Service:
    """The service, started when the object is made, with a /dev/log that only it and its children see."""

    def __init__(self, directory: Path) -> None:
        path = directory / "log"
        path.unlink() if path.exists() else None
        self._log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._log.bind(str(path))
        self._log.setblocking(False)
        self.lines: "list[str]" = []
        shell = 'touch /dev/log; mount --bind "$0" /dev/log && exec "$@"'
        self.process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", shell, str(path), *argv("--foreground")],
            stderr=subprocess.PIPE,
            env=environment(),
        )
        self.wait_for("the service starts")

    def read(self) -> "list[str]":
        """All lines that it has logged so far, without what syslog puts before them."""
        while True:
            try:
                self.lines.append(self._log.recv(65536).decode().partition("]: ")[2])
            except BlockingIOError:
                return self.lines

    def wait_for(self, part: str, *, after: int = 0, limit: float = _LIMIT) -> str:
        """The first line, from number `after` on, that contains `part`, as soon as there is one."""
        end = time.monotonic() + limit
        while True:
            for line in self.read()[after:]:
                if part in line:
                    return line
            assert self.process.poll() is None, self.stderr()
            assert time.monotonic() < end, f"no '{part}' in {self.lines}"
            time.sleep(0.05)

    def stop(self) -> float:
        """Has it end as systemd does; returns how many seconds it took. It must succeed and print nothing."""
        began = time.monotonic()
        self.process.terminate()
        status = None
        while status is None:
            assert time.monotonic() < began + _LIMIT, f"it does not end: {self.lines}"
            self.read()  # a log that nobody reads holds ten lines, and who writes one more waits
            status = self.process.poll()
            time.sleep(0.01)
        took = time.monotonic() - began
        assert (status, self.stderr()) == (0, "")
        self.read()
        return took

    def kill(self) -> None:
        """Kills it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(_LIMIT)

    def stderr(self) -> str:
        """What it printed there. Only once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        """Ends it, however it is."""
        if self.process.poll() is None:
            self.kill()
        self._log.close()


def children(pid: int) -> "list[str]":
    """The command lines of the process's children."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{name}/cmdline") as file:
                line = file.read().replace("\0", " ").strip()
        except OSError:
            continue  # it has just ended
        if parent == pid:
            found.append(line)
    return sorted(found)

# SPDX-License-Identifier: LGPL-2.1-only
"""What xapi does to migrate a disk out of an SR (smapiv3-contract 3.6 a), and the relay that it puts in between."""

from pathlib import Path
import re
import select
import signal
import socket
import threading
import time
from typing import Any, Dict, Optional

from tests import client
from tests.zfs.disk import Disk
from zfsvol.repository import mirror
from zfsvol.repository.sr import SR

MIRROR = "MIRa1b2c3"  # xapi's domain for the destination's datapath
BESIDE = "u0_mirror_a1b2c3"  # and for its second one of the source, which it never activates
HALTED = "-1"

_CHUNK = 64 << 10
_LIMIT = 120


class Relay:
    """Accepts one connection ever at a Unix socket and relays it to another one. `rate`: bytes per second at most."""

    def __init__(self, path: Path, target: str, *, rate: Optional[float] = None) -> None:
        self.path = str(path)
        self.moved = 0  # bytes towards the target
        self.cut_after: "Optional[int]" = None  # bytes
        self._target = target
        self.rate = rate
        self._ends: "list[socket.socket]" = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen(1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            here, _ = self._listening.accept()
        except OSError:
            return  # it was closed without one
        self._listening.close()
        there = socket.socket(socket.AF_UNIX)
        self._ends = [here, there]
        try:
            there.connect(self._target)
            self._pump(here, there)
        except (OSError, ValueError):  # it was cut
            pass
        finally:
            for end in self._ends:
                end.close()

    def _pump(self, here: socket.socket, there: socket.socket) -> None:
        began = time.monotonic()
        while True:
            for ready in select.select([here, there], [], [])[0]:
                data = ready.recv(_CHUNK)
                if not data:
                    return
                if ready is there:
                    here.sendall(data)
                    continue
                if self.cut_after is not None and self.moved + len(data) > self.cut_after:
                    return
                there.sendall(data)
                self.moved += len(data)
                if self.rate:
                    time.sleep(max(0.0, self.moved / self.rate - (time.monotonic() - began)))

    def cut(self) -> None:
        """Ends the connection, or the chance of one, from both sides."""
        for end in (self._listening, *self._ends):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
        self._thread.join(_LIMIT)


class Migration:
    """The migration of a disk to another SR. `domain`: the VM that has the disk, or HALTED."""

    def __init__(
        self, source: Disk, destination: Disk, directory: Path, domain: str, *, rate: Optional[float] = None
    ) -> None:
        self.source = source
        self.destination = destination
        self.domain = domain
        given = destination.use(MIRROR)
        found = re.match(r"nbd:unix:([^:]+):exportname=([^:]+)\Z", given["Nbd"]["uri"])
        assert found
        source.attach(BESIDE)
        self.relay = Relay(directory / f"relay-{source.key}", found.group(1), rate=rate)
        self.remote = f"nbd+unix:///{found.group(2)}?socket={self.relay.path}"
        self.operation: Any = None

    def start(self) -> None:
        """Data.mirror."""
        self.operation = client.call_inside("Data.mirror", uri=self.source.uri, domain=self.domain, remote=self.remote)

    def stat(self) -> "Dict[str, Any]":
        """Data.stat."""
        found: "Dict[str, Any]" = client.call_inside("Data.stat", operation=self.operation)
        return found

    def wait(self, limit: float = _LIMIT) -> "Dict[str, Any]":
        """Asks without a pause until it is complete or has failed, as xapi; returns the last answer."""
        end = time.monotonic() + limit
        progress = 0.0
        while True:
            found = self.stat()
            assert found["progress"] >= progress or found["failed"]
            progress = found["progress"]
            if found["complete"] or found["failed"]:
                return found
            assert time.monotonic() < end, found

    def leave(self) -> None:
        """xapi gives up its own datapath of the source, before it moves the VM."""
        self.source.drop(BESIDE)

    def finish(self, *, keeps_source: bool = False) -> None:
        """The VM's downtime and what follows."""
        if self.domain != HALTED:
            self.source.verb("deactivate", self.domain)
        self.destination.drop(MIRROR)
        if self.domain != HALTED:
            self.source.verb("detach", self.domain)
        if not keeps_source:
            self.source.volume("destroy")
        self.relay.cut()

    def cancel(self) -> None:
        """What xapi does if the migration fails or is cancelled: it tells the source nothing."""
        client.call_inside("Volume.destroy", sr=self.source.sr, key=self.source.volume("snapshot")["key"])
        self.destination.drop(MIRROR)
        self.relay.cut()
        self.destination.volume("destroy")

    @property
    def state(self) -> "Dict[str, Any]":
        """What the job has written down."""
        return mirror.job(SR(self.source.sr), self.source.key).read()

    def is_running(self) -> bool:
        """Whether the job's process lives."""
        return mirror.is_running(SR(self.source.sr), self.source.key)

    def kill(self) -> None:
        """Kills the job's process."""
        named = mirror.job(SR(self.source.sr), self.source.key)
        named.signal(signal.SIGKILL)
        assert named.ends(_LIMIT)

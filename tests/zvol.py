# SPDX-License-Identifier: LGPL-2.1-only
"""The bytes of a zvol, read and written through its device node, which is found by the kernel and not by udev."""

from contextlib import contextmanager
import fcntl
import os
from pathlib import Path
import subprocess
import time
from typing import Iterator

from tests.model import DESTROYED, checksum

# OpenZFS's ioctl for the name of a zvol by its open device, BLKZNAME: _IOR(0x12, 125, char[256]).
_BLKZNAME = (2 << 30) | (256 << 16) | (0x12 << 8) | 125
_LIMIT = 30


def nodes() -> "dict[str, str]":
    """The device nodes of all zvols that have one, by the zvols' names."""
    found = {}
    for path in Path("/dev").glob("zd*"):
        if path.name[2:].isdigit():
            try:
                descriptor = os.open(str(path), os.O_RDONLY)
            except OSError:
                continue  # it has just vanished
            try:
                name = fcntl.ioctl(descriptor, _BLKZNAME, bytes(256))
            finally:
                os.close(descriptor)
            found[name.split(b"\0")[0].decode()] = str(path)
    return found


def node(zvol: str) -> str:
    """Waits for the zvol's device node and returns it."""
    end = time.monotonic() + _LIMIT
    while True:
        path = nodes().get(zvol)
        if path is not None:
            return path
        assert time.monotonic() < end, f"{zvol} has no device node"
        time.sleep(0.01)


@contextmanager
def opened(zvol: str, *, writable: bool = False) -> "Iterator[int]":
    """An open descriptor of the zvol, like that of a VM's backend."""
    descriptor = os.open(node(zvol), (os.O_RDWR if writable else os.O_RDONLY))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write(zvol: str, offset: int, data: bytes) -> None:
    """Writes and flushes, so that the data survives a power cut."""
    with opened(zvol, writable=True) as descriptor:
        assert os.pwrite(descriptor, data, offset) == len(data)
        os.fsync(descriptor)


def checksums(zvols: "dict[str, int]") -> "dict[str, str]":
    """The checksums of zvols, given with their sizes in bytes, which their devices must have.

    DESTROYED stands for a snapshot whose data was destroyed; it must read as zeros.
    """
    paths = nodes()
    found = {}
    argv = ["zfs", "get", "-H", "-o", "name", "-s", "local,received", "zfsvol:cbt-metadata", *zvols]
    destroyed = subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout.decode().split("\n") if zvols else []
    for zvol, size in zvols.items():
        with open(paths[zvol] if zvol in paths else node(zvol), "rb", buffering=0) as file:
            content = file.read(size + 1)
        assert len(content) == size, f"{zvol} is {len(content)} bytes long, not {size}"
        found[zvol] = checksum(content)
        if zvol in destroyed:
            assert content == bytes(size)
            found[zvol] = DESTROYED
    return found

# SPDX-License-Identifier: LGPL-2.1-only
"""A client of NBD that does what tapdisk's does (blktap, drivers/block-nbd.c), over a socket that it was given.

The handshake is read in the same pieces, each by one `recv` that must be complete; handles are those of tapdisk; any
error of the server, or an answer to nothing, ends the mirror.
"""

import array
import os
import select
import socket
import struct
from typing import Dict, List, Tuple

READ, WRITE, DISCONNECT, FLUSH = range(4)
_REQUEST = struct.Struct(">II8sQI")
_REPLY = struct.Struct(">II8s")
_LIMIT = 30  # seconds that tapdisk waits for an answer
_GREETING_LIMIT = 10


class MirrorFailed(Exception):
    """What tapdisk reports as nbd_mirror_failed."""


class Mirror:
    """The secondary image of a tapdisk. `open` negotiates; `close` disconnects and keeps the socket, like tapdisk."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.size = 0
        self._number = 0
        self._sent: "Dict[bytes, Tuple[int, int]]" = {}

    def open(self) -> "Mirror":
        if self._greeting(8) != b"NBDMAGIC":
            raise MirrorFailed("no NBD")
        if struct.unpack(">Q", self._greeting(8)) != (0x00420281861253,):
            raise MirrorFailed("not the old handshake")
        (self.size,) = struct.unpack(">Q", self._greeting(8))
        self._greeting(4)
        left = 124
        while left > 0:
            left -= len(self._greeting(left, whole=False))
        return self

    def _greeting(self, length: int, *, whole: bool = True) -> bytes:
        if not select.select([self.connection], [], [], _GREETING_LIMIT)[0]:
            raise MirrorFailed("no greeting")
        data = self.connection.recv(length)
        if not data or (whole and len(data) < length):
            raise MirrorFailed("a short greeting")
        return data

    def send(self, command: int, offset: int = 0, length: int = 0, data: bytes = b"") -> None:
        """Sends a request; any number may be under way."""
        handle = b"td%05x\0" % (self._number % 0xFFFF)
        self._number += 1
        if command != DISCONNECT:
            self._sent[handle] = command, length
        self.connection.sendall(_REQUEST.pack(0x25609513, command, handle, offset, length) + data)

    def answer(self) -> bytes:
        """The data of the next answer, whichever request it is for."""
        magic, error, handle = _REPLY.unpack(self._received(_REPLY.size))
        if magic != 0x67446698 or error != 0 or handle not in self._sent:
            raise MirrorFailed(f"error {error}")
        command, length = self._sent.pop(handle)
        return self._received(length) if command == READ else b""

    def _received(self, length: int) -> bytes:
        self.connection.settimeout(_LIMIT)
        pieces: "List[bytes]" = []
        while length > 0:
            try:
                pieces.append(self.connection.recv(length))
            except OSError as error:
                raise MirrorFailed(str(error)) from None
            if not pieces[-1]:
                raise MirrorFailed("the server has gone")
            length -= len(pieces[-1])
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """One write, answered."""
        self.send(WRITE, offset, len(data), data)
        self.answer()

    def read(self, offset: int, length: int) -> bytes:
        """One read. tapdisk itself reads its own disk only."""
        self.send(READ, offset, length)
        return self.answer()

    def flush(self) -> None:
        """One flush, which tapdisk never sends."""
        self.send(FLUSH)
        self.answer()

    def close(self) -> None:
        """Disconnects. The socket stays, for `open`."""
        self.send(DISCONNECT)


def hand_over(path: str, text: bytes = b"a data path") -> socket.socket:
    """Sends one end of a new connection to the socket `path`, as xapi does with the source's; returns the other end."""
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control, theirs:
        control.connect(path)
        descriptors = array.array("i", [theirs.fileno()])
        control.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes())])
    return ours


def mirror_into(path: str) -> Mirror:
    """A mirror over a connection that was handed over to the socket `path`."""
    assert os.stat(path).st_mode & 0o777 == 0o600
    return Mirror(hand_over(path)).open()

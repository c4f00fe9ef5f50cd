# SPDX-License-Identifier: LGPL-2.1-only
"""The client's side of the handshake: which disk, how large, and what the server can do with it.

Reads what it asked for and not one byte more, whatever length the server claims. The socket blocks meanwhile.
"""

import socket
import time

from zfsvol.errors import NbdFailed
from zfsvol.nbd import protocol

# Bytes in one write. Larger ones are no faster, and tapdisk takes 2 MiB at most.
_LARGEST_WRITE = 1 << 20
# Bytes. tapdisk says 1, but serves whole sectors only. The specification allows up to 64 KiB.
_SECTOR = 512
_LARGEST_ALIGNMENT = 64 << 10

# Answers to one option, bytes in one, and characters of the server's own words in a message.
_MOST_ANSWERS = 32
_LONGEST_ANSWER = 8 << 10
_LONGEST_SHOWN = 200

_REFUSALS = {
    protocol.REP_ERR_POLICY: "it does not allow that",
    protocol.REP_ERR_TLS_REQD: "it requires TLS, which the driver does not speak",
    protocol.REP_ERR_UNKNOWN: "it has no such disk",
    protocol.REP_ERR_SHUTDOWN: "it is shutting down",
}


class Handshake:
    """Connects to a server and has it serve a disk. The attributes are those of `client.Client`, and its name.

    `limit`: seconds for all of it. Raises NbdFailed; the caller closes the socket.
    """

    def __init__(self, connection: socket.socket, path: bytes, export: bytes, limit: float) -> None:
        self.name = f"The NBD server at {_shown(path)}"
        self.size = -1
        self.can_flush = self.can_zero = False
        self.alignment = _SECTOR
        self.payload = _LARGEST_WRITE
        self._socket = connection
        self._export = export
        self._limit = limit
        self._end = time.monotonic() + limit
        try:
            self._socket.settimeout(limit)
            self._socket.connect(path)
            self._negotiate()
        except socket.timeout:
            raise self._too_late() from None
        except OSError as error:
            raise self._failed(f"cannot be reached: {error.strerror or error}") from None

    def _negotiate(self) -> None:
        magic, style, flags = protocol.GREETING.unpack(self._take(protocol.GREETING.size))
        if magic != protocol.MAGIC:
            raise self._failed("does not greet as such a server does")
        if style != protocol.STYLE or not flags & protocol.FIXED_NEWSTYLE:
            raise self._failed("speaks an old form of the protocol, which the driver does not")
        flags &= protocol.FIXED_NEWSTYLE | protocol.NO_ZEROES
        self._say(protocol.CLIENT_FLAGS.pack(flags))
        if not self._go():
            # All servers know this one, but it does not tell the sizes of requests.
            self._ask(protocol.OPT_EXPORT_NAME, self._export)
            self._set_export(self._take(protocol.EXPORT.size))
            if not flags & protocol.NO_ZEROES:
                self._take(protocol.EXPORT_ZEROES)

    def _go(self) -> bool:
        """Asks for the disk and for the sizes of requests. False if the server does not know the option."""
        name = protocol.NAME_LENGTH.pack(len(self._export)) + self._export
        self._ask(protocol.OPT_GO, name + protocol.ONE_INFO.pack(1, protocol.INFO_BLOCK_SIZE))
        for _ in range(_MOST_ANSWERS):
            header = self._take(protocol.OPTION_REPLY.size)
            magic, option, kind, length = protocol.OPTION_REPLY.unpack(header)
            if magic != protocol.OPTION_REPLY_MAGIC or option != protocol.OPT_GO or length > _LONGEST_ANSWER:
                raise self._failed("gives an answer that cannot be understood")
            data = self._take(length)
            if kind == protocol.REP_ACK:
                if self.size < 0:
                    raise self._failed("does not tell the size of its disk")
                return True
            if kind == protocol.REP_ERR_UNSUP:
                return False
            if kind & protocol.REP_ERROR:
                reason = _REFUSALS.get(kind, f"error {kind - protocol.REP_ERROR}")
                raise self._failed(f"refuses to serve '{_shown(self._export)}': {reason}. Its words: '{_shown(data)}'")
            if kind == protocol.REP_INFO:
                self._note(data)
        raise self._failed("gives more answers than it was asked for")

    def _note(self, data: bytes) -> None:
        kind, rest = data[: protocol.INFO_KIND.size], data[protocol.INFO_KIND.size :]
        if kind == protocol.INFO_KIND.pack(protocol.INFO_EXPORT) and len(rest) == protocol.EXPORT.size:
            self._set_export(rest)
        if kind == protocol.INFO_KIND.pack(protocol.INFO_BLOCK_SIZE) and len(rest) == protocol.BLOCK_SIZES.size:
            least, _, most = protocol.BLOCK_SIZES.unpack(rest)
            self.alignment = max(least, _SECTOR)
            self.payload = min(most, _LARGEST_WRITE) // self.alignment * self.alignment
            # A power of two, so that the client's own limits are multiples of it.
            if self.alignment & (self.alignment - 1) or self.alignment > _LARGEST_ALIGNMENT or not self.payload:
                raise self._failed(f"wants requests of {least} to {most} bytes, which the driver cannot send")

    def _set_export(self, data: bytes) -> None:
        self.size, flags = protocol.EXPORT.unpack(data)
        if not flags & protocol.HAS_FLAGS:
            flags = 0
        if flags & protocol.READ_ONLY:
            raise self._failed("serves its disk for reading only")
        self.can_flush = bool(flags & protocol.SEND_FLUSH)
        self.can_zero = bool(flags & protocol.SEND_WRITE_ZEROES)

    def _ask(self, option: int, data: bytes) -> None:
        self._say(protocol.OPTION.pack(protocol.STYLE, option, len(data)) + data)

    def _say(self, data: bytes) -> None:
        self._socket.settimeout(self._left())
        self._socket.sendall(data)

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            self._socket.settimeout(self._left())
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise self._failed("closed the connection before it served the disk")
            data += piece
        return data

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise self._too_late()
        return left

    def _too_late(self) -> NbdFailed:
        return self._failed(f"did not answer within {self._limit:g} seconds")

    def _failed(self, what: str) -> NbdFailed:
        return NbdFailed(f"{self.name} {what}.")


def _shown(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "replace").split())[:_LONGEST_SHOWN]

# SPDX-License-Identifier: LGPL-2.1-only
"""The server's side of NBD over one connected socket, with the old handshake: the only one that tapdisk's client knows.

Requests are carried out one after another, in the order in which they come, however many the client has sent already.
Offsets and lengths are bytes. Memory is bounded: data passes through one buffer, whatever length a request has.
"""

import errno

from zfsvol.errors import StorageError
from zfsvol.nbd import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Callable

# The errors that the client is told: of Linux's errno, which the protocol has taken its numbers from.
_TOLD = (errno.EINVAL, errno.ENOSPC)

_BUFFER = 1 << 20
# Seconds that the client may take to send the rest of a request, or to take an answer.
_PATIENCE = 60


class Disk:
    """What is served. `size`: bytes. Its functions raise OSError."""

    size = 0

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes at `offset`; they are within `size`."""
        raise NotImplementedError

    def write(self, offset: int, data: "bytes | memoryview") -> None:
        """Writes `data`, which is only valid during the call, at `offset`; it is within `size`."""
        raise NotImplementedError

    def flush(self) -> None:
        """Makes durable what was written."""
        raise NotImplementedError


class Broken(StorageError):
    """The connection broke off in the middle, or the client got an error. Some of its writes may not have been done."""


class _Lost(Exception):
    """The connection is gone. `done`: the bytes received of what was expected. `is_end`: the client has closed it."""

    def __init__(self, why: str, done: int = 0, *, is_end: bool = False) -> None:
        super().__init__(why)
        self.done = done
        self.is_end = is_end


def serve(connection: "socket.socket", disk: Disk, goes_on: "Callable[[], bool]") -> None:
    """Serves the disk until the client has gone or `goes_on` says no; then every write that came has been answered.

    `goes_on` is called before each request: it waits until the connection has something to read, or has ended. When
    tapdisk reopens its image, it disconnects and begins anew on the same connection: so a disconnect is answered by
    another greeting. Raises Broken after the first error, be it the client's or the disk's: tapdisk ends a mirror at
    any error.
    """
    connection.settimeout(_PATIENCE)
    session = _Session(connection, disk)
    try:
        session.greet()
        while goes_on() and session.answer_next():
            pass
    except _Lost as lost:
        raise Broken(f"the connection was lost: {lost}") from None


class _Session:
    def __init__(self, connection: "socket.socket", disk: Disk) -> None:
        self._connection = connection
        self._disk = disk
        self._buffer = memoryview(bytearray(_BUFFER))
        self._is_idle = False  # the client has disconnected, and not asked anything since

    def greet(self) -> None:
        flags = protocol.HAS_FLAGS | protocol.SEND_FLUSH
        self._send(protocol.OLD_GREETING.pack(protocol.MAGIC, protocol.OLD_STYLE, self._disk.size, flags))

    def answer_next(self) -> bool:
        """Carries out one request; False if the client has gone instead. Raises Broken, _Lost."""
        try:
            header = self._receive(protocol.REQUEST.size)
        except _Lost as lost:
            # Who closes a socket with an unread greeting resets the connection.
            if lost.done == 0 and (lost.is_end or self._is_idle):
                return False
            raise
        self._is_idle = False
        magic, flags, command, handle, offset, length = protocol.REQUEST.unpack(header)
        if magic != protocol.REQUEST_MAGIC:
            raise Broken(f"the client has sent {magic:#x} in place of a request")
        if command == protocol.CMD_DISC:
            return self._disconnect()
        if flags or command not in (protocol.CMD_READ, protocol.CMD_WRITE, protocol.CMD_FLUSH):
            raise self._refused(handle, errno.EINVAL, f"the client has sent the unknown command {command}, {flags:#x}")
        if offset + length > self._disk.size:
            raise self._refused(handle, errno.EINVAL, f"the client wants {length} bytes at {offset}, beyond the end")
        try:
            self._carry_out(command, handle, offset, length)
        except OSError as error:  # the disk's; the connection's are _Lost
            number = error.errno if error.errno in _TOLD else errno.EIO
            raise self._refused(handle, number, f"{length} bytes at {offset}: {error}") from None
        return True

    def _disconnect(self) -> bool:
        self._is_idle = True
        try:
            self.greet()  # before anything that takes long: tapdisk waits ten seconds for it
        except _Lost:
            return False
        try:
            self._disk.flush()
        except OSError as error:
            raise Broken(f"the data cannot be flushed: {error}") from None
        return True

    def _carry_out(self, command: int, handle: int, offset: int, length: int) -> None:
        end = offset + length
        if command == protocol.CMD_READ:
            # The first piece before the reply, which says whether it can be read.
            piece = self._disk.read(offset, min(length, _BUFFER))
            self._reply(handle)
            self._send(piece)
            self._send_from(offset + _BUFFER, end)
            return
        if command == protocol.CMD_WRITE:
            for start in range(offset, end, _BUFFER):
                self._disk.write(start, self._receive(min(end - start, _BUFFER)))
        else:
            self._disk.flush()
        self._reply(handle)

    def _send_from(self, offset: int, end: int) -> None:
        for start in range(offset, end, _BUFFER):
            try:
                piece = self._disk.read(start, min(end - start, _BUFFER))
            except OSError as error:  # too late to tell the client
                raise Broken(f"reading at {start}: {error}") from None
            self._send(piece)

    def _refused(self, handle: int, number: int, why: str) -> Broken:
        """Tells the client of an error; returns the error to raise."""
        try:
            self._reply(handle, number)
        except _Lost:
            pass  # the first error is the one to know
        return Broken(why)

    def _reply(self, handle: int, number: int = 0) -> None:
        self._send(protocol.REPLY.pack(protocol.REPLY_MAGIC, number, handle))

    def _send(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise _Lost(str(error)) from None

    def _receive(self, length: int) -> memoryview:
        """Exactly `length` bytes; they are valid until the next call."""
        view = self._buffer[:length]
        done = 0
        while done < length:
            try:
                count = self._connection.recv_into(view[done:])
            except OSError as error:
                raise _Lost(str(error), done) from None
            if count == 0:
                raise _Lost("it ended in the middle of a request", done, is_end=True)
            done += count
        return view

# SPDX-License-Identifier: LGPL-2.1-only
"""A client that fills a disk through an NBD server at a Unix socket. It only writes.

It connects once, when it is made, and never again: xapi's relay to another host accepts one connection ever. So every
failure is final. Behind the relay is a tapdisk, or any other server on a host that this one need not trust: nothing it
sends makes the client wait for longer than its limit, take much memory, or believe that something is written that the
server has not confirmed.

Several requests are under way at a time, and the server may carry them out in any order. So a request for bytes of an
earlier one waits for the answer to that. Replies are read while a request is sent, so that the two sides never wait for
each other. A client belongs to one thread.
"""

import errno
import re
import select
import socket
import time
from urllib.parse import unquote_to_bytes

from zfsvol.errors import InvalidArgument, NbdFailed
from zfsvol.nbd import protocol
from zfsvol.nbd.handshake import Handshake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Union

    Buffer = Union[bytes, bytearray, memoryview]

# Seconds without an answer. tapdisk tries a failing write again for 120 seconds before it says so.
LIMIT = 150

# What may be under way: requests, and bytes that they write. A tapdisk works on 8 requests at a time.
_MOST_REQUESTS = 16
_MOST_BYTES = 8 << 20
# A server that has to write the zeroes must be able to do so within the time limit.
_LARGEST_ZERO = 32 << 20
_MOST_BUFFERS = 1024  # Linux takes no more at once (IOV_MAX)

_URI = re.compile(r"nbd\+unix:///([^?#]*)\?socket=([^&#]+)\Z")
_XAPI_URI = re.compile(r"nbd:unix:([^:]+):exportname=([^:]*)\Z")

_COMMANDS = {protocol.CMD_WRITE: "write", protocol.CMD_WRITE_ZEROES: "zero", protocol.CMD_FLUSH: "flush"}
_REASONS = {
    errno.EPERM: "it does not allow that; its disk may be read-only",
    errno.EIO: "its storage failed, or is full. Look for the reason in the logs of its host",
    errno.ENOSPC: "its storage is full. Make room there",
    errno.ESHUTDOWN: "it is shutting down",
}


class Client:
    """A connection to a server. What it wrote is confirmed once `settle` has returned, and durable after `flush`.

    All methods but `abandon` raise NbdFailed if anything has failed, now or earlier. An error that the server answers
    with is raised as soon as it is noticed, by `settle` at the latest.

    size: bytes that the disk has
    can_flush, can_zero: whether the server flushes, and whether it makes zeroes without being sent them
    alignment: bytes that offsets and lengths must be multiples of
    payload: bytes that one request writes at most; `write` and `zero` split what is longer
    """

    def __init__(self, uri: str, *, limit: float = LIMIT) -> None:
        """Connects to `nbd+unix:///<export>?socket=<path>` or `nbd:unix:<path>:exportname=<export>`.

        `limit`: seconds that the server may leave a request without an answer, and that the handshake may take. Raises
        NbdFailed, and InvalidArgument if `uri` is neither.
        """
        path, export = _parsed(uri)
        self._limit = limit
        self._deadline = 0.0  # when the next reply must have come, on the monotonic clock
        self._failure = ""
        self._handle = 0
        self._open: "dict[int, tuple[int, int, int]]" = {}  # command, offset, length of the requests under way
        self._bytes = 0  # that these write
        self._input = b""  # the beginning of a reply
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            server = Handshake(self._socket, path, export, limit)
            self._socket.settimeout(0)  # from here on it does not block
        except BaseException:
            self._socket.close()
            raise
        self._name = server.name
        self.size = server.size
        self.can_flush = server.can_flush
        self.can_zero = server.can_zero
        self.alignment = server.alignment
        self.payload = server.payload
        self._poll = select.poll()
        self._poll.register(self._socket)

    def write(self, offset: int, pieces: "Buffer | Sequence[Buffer]") -> None:
        """Writes one buffer, or several one after the other. They have been sent when it returns, and may be reused.

        Raises ValueError if offset or length is not aligned, or beyond the disk's end.
        """
        views = [memoryview(piece).cast("B") for piece in (pieces if isinstance(pieces, (list, tuple)) else (pieces,))]
        self._check_range(offset, sum(map(len, views)))
        for chunk in _cut(views, self.payload):
            length = sum(map(len, chunk))
            self._request(protocol.CMD_WRITE, offset, length, chunk)
            offset += length

    def zero(self, offset: int, length: int) -> None:
        """Makes the range read as zeroes, of any length. The server may free its space. Raises ValueError as `write`.

        Trim is no substitute: what was trimmed need not read as zeroes.
        """
        self._check_range(offset, length)
        most = _LARGEST_ZERO if self.can_zero else self.payload
        zeroes = memoryview(b"" if self.can_zero else bytes(min(length, most)))
        for start in range(offset, offset + length, most):
            size = min(most, offset + length - start)
            if self.can_zero:
                self._request(protocol.CMD_WRITE_ZEROES, start, size)
            else:
                self._request(protocol.CMD_WRITE, start, size, [zeroes[:size]])

    def settle(self) -> None:
        """Waits until the server has confirmed all requests."""
        self._check_usable()
        while self._open:
            self._wait(select.POLLIN)

    def flush(self) -> None:
        """Settles, and makes durable what was written. Without `can_flush` it only settles."""
        # A flush covers the requests whose replies the client has got before.
        self.settle()
        if self.can_flush:
            self._request(protocol.CMD_FLUSH, 0, 0)
            self.settle()

    def check(self) -> None:
        """Notices the end of the connection without waiting, while nothing else is to be done."""
        self._check_usable()
        self._receive()

    def fileno(self) -> int:
        """The socket's descriptor. It is readable when `check` has something to notice."""
        self._check_usable()
        return self._socket.fileno()

    def close(self) -> None:
        """Settles, takes leave of the server and ends the connection."""
        self.settle()
        # There is no reply; tapdisk greets anew instead.
        self._deadline = time.monotonic() + self._limit
        self._send([_request(protocol.CMD_DISC, 0, 0, 0)])
        self.abandon()

    def abandon(self) -> None:
        """Ends the connection at once, whatever is under way. Idempotent; never fails."""
        self._end("The connection to the NBD server was closed.")

    def _end(self, why: str) -> None:
        self._failure = self._failure or why
        self._socket.close()

    def _failed(self, what: str) -> NbdFailed:
        """Ends the connection; the error to raise."""
        self._end(f"{self._name} {what}.")
        return NbdFailed(self._failure)

    def _lost(self, error: OSError) -> NbdFailed:
        return self._failed(f"is lost: {error.strerror or error}")

    def _check_usable(self) -> None:
        if self._failure:
            raise NbdFailed(self._failure)

    def _check_range(self, offset: int, length: int) -> None:
        if offset % self.alignment or length % self.alignment:
            raise ValueError(f"{length} bytes at {offset} are not aligned to {self.alignment} bytes")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at {offset} are not on a disk of {self.size} bytes")
        self._check_usable()

    def _request(self, command: int, offset: int, length: int, data: "Sequence[memoryview]" = ()) -> None:
        self._check_usable()
        size = length if data else 0
        while self._must_wait(offset, length, size):
            self._wait(select.POLLIN)
        if not self._open:
            self._deadline = time.monotonic() + self._limit
        self._handle += 1
        try:
            self._send([_request(command, self._handle, offset, length), *data])
            # Not before: no answer to what the server has not got confirms anything.
            self._open[self._handle] = command, offset, length
            self._bytes += size
        except BaseException:
            # Also if a signal interrupts it. A part may have been sent, and what came next would be taken for the rest.
            self._end("A request to the NBD server was interrupted.")
            raise

    def _must_wait(self, offset: int, length: int, size: int) -> bool:
        """Whether a request cannot be sent before others have been answered."""
        if len(self._open) == _MOST_REQUESTS or (self._open and self._bytes + size > _MOST_BYTES):
            return True
        # The server carries out in any order what is under way at the same time.
        return any(start < offset + length and offset < start + other for _, start, other in self._open.values())

    def _send(self, buffers: "list[bytes | memoryview]") -> None:
        while buffers:
            try:
                sent = self._socket.sendmsg(buffers[:_MOST_BUFFERS])
            except BlockingIOError:
                self._wait(select.POLLIN | select.POLLOUT)
                continue
            except (BrokenPipeError, ConnectionResetError):
                # The server may have said why, before it closed the connection.
                while True:
                    self._wait(select.POLLIN)
            except OSError as error:
                raise self._lost(error) from None
            while buffers and sent >= len(buffers[0]):
                sent -= len(buffers.pop(0))
            if sent:
                buffers[0] = buffers[0][sent:]

    def _wait(self, events: int) -> None:
        """Waits for one of the events, and takes the replies that are there."""
        self._poll.modify(self._socket, events)
        ready = self._poll.poll(max(0, self._deadline - time.monotonic()) * 1000)
        if not ready:
            raise self._failed(f"has not answered for {self._limit:g} seconds")
        if ready[0][1] != select.POLLOUT:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_MOST_REQUESTS * protocol.REPLY.size)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._lost(error) from None
        if not data:
            raise self._failed(f"closed the connection, with {len(self._open)} requests unanswered")
        self._input += data
        while len(self._input) >= protocol.REPLY.size:
            self._reply(*protocol.REPLY.unpack_from(self._input))
            self._input = self._input[protocol.REPLY.size :]
        if self._input and not self._open:
            raise self._failed("sends what nobody asked for")

    def _reply(self, magic: int, number: int, handle: int) -> None:
        if magic != protocol.REPLY_MAGIC:
            raise self._failed("sends what is not a reply")
        if handle not in self._open:
            raise self._failed("answers a request that it has not got, or has answered before")
        command, offset, length = self._open[handle]
        if number:
            # tapdisk answers with negative numbers.
            number = min(number, (1 << 32) - number)
            name = errno.errorcode.get(number, f"error {number}")
            reason = _REASONS.get(number, "the logs of its host may say why")
            raise self._failed(f"failed to {_COMMANDS[command]} {length} bytes at {offset} ({name}): {reason}")
        if command == protocol.CMD_WRITE:
            self._bytes -= length
        del self._open[handle]
        self._deadline = time.monotonic() + self._limit


def _parsed(uri: str) -> "tuple[bytes, bytes]":
    """The path of the socket and the name of the export. Raises InvalidArgument."""
    found = _URI.match(uri)
    if found:
        export, path = (unquote_to_bytes(part) for part in found.groups())
    else:
        found = _XAPI_URI.match(uri)
        path, export = (part.encode() for part in found.groups()) if found else (b"", b"")
    if not path.startswith(b"/") or b"\0" in path:
        raise InvalidArgument(f"'{uri}' is not the address of an NBD server at a Unix socket.")
    return path, export


def _request(command: int, handle: int, offset: int, length: int) -> bytes:
    return protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 0, command, handle, offset, length)


def _cut(views: "Sequence[memoryview]", size: int) -> "Iterator[list[memoryview]]":
    """The views in lists of `size` bytes together; the last one may have fewer."""
    taken: "list[memoryview]" = []
    room = size
    for view in views:
        rest = view
        while rest:
            taken.append(rest[:room])
            rest = rest[room:]
            room -= len(taken[-1])
            if not room:
                yield taken
                taken, room = [], size
    if taken:
        yield taken

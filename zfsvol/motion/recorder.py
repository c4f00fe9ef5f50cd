# SPDX-License-Identifier: LGPL-2.1-only
"""The process that takes the writes of a VM whose disk moves here, and records which sectors they were.

The source's tapdisk mirrors each write over a connection that xapi hands over here. The data goes to the leaf's zvol,
then the record to its file, and only then the tapdisk gets its answer. The last state is FINISHED only if each write
that came was answered and all of the data is durable. Otherwise the leaf lacks something, and must not be used.
"""

import array
import errno
import os
import select
import signal
import socket
import time

from zfsvol.errors import StorageError
from zfsvol.host import files
from zfsvol.motion.process import Orders, Stopped
from zfsvol.motion.written import SECTOR, Written
from zfsvol.nbd import server
from zfsvol.repository import recording
from zfsvol.repository.job import FINISHED, Job

# Bytes. What is not durable at the end has to be flushed while the VM stands still.
_FLUSHED_AFTER = 64 << 20

# Seconds after the order to end in which a source may still send what it has begun.
_GRACE = 10

_LONGEST_TEXT = 4096  # bytes that come with the descriptor
_MOST_DESCRIPTORS = 16


class _Signals:
    """Waits for a socket or for the order to end, whichever comes first."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._end = 0.0
        self._woken, writer = os.pipe()
        for descriptor in (self._woken, writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(writer)

    def wait_for(self, connection: socket.socket) -> bool:
        """Whether the socket has something to read; False if the process is to end. What came before that is read.

        Raises Stopped if a source goes on sending.
        """
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            is_ending = self._orders.stop or self._orders.finish
            ready = {descriptor for descriptor, _ in poll.poll(0 if is_ending else None)}
            if connection.fileno() in ready:
                self._require_time(is_ending=is_ending)
                return True
            if is_ending:
                return False
            if self._woken in ready:
                os.read(self._woken, 1 << 10)

    def _require_time(self, *, is_ending: bool) -> None:
        if is_ending and not self._end:
            self._end = time.monotonic() + _GRACE
        if is_ending and time.monotonic() > self._end:
            raise Stopped("it was told to end while the source was still writing")


class _Leaf(server.Disk):
    """The zvol that takes the writes."""

    def __init__(self, path: str, written: Written) -> None:
        self._device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.size = os.lseek(self._device, 0, os.SEEK_END)
        self._written = written
        self._unflushed = 0

    def read(self, offset: int, length: int) -> bytes:
        pieces = []
        while length > 0:
            piece = os.pread(self._device, length, offset)
            if not piece:
                raise OSError(errno.EIO, "the device ends too early")
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    def write(self, offset: int, data: "bytes | memoryview") -> None:
        if offset % SECTOR or len(data) % SECTOR:
            raise OSError(errno.EINVAL, "only whole sectors can be written")
        done = 0
        while done < len(data):
            done += os.pwrite(self._device, data[done:], offset + done)
        self._written.add(offset, len(data))
        self._unflushed += len(data)
        if self._unflushed >= _FLUSHED_AFTER:
            self.flush()

    def flush(self) -> None:
        if self._unflushed:
            os.fsync(self._device)
            self._unflushed = 0

    def close(self) -> None:
        os.close(self._device)


def run(job: Job, orders: Orders) -> None:
    """The work of the process. Raises StorageError: then the record is worth nothing."""
    try:
        _record(job, orders)
    except OSError as error:
        raise StorageError(str(error)) from None
    job.write(dict(job.read(), state=FINISHED))


def _record(job: Job, orders: Orders) -> None:
    signals = _Signals(orders)
    path = recording.socket_path(job.sr, job.key)
    with Written(recording.written_path(job.sr, job.key), new=True) as written:
        leaf = _Leaf(recording.device(job.sr, job.key), written)
        try:
            connection = _connection(job, path, signals)
            with connection:
                job.write(dict(job.read(), state=recording.RECORDING))
                server.serve(connection, leaf, lambda: signals.wait_for(connection))
            leaf.flush()
        finally:
            leaf.close()
            files.remove(path)


def _connection(job: Job, path: str, signals: _Signals) -> socket.socket:
    """The connection to the source, which xapi sends to the socket `path`. Raises StorageError if it never comes."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    files.remove(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(1)
        job.write(dict(job.read(), state=recording.LISTENING))
        while signals.wait_for(listener):
            with listener.accept()[0] as control:
                control.settimeout(_GRACE)
                found = _received(control)
            if found is not None:
                return found
    raise StorageError("no source ever connected")


def _received(control: socket.socket) -> "socket.socket | None":
    """The socket that is sent over this one, with any text; None if there is none."""
    found = array.array("i")
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * found.itemsize)
    try:
        _, sent, _, _ = control.recvmsg(_LONGEST_TEXT, room, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    for level, kind, data in sent:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    for surplus in found[1:]:
        os.close(surplus)
    if not found:
        return None
    return _socket(found[0])


def _socket(descriptor: int) -> "socket.socket | None":
    """The stream socket by its descriptor; None, and the descriptor closed, if it is none."""
    try:
        with socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM) as looked_at:
            family = looked_at.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
            kind = looked_at.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    except OSError:
        os.close(descriptor)
        return None
    if kind != socket.SOCK_STREAM:
        os.close(descriptor)
        return None
    found = socket.socket(family, socket.SOCK_STREAM, fileno=descriptor)
    if family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an answer must not wait for the next one
    return found

# SPDX-License-Identifier: LGPL-2.1-only
"""The NBD server, with a client that does what tapdisk's does, and with hostile ones."""

import errno
import select
import socket
import struct
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from tests.tapdisk import DISCONNECT, FLUSH, READ, WRITE, Mirror, MirrorFailed
from zfsvol.nbd import server

MIB = 1 << 20
SIZE = 4 * MIB


class Memory(server.Disk):
    """A disk in memory. `fails`: the errno of all that is done to it."""

    def __init__(self, size=SIZE):
        self.size = size
        self.data = bytearray(size)
        self.flushes = 0
        self.longest = 0
        self.fails = 0

    def _do(self, length=0):
        self.longest = max(self.longest, length)
        if self.fails:
            raise OSError(self.fails, "as ordered")

    def read(self, offset, length):
        self._do(length)
        return bytes(self.data[offset : offset + length])

    def write(self, offset, data):
        self._do(len(data))
        self.data[offset : offset + len(data)] = data

    def flush(self):
        self._do()
        self.flushes += 1


class Served:
    """A disk that a thread serves. `error`: how that ended."""

    def __init__(self, disk):
        self.disk = disk
        self.error = None
        self.is_told_to_end = False
        self.client, self._served = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)

    def _goes_on(self):
        while not self.is_told_to_end:
            if select.select([self._served], [], [], 0.01)[0]:
                return True
        return False

    def _serve(self):
        with self._served:
            try:
                server.serve(self._served, self.disk, self._goes_on)
            except server.Broken as error:
                self.error = str(error)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self.client.close()
        self.end()

    def end(self):
        """Waits until the server has ended by itself."""
        self._thread.join(20)
        assert not self._thread.is_alive()

    def mirror(self):
        return Mirror(self.client).open()


@pytest.fixture
def served():
    with Served(Memory()) as found:
        yield found


def test_a_mirror_of_tapdisk(served):
    mirror = served.mirror()
    assert mirror.size == SIZE
    mirror.write(512, b"x" * 1024)
    assert mirror.read(0, 2048) == bytes(512) + b"x" * 1024 + bytes(512)
    mirror.flush()
    assert served.disk.flushes == 1
    mirror.write(SIZE - 512, b"y" * 512)
    served.client.close()
    served.end()
    assert served.error is None
    assert served.disk.data[-512:] == b"y" * 512


def test_requests_ahead_of_their_answers(served):
    mirror = served.mirror()
    for number in range(200):
        mirror.send(WRITE, number * 512, 512, bytes([number]) * 512)
    for _ in range(200):
        mirror.answer()
    assert served.disk.data[: 200 * 512] == b"".join(bytes([number]) * 512 for number in range(200))


def test_tapdisk_reopens_its_image(served):
    """At a snapshot of the source it disconnects, and negotiates anew over the same connection."""
    mirror = served.mirror()
    for number in range(3):
        mirror.write(number * 512, b"z" * 512)
        mirror.close()
        assert mirror.open().size == SIZE
    mirror.close()
    served.client.close()  # with a greeting that nobody reads
    served.end()
    assert served.error is None
    assert served.disk.flushes >= 3  # the last one is left out if the greeting before it fails


def test_end_by_order(served):
    mirror = served.mirror()
    mirror.write(0, b"z" * 512)
    served.is_told_to_end = True
    served.end()
    assert served.error is None


@pytest.mark.parametrize("length", [0, 1, MIB, MIB + 1, SIZE])
def test_lengths(served, length):
    """No more than one buffer is in memory, whatever the length."""
    mirror = served.mirror()
    data = (b"0123456789abcdef" * (length // 16 + 1))[:length]
    writer = threading.Thread(target=mirror.write, args=(SIZE - length, data))
    writer.start()
    writer.join(20)
    assert mirror.read(SIZE - length, length) == data
    assert served.disk.longest <= MIB


@pytest.mark.parametrize(
    ("command", "offset", "length", "complaint"),
    [
        (WRITE, SIZE, 512, "beyond the end"),
        (WRITE, SIZE - 512, 1024, "beyond the end"),
        (WRITE, (1 << 64) - 512, 512, "beyond the end"),
        (READ, 0, (1 << 32) - 1, "beyond the end"),
        (READ, SIZE + 1, 0, "beyond the end"),
        (FLUSH, SIZE + 1, 0, "beyond the end"),
        (4, 0, 512, "unknown command"),
        (WRITE | 1 << 16, 0, 512, "unknown command"),
    ],
)
def test_what_is_refused(served, command, offset, length, complaint):
    mirror = served.mirror()
    mirror.send(command, offset, length)
    with pytest.raises(MirrorFailed, match="error 22"):
        mirror.answer()
    served.end()
    assert complaint in served.error
    assert not any(served.disk.data)


@pytest.mark.parametrize(("number", "told"), [(errno.EIO, 5), (errno.ENOSPC, 28), (errno.EINVAL, 22), (errno.EBADF, 5)])
@pytest.mark.parametrize("command", [READ, WRITE, FLUSH])
def test_a_failing_disk(served, command, number, told):
    mirror = served.mirror()
    served.disk.fails = number
    mirror.send(command, 0, 0 if command == FLUSH else 512, b"x" * 512 if command == WRITE else b"")
    with pytest.raises(MirrorFailed, match=f"error {told}$"):
        mirror.answer()
    served.end()
    assert "as ordered" in served.error


def test_a_disk_that_fails_in_the_middle_of_a_read(served):
    """There is no error to tell any more: data that is none must not reach the client."""
    mirror = served.mirror()
    real = served.disk.read

    def read(offset, length):
        if offset >= MIB:
            raise OSError(errno.EIO, "as ordered")
        return real(offset, length)

    served.disk.read = read
    mirror.send(READ, 0, 2 * MIB)
    with pytest.raises(MirrorFailed, match="gone"):
        mirror.answer()
    served.end()
    assert "as ordered" in served.error


def test_a_flush_fails_at_the_end(served):
    mirror = served.mirror()
    served.disk.fails = errno.EIO
    mirror.close()
    served.end()
    assert "as ordered" in served.error


@pytest.mark.parametrize("sent", [1, 27, 28, 28 + 511])
def test_the_client_goes_in_the_middle_of_a_request(served, sent):
    served.mirror()
    request = struct.pack(">II8sQI", 0x25609513, WRITE, b"td00000\0", 0, 512) + b"x" * 512
    served.client.sendall(request[:sent])
    served.client.close()
    served.end()
    assert "the connection was lost" in served.error


def test_the_client_never_reads(served):
    """Its connection goes while an answer waits."""
    mirror = served.mirror()
    mirror.send(READ, 0, SIZE)
    served.client.close()
    served.end()
    assert "the connection was lost" in served.error


def test_the_client_goes_before_the_greeting(served):
    served.client.close()
    served.end()
    assert served.error is None or "the connection was lost" in served.error


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=64),
            st.builds(
                lambda magic, command, offset, length, data: (
                    struct.pack(">II8sQI", magic, command, b"td00000\0", offset, length) + data
                ),
                st.sampled_from([0x25609513, 0x25609513, 0x25609513, 0]),
                st.sampled_from([READ, WRITE, DISCONNECT, FLUSH, 4, 1 << 16]),
                st.one_of(st.integers(0, 4096), st.sampled_from([(1 << 64) - 1, 1 << 63])),
                st.one_of(st.integers(0, 4096), st.just((1 << 32) - 1)),
                st.binary(max_size=2048),
            ),
        ),
        max_size=6,
    )
)
def test_hostile_clients(pieces):
    """Whatever is sent: the server ends, in order or with a sentence, and has touched nothing beyond the disk."""
    with Served(Memory(4096)) as served:
        for piece in pieces:
            try:
                served.client.sendall(piece)
            except OSError:
                break
        served.client.shutdown(socket.SHUT_WR)
        served.client.settimeout(20)
        try:
            while served.client.recv(1 << 16):
                pass
        except ConnectionError:
            pass
    assert len(served.disk.data) == 4096

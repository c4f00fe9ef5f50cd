# SPDX-License-Identifier: LGPL-2.1-only
"""zfsvol.nbd.client against servers of this file, good and hostile ones. test_nbd_servers.py has real ones."""

import errno
from itertools import count
import mmap
import os
import random
import re
import select
import signal
import socket
import struct
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from zfsvol.errors import InvalidArgument, NbdFailed
from zfsvol.nbd.client import Client

KIB = 1 << 10
MIB = 1 << 20
SIZE = 64 * MIB
USED = 4 * MIB  # by `exercise`
# Of doc/proto.md, written anew here: the driver's own numbers could all be wrong.
GREETING = b"NBDMAGICIHAVEOPT"
OPTION_REPLY = bytes.fromhex("0003e889045565a9")
EXPORT_NAME, GO = 1, 7
ACK, INFO, UNSUPPORTED = 1, 3, 0x80000001
FLAGS, READ_ONLY, FLUSHES, ZEROES = 1, 2, 4, 64
WRITE, LEAVE, FLUSH, WRITE_ZEROES = 1, 2, 3, 6

numbers = count()


class Server:
    """Serves one client in a thread, as it is told to. `disk`: what was written; `requests`: (command, offset, length).

    go: whether it knows OPT_GO. blocks: the sizes of blocks that it tells. answer: the error of a request.
    order: reorders the requests that have come at once, before they are carried out and answered.
    change: (number of a message, message) -> what is sent instead.
    """

    def __init__(self, directory, **how):
        self.path = f"{directory}/{next(numbers)}"
        self.uri = f"nbd+unix:///a%20disk?socket={self.path}"
        self.flags = how.pop("flags", FLAGS | FLUSHES | ZEROES)
        self.greeting_flags = how.pop("greeting_flags", 3)
        self.go = how.pop("go", True)
        self.blocks = how.pop("blocks", None)
        self.order = how.pop("order", None)
        self.answer = how.pop("answer", lambda *_: 0)
        self.change = how.pop("change", lambda _, message: message)
        self.script = how.pop("script", self.serve)
        assert not how
        self.disk = mmap.mmap(-1, SIZE)
        self.export = None
        self.requests = []
        self.most = 0, 0  # requests and bytes that were under way
        self.sent = []
        self.error = None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        self.peer, _ = self.listener.accept()
        self.listener.close()  # as xapi's relay: once, and never again
        with self.peer:
            try:
                self.script()
            except (ConnectionError, EOFError):
                pass
            except Exception as error:  # noqa: BLE001 - `join` raises it
                self.error = error

    def join(self):
        """Wait for the server's end; raise what went wrong in it."""
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error

    def take(self, size):
        data = bytearray()
        while len(data) < size:
            piece = self.peer.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def give(self, message):
        message = self.change(len(self.sent), message)
        self.sent.append(message)
        self.peer.sendall(message)

    def serve(self):
        self.shake_hands()
        while self.serve_some():
            pass

    def greet(self):
        self.give(GREETING + struct.pack(">H", self.greeting_flags))

    def shake_hands(self):
        self.greet()
        (flags,) = struct.unpack(">I", self.take(4))
        assert flags == self.greeting_flags & 3
        while True:
            magic, option, length = struct.unpack(">8sII", self.take(16))
            assert magic == b"IHAVEOPT"
            data = self.take(length)
            if option == GO:
                (size,) = struct.unpack(">I", data[:4])
                self.export = data[4 : 4 + size]
                assert data[4 + size :] == struct.pack(">HH", 1, 3)
                if self.go:
                    self.reply(GO, INFO, struct.pack(">HQH", 0, SIZE, self.flags))
                    if self.blocks:
                        self.reply(GO, INFO, struct.pack(">HIII", 3, *self.blocks))
                    self.reply(GO, ACK)
                    return
                self.reply(GO, UNSUPPORTED, b"what?")
            else:
                assert option == EXPORT_NAME
                assert data == self.export
                self.give(struct.pack(">QH", SIZE, self.flags) + bytes(0 if flags & 2 else 124))
                return

    def reply(self, option, kind, data=b""):
        self.give(OPTION_REPLY + struct.pack(">III", option, kind, len(data)) + data)

    def serve_some(self):
        """Serve what comes until nothing more comes, or one request if they are served in order."""
        come: "list[tuple[int, int, int, bytes]]" = []
        written = 0
        while self.order or not come:
            if come and not select.select([self.peer], [], [], 0.01)[0]:
                break
            magic, flags, command, handle, offset, length = struct.unpack(">IHHQQI", self.take(28))
            assert (magic, flags) == (0x25609513, 0)
            self.requests.append((command, offset, length))
            if command == LEAVE:
                assert not come
                return self.leave()
            error = self.answer(command, offset, length)
            if command == WRITE:
                data = self.take(length)
                written += length
            else:
                data = bytes(length)
                assert command in {WRITE_ZEROES, FLUSH}
            if command == FLUSH:
                assert (offset, length, come) == (0, 0, [])
            come.append((error, handle, offset, data))
        self.most = max(self.most[0], len(come)), max(self.most[1], written)
        if self.order:
            self.order(come)
        for error, handle, offset, data in come:
            if not error:
                self.disk[offset : offset + len(data)] = data
            self.give(struct.pack(">IIQ", 0x67446698, error, handle))
        return True

    def leave(self):
        return False


class Tapdisk(Server):
    """A tapdisk, as its source (drivers/tapdisk-nbdserver.c of blktap 3.55) and facts measured of it tell."""

    def __init__(self, directory):
        super().__init__(directory, flags=FLAGS, blocks=(1, 4096, 2 * MIB), answer=self.fits)

    def fits(self, command, offset, length):
        assert command == WRITE  # it closes the connection on others
        assert offset % 512 == length % 512 == 0
        assert length <= 2 * MIB
        return 0

    def leave(self):
        self.greet()
        assert self.peer.recv(1) == b""  # and nothing is said to that
        return False


@pytest.fixture
def serve(tmp_path):
    """Start a server of this file."""
    servers = []

    def start(kind=Server, **how):
        servers.append(kind(tmp_path, **how))
        return servers[-1]

    yield start
    for server in servers:
        server.join()


def failure(call, *arguments, **how):
    """The sentence of the error that it raises."""
    with pytest.raises(NbdFailed) as caught:
        call(*arguments, **how)
    assert str(caught.value).startswith(("The NBD server at /", "The connection to the NBD server", "A request to"))
    assert str(caught.value).endswith(".")
    return str(caught.value)


def exercise(client, server, *, rounds=40, seed=1):
    """Write and zero at random, and compare with a model. The buffers are overwritten at once."""
    chance = random.Random(seed)
    model = bytearray(USED)
    unit = client.alignment
    for _ in range(rounds):
        pieces = [bytearray(os.urandom(unit * chance.randrange(9))) for _ in range(chance.randrange(1, 9))]
        length = sum(map(len, pieces))
        offset = unit * chance.randrange((USED - length) // unit)
        model[offset : offset + length] = b"".join(pieces)
        client.write(offset, pieces if len(pieces) > 1 else memoryview(pieces[0]))
        for piece in pieces:
            piece[:] = b"?" * len(piece)
        length = unit * chance.randrange(64 * KIB // unit)
        offset = unit * chance.randrange((USED - length) // unit)
        model[offset : offset + length] = bytes(length)
        client.zero(offset, length)
    client.flush()
    assert server.disk[:USED] == model


def test_a_tapdisk(serve):
    server = serve(Tapdisk)
    client = Client(server.uri)
    assert (client.size, client.alignment, client.payload) == (SIZE, 512, MIB)
    assert (client.can_flush, client.can_zero) == (False, False)
    client.write(0, os.urandom(5 * MIB + 512))
    client.zero(0, 5 * MIB + 512)
    exercise(client, server)
    client.close()
    server.join()
    assert server.export == b"a disk"
    assert {command for command, _, _ in server.requests[:-1]} == {WRITE}
    assert server.requests[-1] == (LEAVE, 0, 0)


@pytest.mark.parametrize("greeting_flags", [1, 3])
@pytest.mark.parametrize("go", [True, False])
def test_handshakes(serve, go, greeting_flags):
    server = serve(go=go, greeting_flags=greeting_flags)
    client = Client(server.uri, limit=20)
    assert (client.size, client.alignment, client.payload) == (SIZE, 512, MIB)
    assert client.can_flush
    assert client.can_zero
    exercise(client, server, rounds=5)
    client.close()


def test_requests_in_any_order(serve):
    server = serve(order=random.Random(1).shuffle)
    client = Client(server.uri)
    exercise(client, server)
    for offset in range(0, 100 * 512, 512):
        client.write(offset, os.urandom(512))
    client.close()
    server.join()
    assert 8 < server.most[0] <= 16
    assert {FLUSH, WRITE_ZEROES} < {command for command, _, _ in server.requests}


def test_how_much_is_under_way(serve):
    server = serve(order=list.reverse)
    client = Client(server.uri)
    client.write(0, os.urandom(20 * MIB))
    client.settle()
    assert client._bytes == 0
    client.close()
    server.join()
    assert 4 * MIB < server.most[1] <= 8 * MIB
    assert [length for _, _, length in server.requests] == 20 * [MIB] + [0]


@pytest.mark.parametrize(
    ("blocks", "alignment", "payload"),
    [((4096, 4096, 32 * MIB), 4096, MIB), ((1, 1, 66000), 512, 65536), ((65536, 65536, 2**32 - 1), 65536, MIB)],
)
def test_sizes_of_blocks(serve, blocks, alignment, payload):
    server = serve(blocks=blocks)
    client = Client(server.uri)
    assert (client.alignment, client.payload) == (alignment, payload)
    exercise(client, server, rounds=5)
    client.write(0, os.urandom(2 * payload + alignment))
    client.close()
    server.join()
    assert server.requests[-4:-1] == [(WRITE, 0, payload), (WRITE, payload, payload), (WRITE, 2 * payload, alignment)]


def test_many_pieces(serve):
    server = serve()
    client = Client(server.uri)
    data = os.urandom(3 * MIB)
    client.write(512, [data[start : start + 384] for start in range(0, len(data), 384)])
    client.write(0, [b"", b""])
    client.close()
    server.join()
    assert server.disk[512 : 512 + len(data)] == data
    assert len(server.requests) == 4


def test_long_zeroes(serve):
    server = serve()
    client = Client(server.uri)
    client.write(0, b"x" * MIB)
    client.zero(512, SIZE - 512)
    client.zero(0, 0)
    client.close()
    server.join()
    zeroed = [(WRITE_ZEROES, 512, 32 * MIB), (WRITE_ZEROES, 32 * MIB + 512, 32 * MIB - 512)]
    assert server.requests == [(WRITE, 0, MIB), *zeroed, (LEAVE, 0, 0)]
    assert server.disk[: MIB + 1] == b"x" * 512 + bytes(MIB - 511)


def test_bugs_of_the_caller(serve):
    client = Client(serve().uri)
    wrong = [(1, 512), (0, 100), (SIZE, 512), (-512, 512)]
    for offset, length in wrong:
        with pytest.raises(ValueError, match=f"{length} bytes at {offset} are not"):
            client.write(offset, bytes(length))
        with pytest.raises(ValueError, match=f"{length} bytes at {offset} are not"):
            client.zero(offset, length)
    with pytest.raises(ValueError, match="are not on a disk"):
        client.zero(512, -512)
    client.close()


@pytest.mark.parametrize(
    ("uri", "path", "export"),
    [
        ("nbd+unix:///name?socket={}", b"/sock", b"name"),
        ("nbd+unix:///a%2fb%20%c3%bc?socket={}", b"/so ck+", "a/b \u00fc".encode()),
        ("nbd+unix:///?socket={}", b"/sock", b""),
        ("nbd:unix:{}:exportname=a%20name", b"/sock", b"a%20name"),
    ],
)
def test_addresses(serve, uri, path, export):
    server = serve()
    os.link(server.path, os.fsencode(server.path) + path[1:])
    shown = server.path + path[1:].decode().replace(" ", "%20")
    client = Client(uri.format(shown))
    client.close()
    server.join()
    assert server.export == export


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "nbd://host/name",
        "nbd+unix:///name",
        "nbd+unix://host/name?socket=/s",
        "nbd+unix:///name?socket=relative",
        "nbd+unix:///name?socket=/s&tls=require",
        "nbd+unix:///name?socket=%00abstract",
        "nbd+unix:///name?socket=/a%00b",
        "nbd:unix:/s",
    ],
)
def test_no_addresses(uri):
    with pytest.raises(InvalidArgument, match="is not the address of an NBD server"):
        Client(uri)


def test_nobody_there(tmp_path):
    assert "cannot be reached: No such file" in failure(Client, f"nbd+unix:///x?socket={tmp_path}/none")
    assert "cannot be reached: AF_UNIX path too long" in failure(Client, "nbd+unix:///x?socket=/" + 200 * "x")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{tmp_path}/deaf")
        assert "cannot be reached: Connection refused" in failure(Client, f"nbd+unix:///x?socket={tmp_path}/deaf")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (2, "it does not allow that"),
        (5, "it requires TLS, which the driver does not speak"),
        (6, "it has no such disk"),
        (7, "it is shutting down"),
        (99, "error 99"),
    ],
)
def test_refusals(serve, kind, sentence):
    def script():
        server.greet()
        server.take(4 + 16 + 4 + len("a disk") + 4)
        server.reply(GO, (1 << 31) + kind, b"Go\n\xff" + 5000 * b"!")

    server = serve(script=script)
    said = failure(Client, server.uri)
    assert f" refuses to serve 'a disk': {sentence}. Its words: 'Go \ufffd!!!" in said
    assert len(said) < 500


@pytest.mark.parametrize("go", [True, False])
def test_a_disk_for_reading(serve, go):
    assert "for reading only" in failure(Client, serve(flags=FLAGS | READ_ONLY, go=go).uri)


def test_flags_that_do_not_count(serve):
    client = Client(serve(flags=READ_ONLY | FLUSHES | ZEROES).uri)
    assert not client.can_flush
    assert not client.can_zero
    client.close()


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "(ENOSPC): its storage is full. Make room there."),
        (errno.EIO, "(EIO): its storage failed, or is full. Look for the reason in the logs of its host."),
        (errno.EPERM, "(EPERM): it does not allow that; its disk may be read-only."),
        (errno.ESHUTDOWN, "(ESHUTDOWN): it is shutting down."),
        (errno.EINVAL, "(EINVAL): the logs of its host may say why."),
        (2**32 - errno.ENOSPC, "(ENOSPC): its storage is full. Make room there."),  # as tapdisk answers
        (12345, "(error 12345): the logs of its host may say why."),
        (1 << 31, "(error 2147483648): the logs of its host may say why."),
    ],
)
def test_errors(serve, number, sentence):
    server = serve(answer=lambda _, offset, __: number if offset == 7 * 512 else 0)

    def write():
        for block in range(16):
            client.write(block * 512, os.urandom(512))
        client.settle()

    client = Client(server.uri)
    said = failure(write)
    assert said.endswith(f"failed to write 512 bytes at 3584 {sentence}")
    for again in (client.settle, client.flush, client.close, client.check, client.fileno):
        assert failure(again) == said
    assert failure(client.write, 0, bytes(512)) == failure(client.zero, 0, 512) == said
    client.abandon()
    assert failure(client.settle) == said


def test_errors_of_other_requests(serve):
    client = Client(serve(answer=lambda command, *_: errno.EIO if command == FLUSH else 0).uri)
    client.write(0, bytes(512))
    assert "failed to flush 0 bytes at 0 (EIO)" in failure(client.flush)
    client = Client(serve(answer=lambda command, *_: errno.ENOSPC if command == WRITE_ZEROES else 0).uri)
    client.zero(0, 512)
    assert "failed to zero 512 bytes at 0 (ENOSPC)" in failure(client.settle)


def test_the_reason_is_told_after_a_closed_connection(serve):
    """The client is still sending when it notices."""

    def script():
        server.shake_hands()
        server.take(28 + 512 + 28)
        server.give(struct.pack(">IIQ", 0x67446698, errno.ENOSPC, 1))

    server = serve(script=script)
    client = Client(server.uri)
    client.write(0, bytes(512))
    assert "(ENOSPC)" in failure(client.write, 512, bytes(4 * MIB))


def test_a_closed_connection(serve):
    def script():
        server.shake_hands()
        server.take(28 + 512)

    server = serve(script=script)
    client = Client(server.uri)
    client.write(0, bytes(512))
    client.write(0, b"")
    assert "closed the connection, with 1 requests unanswered" in failure(client.settle)


@pytest.mark.parametrize("heard", [0, 4, 20])
def test_a_connection_closed_in_the_handshake(serve, heard):
    def script():
        server.greet()
        server.take(heard)

    server = serve(script=script)
    assert re.search("closed the connection before it served|cannot be reached", failure(Client, server.uri))


@pytest.mark.parametrize("stuck", ["at once", "after its greeting", "after its answer", "while it answers"])
def test_a_silent_server(serve, stuck):
    def script():
        if stuck == "while it answers":
            server.shake_hands()
            server.take(28 + 512)
            for byte in struct.pack(">II", 0x67446698, 0):
                server.peer.sendall(bytes([byte]))
                time.sleep(0.04)
        elif stuck == "after its answer":
            server.shake_hands()
        elif stuck == "after its greeting":
            for byte in GREETING + b"\0\3":
                server.peer.sendall(bytes([byte]))
                time.sleep(0.005)
        while select.select([server.peer], [], [], 5)[0] and not ended.is_set():
            if stuck != "after its answer" and not server.peer.recv(65536):
                break

    def write():
        client = Client(server.uri, limit=0.2)
        client.write(0, bytes(4 * MIB) if stuck == "after its answer" else bytes(512))
        client.settle()

    ended = threading.Event()
    server = serve(script=script)
    began = time.monotonic()
    assert re.search(r"(has not answered for|did not answer within) 0.2 seconds", failure(write))
    assert 0.2 <= time.monotonic() - began < 2
    ended.set()


def test_a_slow_server_is_waited_for(serve):
    def answer(*_):
        time.sleep(0.05)
        return 0

    server = serve(answer=answer)
    client = Client(server.uri, limit=0.3)
    client.write(0, os.urandom(8 * MIB))
    client.close()


def test_a_slow_caller_is_not_blamed_on_the_server(serve):
    client = Client(serve().uri, limit=0.5)
    client.write(0, bytes(512))
    time.sleep(0.6)
    client.write(0, bytes(MIB))
    client.close()


@pytest.mark.parametrize("says", [b"", b"\0"])
def test_an_idle_connection(serve, says):
    def script():
        server.shake_hands()
        server.serve_some()
        wanted.wait(5)
        server.peer.sendall(says)

    wanted = threading.Event()
    server = serve(script=script)
    client = Client(server.uri)
    client.write(0, bytes(512))
    client.settle()
    client.check()
    assert not select.select([client.fileno()], [], [], 0)[0]
    wanted.set()
    assert select.select([client.fileno()], [], [], 5)[0]
    assert ("nobody asked for" if says else "closed the connection") in failure(client.check)


def test_an_interrupted_request(serve):
    """What follows would be taken for its data."""

    def script():
        server.shake_hands()
        ended.wait(5)

    def interrupt(*_):
        raise KeyboardInterrupt

    ended = threading.Event()
    server = serve(script=script)
    client = Client(server.uri)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            client.write(0, bytes(4 * MIB))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "interrupted" in failure(client.settle)
    ended.set()


def test_abandoned(serve):
    client = Client(serve().uri)
    client.write(0, bytes(512))
    client.abandon()
    client.abandon()
    assert "was closed" in failure(client.settle)


@pytest.mark.parametrize(
    ("message", "changed", "sentence"),
    [
        (0, b"HTTP/1.1 200 OK\r\n\r\n", "does not greet"),
        (0, bytes.fromhex("4e42444d4147494300420281861253") + bytes(137), "old form"),
        (0, GREETING + b"\0\0", "old form"),
        (1, OPTION_REPLY + struct.pack(">III", GO, INFO, 2**32 - 1), "cannot be understood"),
        (1, OPTION_REPLY + struct.pack(">III", EXPORT_NAME, ACK, 0), "cannot be understood"),
        (1, 16 * b"\0\0\0\3", "cannot be understood"),
        (1, OPTION_REPLY + struct.pack(">III", GO, ACK, 0), "does not tell the size"),
        (1, 32 * (OPTION_REPLY + struct.pack(">III", GO, INFO, 8192) + bytes(8192)), "more answers"),
        (2, OPTION_REPLY + struct.pack(">IIIHIII", GO, INFO, 14, 3, 3 * 512, 4096, MIB), "wants requests of 1536 to"),
        (2, OPTION_REPLY + struct.pack(">IIIHIII", GO, INFO, 14, 3, 512, 4096, 511), "wants requests of 512 to 511"),
        (2, OPTION_REPLY + struct.pack(">IIIHIII", GO, INFO, 14, 3, 128 * KIB, 128 * KIB, MIB), "wants requests"),
        (2, OPTION_REPLY + struct.pack(">IIIHIII", GO, INFO, 14, 3, 65536, 65536, 65535), "wants requests"),
        (3, struct.pack(">IIQ", 0x67446699, 0, 1), "not a reply"),
        (3, struct.pack(">IIQ", 0x67446698, 0, 2), "has not got"),
        (4, struct.pack(">IIQ", 0x67446698, 0, 1), "has answered before"),
        (3, 2 * struct.pack(">IIQ", 0x67446698, 0, 1), "has answered before"),
        (4, struct.pack(">IIQ", 0x67446698, 0, 2) + b"\0", "nobody asked for"),
    ],
    ids=count(),
)
def test_nonsense(serve, message, changed, sentence):
    server = serve(change=lambda number, sent: changed if number == message else sent)

    def write():
        client = Client(server.uri)
        for _ in range(2):
            client.write(0, bytes(512))
            client.settle()

    assert sentence in failure(write)


def test_an_answer_to_what_was_not_sent_yet(serve):
    def script():
        server.shake_hands()
        server.give(struct.pack(">IIQ", 0x67446698, 0, 1))
        ended.wait(5)

    ended = threading.Event()
    server = serve(script=script)
    client = Client(server.uri)
    assert "has not got" in failure(client.write, 0, bytes(4 * MIB))
    ended.set()


# What a hostile server does with a message: (kind, place, bytes).
HARM = st.tuples(
    st.sampled_from(["replace", "overwrite", "insert", "cut", "withhold", "twice", "close"]),
    st.integers(0, 40),
    st.binary(max_size=40) | st.sampled_from([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"]),
)


def harmed(message, kind, place, data):
    place = min(place, len(message))
    if kind == "replace":
        return data
    if kind == "overwrite":
        return (message[:place] + data + message[place + len(data) :])[: len(message)]
    if kind == "insert":
        return message[:place] + data + message[place:]
    if kind == "cut":
        return message[:place]
    return {"withhold": b"", "twice": 2 * message, "close": None}[kind]


@pytest.fixture(scope="module")
def module_path(tmp_path_factory):
    return tmp_path_factory.mktemp("nbd")


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.integers(0, 8), HARM, min_size=1, max_size=2), st.booleans(), st.booleans())
def test_a_hostile_server(module_path, harm, go, shuffled):
    """The client ends in time, and believes in a write only if the server has confirmed it."""

    def change(number, message):
        if number in harm:
            message = harmed(message, *harm[number])
            if message is None:
                raise EOFError
        return message

    server = Server(module_path, change=change, go=go, order=random.Random(1).shuffle if shuffled else None)
    began = time.monotonic()
    confirmed = False
    try:
        client = Client(server.uri, limit=0.03)
        try:
            for offset in range(0, 4096, 1024):
                client.write(offset, b"x" * 512)
            client.settle()
            confirmed = True
            client.check()
        finally:
            client.abandon()
    except (NbdFailed, ValueError):  # ValueError: it told another size of the disk, or of its blocks
        pass
    assert time.monotonic() - began < 5
    server.thread.join(20)
    assert not server.thread.is_alive()
    if confirmed:
        sent = b"".join(server.sent)
        assert all(struct.pack(">IIQ", 0x67446698, 0, handle) in sent for handle in range(1, 5))

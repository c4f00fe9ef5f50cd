# SPDX-License-Identifier: LGPL-2.1-only
"""zfsvol.nbd.client with real servers: nbdkit, also with faults, and qemu-nbd. Each serves a file."""

import os
import random
import subprocess
import time

import pytest

from zfsvol.errors import NbdFailed
from zfsvol.nbd.client import Client

KIB = 1 << 10
MIB = 1 << 20
SIZE = 16 * MIB


class Servers:
    """Starts servers of `disk`."""

    def __init__(self, directory):
        self.directory = directory
        self.process = None

    def __call__(self, program, *words, options=()):
        """Start one; the client's URI. Nothing may connect to find out whether it serves: it may serve one client."""
        path = self.directory / "socket"
        disk = self.directory / "disk"
        how = {
            "nbdkit": ["-f", "-U", path, "--exit-with-parent", *words, "file", disk, *options],
            "qemu-nbd": ["-k", path, "-x", "a/b", "-f", "raw", *words, disk],
        }[program]
        self.process = subprocess.Popen([program, *map(str, how)])
        end = time.monotonic() + 20
        while not is_listening(path):
            assert time.monotonic() < end
            time.sleep(0.005)
        return f"nbd+unix:///a%2Fb?socket={path}"


def is_listening(path):
    with open("/proc/net/unix") as sockets:
        words = [line.split() for line in sockets]
    return any(line[3] == "00010000" and line[-1] == str(path) for line in words)


@pytest.fixture
def start(tmp_path):
    with open(tmp_path / "disk", "wb") as disk:
        disk.truncate(SIZE)
    servers = Servers(tmp_path)
    yield servers
    if servers.process:
        servers.process.kill()
        servers.process.wait()


def read(tmp_path):
    return (tmp_path / "disk").read_bytes()


def exercise(client, content):
    """Write and zero at random; what must be there afterwards."""
    chance = random.Random(2)
    model = bytearray(content)
    for _ in range(100):
        length = 512 * chance.randrange(1, 400)
        offset = 512 * chance.randrange((SIZE - length) // 512)
        data = os.urandom(length)
        client.write(offset, [data[:1000], data[1000:]])
        model[offset : offset + length] = data
        length = 512 * chance.randrange(400)
        offset = 512 * chance.randrange((SIZE - length) // 512)
        client.zero(offset, length)
        model[offset : offset + length] = bytes(length)
    client.flush()
    return model


@pytest.mark.parametrize("handshake", [[], ["--no-sr"], ["--mask-handshake=1"], ["--filter=nozero"]])
def test_nbdkit(start, tmp_path, handshake):
    client = Client(start("nbdkit", *handshake))
    assert client.size == SIZE
    assert client.can_flush
    model = exercise(client, bytes(SIZE))
    client.close()
    assert read(tmp_path) == model


def test_qemu_nbd(start, tmp_path):
    client = Client(start("qemu-nbd", "--discard=unmap"))
    assert client.size == SIZE
    assert client.can_flush
    assert client.can_zero
    model = exercise(client, bytes(SIZE))
    client.close()
    assert start.process.wait(20) == 0  # it ends with its only client
    assert read(tmp_path) == model


def test_what_a_server_is_asked(start, tmp_path):
    """The zeroes may be holes; the flush comes after all replies."""
    client = Client(start("nbdkit", "--filter=log", options=[f"logfile={tmp_path}/log"]))
    client.write(0, b"x" * 2 * MIB)
    client.zero(MIB, MIB)
    client.flush()
    client.close()
    assert start.process.poll() is None
    lines = (tmp_path / "log").read_text()
    flush = lines.index(" Flush id=4 ")
    assert lines.index(" ...Write id=2 ") < flush
    assert lines.index(" ...Zero id=3 ") < flush
    assert " Zero id=3 offset=0x100000 count=0x100000 trim=1 fua=0 fast=0 " in lines


def test_requests_are_under_way_at_the_same_time(start):
    client = Client(start("nbdkit", "--filter=delay", options=["wdelay=100ms"]))
    began = time.monotonic()
    for number in range(32):
        client.write(number * 4 * KIB, os.urandom(4 * KIB))
    client.settle()
    assert 0.2 <= time.monotonic() - began < 3
    client.close()


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "ESHUTDOWN"])
def test_errors_at_random(start, tmp_path, name):
    """What was settled before is there."""
    client = Client(
        start("nbdkit", "--filter=error", options=[f"error={name}", "error-pwrite-rate=5%", "error-zero-rate=5%"])
    )
    model = bytearray(SIZE)
    sentence = ""
    for number in range(1000):
        data = os.urandom(4 * KIB)
        offset = number * 4 * KIB
        try:
            client.write(offset, data)
            client.zero(offset, KIB)
            if number % 8 == 7:
                client.settle()
                model[: offset + 4 * KIB] = read(tmp_path)[: offset + 4 * KIB]
        except NbdFailed as error:
            sentence = str(error)
            break
        model[offset : offset + 4 * KIB] = bytes(KIB) + data[KIB:]
    assert f"({name})" in sentence


def test_a_killed_server(start):
    client = Client(start("nbdkit"))
    client.write(0, bytes(512))
    client.settle()
    client.check()
    start.process.kill()
    start.process.wait()
    with pytest.raises(NbdFailed, match="closed the connection, with 0 requests"):
        client.check()


def test_a_read_only_server(start):
    with pytest.raises(NbdFailed, match="for reading only"):
        Client(start("nbdkit", "-r"))


def test_an_unknown_export(start):
    uri = start("qemu-nbd")
    with pytest.raises(NbdFailed, match=r"refuses to serve 'other': it has no such disk"):
        Client(uri.replace("a%2Fb", "other"))

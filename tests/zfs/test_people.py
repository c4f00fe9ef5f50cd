# SPDX-License-Identifier: LGPL-2.1-only
"""Verbs as commands for people, and their lines in the log."""

import json
import os
from pathlib import Path
import socket
import subprocess
from typing import Any, Callable

import pytest

from tests import client
from tests.client import call, new_uuid
from tests.zfs.conftest import Bench, run
from zfsvol.wire.table import DATAPATH, VOLUME

STAND_IN = str(client.CHECKOUT / "tests" / "fakes" / "xapi_storage")


def command_line(verb: str, *words: str, library: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs a verb without --json, as static-vdis calls it. Uses the genuine library if it is installed."""
    env = client.environment()
    if library and subprocess.run(["/usr/bin/python3", "-c", "import xapi.storage.api.v5.volume"]).returncode:
        env["PYTHONPATH"] += ":" + STAND_IN
    argv = [*client.argv(verb)[:-1], "static-vdis", *words]
    return subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, env=env, timeout=client.LIMIT
    )


def test_static_vdis(bench: Bench) -> None:
    """The calls of static-vdis to remember a disk (SR.attach by the PBD's device-config, Volume.stat) and at boot."""
    assert (
        "VDI_ATTACH_OFFLINE" in call("Plugin.Query")["features"]
    )  # or xapi's static-vdis uses the old storage manager
    sr = bench.sr()
    key = call("Volume.create", sr=sr, name="state file", description="", size=1, sharable=True)["key"]
    call("SR.detach", sr=sr)
    done = command_line("SR.attach", "--configuration", "device", "/dev/any", "--configuration", "sr_uuid", sr[3:])
    assert (json.loads(done.stdout), done.stderr) == (sr, "")
    done = command_line("Volume.stat", sr, key)
    remembered = json.loads(done.stdout)
    assert remembered == call("Volume.stat", sr=sr, key=key)
    # The host has booted, xapi does not run yet: nothing is attached.
    call("SR.detach", sr=sr)
    command_line("SR.attach", "--configuration", "device", "/dev/any", "--configuration", "sr_uuid", sr[3:])
    uri = remembered["uri"][0]
    given = json.loads(command_line("Datapath.attach", uri, "0").stdout)["implementations"]
    (path,) = [fields["path"] for kind, fields in given if kind == "BlockDevice"]
    assert command_line("Datapath.activate", uri, "0").returncode == 0
    with open(path, "r+b") as file:
        assert file.seek(0, os.SEEK_END) == remembered["virtual_size"]
    for verb in ("Datapath.deactivate", "Datapath.detach"):
        assert command_line(verb, uri, "0").returncode == 0
    assert not os.path.exists(path)
    assert json.loads(command_line("Plugin.Query").stdout)["plugin"] == "zfs-vol"


def move_by_hand(by_hand: "Callable[..., Any]", bench: Bench, uri: str) -> None:
    """The verbs of storage motion."""
    socket_path = bench.directory / "nbd"
    run("nbdkit", "--unix", str(socket_path), "memory", "8M")
    by_hand("Datapath.attach", uri, "0")
    by_hand("Data.stat", json.dumps(by_hand("Data.mirror", uri, "0", f"nbd+unix:///?socket={socket_path}")))
    by_hand("Datapath.detach", uri, "0")
    by_hand("Datapath.attach", uri, "MIR")
    by_hand("Datapath.activate", uri, "MIR")
    assert by_hand("Datapath.import_activate", uri, "MIR").endswith(".in")
    by_hand("Datapath.detach", uri, "MIR")


def refused_by_hand(verb: str, part: str, *words: str) -> str:
    """Checks that a verb is refused with a sentence; returns the verb."""
    process = command_line(verb, *words)
    assert (process.returncode, part in process.stderr) == (1, True)
    return verb


def test_every_verb_through_the_library(bench: Bench) -> None:
    """An SR's life by hand: the library's dispatchers check each verb's arguments and result."""
    done = set()

    def by_hand(verb: str, *words: str) -> Any:
        done.add(verb)
        process = command_line(verb, *words)
        assert (process.returncode, process.stderr) == (0, ""), (verb, process.stderr)
        return json.loads(process.stdout)

    uuid = new_uuid()
    configuration = by_hand("SR.create", "--configuration", "device", bench.disk(), uuid, "name", "description")
    words = [word for pair in configuration.items() for word in ("--configuration", *pair)]
    sr = by_hand("SR.attach", *words)
    for verb, text in (("set_name", "another"), ("set_description", "described")):
        by_hand("SR." + verb, sr, text)
    assert by_hand("SR.stat", sr)["name"] == "another"
    volume = by_hand("Volume.create", sr, "disk", "of a VM", str(5 << 20), "true")
    key = volume["key"]
    for verb, text in (("set_name", "root disk"), ("set_description", "of another VM")):
        by_hand("Volume." + verb, sr, key, text)
    by_hand("Volume.set", sr, key, "vdi-type", "system")
    by_hand("Volume.resize", sr, key, str(8 << 20))
    read = by_hand("Volume.stat", sr, key)
    assert (read["name"], read["keys"]["vdi-type"], read["virtual_size"]) == ("root disk", "system", 8 << 20)
    by_hand("Volume.unset", sr, key, "vdi-type")
    assert [found["key"] for found in by_hand("SR.ls", sr)] == [key]
    assert sr in by_hand("Plugin.ls")
    assert sr in by_hand("Plugin.diagnostics")
    by_hand("Plugin.Query")
    by_hand("Volume.enable_cbt", sr, key)
    backup = by_hand("Volume.snapshot", sr, key)["key"]
    by_hand("Volume.data_destroy", sr, backup)
    assert by_hand("Volume.list_changed_blocks", sr, backup, key, "0", "-1")["bitmap"] == "AAAAAAAAAAAAAAAAAAAAAA=="
    by_hand("Volume.disable_cbt", sr, key)
    snapshot = by_hand("Volume.snapshot", sr, key)["key"]
    clone = by_hand("Volume.clone", sr, snapshot)["key"]
    by_hand("Volume.revert", sr, snapshot, key)
    uri, domain = volume["uri"][0], "0"  # as static-vdis calls dom0
    (_, (kind, device)) = by_hand("Datapath.attach", uri, domain)["implementations"]
    by_hand("Datapath.activate", uri, domain)
    assert (kind, os.path.exists(device["path"])) == ("BlockDevice", True)
    assert f"{sr}/{key}: dom0 (0) has {device['path']}, rw" in by_hand("Plugin.diagnostics")
    by_hand("Datapath.deactivate", uri, domain)
    by_hand("Datapath.activate_readonly", uri, domain)
    by_hand("Datapath.detach", uri, domain)
    move_by_hand(by_hand, bench, uri)
    done.add(refused_by_hand("Volume.compose", "nothing to compose", sr, clone, key))
    for made in (snapshot, clone):
        by_hand("Volume.destroy", sr, made)
    by_hand("Volume.destroy", sr, key)
    by_hand("SR.detach", sr)
    (found,) = by_hand("SR.probe", *words)
    assert found["sr"]["uuid"] == uuid
    assert by_hand("SR.attach", *words) == sr
    by_hand("SR.destroy", sr)
    assert done == {*VOLUME, *DATAPATH}


def test_refusal_is_a_sentence(sr: str) -> None:
    done = command_line("Volume.stat", sr, new_uuid())
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no VDI" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_library() -> None:
    if (
        subprocess.run(
            ["/usr/bin/python3", "-c", "import xapi.storage"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ).returncode
        == 0
    ):
        pytest.skip("xapi-storage is installed on this host")
    done = command_line("Plugin.Query", library=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "python3-xapi-storage" in done.stderr


class TestLog:
    def read(self, tmp_path: Path, verb: str, **arguments: str) -> "list[str]":
        """Runs a verb whose /dev/log is a socket of the test; returns the messages."""
        path = tmp_path / "log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            log.bind(str(path))
            log.setblocking(False)
            shell = 'touch /dev/log; mount --bind "$0" /dev/log && exec "$@"'
            subprocess.run(
                ["unshare", "-m", "sh", "-c", shell, str(path), *client.argv(verb)],
                input=json.dumps({"dbg": "OpaqueRef:1", **arguments}).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=client.environment(),
                timeout=client.LIMIT,
            )
            lines = []
            while True:
                try:
                    lines.append(log.recv(65536).decode())
                except BlockingIOError:
                    return lines

    def test_one_line_for_a_verb(self, tmp_path: Path, sr: str) -> None:
        (line,) = self.read(tmp_path, "SR.set_name", sr=sr, new_name="a\nb")
        assert line.startswith("<150>")  # LOCAL2, info
        assert "zfs-vol[" in line
        assert f"SR.set_name dbg=OpaqueRef:1 sr={sr}" in line
        assert "ms: ok" in line

    def test_the_reason_of_a_failure(self, tmp_path: Path, sr: str) -> None:
        (line,) = self.read(tmp_path, "Volume.stat", sr=sr, key="\n\ud800")
        assert line.startswith("<148>")  # LOCAL2, warning
        assert "SR_BACKEND_FAILURE_1" in line
        assert "\n" not in line.rstrip("\n\0")


def test_a_preloaded_library_does_not_reach_the_children(bench: Bench) -> None:
    """xapi-storage-script's unit sets LD_PRELOAD; zfs must not run under it."""
    sr = bench.sr()
    process = subprocess.run(
        client.argv("SR.stat"),
        input=json.dumps({"dbg": "", "sr": sr}).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**client.environment(), "ZPOOL_VDEV_NAME_GUID": "1", "ZFS_COLOR": "1"},
        timeout=client.LIMIT,
    )
    assert json.loads(process.stdout)["health"] == ["Healthy", "ONLINE"]
    assert run("zpool", "status", sr)

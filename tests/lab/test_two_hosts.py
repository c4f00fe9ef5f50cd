# SPDX-License-Identifier: LGPL-2.1-only
"""Two hosts: a pool that both can see, and that only one may use at a time; a disk that moves to the other host."""

from collections.abc import Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path

import pytest

from tests.client import VerbError, new_uuid
from tests.lab.guest import LIMIT, Guest
from tests.motion import MIRROR

PYTHON = "/usr/bin/python3"


@pytest.fixture
def hosts(tmp_path: Path) -> "Iterator[tuple[Guest, Guest, str]]":
    """Two guests with different host ids, and the path of the disk that they share."""
    image = tmp_path / "shared-disk"
    with image.open("wb") as file:
        file.truncate(1 << 30)
    one, two = Guest("one"), Guest("two")
    # Half of ZFS's own wait for another host's sign of life.
    options = ("--disks", "0", "--disk", str(image), "--zfs-opts", "zfs_multihost_import_intervals=10")
    one.start(*options, "--hostid", "1111aaaa")
    two.start(*options, "--hostid", "2222bbbb")
    yield one, two, one.run("sh", "-c", "echo $VM_DISKS").strip()
    one.remove()
    two.remove()


@pytest.mark.parametrize("multihost", ["off", "on"])
def test_attach_on_the_second(hosts: "tuple[Guest, Guest, str]", multihost: str) -> None:
    one, two, disk = hosts
    configuration = one.call(
        "SR.create",
        uuid=new_uuid(),
        configuration={"device": disk, "multihost": multihost},
        name="shared shelf",
        description="",
    )
    sr = one.call("SR.attach", configuration=configuration)
    key = one.call("Volume.create", sr=sr, name="v", description="", size=1, sharable=False)["key"]
    with pytest.raises(VerbError) as caught:
        two.call("SR.attach", configuration=configuration)
    assert caught.value.code == "SR_BACKEND_FAILURE_16"
    assert "another host" in caught.value.sentence
    if multihost == "on":
        # The guard holds even against force.
        with pytest.raises(VerbError) as caught:
            two.call("SR.attach", configuration={**configuration, "force-import": "true"})
        assert caught.value.code == "SR_BACKEND_FAILURE_16"
    assert two.run("zpool", "list", "-H", "-o", "name") == ""

    # One host dies: the other takes over with force-import.
    one.crash()
    with pytest.raises(VerbError) as caught:
        two.call("SR.attach", configuration=configuration)
    assert "force-import" in caught.value.sentence
    assert two.call("SR.attach", configuration={**configuration, "force-import": "true"}) == sr
    assert [volume["key"] for volume in two.call("SR.ls", sr=sr)] == [key]


def test_hand_over(hosts: "tuple[Guest, Guest, str]") -> None:
    """SR.create's answer suffices to attach on the other host, once the first has detached."""
    one, two, disk = hosts
    configuration = one.call(
        "SR.create", uuid=new_uuid(), configuration={"device": disk}, name="travels", description=""
    )
    sr = one.call("SR.attach", configuration=configuration)
    one.call("SR.detach", sr=sr)
    assert two.call("SR.attach", configuration=configuration) == sr
    assert two.call("SR.stat", sr=sr)["name"] == "travels"


@pytest.fixture
def strangers() -> "Iterator[list[tuple[Guest, str]]]":
    """Two guests, each with an SR of its own and tapdisk's stand-in."""
    guests = [Guest("one"), Guest("two")]
    made = []
    try:
        for guest in guests:
            guest.start("--disks", "1", "--disk-size", "256M", "--fresh", "--zfs-opts", "zfs_txg_timeout=1")
            guest.run(PYTHON, "-c", "from tests import blktap; blktap.install()")
            device = guest.run("sh", "-c", "echo $VM_DISKS").strip()
            given = {"configuration": {"device": device}, "name": "shelf", "description": ""}
            made.append(
                (guest, guest.call("SR.attach", configuration=guest.call("SR.create", uuid=new_uuid(), **given)))
            )
        yield made
    finally:
        for guest in guests:
            guest.remove()


@contextmanager
def connected(one: Guest, here: str, two: Guest, there: str) -> "Iterator[None]":
    """One connection to the socket `here` in the first guest leads to the socket `there` in the second."""
    (into_one, out_of_two), (into_two, out_of_one) = os.pipe(), os.pipe()
    lines = [
        one.begin(PYTHON, "-m", "tests.lab.line", "listen", here, stdin=into_one, stdout=out_of_one),
        two.begin(PYTHON, "-m", "tests.lab.line", "connect", there, stdin=into_two, stdout=out_of_two),
    ]
    for descriptor in (into_one, out_of_two, into_two, out_of_one):
        os.close(descriptor)
    one.run("sh", "-c", f"until [ -S {here} ]; do sleep 0.02; done")
    try:
        yield
    finally:
        for line in lines:
            line.terminate()
            line.wait(LIMIT)


def test_a_disk_moves_to_the_other_host(strangers: "list[tuple[Guest, str]]") -> None:
    """While a VM writes it. The bytes go from the one kernel to the other."""
    (one, source), (two, destination) = strangers
    disk = two.call("Volume.create", sr=destination, name="v", description="", size=16 << 20, sharable=False)
    words = {"uri": disk["uri"][0], "domain": MIRROR}
    given = dict(two.call("Datapath.attach", **words)["implementations"])["Nbd"]["uri"]
    two.call("Datapath.activate", **words)
    path, _, export = given[len("nbd:unix:") :].partition(":exportname=")
    with connected(one, "/run/line", two, path):
        written, left, passes = json.loads(one.run(PYTHON, "-m", "tests.lab.migration", source, "/run/line", export))
    for verb in ("deactivate", "detach"):
        two.call(f"Datapath.{verb}", **words)
    script = "import sys; from tests import zvol; print(zvol.checksums({sys.argv[1]: 16 << 20})[sys.argv[1]])"
    name = f"{destination}/{disk['key']}"
    two.run("zfs", "set", "volmode=dev", name)
    assert two.run(PYTHON, "-c", script, name).strip() == written == left
    assert passes > 1
    assert one.run("zfs", "list", "-H", "-t", "snapshot") == ""

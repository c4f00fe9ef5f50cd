# SPDX-License-Identifier: LGPL-2.1-only
"""Two hosts that see the same disk: one cannot import a pool that the other uses, and a detach hands it over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import VerbError, new_uuid
from tests.lab.guest import Guest


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

# SPDX-License-Identifier: LGPL-2.1-only
"""Power cuts: the guest is killed in the middle of random verbs and writes and booted again with the same disks.

After boot and SR.attach all that had returned is there, what had not returned has happened or has not, and nothing
else is there.
"""

from collections.abc import Iterator
import copy
import json
import os
import random
import threading
from typing import Any

import pytest

from tests.client import new_uuid
from tests.lab.guest import Guest
from tests.lab.workload import BLOCK
from tests.model import GRANULE, Model, Refused, noise, observed, without_lost

ROUNDS = int(os.environ.get("ZFSVOL_POWER_CUTS", "4"))
SEED = int(os.environ.get("ZFSVOL_SEED", str(random.randrange(1 << 32))))

Call = tuple[str, dict[str, Any]]

# In the guest: the records of all VDIs, and the checksums of their bytes.
_LOOK = """
import json, sys
from tests import zvol
from tests.client import call_inside
sr = sys.argv[1]
records = call_inside("SR.ls", sr=sr)
contents = zvol.checksums({f"{sr}/{record['key']}": record["virtual_size"] for record in records})
print(json.dumps([(record, contents[f"{sr}/{record['key']}"]) for record in records]))
"""

# In the guest: a block of noise is written to a zvol and flushed, as a VM's fsync does.
_WRITE = """
import sys
from tests import zvol
from tests.lab.workload import BLOCK
from tests.model import noise
zvol.write(sys.argv[1], int(sys.argv[2]), noise(int(sys.argv[3]), BLOCK))
"""


@pytest.fixture
def guest() -> "Iterator[Guest]":
    made = Guest("power")
    made.start("--disks", "2", "--fresh")
    yield made
    made.remove()


def look(guest: Guest, sr: str) -> "dict[str, Any]":
    """What the SR holds, as Model.summary has it."""
    found = json.loads(guest.run("/usr/bin/python3", "-c", _LOOK, sr))
    return {record["key"]: observed(record, content) for record, content in found}


def differences(expected: "dict[str, Any]", found: "dict[str, Any]") -> "dict[str, Any]":
    """The VDIs that are not as expected, both ways."""
    keys = sorted({*expected, *found})
    return {key: (expected.get(key), found.get(key)) for key in keys if expected.get(key) != found.get(key)}


def apply(model: Model, verb: str, arguments: "dict[str, Any]", answer: Any) -> str:
    """Does it to the model; the code with which it is refused."""
    if verb == "write":
        model.write(arguments["key"], arguments["offset"], noise(arguments["seed"], BLOCK))
        return ""
    try:
        model.carry_out(verb, answer, **arguments)
    except Refused as refused:
        return refused.code
    return ""


def run_until_cut(guest: Guest, sr: str, model: Model, seed: int, seconds: float) -> "tuple[int, Call | None]":
    """Random verbs until the power goes; those that returned are in the model: how many, and the one that did not."""
    workload = guest.begin("/usr/bin/python3", "-m", "tests.lab.workload", sr, str(seed))
    assert workload.stdout is not None
    cut = threading.Timer(seconds, guest.crash)
    cut.start()
    returned = 0
    begun: "Call | None" = None
    for line in workload.stdout:
        if not line.endswith("\n"):
            break
        word, *rest = json.loads(line)
        if word == "begin":
            begun = (rest[0], rest[1])
        else:
            assert begun is not None
            assert apply(model, *begun, rest[0]) == rest[1], begun
            begun = None
            returned += 1
    cut.join()
    workload.wait()
    return returned, begun


def boot(guest: Guest, configuration: "dict[str, str]") -> str:
    """After a power cut: the guest, and the SR in it; its name."""
    guest.start("--disks", "2", "--zfs-opts", "zfs_txg_timeout=1")
    return str(guest.call("SR.attach", configuration=configuration))


def create(guest: Guest) -> "tuple[dict[str, str], str]":
    """An attached SR on a mirror: its device-config and its name."""
    disks = guest.run("sh", "-c", "echo $VM_DISKS").split()
    configuration = guest.call(
        "SR.create",
        uuid=new_uuid(),
        configuration={"vdev": "mirror " + " ".join(disks)},
        name="sr",
        description="",
    )
    return configuration, str(guest.call("SR.attach", configuration=configuration))


def test_what_had_returned_is_there(guest: Guest) -> None:
    print(f"ZFSVOL_SEED={SEED}")
    chance = random.Random(SEED)
    configuration, sr = create(guest)
    guest.run("zfs", "set", "volmode=dev", sr)
    model = Model()
    total = 0
    for _ in range(ROUNDS):
        returned, begun = run_until_cut(guest, sr, model, chance.randrange(1 << 32), 4 + 6 * chance.random())
        total += returned
        assert boot(guest, configuration) == sr
        guest.run("/usr/bin/python3", "-m", "zfsvol", "check", sr)
        found = look(guest, sr)
        possible = [model]
        if begun is not None:
            done = copy.deepcopy(model)
            new = sorted(set(found) - set(model.vdis))
            apply(done, *begun, {"key": new[0]} if new else None)
            possible.append(done)
        outcomes = [outcome for outcome in possible if without_lost(outcome.summary()) == without_lost(found)]
        assert outcomes, (begun, differences(possible[0].summary(), found))
        model = outcomes[0]
        model.adopt_keys(found)
    guest.run("zpool", "scrub", "-w", sr)
    assert guest.call("SR.stat", sr=sr)["health"] == ["Healthy", "ONLINE"]
    for key in model.vdis:
        guest.call("Volume.destroy", sr=sr, key=key)
    assert guest.run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr).split() == [sr]
    print(f"{total} verbs and writes had returned")
    assert total > 5 * ROUNDS


def test_what_a_vm_had_flushed_is_in_a_snapshot(guest: Guest) -> None:
    """The power goes while a VM has its disk; after the boot a snapshot of it comes before the VM is started again.

    What was flushed is then in ZFS's intent log alone: a snapshot of a zvol does not hold what has not been replayed.
    """
    configuration, sr = create(guest)
    key = guest.call("Volume.create", sr=sr, name="disk", description="", size=GRANULE, sharable=False)["key"]
    guest.run("zfs", "set", "volmode=dev", f"{sr}/{key}")  # as long as the disk is attached
    guest.run("zpool", "sync")
    guest.run("/usr/bin/python3", "-c", _WRITE, f"{sr}/{key}", "0", "1")
    guest.crash()
    boot(guest, configuration)
    snapshot = guest.call("Volume.snapshot", sr=sr, key=key)["key"]
    guest.run("zfs", "set", "volmode=dev", sr)
    expected = Model()
    expected.create(key, "", "", GRANULE, sharable=False)
    expected.write(key, 0, noise(1, BLOCK))
    found = look(guest, sr)
    assert found[key]["content"] == expected.summary()[key]["content"]
    assert found[snapshot]["content"] == found[key]["content"]


def test_while_srs_are_made_attached_and_destroyed(guest: Guest) -> None:
    """Cuts in the middle of the SR verbs: after each, the disks can be used, one way or the other."""
    chance = random.Random(SEED)
    disks = guest.run("sh", "-c", "echo $VM_DISKS").split()
    for _ in range(ROUNDS):
        uuid = new_uuid()
        configuration = {"vdev": "mirror " + " ".join(disks), "force-create": "true"}
        cut = threading.Timer(0.2 + 3 * chance.random(), guest.crash)
        cut.start()
        try:
            answer = guest.call("SR.create", uuid=uuid, configuration=configuration, name="n", description="d")
            created = True
            sr = guest.call("SR.attach", configuration=answer)
            guest.call("SR.detach", sr=sr)
            guest.call("SR.attach", configuration=answer)
            guest.call("SR.destroy", sr=sr)
            destroyed = True
        except AssertionError:  # lab/vm tells that the guest has gone
            destroyed = False
            created = "answer" in locals() and answer["sr_uuid"] == uuid
        cut.join()
        guest.start("--disks", "2")
        found = guest.call("SR.probe", configuration={"sr_uuid": uuid})
        if created and not found:
            # Then SR.destroy had begun.
            assert destroyed or guest.run("zpool", "import", "-D").find(uuid) >= 0
        for result in found:
            assert (result["sr"]["name"], result["sr"]["description"]) == ("n", "d")
            sr = guest.call("SR.attach", configuration=result["configuration"])
            assert guest.call("SR.ls", sr=sr) == []
            guest.call("SR.destroy", sr=sr)

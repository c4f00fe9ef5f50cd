# SPDX-License-Identifier: LGPL-2.1-only
"""Power cuts: the guest is killed in the middle of random verbs and booted again with the same disks.

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

ROUNDS = int(os.environ.get("ZFSVOL_POWER_CUTS", "4"))
SEED = int(os.environ.get("ZFSVOL_SEED", str(random.randrange(1 << 32))))

Volumes = dict[str, dict[str, Any]]


@pytest.fixture
def guest() -> "Iterator[Guest]":
    made = Guest("power")
    made.start("--disks", "2", "--fresh")
    yield made
    made.remove()


class Model:
    """What the SR should hold."""

    def __init__(self) -> None:
        self.name = "sr"
        self.volumes: Volumes = {}

    def apply(self, verb: str, arguments: "dict[str, Any]", answer: Any) -> None:
        """A verb that has returned, or (answer None) that may have."""
        if verb == "SR.set_name":
            self.name = arguments["new_name"]
            return
        if verb == "Volume.create":
            if answer is not None:
                self.volumes[answer["key"]] = {
                    **{name: answer[name] for name in ("name", "description", "virtual_size")},
                    "keys": {},
                }
            return
        volume = self.volumes[arguments["key"]]
        if verb == "Volume.destroy":
            del self.volumes[arguments["key"]]
        elif verb == "Volume.set_name":
            volume["name"] = arguments["new_name"]
        elif verb == "Volume.set_description":
            volume["description"] = arguments["new_description"]
        elif verb == "Volume.set":
            volume["keys"][arguments["k"]] = arguments["v"]
        elif verb == "Volume.unset":
            volume["keys"].pop(arguments["k"], None)
        elif verb == "Volume.resize":
            volume["virtual_size"] = max(volume["virtual_size"], arguments["new_size"])


def observed(guest: Guest, sr: str) -> Model:
    """What the SR does hold."""
    found = Model()
    found.name = guest.call("SR.stat", sr=sr)["name"]
    for volume in guest.call("SR.ls", sr=sr):
        found.volumes[volume["key"]] = {
            **{name: volume[name] for name in ("name", "description", "virtual_size")},
            "keys": {k: v for k, v in volume["keys"].items() if k != "content_id"},
        }
    return found


def run_until_cut(guest: Guest, sr: str, model: Model, seed: int, seconds: float) -> "tuple[str, Any] | None":
    """Random verbs until the power goes; those that returned are in the model, the one that did not is returned."""
    workload = guest.begin("/usr/bin/python3", "-m", "tests.lab.workload", sr, str(seed))
    assert workload.stdout is not None
    cut = threading.Timer(seconds, guest.crash)
    cut.start()
    begun = None
    for line in workload.stdout:
        if not line.endswith("\n"):
            break
        word, *rest = json.loads(line)
        if word == "begin":
            begun = (rest[0], rest[1])
        else:
            assert begun is not None
            model.apply(*begun, rest[0])
            begun = None
    cut.join()
    workload.wait()
    return begun


def test_what_had_returned_is_there(guest: Guest) -> None:
    print(f"ZFSVOL_SEED={SEED}")
    chance = random.Random(SEED)
    disks = guest.run("sh", "-c", "echo $VM_DISKS").split()
    configuration = guest.call(
        "SR.create",
        uuid=new_uuid(),
        configuration={"vdev": "mirror " + " ".join(disks)},
        name="sr",
        description="",
    )
    sr = guest.call("SR.attach", configuration=configuration)
    model = Model()
    returned = 0
    for _ in range(ROUNDS):
        before = copy.deepcopy(model)
        open_call = run_until_cut(guest, sr, model, chance.randrange(1 << 32), 3 + 5 * chance.random())
        returned += before.volumes != model.volumes
        guest.start("--disks", "2")
        assert guest.call("SR.attach", configuration=configuration) == sr
        found = observed(guest, sr)
        possible = [model]
        if open_call is not None:
            verb, arguments = open_call
            done = copy.deepcopy(model)
            new = set(found.volumes) - set(model.volumes)
            if verb == "Volume.create" and len(new) == 1:
                fresh = found.volumes[next(iter(new))]
                assert (fresh["name"], fresh["description"]) == (arguments["name"], arguments["description"])
                done.volumes.update({key: found.volumes[key] for key in new})
            else:
                done.apply(verb, arguments, None)
            possible.append(done)
        assert vars(found) in [vars(model) for model in possible], open_call
        model = found
        datasets = guest.run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr).split()
        assert set(datasets) == {sr, *(f"{sr}/{key}" for key in found.volumes)}
        guest.run("zpool", "scrub", "-w", sr)
        assert guest.call("SR.stat", sr=sr)["health"] == ["Healthy", "ONLINE"]
    assert returned, "no verb has ever returned before the power was cut"


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

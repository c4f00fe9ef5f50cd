# SPDX-License-Identifier: LGPL-2.1-only
"""Power cuts: the guest is killed in the middle of random verbs and writes and booted again with the same disks.

After boot and SR.attach everything that had returned is there, what had not returned happened completely or not at all,
and nothing else is there.
"""

from collections import Counter
from collections.abc import Iterator
import copy
from itertools import combinations
import json
import os
import random
import threading
from typing import Any

import pytest

from tests.client import new_uuid
from tests.lab.guest import Guest
from tests.model import BLOCK, GRANULE, Model, Refused, checksum, noise, observed, without_lost
from zfsvol.naming import Root

ROUNDS = int(os.environ.get("ZFSVOL_POWER_CUTS", "2"))
DATAPATH_ROUNDS = int(os.environ.get("ZFSVOL_POWER_CUTS", "2"))
SEED = int(os.environ.get("ZFSVOL_SEED", str(random.randrange(1 << 32))))

PAIRS = 8
PAGE = 4096
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

# In the guest: for pairs of VDIs, the blocks of 64 KiB that changed, or the code of the refusal.
_CHANGES = """
import base64, json, sys
from tests.client import VerbError, call_inside
from tests.model import bits
answers = []
for key, key2 in json.loads(sys.argv[2]):
    try:
        arguments = {"sr": sys.argv[1], "key": key, "key2": key2, "offset": 0, "length": -1}
        bitmap = call_inside("Volume.list_changed_blocks", **arguments)["bitmap"]
        answers.append(sorted(bits(base64.b64decode(bitmap))))
    except VerbError as error:
        answers.append(error.code)
print(json.dumps(answers))
"""

# In the guest: a block of noise is written to a zvol and flushed, as a VM's fsync does.
_WRITE = """
import sys
from tests import zvol
from tests.model import BLOCK, noise
zvol.write(sys.argv[1], int(sys.argv[2]), noise(int(sys.argv[3]), BLOCK))
"""

# In the guest: a VM's write to each of the disks, flushed if possible. Nothing is closed, because ZFS writes at the
# last close of a zvol.
_WRITE_AS_VM = """
import os, sys, time
from tests import blktap
from tests.client import call_inside
from tests.model import BLOCK, noise
blktap.install()
given = []
for uri in sys.argv[1:]:
    given.append(dict(call_inside("Datapath.attach", uri=uri, domain="7")["implementations"]))
    call_inside("Datapath.activate", uri=uri, domain="7")
os.system("zpool sync")
for ways in given:
    if "Nbd" in ways:
        with blktap.connect(ways["Nbd"]["uri"]) as client:
            client.write(0, noise(1, BLOCK))
    else:
        descriptor = os.open(ways["BlockDevice"]["path"], os.O_RDWR)
        os.pwrite(descriptor, noise(1, BLOCK), 0)
        os.fsync(descriptor)
print("written", flush=True)
time.sleep(600)
"""

# In the guest: the remains of attached VDIs.
_LEFT = """
import sys
from tests import attached, blktap
print(attached.left(sys.argv[1]) + blktap.leftovers())
"""

# In the guest: the checksums of all VDIs; nobody has them attached.
_CHECKSUMS = """
import json, sys
from tests import attached
from tests.client import call_inside
sr = sys.argv[1]
found = attached.checksums({f"{sr}/{record['key']}": record["virtual_size"] for record in call_inside("SR.ls", sr=sr)})
print(json.dumps({zvol[len(sr) + 1 :]: content for zvol, content in found.items()}))
"""


@pytest.fixture
def guest() -> "Iterator[Guest]":
    made = Guest("power")
    made.start("--disks", "2", "--fresh")
    yield made
    made.remove()


def look(guest: Guest, sr: str) -> "dict[str, Any]":
    """The SR's content, in the form of Model.summary."""
    found = json.loads(guest.run("/usr/bin/python3", "-c", _LOOK, sr))
    return {record["key"]: observed(record, content) for record, content in found}


def compare_changes(guest: Guest, sr: str, model: Model, chance: random.Random) -> None:
    """Asks what changed between some of the VDIs, and compares the answers with the model's."""
    pairs = [chance.choices(sorted(model.vdis), k=2) for _ in range(PAIRS)] if model.vdis else []
    answers = json.loads(guest.run("/usr/bin/python3", "-c", _CHANGES, sr, json.dumps(pairs)))
    for (key, key2), answer in zip(pairs, answers):
        try:
            must, may = model.changes(key, key2)
        except Refused as refused:
            code = refused.code
        else:
            code = ""
        if code:
            assert answer == code
            continue
        assert must <= set(answer)
        # What a snapshot without data held may not be known any more.
        assert set(answer) <= may or not model.vdis[key].has_data


def differences(expected: "dict[str, Any]", found: "dict[str, Any]") -> "dict[str, Any]":
    """The VDIs that differ, as expected and as found."""
    keys = sorted({*expected, *found})
    return {key: (expected.get(key), found.get(key)) for key in keys if expected.get(key) != found.get(key)}


def apply(model: Model, verb: str, arguments: "dict[str, Any]", answer: Any) -> str:
    """Applies it to the model; returns the code of the refusal or ""."""
    if verb == "write":
        model.write(arguments["key"], arguments["offset"], noise(arguments["seed"], BLOCK))
        return ""
    try:
        model.carry_out(verb, answer, **arguments)
    except Refused as refused:
        return refused.code
    return ""


def told_until_cut(guest: Guest, seconds: float, *argv: str) -> "Iterator[list[Any]]":
    """The reports of a workload until the power cut, this many seconds after its first write."""
    workload = guest.begin("/usr/bin/python3", "-m", *argv)
    assert workload.stdout is not None
    cut = threading.Timer(seconds, guest.crash)
    for line in workload.stdout:
        if not line.endswith("\n"):
            break
        word, *rest = told = json.loads(line)
        if (word, rest[0]) == ("begin", "write") and not cut.is_alive():
            cut.start()
        yield told
    cut.join()
    workload.wait()


def run_until_cut(guest: Guest, sr: str, model: Model, seed: int, seconds: float) -> "tuple[int, Call | None]":
    """Runs random verbs until the power cut. The model gets those that returned: how many, and the one that did not."""
    returned = 0
    begun: "Call | None" = None
    for word, *rest in told_until_cut(guest, seconds, "tests.lab.workload", sr, str(seed)):
        if word == "begin":
            begun = (rest[0], rest[1])
        else:
            assert begun is not None
            assert apply(model, *begun, rest[0]) == rest[1], begun
            begun = None
            returned += 1
    return returned, begun


def boot(guest: Guest, configuration: "dict[str, str]") -> str:
    """Boots the guest after a power cut and attaches the SR; returns its name."""
    guest.start("--disks", "2", "--zfs-opts", "zfs_txg_timeout=1")
    return str(guest.call("SR.attach", configuration=configuration))


def create(guest: Guest) -> "tuple[dict[str, str], str]":
    """Makes and attaches an SR on a mirror; returns its device-config and its name."""
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
        returned, begun = run_until_cut(guest, sr, model, chance.randrange(1 << 32), 2 + 5 * chance.random())
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
        compare_changes(guest, sr, model, chance)
    guest.run("zpool", "scrub", "-w", sr)
    assert guest.call("SR.stat", sr=sr)["health"] == ["Healthy", "ONLINE"]
    for key in model.vdis:
        guest.call("Volume.destroy", sr=sr, key=key)
    assert guest.run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr).split() == [sr]
    print(f"{total} verbs and writes had returned")
    assert total > ROUNDS


def test_what_a_vm_had_flushed_is_in_a_snapshot(guest: Guest) -> None:
    """The power fails while a VM uses its disk; after the boot a snapshot is made before the VM is started again.

    Flushed data is then only in ZFS's intent log, and a snapshot of a zvol lacks what has not been replayed.
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


def test_what_a_guest_can_rely_on(guest: Guest) -> None:
    """The table in docs/administration.md: the power fails right after a guest's write completed."""
    configuration, sr = create(guest)
    # tapdisk's is the last, because the first flush of a zvol makes ZFS write everything.
    ways = {"blkback, flushed": "zfsvol:sr-datapath=blkback", "tapdisk, sync=always": "sync=always", "tapdisk": ""}
    keys = {}
    for name, setting in ways.items():
        made = guest.call("Volume.create", sr=sr, name=name, description="", size=GRANULE, sharable=False)
        keys[name] = made["key"]
        if setting:
            guest.run("zfs", "set", setting, f"{sr}/{made['key']}")
    writing = guest.begin("/usr/bin/python3", "-c", _WRITE_AS_VM, *(Root(sr).uri(key) for key in keys.values()))
    assert writing.stdout is not None
    assert writing.stdout.readline() == "written\n"
    guest.crash()
    writing.wait()
    boot(guest, configuration)
    found = json.loads(guest.run("/usr/bin/python3", "-c", _CHECKSUMS, sr))
    written = checksum(noise(1, BLOCK) + bytes(GRANULE - BLOCK))
    survived = {name: found[key] == written for name, key in keys.items()}
    print(survived)
    assert survived["tapdisk, sync=always"]
    assert survived["blkback, flushed"]
    # tapdisk's is there if ZFS happened to write a transaction group meanwhile.
    assert survived["tapdisk"] or found[keys["tapdisk"]] == checksum(bytes(GRANULE))


class Disk:
    """The possible contents of a disk after a power cut: all writes up to any one of those that are not durable yet."""

    def __init__(self) -> None:
        self.sure = bytes(GRANULE)
        self.writes: "list[tuple[int, int]]" = []  # offset and seed

    def make_sure(self) -> None:
        """All writes are durable from now on."""
        *_, self.sure = self.possible()
        self.writes.clear()

    def possible(self) -> "Iterator[bytes]":
        """Its possible contents; the last one includes all writes."""
        content = self.sure
        yield content
        for offset, seed in self.writes:
            content = content[:offset] + noise(seed, BLOCK) + content[offset + BLOCK :]
            yield content

    def torn(self) -> "Iterator[bytes]":
        """Its possible contents if the last write was under way through the page cache, which writes single pages."""
        *_, before, after = self.possible()
        start = self.writes[-1][0]
        pages = range(start, start + BLOCK, PAGE)
        for count in range(1, len(pages)):
            for written in combinations(pages, count):
                content = bytearray(before)
                for page in written:
                    content[page : page + PAGE] = after[page : page + PAGE]
                yield bytes(content)

    def find(self, found: str, *, may_be_torn: bool = False) -> bool:
        """Whether this content is possible; then it is durable."""
        for content in self.torn() if may_be_torn else ():
            if checksum(content) == found:
                print("the write under way is there in part")
                self.sure = content
                self.writes.clear()
                return True
        for number, content in enumerate(self.possible()):
            if checksum(content) == found:
                print(f"{len(self.writes) - number} of {len(self.writes)} writes that nobody had flushed are lost")
                self.sure = content
                self.writes.clear()
                return True
        return False


class Attached:
    """The VDIs of an SR that domains write to."""

    def __init__(self, keys: "list[str]") -> None:
        self.disks = {key: Disk() for key in keys}
        self.snapshots: "dict[str, str]" = {}  # checksums
        self.begun: "Call | None" = None

    def begin(self, verb: str, arguments: "dict[str, Any]") -> None:
        """The step begins: from now on it may have happened."""
        self.begun = (verb, arguments)
        if verb == "write":
            self.disks[arguments["key"]].writes.append((arguments["offset"], arguments["seed"]))

    def end(self, answer: Any) -> None:
        """The step has ended: it has happened."""
        assert self.begun is not None
        verb, arguments = self.begun
        key = arguments["key"]
        self.begun = None
        if verb == "Volume.destroy":
            del self.snapshots[key]
        elif verb in ("Datapath.deactivate", "Datapath.detach", "Volume.snapshot") or arguments.get("flushes"):
            self.disks[key].make_sure()
        if verb == "Volume.snapshot":
            self.snapshots[answer["key"]] = checksum(self.disks[key].sure)

    def compare(self, found: "dict[str, str]") -> None:
        """Compares with the checksums after a power cut."""
        verb, arguments = self.begun or ("", {})
        new = found.keys() - self.disks.keys() - self.snapshots.keys()
        if verb == "Volume.snapshot" and new:
            self.begin(verb, arguments)
            self.end({"key": new.pop()})
        if verb == "Volume.destroy" and arguments["key"] not in found:
            self.end(None)
        self.begun = None
        assert found.keys() == self.disks.keys() | self.snapshots.keys()
        for key, content in self.snapshots.items():
            assert found[key] == content, key
        for key, disk in self.disks.items():
            is_under_way = verb == "write" and arguments["key"] == key
            may_be_torn = is_under_way and arguments["flushes"]
            assert disk.find(found[key], may_be_torn=may_be_torn), (key, disk.writes, verb, arguments)


def test_while_disks_are_attached(guest: Guest) -> None:
    """Cuts while disks are written to through tapdisk and through their nodes, snapshotted and detached.

    Data that was flushed, or written before a snapshot or a detach, is there; of later writes the newest may be
    missing. No other trace of the attachment remains, and the disk can be attached again.
    """
    print(f"ZFSVOL_SEED={SEED}")
    chance = random.Random(SEED)
    configuration, sr = create(guest)
    disk = {"sr": sr, "name": "disk", "description": "", "size": GRANULE, "sharable": False}
    pairs = {str(guest.call("Volume.create", **disk)["key"]): domain for domain in ("7", "8", "u0_a", "MIRabc")}
    argv = ["tests.lab.datapath_workload", sr]
    attached = Attached(list(pairs))
    for _ in range(DATAPATH_ROUNDS):
        told: "Counter[str]" = Counter()
        words = [*argv, str(chance.randrange(1 << 32)), *(f"{key}={domain}" for key, domain in pairs.items())]
        for word, *rest in told_until_cut(guest, 3 + 4 * chance.random(), *words):
            if word == "begin":
                attached.begin(*rest)
            else:
                told[attached.begun[0] if attached.begun else ""] += 1
                attached.end(*rest)
        print(dict(told))
        assert told["Datapath.activate"] >= len(pairs)
        assert told["write"] > 1
        assert boot(guest, configuration) == sr
        assert guest.run("/usr/bin/python3", "-c", _LEFT, sr) == "[]\n"
        guest.run("/usr/bin/python3", "-m", "zfsvol", "check", sr)
        attached.compare(json.loads(guest.run("/usr/bin/python3", "-c", _CHECKSUMS, sr)))
    guest.run("/usr/bin/python3", "-c", "from tests import blktap; blktap.install()")
    for verb in ("attach", "activate", "deactivate", "detach"):
        for key, domain in pairs.items():
            guest.call(f"Datapath.{verb}", uri=Root(sr).uri(key), domain=domain)
    assert guest.run("/usr/bin/python3", "-c", _LEFT, sr) == "[]\n"


def test_while_srs_are_made_attached_and_destroyed(guest: Guest) -> None:
    """Cuts in the middle of the SR verbs. After each the disks can be used, by the SR or by a new one."""
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
        except AssertionError:  # lab/vm reports that the guest is gone
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

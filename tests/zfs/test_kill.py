# SPDX-License-Identifier: LGPL-2.1-only
"""Each verb that changes something, killed before and after each of its changes.

After the kill, either nothing has happened or everything has. Nothing is left behind, and the same call works again.
"""

import json
import random
import time
from typing import Any

import pytest

from tests import attached, client
from tests.client import VerbError, new_uuid
from tests.client import call_inside as call
from tests.killed import DELAY, kill, kill_points, wait_for_children
from tests.zfs.conftest import GIB, MIB, Bench, pools, run, state_of
from zfsvol.repository import family, repair, vdi
from zfsvol.repository.sr import SR


def picture(sr: str) -> "tuple[Any, Any]":
    """The SR's name and description, and its VDIs."""
    stat = call("SR.stat", sr=sr)
    return (stat["name"], stat["description"]), call("SR.ls", sr=sr)


def new_sr(bench: Bench, form: str) -> str:
    """An attached SR, in its own pool on a new disk, or in the pool `tank`, which is made if it is missing."""
    if form == "zpool":
        return bench.sr(zpool="tank" if state_of("tank") else bench.pool())
    return bench.sr()


def raw_names(sr: str) -> "set[str]":
    """All datasets and snapshots below the SR's root."""
    return set(run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr).split()) - {sr}


def essence(record: "dict[str, Any]") -> "dict[str, Any]":
    """A VDI's record without what depends on other VDIs."""
    return {name: value for name, value in record.items() if name != "physical_utilisation"}


def without_snapshot_of(record: "dict[str, Any]") -> "dict[str, str]":
    """A VDI's keys without snapshot_of."""
    return {name: value for name, value in record["keys"].items() if name != "snapshot_of"}


def listed(sr: str) -> "dict[str, dict[str, Any]]":
    """The essence of each VDI that SR.ls lists, by key."""
    return {record["key"]: essence(record) for record in call("SR.ls", sr=sr)}


def new_disk(sr: str, gibibytes: int) -> str:
    """Creates a VDI; returns its key."""
    answer = call("Volume.create", sr=sr, name="disk", description="d", size=gibibytes * GIB, sharable=False)
    return str(answer["key"])


def snapshot(sr: str, key: str) -> str:
    """Takes a snapshot of a VDI; returns its key."""
    return str(call("Volume.snapshot", sr=sr, key=key)["key"])


def require_well(sr: str) -> None:
    """Attaches the SR, after which nothing may be wrong, and nothing may be left for a person to do."""
    parent, _, name = sr.rpartition("/")
    assert call("SR.attach", configuration={"sr_uuid": name[3:], **({"zpool": parent} if parent else {})}) == sr
    assert [finding.text for finding in repair.inspect(family.read(SR(sr)))] == []


def destroy_all(sr: str) -> None:
    """Destroys all VDIs; nothing that they needed may stay."""
    for key in listed(sr):
        call("Volume.destroy", sr=sr, key=key)
    assert raw_names(sr) == set()


def repeat(verb: str, done_already: str, **arguments: Any) -> None:
    """Repeats the call. It works, or fails with the code `done_already`: the killed call had done everything."""
    try:
        call(verb, **arguments)
    except VerbError as error:
        if error.code != done_already:
            raise


@pytest.mark.parametrize("form", ["device", "zpool"])
def test_sr_create(bench: Bench, form: str) -> None:
    if form == "zpool":
        bench.pool()
    uuid = ""
    configuration: "dict[str, str]" = {}

    def arguments() -> "dict[str, Any]":
        nonlocal uuid, configuration
        uuid = new_uuid()
        configuration = {"zpool": "tank"} if form == "zpool" else {"device": bench.disk()}
        return {"uuid": uuid, "configuration": configuration, "name": "n", "description": "d"}

    for _ in kill_points("SR.create", arguments):
        repeat("SR.create", "SR_BACKEND_FAILURE_42", uuid=uuid, configuration=configuration, name="n", description="d")
        sr = call("SR.attach", configuration={**configuration, "sr_uuid": uuid})
        assert picture(sr) == (("n", "d"), [])
        call("SR.destroy", sr=sr)


@pytest.mark.parametrize("form", ["device", "zpool"])
def test_sr_attach_detach_and_probe(bench: Bench, form: str) -> None:
    sr = new_sr(bench, form)
    key = call("Volume.create", sr=sr, name="v", description="", size=GIB, sharable=False)["key"]
    configuration = {"sr_uuid": sr[-36:], **({"zpool": "tank"} if form == "zpool" else {})}
    expected = picture(sr)
    pool = sr.split("/")[0]

    def exported() -> "dict[str, Any]":
        if state_of(pool):
            run("zfs", "create", "-s", "-V", "1G", f"{sr}/{new_uuid()}")  # what a power cut may leave
            run("zpool", "export", pool)
        return {"configuration": configuration}

    for _ in kill_points("SR.attach", exported):
        assert call("SR.attach", configuration=configuration) == sr
        assert picture(sr) == expected
        assert raw_names(sr) == {f"{sr}/{key}"}

    def attached() -> "dict[str, Any]":
        call("SR.attach", configuration=configuration)
        return {"sr": sr}

    for _ in kill_points("SR.detach", attached):
        call("SR.detach", sr=sr)
        assert (pool in pools()) == (form == "zpool")

    if form == "zpool":
        return  # SR.probe does not ask whose the pool is
    # Each state comes twice: SR.probe meets it first once, and SR.attach once.
    for moment, _ in kill_points("SR.probe", exported, twice=True):
        if moment != "after":
            assert [found["sr"]["sr"] for found in call("SR.probe", configuration=configuration)] == [sr]
            assert state_of(pool) == ""
        else:
            assert call("SR.attach", configuration=configuration) == sr
            assert picture(sr) == expected
    assert call("SR.attach", configuration=configuration) == sr
    assert picture(sr) == expected


@pytest.mark.parametrize("form", ["device", "zpool"])
def test_sr_destroy(bench: Bench, form: str) -> None:
    sr = ""

    def arguments() -> "dict[str, Any]":
        nonlocal sr
        sr = new_sr(bench, form)
        call("Volume.create", sr=sr, name="", description="", size=GIB, sharable=False)
        return {"sr": sr}

    for _ in kill_points("SR.destroy", arguments):
        repeat("SR.destroy", "SR_BACKEND_FAILURE_47", sr=sr)
        if form == "zpool":
            assert raw_names("tank") == set()
        else:
            assert sr not in pools()


def test_sr_set_name_and_description(sr: str) -> None:
    for verb, argument in (("SR.set_name", "new_name"), ("SR.set_description", "new_description")):
        arguments = {"sr": sr, argument: "x" * 20000}
        for moment, _ in kill_points(verb, arguments.copy):
            stat = call("SR.stat", sr=sr)
            now = stat["name" if verb == "SR.set_name" else "description"]
            assert now == "x" * 20000 or (moment == "before" and now in ("", "sr", "old"))
            call(verb, sr=sr, **{argument: "old"})


def test_volume_create(sr: str) -> None:
    wanted = {"sr": sr, "name": "n", "description": "d" * 9000, "size": GIB, "sharable": True}
    for moment, number in kill_points("Volume.create", lambda: wanted):
        volumes = call("SR.ls", sr=sr)
        assert raw_names(sr) == {f"{sr}/{volume['key']}" for volume in volumes}
        assert len(volumes) <= 1, (moment, number)
        for volume in volumes:
            assert (volume["name"], volume["description"]) == ("n", "d" * 9000)
            call("Volume.destroy", sr=sr, key=volume["key"])
        call("Volume.destroy", sr=sr, key=call("Volume.create", **wanted)["key"])


@pytest.mark.parametrize(("verb", "of"), [("snapshot", "disk"), ("clone", "snapshot whose disk is gone")])
def test_volume_snapshot_and_clone(sr: str, verb: str, of: str) -> None:
    disk = new_disk(sr, 1)
    siblings = [snapshot(sr, disk), snapshot(sr, disk)]
    source = disk if of == "disk" else siblings[0]
    if of != "disk":
        call("Volume.destroy", sr=sr, key=disk)
    new_disk(sr, 7)
    before = listed(sr)
    datasets = raw_names(sr)

    def look() -> "tuple[set[str], str]":
        """The new VDIs, and what the siblings are snapshots of. Requires that all else is as it was."""
        now = listed(sr)
        new = {key: now.pop(key) for key in set(now) - set(before)}
        (named,) = {now[key]["keys"].pop("snapshot_of") for key in siblings}
        for key, record in now.items():
            assert record == {**before[key], "keys": without_snapshot_of(before[key])}
        assert set(now) == set(before)
        # The siblings never become snapshots of an unrelated disk.
        assert named == disk if of == "disk" else named not in before
        for record in new.values():
            assert (record["name"], record["description"], record["virtual_size"]) == ("disk", "d", GIB)
            assert record["read_write"] == (verb == "clone")
            assert record["keys"].get("snapshot_of") == (None if verb == "clone" else disk)
        return set(new), named

    arguments = {"sr": sr, "key": source}
    for moment, number in kill_points(f"Volume.{verb}", lambda: arguments):
        half_done, _ = look()
        assert len(half_done) <= (moment != "before"), (moment, number)
        made = call(f"Volume.{verb}", **arguments)["key"]
        found, named = look()
        assert found == {*half_done, made}
        if of != "disk":  # they are now snapshots of the first clone that was made
            assert {named} == (half_done or {made})
        for key in found:
            call("Volume.destroy", sr=sr, key=key)
        require_well(sr)
        assert raw_names(sr) == datasets, (moment, number)
    destroy_all(sr)


class Reverted:
    """A disk of 3 GiB, its snapshots from when it had 1 and 2 GiB, and an unrelated disk, the bystander."""

    OLD, NEW = 3 * GIB, GIB

    def __init__(self, sr: str) -> None:
        self.sr = sr
        self.bystander = new_disk(sr, 7)
        self.kept = listed(sr)
        self.moments: "dict[str, int]" = {}
        self.renew()

    def renew(self) -> "dict[str, Any]":
        """Makes a new disk; returns the arguments of a Volume.revert to its older snapshot."""
        self.key = new_disk(self.sr, 1)
        self.older = snapshot(self.sr, self.key)
        call("Volume.resize", sr=self.sr, key=self.key, new_size=2 * GIB)
        self.newer = snapshot(self.sr, self.key)
        call("Volume.set", sr=self.sr, key=self.key, k="k", v="v" * 9000)
        call("Volume.resize", sr=self.sr, key=self.key, new_size=self.OLD)
        self.before = listed(self.sr)
        assert len(self.before) == len(self.kept) + 3
        return self.arguments()

    def grow(self) -> None:
        """After a revert to the older snapshot: takes the newer snapshot anew and gives the disk its old size."""
        call("Volume.destroy", sr=self.sr, key=self.newer)
        call("Volume.resize", sr=self.sr, key=self.key, new_size=2 * GIB)
        self.newer = snapshot(self.sr, self.key)
        call("Volume.resize", sr=self.sr, key=self.key, new_size=self.OLD)
        self.before = listed(self.sr)

    def arguments(self) -> "dict[str, Any]":
        return {"sr": self.sr, "key": self.key, "snapshot": self.older}

    def look(self) -> int:
        """The disk's size, from SR.ls. Requires that all else is as it was."""
        now = listed(self.sr)
        size: int = now[self.key]["virtual_size"]
        assert now == {**self.before, self.key: {**self.before[self.key], "virtual_size": size}}
        return size

    def stat(self) -> int:
        """The disk's size, from Volume.stat. Requires that the rest of its record is as it was."""
        record = essence(call("Volume.stat", sr=self.sr, key=self.key))
        size: int = record["virtual_size"]
        assert record == {**self.before[self.key], "virtual_size": size}
        return size

    def remove(self) -> None:
        """Destroys all but the bystander."""
        for key in (self.key, self.older, self.newer):
            call("Volume.destroy", sr=self.sr, key=key)
        assert listed(self.sr) == self.kept
        assert raw_names(self.sr) == {f"{self.sr}/{key}" for key in self.kept}


def test_volume_revert(sr: str) -> None:
    made = Reverted(sr)
    sizes: "list[int]" = []
    for moment, number in kill_points("Volume.revert", lambda: made.renew() if sizes else made.arguments(), twice=True):
        # Whichever verb looks first, both see the same disk.
        first, second = (made.stat, made.look) if moment == "before" else (made.look, made.stat)
        sizes.append(first())
        assert sizes[-1] in (made.OLD, made.NEW), (moment, number)
        assert second() == sizes[-1]
        call("Volume.revert", **made.arguments())
        assert made.look() == made.stat() == made.NEW
        require_well(sr)
        assert made.look() == made.NEW
        made.remove()
    # From some moment on, every killed revert has taken effect.
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {made.OLD, made.NEW}
    destroy_all(sr)


NOT_YET, REMOVED, MOVED = "without effect", "the old disk is removed", "the old disk is moved away"


def kill_revert(made: Reverted, wanted: str) -> None:
    """Kills a revert when the new zvol is there and the old disk is in the `wanted` state."""
    for number in range(made.moments.get(wanted, 1), 20):
        made.moments[wanted] = number  # where to begin the next time
        assert kill("Volume.revert", "after", number, made.arguments()), "there is no such moment"
        zvols = family.read(SR(made.sr)).zvols
        if f".revert-{made.key}" in zvols:
            is_there = vdi.is_vdi(made.key, zvols.get(made.key, {}))
            if wanted == (NOT_YET if is_there else REMOVED if made.key in zvols else MOVED):
                return
        require_well(made.sr)
        if made.look() == made.NEW:
            made.grow()
    raise AssertionError("there is no such moment")


def test_every_verb_ends_a_killed_revert(sr: str) -> None:
    made = Reverted(sr)
    cases: "list[tuple[str, dict[str, Any], dict[str, Any]]]" = [
        ("Volume.snapshot", {}, {}),
        ("Volume.clone", {}, {}),
        ("Volume.set_name", {"new_name": "new"}, {"name": "new"}),
        ("Volume.set_description", {"new_description": "new"}, {"description": "new"}),
        ("Volume.set", {"k": "k", "v": "new"}, {"keys": {"k": "new"}}),
        ("Volume.unset", {"k": "k"}, {"keys": {}}),
        ("Volume.revert", {}, {"virtual_size": 2 * GIB}),
        ("Volume.resize", {"new_size": made.OLD}, {"virtual_size": made.OLD}),
    ]
    for verb, arguments, changed in cases:
        kill_revert(made, REMOVED)
        if verb == "Volume.revert":
            arguments["snapshot"] = made.newer
        answer = call(verb, sr=sr, key=made.key, **arguments)
        if answer:
            assert answer["virtual_size"] == made.NEW
            call("Volume.destroy", sr=sr, key=answer["key"])
        wanted = {**made.before[made.key], "virtual_size": made.NEW, **changed}
        wanted["keys"]["content_id"] = made.key
        made.before[made.key] = wanted
        assert listed(sr) == made.before, verb
        require_well(sr)
        if verb != "Volume.resize":
            made.grow()
    made.remove()
    made.renew()
    kill_revert(made, REMOVED)
    require_well(sr)
    assert made.look() == made.NEW
    made.grow()
    kill_revert(made, REMOVED)
    made.remove()
    require_well(sr)
    made.renew()
    kill_revert(made, REMOVED)
    call("SR.destroy", sr=sr)
    assert sr not in pools()


def test_destroyed_after_a_killed_revert_it_stays_so(sr: str) -> None:
    made = Reverted(sr)
    kill_revert(made, NOT_YET)
    made.remove()
    require_well(sr)
    destroy_all(sr)


def test_revert_killed_while_a_command_runs(sr: str) -> None:
    """The command that the killed revert had started does its work later, and does no harm."""
    made = Reverted(sr)
    number = 1
    while kill("Volume.revert", "during", number, made.arguments()):
        end = time.monotonic() + DELAY + 0.2
        assert made.look() in (made.OLD, made.NEW), number
        call("Volume.revert", **made.arguments())
        time.sleep(max(0.0, end - time.monotonic()))
        wait_for_children()
        assert made.look() == made.stat() == made.NEW, number
        require_well(sr)
        made.remove()
        made.renew()
        number += 1
    assert number > 3
    assert made.look() == made.NEW


@pytest.mark.parametrize("shape", ["plain", "with dependents", "last dependent", "with a temporary", "thick"])
def test_volume_destroy(bench: Bench, shape: str) -> None:
    sr = bench.sr(**({"provisioning": "thick"} if shape == "thick" else {}))
    size = 64 * MIB if shape == "thick" else GIB

    def disk() -> str:
        return str(call("Volume.create", sr=sr, name="", description="", size=size, sharable=False)["key"])

    disk()
    kept = listed(sr)
    datasets = raw_names(sr)
    before: "dict[str, dict[str, Any]]" = {}
    key = ""
    doomed: "set[str]" = set()

    def arguments() -> "dict[str, Any]":
        nonlocal before, key, doomed
        key = disk()
        doomed = {key}
        if shape in ("with dependents", "thick"):
            snapshot(sr, key)
            call("Volume.clone", sr=sr, key=key)
        if shape == "last dependent":
            first = key
            key = call("Volume.clone", sr=sr, key=snapshot(sr, first))["key"]
            doomed = {key}
            for other in set(listed(sr)) - set(kept) - doomed:
                call("Volume.destroy", sr=sr, key=other)
            assert any(first in name for name in raw_names(sr)), "the first disk is not needed"
        if shape == "with a temporary":
            temporary = call("Volume.clone", sr=sr, key=key)
            call("Volume.set", sr=sr, key=key, k="clone-on-boot", v=temporary["key"])
            call("Datapath.attach", uri=temporary["uri"][0], domain="u0_a")
            doomed.add(temporary["key"])
        before = listed(sr)
        return {"sr": sr, "key": key}

    outcomes = []
    for moment, number in kill_points("Volume.destroy", arguments):
        now = listed(sr)
        outcomes.append(key not in now)
        left = {name: record for name, record in before.items() if name not in doomed}
        # Either all doomed VDIs are gone, or all VDIs are there.
        assert now == (left if outcomes[-1] else before), (moment, number)
        for name in doomed:
            if outcomes[-1]:
                with pytest.raises(VerbError, match="SR_BACKEND_FAILURE_46"):
                    call("Volume.stat", sr=sr, key=name)
            else:
                assert essence(call("Volume.stat", sr=sr, key=name)) == before[name]
        call("Volume.destroy", sr=sr, key=key)
        assert listed(sr) == left
        require_well(sr)
        assert listed(sr) == left
        assert attached.left(sr) == []
        reserved = run("zfs", "get", "-Hpr", "-t", "volume", "-o", "name,value", "refreservation", sr).splitlines()
        assert [line for line in reserved if "/.gone-" in line and not line.endswith("\t0")] == []
        for name in set(left) - set(kept):
            call("Volume.destroy", sr=sr, key=name)
        assert raw_names(sr) == datasets
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}
    destroy_all(sr)


@pytest.mark.parametrize(
    ("verb", "arguments", "member", "old", "new"),
    [
        ("Volume.resize", {"new_size": 2 * GIB}, "virtual_size", GIB, 2 * GIB),
        ("Volume.set_name", {"new_name": "n" * 9000}, "name", "old", "n" * 9000),
        ("Volume.set_description", {"new_description": "n" * 9000}, "description", "", "n" * 9000),
        ("Volume.set", {"k": "a", "v": "n" * 9000}, "keys", {}, {"a": "n" * 9000}),
        ("Volume.unset", {"k": "gone"}, "keys", {"gone": "v" * 9000}, {}),
    ],
    ids=["resize", "set_name", "set_description", "set", "unset"],  # the arguments themselves would fill pages
)
def test_volume_changes(sr: str, verb: str, arguments: "dict[str, Any]", member: str, old: object, new: object) -> None:
    key = ""

    def fresh() -> "dict[str, Any]":
        nonlocal key
        key = call("Volume.create", sr=sr, name="old", description="", size=GIB, sharable=False)["key"]
        if verb == "Volume.unset":
            call("Volume.set", sr=sr, key=key, k="gone", v="v" * 9000)
        return {"sr": sr, "key": key, **arguments}

    def now() -> object:
        found = call("Volume.stat", sr=sr, key=key)[member]
        return {k: v for k, v in found.items() if k != "content_id"} if member == "keys" else found

    for moment, number in kill_points(verb, fresh):
        assert now() in (old, new), (moment, number)
        call(verb, sr=sr, key=key, **arguments)
        assert now() == new


def test_at_any_moment(sr: str) -> None:
    """Kills at random moments: while the interpreter starts, while it imports a module, while a child runs."""
    chance = random.Random(0)
    arguments = {"sr": sr, "name": "n", "description": "d" * 9000, "size": GIB, "sharable": False}
    returned = set()
    for _ in range(25):
        process = client.start("Volume.create", **arguments)
        time.sleep(chance.random() * 0.4)
        process.kill()
        stdout, _ = process.communicate()
        if stdout:
            returned.add(json.loads(stdout)["key"])
    wait_for_children()
    volumes = call("SR.ls", sr=sr)
    assert returned <= {volume["key"] for volume in volumes}
    assert raw_names(sr) == {f"{sr}/{volume['key']}" for volume in volumes}
    for volume in volumes:
        assert (volume["name"], volume["description"], volume["virtual_size"]) == ("n", "d" * 9000, GIB)


def test_revert_at_any_moment(sr: str) -> None:
    """Right after the kill the disk is there, old or new, even while a command of the killed verb still runs."""
    chance = random.Random(1)
    key = new_disk(sr, 1)
    older = snapshot(sr, key)
    sizes: "list[int]" = []
    for number in range(15):
        old = (2 + number) * GIB
        call("Volume.resize", sr=sr, key=key, new_size=old)
        process = client.start("Volume.revert", sr=sr, snapshot=older, key=key)
        time.sleep(chance.random() * 0.4)
        process.kill()
        process.communicate()
        sizes.append(listed(sr)[key]["virtual_size"])
        assert sizes[-1] in (old, GIB), number
        wait_for_children()
        assert listed(sr)[key]["virtual_size"] in (sizes[-1], GIB), number
    require_well(sr)
    assert set(listed(sr)) == {key, older}
    destroy_all(sr)

# SPDX-License-Identifier: LGPL-2.1-only
"""Random sequences of Volume and Datapath verbs of several domains, on real ZFS and on the model; with I/O by the paths
that the domains got, killed verbs, killed tapdisks and VMs that end without a detach.

After each step there are exactly the nodes, tapdisks, links and records that somebody needs, and the VDIs hold what was
written. ZFSVOL_STEPS sets the approximate number of steps.
"""

import os
import shutil
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

pytest.importorskip("hypothesis")

from hypothesis import strategies
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests import attached, blktap, zvol
from tests.client import VerbError, call_inside
from tests.killed import kill_group
from tests.leases import NODE, READ, TAPDISK, WRITE, Datapath, is_migration, way
from tests.model import BLOCK, GRANULE, Refused, checksum, noise, observed
from tests.zfs.conftest import Bench
from tests.zfs.test_model import (
    ANY,
    Volumes,
    busy_at_once,
    check,
    note,
    run_machine,
)
from zfsvol.naming import Root
from zfsvol.repository import record as records
from zfsvol.repository.sr import SR
from zfsvol.zfs import datasets

__all__ = ["busy_at_once"]

STEPS = int(os.environ.get("ZFSVOL_STEPS", "40"))
STEPS_EACH = 40
LOOK_EVERY = 6
FEW = 3
MOST = 4

VMS = ("7", "8")
DOMAINS = (*VMS, "u0_a", "u0_b", "MIRabc")
ACTIVATIONS = ("Datapath.activate", "Datapath.activate_readonly")
USES = ("Datapath.attach", *ACTIVATIONS)
RELEASES = ("Datapath.deactivate", "Datapath.detach")


class Datapaths(Volumes):
    """The driver and the model side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Datapath = Datapath()
        self.given: "Dict[Tuple[str, str], Any]" = {}  # the answers of attach
        self.clients: "Dict[str, Any]" = {}  # a connection to each VDI's tapdisk, which VMs and migrations keep

    @property
    def root(self) -> Root:
        return Root(self.sr)

    @initialize(sharable=strategies.booleans())
    def begin(self, sharable: bool) -> None:
        blktap.domains("0", *VMS)
        self.verb("Volume.create", name="disk", description="", size=GRANULE, sharable=sharable)

    def use(self, verb: str, key: str, domain: str) -> None:
        """Runs a Datapath verb on the driver and on the model."""
        shown = f"{verb}({self.name(key)}, {domain!r})"
        refusal, answer = None, {}
        try:
            answer = call_inside(verb, uri=self.root.uri(key), domain=domain)
        except VerbError as error:
            refusal = error
        if refusal:
            note(f"{shown}  # {refusal.code}")
            with pytest.raises(Refused) as refused:
                self.model.carry_out(verb, None, key=key, domain=domain)
            assert refused.value.code == refusal.code, refusal
            return
        note(shown)
        self.model.carry_out(verb, answer, key=key, domain=domain)
        if verb == "Datapath.attach":
            self.given[key, domain] = dict(answer["implementations"])

    def living(self, which: int) -> str:
        """A domain that is alive."""
        there = [domain for domain in DOMAINS if domain not in self.model.gone]
        return there[which % len(there)]

    def users(self, how: str) -> "List[Tuple[str, str]]":
        """The VDIs that are activated in this way, with their domains."""
        return [
            (key, domain)
            for key, found in sorted(self.model.attachments.items())
            for domain in sorted(getattr(found, how))
        ]

    @rule(
        what=strategies.sampled_from(["start", "start", "again", "again", "release", "release", "any"]),
        which=ANY,
        domain=ANY,
        readonly=strategies.booleans(),
        verb=strategies.sampled_from([*USES, *RELEASES]),
        seed=ANY,
    )
    def ask(self, what: str, which: int, domain: int, readonly: bool, verb: str, seed: int) -> None:
        """A client sends a sensible verb, or any verb."""
        users = self.users("attached")
        if what == "start" and self.model.vdis:
            there = sorted(self.model.vdis, key=self.made.index)
            self.start(there[which % len(there)], self.living(domain), ACTIVATIONS[readonly], seed)
        elif what == "again" and users:
            key, name = users[which % len(users)]
            self.start(key, name if name not in self.model.gone else self.living(domain), ACTIVATIONS[readonly], seed)
        elif what == "release" and users:
            self.use(RELEASES[seed % 2], *users[which % len(users)])
        else:
            # The client may know a VM that has ended only as "".
            domains = [self.living(domain), *(["", *DOMAINS] if verb in RELEASES else [])]
            self.use(verb, self.any_vdi(which), domains[domain % len(domains)])

    def start(self, key: str, domain: str, verb: str, seed: int) -> None:
        """Attaches and activates a VDI, writes and reads."""
        self.use("Datapath.attach", key, domain)
        self.use(verb, key, domain)
        if domain in self.model.users_of(key).active:
            self.transfer(key, domain, 0, noise(seed, BLOCK))

    @precondition(lambda self: self.users("active"))
    @rule(which=ANY, block=strategies.integers(0, GRANULE // BLOCK - 8), blocks=strategies.integers(1, 8), seed=ANY)
    def write_and_read(self, which: int, block: int, blocks: int, seed: int) -> None:
        users = self.users("active")
        self.transfer(*users[which % len(users)], block * BLOCK, noise(seed, blocks * BLOCK))

    def transfer(self, key: str, domain: str, offset: int, data: bytes) -> None:
        """The domain writes, if it may; then all domains that have the VDI read it."""
        found = self.model.users_of(key)
        note(f"write({self.name(key)}, {domain!r}, offset={offset}, {len(data)} bytes)")
        if way(domain) == TAPDISK and found.is_dead:
            with pytest.raises(blktap.Lost):
                self.write(key, domain, offset, data)
        elif found.active[domain] == WRITE:
            self.write(key, domain, offset, data)
            self.model.write(key, offset, data)
        elif self.model.vdis[key].is_snapshot or (way(domain) == TAPDISK and found.tapdisk == READ):
            with pytest.raises(OSError, match=r"denied|not permitted|Read-only"):
                self.write(key, domain, offset, data)
        for reader in found.active:
            self.read(key, reader)

    def path(self, key: str, domain: str) -> str:
        """The domain's access to the VDI: a device node, or the URI of an NBD server."""
        if (key, domain) not in self.given:
            self.use("Datapath.attach", key, domain)
        given = self.given[key, domain]
        assert ("BlockDevice" in given, "Nbd" in given) == (way(domain) == NODE, way(domain) == TAPDISK)
        return str(given["BlockDevice"]["path"] if "BlockDevice" in given else given["Nbd"]["uri"])

    def write(self, key: str, domain: str, offset: int, data: bytes) -> None:
        """Raises OSError if nobody accepts the write."""
        path = self.path(key, domain)
        if way(domain) == NODE:
            descriptor = os.open(path, os.O_RDWR)
            try:
                assert os.pwrite(descriptor, data, offset) == len(data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        else:
            with blktap.connect(path) as client:
                client.write(offset, data)
            self.keep_connected(key, path)

    def keep_connected(self, key: str, path: str) -> None:
        found = self.model.users_of(key)
        if not found.is_connected:
            self.disconnect(key)
            self.clients[key] = blktap.connect(path)
            found.is_connected = True

    def disconnect(self, key: str) -> None:
        if key in self.clients:
            self.clients.pop(key).close()

    def read(self, key: str, domain: str) -> None:
        """Reads the whole VDI, which must hold what was written."""
        path, expected = self.path(key, domain), self.model.vdis[key].content
        if way(domain) == NODE:
            with open(path, "rb", buffering=0) as file:
                content = file.read(len(expected) + 1)
        elif self.model.users_of(key).is_dead:
            return
        else:
            with blktap.connect(path) as client:
                assert client.size() == len(expected)
                content = client.read(0, len(expected))
            self.keep_connected(key, path)
        assert checksum(content) == checksum(expected), (key, domain)

    @rule(
        verb=strategies.sampled_from(
            ["create", "snapshot", "snapshot", "clone", "destroy", "revert", "revert", "resize", "clone-on-boot"]
        ),
        which=ANY,
        to=ANY,
        sharable=strategies.booleans(),
        kills=strategies.booleans(),
        border=strategies.integers(1, 6),
        after=strategies.booleans(),
    )
    def change(self, verb: str, which: int, to: int, sharable: bool, kills: bool, border: int, after: bool) -> None:
        """Runs a Volume verb. One that needs an idle VDI may be killed, and is then repeated."""
        key, is_full = self.any_vdi(which), len(self.model.vdis) >= MOST
        arguments: "Dict[str, Any]" = {"key": key}
        if verb == "create" or not self.model.vdis:
            verb, arguments = "create", {"name": "disk", "description": "", "size": GRANULE, "sharable": sharable}
        elif verb == "revert":
            snapshots = [other for other in self.made if self.has(snapshots=True) and self.is_snapshot(other)]
            arguments["snapshot"] = snapshots[to % len(snapshots)] if snapshots else self.any_vdi(to)
        elif verb == "resize":
            arguments["new_size"] = (1 + to % 3) * GRANULE
        elif verb == "clone-on-boot":
            verb, arguments = "set", {"key": key, "k": "clone-on-boot", "v": self.any_vdi(to)}
        if verb in ("create", "snapshot", "clone") and is_full:
            verb, arguments = "destroy", {"key": key}
        if kills and verb in ("destroy", "revert", "resize"):
            note(f"Volume.{verb}({self.name(key)}) killed {'after' if after else 'before'} change {border}")
            kill_group("Volume." + verb, border, after=after, sr=self.sr, **arguments)
            self.verb("Volume." + verb, **arguments)
            self.attach_sr()
        else:
            self.verb("Volume." + verb, **arguments)

    def is_snapshot(self, key: str) -> bool:
        return key in self.model.vdis and self.model.vdis[key].is_snapshot

    @rule(what=strategies.sampled_from(["a tapdisk is killed", "a VM ends or starts", "SR.attach"]), which=ANY)
    def happens(self, what: str, which: int) -> None:
        alive = [key for key, found in self.model.attachments.items() if found.tapdisk and not found.is_dead]
        if what == "SR.attach":
            self.attach_sr()
        elif what == "a tapdisk is killed" and alive:
            key = alive[which % len(alive)]
            note(f"kill the tapdisk of {self.name(key)}")
            blktap.kill(attached.records(self.sr)[key]["tapdisk"]["pid"])
            self.model.kill_tapdisk(key)
        else:
            self.end_or_start(VMS[which % len(VMS)])

    def end_or_start(self, vm: str) -> None:
        """Ends or starts a VM, unknown to the driver. It reuses an ended VM's id only after that was detached."""
        if vm not in self.model.gone:
            note(f"{vm} ends")
            self.model.gone.add(vm)
        elif not any(domain == vm for _, domain in self.users("attached")):
            note(f"{vm} starts")
            self.model.gone.remove(vm)
        blktap.domains("0", *set(VMS) - self.model.gone)

    def attach_sr(self) -> None:
        note("SR.attach")
        assert call_inside("SR.attach", configuration={"sr_uuid": self.root.uuid}) == self.sr
        self.model.recover()

    @rule(
        verb=strategies.sampled_from([*ACTIVATIONS, *RELEASES, "Datapath.attach"]),
        which=ANY,
        domain=ANY,
        border=strategies.integers(1, 9),
        after=strategies.booleans(),
        recovers=strategies.booleans(),
        then=strategies.sampled_from(["repeat", "detach", "activate"]),
    )
    def kill(self, verb: str, which: int, domain: int, border: int, after: bool, recovers: bool, then: str) -> None:
        """A Datapath verb is killed with its children before or after one of them, and is then repeated or undone.

        As at a restart of the toolstack.
        """
        key, name, users = self.any_vdi(which), self.living(domain), self.users("attached")
        if users and (verb in RELEASES or users[which % len(users)][1] not in self.model.gone):
            key, name = users[which % len(users)]
        note(f"{verb}({self.name(key)}, {name!r}) killed {'after' if after else 'before'} change {border}")
        tapdisk = records.read(SR(self.sr), key).tapdisk
        kill_group(verb, border, after=after, uri=self.root.uri(key), domain=name)
        if recovers:
            self.attach_sr()
        if then == "repeat":
            self.use(verb, key, name)
            return
        self.learn_what_ended(key, tapdisk)
        if then == "activate" and name not in self.model.gone:
            self.use("Datapath.activate", key, name)
            if self.model.users_of(key).active.get(name) == (READ if self.is_snapshot(key) else WRITE):
                return
        self.use("Datapath.detach", key, name)
        # The killed verb may have noticed a dead tapdisk, or not.
        self.attach_sr()

    def learn_what_ended(self, key: str, tapdisk: "Optional[Dict[str, Any]]") -> None:
        """A killed verb may have ended this tapdisk, and the leases of migrations that nobody is connected for."""
        found, record = self.model.users_of(key), records.read(SR(self.sr), key)
        if tapdisk is None or tapdisk.get("pid") not in blktap.tapdisks():
            found.is_connected = False
        for domain in [] if found.is_connected else list(filter(is_migration, found.attached)):
            if domain not in record.active or record.tapdisk is None:
                found.deactivate(domain)
            if domain not in record.attached:
                found.detach(domain)

    @invariant()
    def there_is_what_somebody_needs(self) -> None:
        attachments = self.model.attachments
        recorded, nodes = attached.records(self.sr), attached.nodes(self.sr)
        assert {
            key: {"attached": sorted(record["attached"]), "active": record["active"]}
            for key, record in recorded.items()
        } == self.model.in_use()
        assert set(nodes) == {key for key, found in attachments.items() if found.has_node}
        assert sorted(datasets.with_own_volmode(SR(self.sr).zfs, self.sr)) == sorted(map(self.zvol, nodes))
        served = {key: recorded[key]["tapdisk"] for key, found in attachments.items() if found.tapdisk}
        servers = attached.links(attached.SERVERS, self.sr)
        assert set(servers) == set(served)
        active = [key for key, found in attachments.items() if found.active]
        assert attached.links(attached.DEVICES, self.sr) == {key: nodes[key] for key in active}
        assert attached.links(attached.STATISTICS, self.sr) == {key: self.device(key) for key in active}
        tapdisks = []
        for key, state in served.items():
            assert state["readonly"] == (attachments[key].tapdisk == READ)
            if not attachments[key].is_dead:
                tapdisks.append(state["pid"])
                assert state["device"] == self.device(key)
                assert servers[key] == "/run/blktap-control/nbd{pid}.{minor}".format(**state)
        assert sorted(blktap.tapdisks()) == sorted(tapdisks)
        if not served:
            assert blktap.leftovers() == []
        for key in set(self.clients) - {key for key in served if attachments[key].is_connected}:
            self.disconnect(key)
        for key, domain in set(self.given) - set(self.users("attached")):
            del self.given[key, domain]
        for key, domain in list(self.given):
            if not attachments[key].has_node:
                del self.given[key, domain]  # after a revert

    @invariant()
    def the_vdis_are_the_same(self) -> None:
        self.steps += 1
        there = attached.nodes(self.sr)
        for key, content in zvol.checksums({self.zvol(key): self.size(key) for key in there}).items():
            assert content == checksum(self.model.vdis[key[-36:]].content)
        if self.steps % LOOK_EVERY == 0:
            self.compare()

    def device(self, key: str) -> str:
        return f"/dev/zfs-vol/{self.sr[3:]}/{key}"

    def size(self, key: str) -> int:
        return len(self.model.vdis[key].content)

    def compare(self) -> None:
        """The state of all VDIs and their contents, even of those without a node."""
        contents = attached.checksums({self.zvol(key): self.size(key) for key in self.model.vdis})
        listed = {record["key"]: record for record in call_inside("SR.ls", sr=self.sr)}
        found = {key: observed(record, contents.get(self.zvol(key))) for key, record in listed.items()}
        assert found == self.model.summary()
        check(self.sr)

    def teardown(self) -> None:
        try:
            for key, domain in self.users("attached"):
                self.use("Datapath.detach", key, domain)
            assert not self.model.attachments
            self.there_is_what_somebody_needs()
            assert attached.left(self.sr) == []
            if self.steps > FEW:
                self.compare()
        finally:
            # If something failed, the next example must not find its remains.
            blktap.sweep()
            for directory in (attached.RECORDS, attached.SERVERS, attached.STATISTICS, attached.DEVICES):
                shutil.rmtree(str(directory), ignore_errors=True)
            super().teardown()


@pytest.fixture
def xen() -> "Iterator[None]":
    with blktap.domains("0", *VMS):
        yield


def test_datapaths(bench: Bench, busy_at_once: None, without_udev: None, xen: None) -> None:
    Datapaths.sr = bench.sr()
    run_machine(Datapaths, STEPS, STEPS_EACH)

# SPDX-License-Identifier: LGPL-2.1-only
"""What killed verbs and people leave in an SR: how it is found, and what mends it."""

import os
import re
from typing import Any, Callable

import pytest

from tests import zvol
from tests.client import call, call_inside, new_uuid
from tests.model import noise
from tests.zfs.conftest import MIB, Bench, run
from tests.zfs.family.relatives import (
    SIZE,
    VERBS_ON_ONE,
    Members,
    check,
    clone,
    create,
    destroy,
    findings,
    lasting,
    listed,
    picture,
    prop,
    records,
    require_content,
    require_well,
    revert,
    set_key,
    snapshot,
)
from zfsvol.care import check as checking
from zfsvol.repository import lineage
from zfsvol.repository.sr import SR
from zfsvol.zfs import changes, datasets, programs
from zfsvol.zfs.programs import Left


def told(sr: str, *, mend: bool = False) -> "tuple[bool, list[str]]":
    """Runs the check in this process: whether all is well, and what is wrong or was repaired."""
    lines: "list[str]" = []
    is_well = checking.check(sr, mend=mend, say=lines.append)
    return is_well, [line for line in lines if line.startswith(("WRONG: ", "repaired: ", "all is well"))]


def half_made_snapshot(sr: str, members: Members) -> str:
    run("zfs", "snapshot", f"{sr}/{members.disk}@{new_uuid()}")
    return "was made for a disk that is not there"


def half_made_clone(sr: str, members: Members) -> str:
    uuid = new_uuid()
    run("zfs", "snapshot", f"{sr}/{members.disk}@{uuid}")
    run("zfs", "clone", f"{sr}/{members.disk}@{uuid}", f"{sr}/{uuid}")
    return "is only half made"


def half_made_disk(sr: str, members: Members) -> str:
    run("zfs", "create", "-s", "-V", "1G", f"{sr}/{new_uuid()}")
    return "is only half made"


def start_revert(sr: str, members: Members) -> None:
    values = datasets.settings(SR(sr).zfs, f"{sr}/{members.disk}")
    del values["volsize"]
    changes.clone(SR(sr).zfs, prop("origin", f"{sr}/{members.snapshot}"), f"{sr}/.revert-{members.disk}", values)


def revert_without_effect(sr: str, members: Members) -> str:
    start_revert(sr, members)
    return f"a revert or a data_destroy of {members.disk} was interrupted before it had any effect"


def revert_with_effect(sr: str, members: Members) -> str:
    start_revert(sr, members)
    programs.remove(SR(sr).zfs, sr, members.disk, "replace")
    return f"a revert or a data_destroy of {members.disk} was interrupted"


def revert_but_for_the_last_step(sr: str, members: Members) -> str:
    start_revert(sr, members)
    lineage.bury(SR(sr), programs.remove(SR(sr).zfs, sr, members.disk, "replace"))
    return f"a revert or a data_destroy of {members.disk} was interrupted"


def destroyed_and_not_buried(sr: str, members: Members) -> str:
    programs.remove(SR(sr).zfs, sr, members.disk)
    return f"{members.disk} is removed and still has its name"


def destroyed_with_reservation(sr: str, members: Members) -> str:
    run("zfs", "set", "refreservation=8M", f"{sr}/{members.disk}")
    lineage.bury(SR(sr), Left(dict.fromkeys(programs.remove(SR(sr).zfs, sr, members.disk).reserved, 0)))
    return "is removed and has a reservation"


def destroyed_and_not_rolled_back(sr: str, members: Members) -> str:
    """No verb of the driver leads to this state."""
    run("zfs", "set", "zfsvol:removed=20260101T00:00:00Z", f"{sr}/{members.disk}")
    return f"{members.disk} is removed and holds"


def removed_but_needed_by_nobody(sr: str, members: Members) -> str:
    uuid = create(sr)
    run("zfs", "set", "zfsvol:removed=20260101T00:00:00Z", f"{sr}/{uuid}")
    return f"{uuid} is removed and nothing needs it"


IS_DESTROYED = (destroyed_and_not_buried, destroyed_with_reservation, destroyed_and_not_rolled_back)
IS_REVERTED = (revert_with_effect, revert_but_for_the_last_step)
HALF_DONE = [
    half_made_snapshot,
    half_made_clone,
    half_made_disk,
    revert_without_effect,
    removed_but_needed_by_nobody,
    *IS_DESTROYED,
    *IS_REVERTED,
]


def a_file_system(sr: str) -> str:
    run("zfs", "create", f"{sr}/mine")
    return "mine is no disk of this SR"


def a_zvol(sr: str) -> str:
    run("zfs", "create", "-s", "-V", "1G", f"{sr}/mine")
    return "mine is no disk of this SR"


def a_written_zvol_with_a_uuid(sr: str) -> str:
    uuid = new_uuid()
    run("zfs", "create", "-s", "-V", "1G", f"{sr}/{uuid}")
    zvol.write(f"{sr}/{uuid}", 0, noise(1, 2 * MIB))
    run("zpool", "sync", sr)
    return f"{uuid} is no disk of this SR and holds data; it is left alone"


def a_zvol_with_a_uuid_and_a_snapshot(sr: str) -> str:
    uuid = new_uuid()
    run("zfs", "create", "-s", "-V", "1G", f"{sr}/{uuid}")
    run("zfs", "snapshot", f"{sr}/{uuid}@mine")
    return f"{uuid} is no disk of this SR and holds data; it is left alone"


def a_file_system_called_like_a_removed_disk(sr: str) -> str:
    run("zfs", "create", f"{sr}/.gone-mine")
    return ".gone-mine is no disk of this SR"


FOREIGN = [
    a_file_system,
    a_zvol,
    a_written_zvol_with_a_uuid,
    a_zvol_with_a_uuid_and_a_snapshot,
    a_file_system_called_like_a_removed_disk,
]


class TestCheck:
    def test_all_is_well(self, sr: str) -> None:
        members = Members.made(sr)
        destroy(sr, members.disk)
        before = picture(sr)
        for options in ((), ("--repair",)):
            status, output, errors = check(sr, *options)
            assert (status, errors) == (0, "")
            assert "all is well\n" in output
            assert "WRONG" not in output
            assert picture(sr) == before
        assert "3 removed" not in output
        assert "2 disks, 1 snapshots, 1 removed but needed" in output
        # What was made from a disk is printed below it.
        lines = output.splitlines()
        assert [line for line in lines if f".gone-{members.disk}" in line and line.startswith("└─ ")]
        for key in members[1:]:
            assert [line for line in lines if re.match(rf"   [├└]─ {key} ", line)]

    @pytest.mark.parametrize("language", ["LANG", "LC_ALL"])
    def test_in_the_c_locale(self, sr: str, language: str) -> None:
        create(sr, name="ö\n\x1b[1m\ud83d💾")
        before = {name: "" for name in os.environ if name.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIO"))}
        status, output, errors = check(sr, **{**before, language: "C"})
        assert (status, errors) == (0, "")
        assert "└─" in output
        assert "\x1b" not in output

    @pytest.mark.parametrize("state", HALF_DONE, ids=lambda state: state.__name__)
    def test_half_done(self, sr: str, state: "Callable[[str, Members], str]") -> None:
        members = Members.two(sr)
        expected = records(sr)
        text = state(sr, members)
        before = picture(sr)
        is_well, said = told(sr)
        assert not is_well
        assert [line for line in said if text in line and line.endswith(" (--repair mends it)")], said
        assert {line[: len("WRONG: ")] for line in said} == {"WRONG: "}
        assert picture(sr) == before
        is_well, said = told(sr, mend=True)
        assert is_well
        assert [line for line in said if line.startswith("repaired: ") and text in line], said
        assert {line[: len("repaired: ")] for line in said} == {"repaired: "}
        require_well(sr)
        self.require_mended(sr, members, state, expected)

    def require_mended(
        self,
        sr: str,
        members: Members,
        state: "Callable[[str, Members], str]",
        expected: "dict[str, dict[str, Any]]",
    ) -> None:
        """The family is as it was before the verb, or as the verb should have made it."""
        gone = [members.disk] if state in IS_DESTROYED else []
        found = records(sr)
        for key in (members.disk, members.snapshot):
            assert found.get(key) == (None if key in gone else expected[key])
        seeds = {members.disk: 1 if state in IS_REVERTED else 2, members.snapshot: 1}
        require_content(sr, {key: seed for key, seed in seeds.items() if key not in gone})

    def test_all_at_once(self, sr: str) -> None:
        """One family for each state, and a file system that is not the driver's. SR.attach mends all but that."""
        states = list(HALF_DONE)
        families = [Members.two(sr) for _ in states]
        expected = records(sr)
        for state, members in zip(states, families):
            state(sr, members)
        a_file_system(sr)
        status, output, errors = check(sr)
        assert (status, errors) == (1, "")
        assert output.count("\nWRONG: ") == output.count("(--repair mends it)\n") + 1 > len(states)
        assert "all is well" not in output
        call("SR.attach", configuration={"sr_uuid": sr[-36:]})
        assert findings(sr) == ["mine is no disk of this SR"]
        status, output, errors = check(sr, "--repair")
        assert (status, errors) == (1, "")
        assert (output.count("\nrepaired: "), output.count("\nWRONG: ")) == (0, 1)
        assert len(listed(sr)) == 2 * len(states) - len(IS_DESTROYED)
        for state, members in zip(states, families):
            self.require_mended(sr, members, state, expected)
        run("zfs", "destroy", f"{sr}/mine")

    @pytest.mark.parametrize("state", FOREIGN, ids=lambda state: state.__name__)
    def test_foreign(self, sr: str, state: "Callable[[str], str]") -> None:
        disk = create(sr)
        text = state(sr)
        before = picture(sr)
        for mend in (False, True):
            assert told(sr, mend=mend) == (False, [f"WRONG: {text}"])
            assert picture(sr) == before
        call_inside("SR.attach", configuration={"sr_uuid": sr[-36:]})
        assert picture(sr) == before
        assert set(listed(sr)) == {disk}
        mine = text.partition(" ")[0]
        run("zfs", "destroy", "-r", f"{sr}/{mine}")

    def test_all_srs_of_a_pool(self, tank: str, bench: Bench) -> None:
        other = bench.sr(zpool="tank")
        create(tank)
        a_file_system(other)
        status, output, _ = check("tank")
        assert status == 1
        assert output.count("all is well") == output.count("WRONG: ") == 1
        assert output.count("SR ") >= 2
        assert check(tank)[0] == 0
        run("zfs", "destroy", f"{other}/mine")

    def test_cannot_be_told(self, bench: Bench) -> None:
        bench.pool()
        for dataset in ("nosuchpool", "tank", "tank/none", "-x", "tänk", "tank@x"):
            for locale in ("C", "C.UTF-8"):
                status, output, errors = check(dataset, LC_ALL=locale)
                assert (status, output) == (2, "")
                if dataset != "-x":  # an option, to argparse
                    assert len(errors.splitlines()) == 1
                    assert errors.endswith(".\n")
                assert "Traceback" not in errors


class TestInterruptedRevert:
    """Whichever verb comes first finds the disk, reverted."""

    # test_kill has each verb after the other state.
    @pytest.mark.parametrize("verb", [*VERBS_ON_ONE, "Volume.revert"])
    def test_verb_on_the_disk(self, sr: str, verb: str) -> None:
        members = Members.two(sr)
        set_key(sr, members.disk, "k", "old")
        expected = records(sr)
        revert_but_for_the_last_step(sr, members)
        arguments = {"snapshot": members.snapshot} if verb == "Volume.revert" else VERBS_ON_ONE[verb]
        answer = call_inside(verb, sr=sr, key=members.disk, **arguments)
        found = records(sr)
        if verb not in ("Volume.destroy", "Volume.revert"):  # these two need the zvol under its right name
            assert findings(sr) != []
            call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        require_well(sr)
        if verb == "Volume.destroy":
            del expected[members.disk]
            assert found == expected
            return
        require_content(sr, {members.disk: 1}, found[members.disk]["virtual_size"])
        if verb == "Volume.stat":
            assert lasting(answer) == expected[members.disk]
        elif answer:
            require_content(sr, {answer["key"]: 1})
            del found[answer["key"]]
        changes: "dict[str, dict[str, Any]]" = {
            "Volume.resize": {"virtual_size": 2 * SIZE},
            "Volume.set_name": {"name": "new"},
            "Volume.set_description": {"description": "new"},
            "Volume.set": {"keys": {**expected[members.disk]["keys"], "k": "v"}},
            "Volume.unset": {"keys": {k: v for k, v in expected[members.disk]["keys"].items() if k != "k"}},
        }
        expected[members.disk].update(changes.get(verb, {}))
        assert found == expected

    def test_without_effect_is_forgotten(self, sr: str) -> None:
        """What the killed revert left behind neither blocks the next revert nor replaces the disk later."""
        members = Members.made(sr)
        revert_without_effect(sr, members)
        assert set(listed(sr)) == set(members)
        require_content(sr, {members.disk: 2})
        revert(sr, members.disk, members.snapshot)
        require_content(sr, {members.disk: 1})
        require_well(sr)
        revert_without_effect(sr, members)
        destroy(sr, members.disk)
        require_well(sr)
        members.require(sr, members.disk)

    @pytest.mark.parametrize("state", IS_REVERTED, ids=lambda state: state.__name__)
    def test_list(self, sr: str, state: "Callable[[str, Members], str]") -> None:
        members = Members.made(sr)
        expected = records(sr)
        state(sr, members)
        assert {record["key"]: lasting(record) for record in call("SR.ls", sr=sr)} == expected
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        require_well(sr)
        require_content(sr, {members.disk: 1})

    @pytest.mark.parametrize("state", IS_REVERTED, ids=lambda state: state.__name__)
    def test_verb_on_a_relative(self, sr: str, state: "Callable[[str, Members], str]") -> None:
        members = Members.two(sr)
        expected = records(sr)
        state(sr, members)
        destroy(sr, snapshot(sr, members.snapshot), clone(sr, members.snapshot))
        assert records(sr) == expected
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        require_content(sr, {members.disk: 1, members.snapshot: 1})

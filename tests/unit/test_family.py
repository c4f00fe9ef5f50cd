# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of the pure parts of zfsvol.family and zfsvol.check: they interpret lists of datasets, without ZFS."""

import pytest

from zfsvol import naming, properties
from zfsvol.care import check
from zfsvol.naming import Root
from zfsvol.repository import family, repair, vdi
from zfsvol.repository.family import Family

ROOT = Root("tank/sr-5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1")
WHEN = "20261124T10:00:00Z"
MIB = 1 << 20
# Far beyond Python's recursion limit.
DEEP = 2000


def uuid(number):
    return f"{number:08x}-0000-4000-8000-000000000000"


A, B, C, D, E = map(uuid, range(0xA, 0xF))
GRAVE = f".gone-{A}.01234567"


def zvol(txg=1, origin=None, used=0, **other):
    """ZFS's properties of a VDI's zvol; `origin` is a name without the root's."""
    values = {
        "type": "volume",
        "createtxg": str(txg),
        "used": str(used),
        "volsize": str(4 * MIB),
        "written": "0",
        "logicalreferenced": "12288",
        "refreservation": "0",
        naming.VDI_NAME: '"disk"',
    }
    if origin is not None:
        values["origin"] = f"{ROOT.dataset}/{origin}"
    return {**values, **other}


def nameless(*arguments, **values):
    """A zvol of a half-made VDI, or somebody else's."""
    found = zvol(*arguments, **values)
    del found[naming.VDI_NAME]
    return found


def removed(*arguments, **values):
    return {**zvol(*arguments, **values), naming.VDI_REMOVED: WHEN}


def snapshot_vdi(*arguments, **values):
    return {**zvol(*arguments, **values), naming.VDI_SNAPSHOT: "true", "readonly": "on"}


def point(*clones):
    """A ZFS snapshot and its clones."""
    return {"type": "snapshot", "clones": ",".join(f"{ROOT.dataset}/{name}" for name in clones)}


def file_system():
    return {"type": "filesystem"}


def the_family():
    """The family in docs/architecture.md: the disk A, two snapshots B and C, two clones D and E."""
    return {
        A: zvol(1, used=5),
        f"{A}@{B}": point(B, C, E),
        f"{A}@{D}": point(D),
        B: snapshot_vdi(2, f"{A}@{B}", used=1),
        C: snapshot_vdi(3, f"{A}@{B}", used=2),
        D: zvol(4, f"{A}@{D}", used=3),
        E: zvol(5, f"{A}@{B}", used=4),
    }


def without_its_first():
    """The same after A was destroyed."""
    found = {name.replace(A, GRAVE, 1): values for name, values in the_family().items()}
    for values in found.values():
        if "origin" in values:
            values["origin"] = values["origin"].replace(A, GRAVE)
    found[GRAVE][naming.VDI_REMOVED] = WHEN
    return found


def deep_family():
    """Each disk was made from the previous one, and all but the last are removed."""
    names = [f".gone-{uuid(number)}.x" for number in range(DEEP)] + [uuid(DEEP)]
    points = [f"{name}@{uuid(number + 1)}" for number, name in enumerate(names)]
    found = {names[0]: removed(0, used=1)}
    for number in range(1, DEEP + 1):
        make = zvol if number == DEEP else removed
        found[names[number]] = make(number, points[number - 1], used=1)
        found[points[number - 1]] = point(names[number])
    return found


def inspect(datasets):
    return repair.inspect(Family(ROOT, datasets))


def texts(datasets):
    return [finding.text for finding in inspect(datasets)]


def only_finding(datasets):
    (found,) = inspect(datasets)
    return found


class TestFamily:
    def test_sorts_datasets_by_type(self):
        found = Family(ROOT, without_its_first())
        assert set(found.zvols) == {GRAVE, B, C, D, E}
        assert set(found.snapshots) == {f"{GRAVE}@{B}", f"{GRAVE}@{D}"}
        assert found.others == []

    def test_children_are_sorted_by_age(self):
        assert Family(ROOT, the_family()).children() == {None: [A], A: [B, C, D, E]}
        datasets = the_family()
        datasets[E]["createtxg"] = "10"
        datasets[D]["createtxg"] = "9"
        datasets[C]["createtxg"] = "11"
        assert Family(ROOT, datasets).children()[A] == [B, D, E, C]

    def test_parent(self):
        found = Family(ROOT, without_its_first())
        assert found.parent(GRAVE) is None
        assert found.parent(D) == GRAVE

    @pytest.mark.parametrize(
        "origin",
        [
            f"tank/other@{B}",
            f"tank/{A}@{B}",
            f"{ROOT.dataset}x/{A}@{B}",
            f"{ROOT.dataset}/missing@{B}",
            f"{ROOT.dataset}@{B}",
            f"tank/sr-{uuid(0)}/{A}@{B}",
            "-",
            "",
        ],
    )
    def test_parent_from_elsewhere_is_none(self, origin):
        found = Family(ROOT, {A: zvol(), B: zvol(origin="x")})
        found.zvols[B]["origin"] = origin
        assert found.parent(B) is None
        assert found.children() == {None: [A, B]}

    def test_whole_name(self):
        assert Family(ROOT, {}).dataset(A) == f"{ROOT.dataset}/{A}"


class TestKinds:
    @pytest.mark.parametrize("values", [zvol(), snapshot_vdi(), zvol(**{naming.VDI_NAME: ""})])
    def test_vdi(self, values):
        assert vdi.is_vdi(A, values)
        assert not vdi.is_removed(values)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            (A, nameless()),
            (A, {}),
            (A, removed()),
            (GRAVE, removed()),
            (GRAVE, zvol()),
            (".revert-" + A, zvol()),
            (A.upper(), zvol()),
            (A + "x", zvol()),
            ("mine", zvol()),
        ],
    )
    def test_no_vdi(self, name, values):
        assert not vdi.is_vdi(name, values)

    def test_removed(self):
        assert vdi.is_removed(removed())
        assert vdi.is_removed(zvol(**{naming.VDI_REMOVED: ""}))


class TestCharges:
    def charges(self, datasets):
        return family.charges(ROOT, Family(ROOT, datasets).zvols)

    def test_each_its_own(self):
        assert self.charges(the_family()) == {A: 5, B: 1, C: 2, D: 3, E: 4}

    def test_removed_counts_for_the_oldest_that_needs_it(self):
        assert self.charges(without_its_first()) == {B: 5 + 1, C: 2, D: 3, E: 4}
        datasets = without_its_first()
        datasets[B]["createtxg"] = "99"
        assert self.charges(datasets) == {B: 1, C: 5 + 2, D: 3, E: 4}

    def test_removed_below_removed(self):
        """The oldest line of descent counts first, then the next."""
        datasets = {
            A: removed(1, used=1),
            B: removed(2, f"{A}@{B}", used=10),
            C: zvol(3, f"{A}@{C}", used=100),
            D: zvol(4, f"{B}@{D}", used=1000),
            E: zvol(5, f"{B}@{E}", used=10000),
        }
        assert self.charges(datasets) == {C: 100, D: 1000 + 10 + 1, E: 10000}
        # If only somebody else's snapshot keeps that one, the next line of descent counts.
        del datasets[D], datasets[E]
        assert self.charges(datasets) == {C: 100 + 1}

    def test_removed_that_no_vdi_needs(self):
        assert self.charges({A: removed(used=7), B: zvol(used=1)}) == {B: 1}

    def test_what_is_no_vdi_is_not_counted(self):
        datasets = {A: zvol(used=1), B: nameless(used=2), f".revert-{A}": zvol(used=4), "mine": zvol(used=8)}
        assert self.charges(datasets) == {A: 1}

    def test_below_what_is_half_made(self):
        """A zvol that a revert made to replace a disk is that disk, even before it is renamed."""
        datasets = {A: removed(1, used=1), f".revert-{C}": zvol(2, f"{A}@{C}", used=2), B: zvol(3, f"{A}@{B}", used=4)}
        assert self.charges(datasets) == {C: 2 + 1, B: 4}
        datasets[C] = zvol(4, used=8)
        assert self.charges(datasets) == {C: 8, B: 4 + 1}

    def test_deep(self):
        assert self.charges(deep_family()) == {uuid(DEEP): DEEP + 1}


class TestInspect:
    @pytest.mark.parametrize("datasets", [{}, {A: zvol()}, the_family(), without_its_first(), deep_family()])
    def test_well(self, datasets):
        assert texts(datasets) == []

    def test_snapshots_of_others_are_theirs(self):
        datasets = the_family()
        datasets[f"{A}@by-hand"] = point()
        datasets[f"{B}@{A.upper()}"] = point()
        assert texts(datasets) == []
        datasets = without_its_first()
        datasets[f"{GRAVE}@by-hand"] = point()
        assert texts(datasets) == []

    def test_clones_outside_of_the_sr_keep_what_they_need(self):
        datasets = {GRAVE: removed(), f"{GRAVE}@{B}": {"type": "snapshot", "clones": "tank/mine"}}
        assert texts(datasets) == []

    @pytest.mark.parametrize("clones", ["", "-"])
    def test_snapshot_without_a_clone(self, clones):
        found = only_finding({A: zvol(), f"{A}@{B}": {"type": "snapshot", "clones": clones}})
        assert found.text == f"{A}@{B} was made for a disk that is not there"
        assert found.mend

    @pytest.mark.parametrize(
        "values",
        [
            nameless(logicalreferenced=str(MIB - 1)),
            nameless(origin=f"{A}@{B}", written=str((64 << 10) - 1), logicalreferenced=str(1 << 30)),
        ],
    )
    def test_half_made(self, values):
        found = only_finding({A: zvol(), B: values, f"{A}@{B}": point(B)})
        assert found.text == f"{B} is only half made"
        assert found.mend

    @pytest.mark.parametrize(
        "datasets",
        [
            {B: nameless(logicalreferenced=str(MIB))},
            {B: nameless(origin=f"{A}@{B}", written=str(64 << 10)), f"{A}@{B}": point(B)},
            {B: nameless(origin=f"{A}@by-hand"), f"{A}@by-hand": point(B)},
            {B: nameless(), f"{B}@by-hand": point()},
            {B: nameless(), f"{B}@{C}": point(C), C: zvol(2, f"{B}@{C}")},
        ],
    )
    def test_somebody_else_s_is_left_alone(self, datasets):
        found = only_finding({A: zvol(), **datasets})
        assert found.text == f"{B} is no disk of this SR and holds data; it is left alone"
        assert found.mend is None

    @pytest.mark.parametrize("name", ["mine", ".gone-mine", "mine/" + A, A.upper(), ".revert-x"])
    @pytest.mark.parametrize("values", [zvol(), nameless(), file_system()])
    def test_foreign(self, name, values):
        found = only_finding({A: zvol(), name: values})
        assert found.text == f"{name} is no disk of this SR"
        assert found.mend is None

    def test_revert_without_effect(self):
        datasets = the_family()
        datasets[f".revert-{A}"] = zvol(9, f"{A}@{B}")
        found = only_finding(datasets)
        assert found.text == f"a revert or a data_destroy of {A} was interrupted before it had any effect"
        assert found.mend

    def test_revert_without_its_last_step(self):
        datasets = without_its_first()
        datasets[f".revert-{A}"] = zvol(9, f"{GRAVE}@{B}")
        found = only_finding(datasets)
        assert found.text == f"a revert or a data_destroy of {A} was interrupted"
        assert found.mend

    def test_revert_whose_disk_is_still_in_its_place(self):
        """The rename that moves the removed disk away would otherwise move the reverted one next time."""
        datasets = the_family()
        datasets[A].update({naming.VDI_REMOVED: WHEN, "refreservation": "4096"})
        datasets[f".revert-{A}"] = zvol(9, f"{A}@{B}")
        assert texts(datasets) == [f"a revert or a data_destroy of {A} was interrupted"]

    def test_half_made_revert(self):
        datasets = the_family()
        datasets[f".revert-{A}"] = nameless(origin=f"{A}@{B}")
        assert texts(datasets) == [f".revert-{A} is only half made"]

    @pytest.mark.parametrize("what", [B, C, "garbage", ""])
    def test_clone_on_boot_keys_may_name_anything(self, what):
        """The client destroys the temporary first, and removes the key later."""
        values = properties.encode_key(naming.TEMPORARY, what)
        assert texts({A: zvol(**values), f"{A}@{B}": point(B), B: zvol(2, f"{A}@{B}")}) == []

    def test_removed_but_not_buried(self):
        datasets = the_family()
        datasets[A].update({naming.VDI_REMOVED: WHEN})
        found = only_finding(datasets)
        assert found.text == f"{A} is removed and still has its name"
        assert found.mend

    def test_removed_with_a_reservation(self):
        datasets = without_its_first()
        datasets[GRAVE]["refreservation"] = "4096"
        found = only_finding(datasets)
        assert found.text == f"{GRAVE} is removed and has a reservation"
        assert found.mend

    def test_removed_with_data_of_its_own(self):
        datasets = without_its_first()
        datasets[GRAVE]["written"] = str(MIB)
        found = only_finding(datasets)
        assert found.text == f"{GRAVE} is removed and holds {MIB} bytes that nobody needs"
        assert found.mend

    @pytest.mark.parametrize(
        "points", [{}, {f"{GRAVE}@{B}": point()}, {f"{GRAVE}@{B}": point(), f"{GRAVE}@{C}": point()}]
    )
    def test_removed_and_not_needed(self, points):
        found = only_finding({GRAVE: removed(), **points})
        assert found.text == f"{GRAVE} is removed and nothing needs it"
        assert found.mend

    def test_removed_and_kept_by_others(self):
        held = {**point(), "userrefs": "1"}
        datasets = {GRAVE: removed(), f"{GRAVE}@{B}": point(), f"{GRAVE}@{C}": held, f"{GRAVE}@a": point()}
        found = only_finding(datasets)
        said = "is removed; snapshots or holds of another program or person keep 0.0 MiB"
        assert found.text == f"{GRAVE} {said}: {C}, a"
        assert (found.mend, found.is_wrong) == (None, False)
        assert family.kept_sentence({GRAVE: removed()}, {f"{GRAVE}@{C}": held}).endswith(": holds")

    def test_removed_whose_newest_snapshot_of_others_is_gone(self):
        datasets = {GRAVE: removed(written=str(MIB)), f"{GRAVE}@a": point("tank/theirs")}
        found = inspect(datasets)
        assert [(finding.is_wrong, bool(finding.mend)) for finding in found] == [(False, False), (True, True)]
        assert found[1].text == f"{GRAVE} is removed and holds {MIB} bytes that nobody needs"

    def test_killed_compose(self):
        """The parent has its leaf's settings already. It may have data that is nowhere else."""
        parent = zvol(**{naming.VDI_COMPOSED: B})
        found = only_finding({A: zvol(), f".revert-{A}": parent})
        assert found.text == f"a compose with {B} of {A} was interrupted before it had any effect"
        assert found.mend
        found = only_finding({f".revert-{A}": parent})
        assert found.text == f"a compose with {B} of {A} was interrupted"
        assert found.mend

    def test_removed_that_a_killed_revert_has_left(self):
        """Neither may replace the other."""
        datasets = {A: removed(), f".revert-{A}": removed(), f"{A}@a": point(), f".revert-{A}@a": point()}
        assert [text for text in texts(datasets) if "still has its name" in text] == [
            f".revert-{A} is removed and still has its name",
            f"{A} is removed and still has its name",
        ]

    def test_file_systems(self):
        assert texts({A: zvol(), "mine": file_system()}) == ["mine is no disk of this SR"]

    def test_several(self):
        datasets = without_its_first()
        datasets[GRAVE].update({"refreservation": "4096", "written": str(MIB)})
        datasets[f"{D}@{uuid(1)}"] = point()
        datasets["mine"] = file_system()
        assert len(texts(datasets)) == 4


class TestPicture:
    def test_of_a_family(self):
        datasets = the_family()
        datasets[uuid(0)] = zvol(3, f"{D}@{uuid(0)}", used=1 << 30, **{naming.VDI_NAME: '"ö \\n"'})
        datasets["mine"] = nameless(txg=99)
        assert check.picture(Family(ROOT, datasets)) == [
            f"SR {ROOT.uuid} ({ROOT.dataset})",
            f"├─ {A} disk “disk”: 4.0 MiB, takes 0.0 MiB",
            f"│  ├─ {B} snapshot “disk”: 4.0 MiB, takes 0.0 MiB",
            f"│  ├─ {C} snapshot “disk”: 4.0 MiB, takes 0.0 MiB",
            f"│  ├─ {D} disk “disk”: 4.0 MiB, takes 0.0 MiB",
            f"│  │  └─ {uuid(0)} disk “\\xf6 \\n”: 4.0 MiB, takes 1.0 GiB",
            f"│  └─ {E} disk “disk”: 4.0 MiB, takes 0.0 MiB",
            "└─ mine, no disk: 4.0 MiB, takes 0.0 MiB",
            "4 disks, 2 snapshots, 0 removed but needed; they take 1.0 GiB, 0.0 MiB of it the removed ones",
        ]

    def test_of_a_removed_disk(self):
        datasets = without_its_first()
        datasets[GRAVE]["used"] = str(MIB)
        lines = check.picture(Family(ROOT, datasets))
        assert lines[1] == f"└─ {GRAVE} “disk”, removed {WHEN}: 4.0 MiB, takes 1.0 MiB"
        assert [line[:6] for line in lines[2:-1]] == ["   ├─ "] * 3 + ["   └─ "]
        assert lines[-1].startswith("2 disks, 2 snapshots, 1 removed but needed; they take 1.0 MiB, 1.0 MiB")

    def test_of_an_empty_sr(self):
        assert len(check.picture(Family(ROOT, {}))) == 2

    def test_deep(self):
        lines = check.picture(Family(ROOT, deep_family()))
        assert len(lines) == DEEP + 3
        assert lines[-2].startswith(DEEP * "   " + f"└─ {uuid(DEEP)} disk")

    def test_each_zvol_has_a_line(self):
        for datasets in (the_family(), without_its_first(), deep_family()):
            assert len(check.picture(Family(ROOT, datasets))) == len(Family(ROOT, datasets).zvols) + 2

    @pytest.mark.parametrize("name", ["\\ud83d", "\\u001b[1m", "\\u202e", "\\u2028", "\\u0000", "\\n"])
    def test_names_do_nothing_to_a_terminal(self, name):
        line = check.describe(A, zvol(**{naming.VDI_NAME: f'"a{name}b"'}))
        assert line.isprintable()
        assert line.encode()

    @pytest.mark.parametrize(
        ("size", "text"),
        [(0, "0.0 MiB"), (MIB, "1.0 MiB"), (100 * MIB, "100.0 MiB"), (1 << 30, "1.0 GiB"), (5 << 40, "5120.0 GiB")],
    )
    def test_sizes(self, size, text):
        assert family.human(size) == text

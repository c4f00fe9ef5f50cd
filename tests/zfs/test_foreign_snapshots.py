# SPDX-License-Identifier: LGPL-2.1-only
"""Runs the genuine sanoid and syncoid on an SR while disks are made and deleted.

tests/zfs/family/test_others.py tests in detail what their snapshots keep of deleted disks. tests/run unpacks Debian's
package into the directory that ZFSVOL_SANOID names.
"""

from contextlib import contextmanager
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import threading
from typing import Callable, Iterator

import pytest

from tests import client
from tests.client import CHECKOUT, call, call_inside, refused
from tests.zfs.conftest import MIB, Bench, run, wait_until
from tests.zfs.family.relatives import (
    check,
    clone,
    create,
    destroy,
    graves,
    listed,
    names,
    prop,
    require_content,
    require_well,
    revert,
    snapshot,
    used,
    with_nodes,
    write,
)
from zfsvol.repository import identity

PACKAGE = Path(os.environ.get("ZFSVOL_SANOID", "/"))
SANOID, SYNCOID = (str(PACKAGE / "usr/sbin" / name) for name in ("sanoid", "syncoid"))
SETTINGS = Path("/usr/share/sanoid")
NOT_EMPTY = "SR_BACKEND_FAILURE_39"
SIZE = 16 * MIB

# sanoid takes a snapshot at once of each kind that it should keep but has none of.
KINDS = ("frequently", "hourly", "daily", "weekly", "monthly", "yearly")

pytestmark = pytest.mark.skipif(not os.path.exists(SANOID), reason="no sanoid, and ZFSVOL_SANOID names none")


@pytest.fixture(scope="module", autouse=True)
def defaults(without_udev: None) -> "Iterator[None]":
    """Those of sanoid, where it looks for them."""
    if not SETTINGS.exists():
        SETTINGS.symlink_to(PACKAGE / "usr/share/sanoid")
    yield
    if SETTINGS.is_symlink():
        SETTINGS.unlink()


@pytest.fixture
def sanoid(tmp_path: Path) -> "Callable[..., str]":
    """Takes snapshots of one kind, of an SR and all below it, or prunes them all; returns sanoid's output."""

    def run_it(sr: str, action: str, kind: str, *settings: str) -> str:
        # To take one kind, keep 0 of all others. To prune one kind, keep more of all others than exist.
        wanted = dict.fromkeys(KINDS, 100 * (action == "prune"))
        wanted[kind] = int(action == "take")
        lines = [f"[{sr}]", "use_template = mine", "recursive = yes", "[template_mine]", "autosnap = yes"]
        lines += ["autoprune = yes", *(f"{name} = {number}" for name, number in wanted.items()), *settings]
        (tmp_path / "sanoid.conf").write_text("\n".join([*lines, ""]))
        cache = tmp_path / "cache"
        shutil.rmtree(str(cache), ignore_errors=True)  # sanoid trusts its cache for a quarter of an hour
        argv = [SANOID, "--configdir", str(tmp_path), "--cache-dir", str(cache), "--run-dir", str(tmp_path / "run")]
        return said([*argv, "--verbose", f"--{action}-snapshots", *(["--force-prune"] if action == "prune" else [])])[1]

    return run_it


def said(argv: "list[str]") -> "tuple[int, str]":
    """Status and output of a program."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    return done.returncode, done.stdout.decode()


def syncoid(source: str, target: str) -> "tuple[int, str]":
    """Replicates all below a dataset, as in docs/administration.md."""
    options = ["-r", "--sendoptions=p", "--exclude=/\\.(gone|revert)-", "--no-privilege-elevation", "--compress=none"]
    return said([SYNCOID, *options, source, target])


def require_synced(source: str, target: str) -> None:
    status, output = syncoid(source, target)
    assert status == 0, output


def snapshots(sr: str, kind: str) -> "list[str]":
    """The zvols of the SR that have a snapshot of this kind."""
    found = run("zfs", "list", "-H", "-o", "name", "-t", "snapshot", "-r", sr)
    return sorted(re.findall(rf"^({sr}/.*)@autosnap_.*_{kind}$", found, re.MULTILINE))


@pytest.fixture
def sr(bench: Bench) -> str:
    """An SR whose zvols have device nodes."""
    return with_nodes(bench.sr(zpool=bench.pool()))


def attach(sr: str) -> None:
    call_inside("SR.attach", configuration={"zpool": sr.partition("/")[0], "sr_uuid": sr[-36:]})


class TestSanoid:
    def test_policy(self, sr: str, sanoid: "Callable[..., str]") -> None:
        empty = used(sr)
        disk, other = create(sr, SIZE), create(sr, SIZE)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        sanoid(sr, "take", "yearly")
        assert snapshots(sr, "yearly") == sorted(f"{sr}/{key}" for key in (disk, other, taken))
        write(sr, disk, 2)
        made = clone(sr, disk)
        sanoid(sr, "take", "monthly")
        revert(sr, disk, taken)
        destroy(sr, other, made)
        require_content(sr, {disk: 1, taken: 1}, SIZE)
        # Now sanoid also takes snapshots of the remains of removed disks.
        sanoid(sr, "take", "daily")
        assert len(set(graves(sr)) & set(snapshots(sr, "daily"))) == 3
        destroy(sr, disk, taken)
        assert listed(sr) == {}
        assert "autosnap_*" in call("SR.stat", sr=sr)["health"][1]
        assert check(sr)[0] == 0
        refused(NOT_EMPTY, "SR.destroy", sr=sr)
        for kind in ("yearly", "monthly"):
            output = sanoid(sr, "prune", kind)
            assert snapshots(sr, kind) == [], output
        destroy(sr, create(sr))
        assert len(graves(sr)) == 5
        output = sanoid(sr, "prune", "daily")
        assert snapshots(sr, "daily") == [], output
        attach(sr)
        assert names(sr) == set()
        wait_until(lambda: used(sr) < empty + MIB // 4, "all space")
        call_inside("SR.destroy", sr=sr)

    def test_deleted_disks_and_a_policy_that_goes_on(
        self, sr: str, sanoid: "Callable[..., str]", tmp_path: Path
    ) -> None:
        """New snapshots keep the data of expired ones, unless sanoid is configured as in docs/administration.md."""
        disk, other = create(sr, SIZE), create(sr, SIZE)
        write(sr, disk, 1)
        sanoid(sr, "take", "yearly")
        destroy(sr, disk)
        (grave,) = graves(sr)
        sanoid(sr, "take", "monthly")
        sanoid(sr, "prune", "yearly")
        destroy(sr, create(sr))
        assert int(prop("used", grave)) >= MIB
        script = tmp_path / "not-deleted"
        text = (CHECKOUT / "docs/administration.md").read_text()
        begin = text.index("    #!/bin/sh")
        lines = [*text[begin : text.index("    exit 1\n", begin)].splitlines(), "    exit 1"]
        script.write_text("\n".join(line[4:] for line in lines).replace("30 * 86400", "0") + "\n")
        script.chmod(0o755)
        output = sanoid(sr, "take", "daily", f"pre_snapshot_script = {script}", "no_inconsistent_snapshot = yes")
        assert snapshots(sr, "daily") == snapshots(sr, "monthly") == [f"{sr}/{other}"], output
        destroy(sr, create(sr))
        assert graves(sr) == []


class TestSyncoid:
    def test_to_another_pool_and_back(self, sr: str, bench: Bench) -> None:
        copy = bench.pool(name="copies") + "/" + sr.partition("/")[2]
        disk, other = create(sr, SIZE), create(sr, SIZE)
        write(sr, disk, 1)
        write(sr, other, 4)
        taken = snapshot(sr, disk)
        write(sr, disk, 2)
        require_synced(sr, copy)
        made = clone(sr, taken)
        destroy(sr, other)
        write(sr, disk, 3)
        require_synced(sr, copy)
        require_content(copy, {disk: 3, taken: 1, made: 1, other: 4}, SIZE)
        assert "syncoid_*" in call("SR.stat", sr=sr)["health"][1]
        # After a revert the disk is another zvol, which has no snapshot in common with its old copy.
        revert(sr, disk, taken)
        write(sr, made, 5)
        status, output = syncoid(sr, copy)
        assert status != 0
        assert f"Target {copy}/{disk} exists but has no snapshots matching" in output
        require_content(copy, {disk: 3, made: 5}, SIZE)
        run("zfs", "rename", f"{copy}/{disk}", "copies/before")
        require_synced(sr, copy)
        expected = {disk: 1, taken: 1, made: 5}
        require_content(copy, expected, SIZE)
        # The original is lost. Disks deleted from it are still in the copy.
        call_inside("SR.detach", sr=sr)
        run("zfs", "destroy", "-R", sr)
        require_synced(copy, sr)
        attach(sr)
        assert set(listed(sr)) == {*expected, other}
        require_content(sr, {**expected, other: 4}, SIZE)
        require_well(sr)
        # The copy is attached beside the original.
        python = os.environ.get("ZFSVOL_PYTHON", sys.executable)
        argv = [python, "-m", "zfsvol", "identity", copy]
        subprocess.run(argv, check=True, env=client.environment(), timeout=120)
        (beside,) = run("zfs", "list", "-H", "-o", "name", "-d", "1", "-t", "filesystem", "copies").split()[1:]
        attach(beside)
        assert set(listed(beside)) == {identity.derived(beside[-36:], key) for key in (*expected, other)}
        require_content(beside, {identity.derived(beside[-36:], key): seed for key, seed in expected.items()}, SIZE)
        revert(beside, *(identity.derived(beside[-36:], key) for key in (disk, taken)))


@contextmanager
def again_and_again(action: "Callable[[], None]") -> "Iterator[list[int]]":
    """Repeats the action while the `with` runs; yields a list that holds the number of rounds so far."""
    enough, rounds = threading.Event(), [0]

    def keep_at_it() -> None:
        while not enough.is_set():
            action()
            rounds[0] += 1

    worker = threading.Thread(target=keep_at_it)
    worker.start()
    try:
        yield rounds
    finally:
        enough.set()
        worker.join()
    assert rounds[0] > 0


def test_verbs_while_both_are_at_work(sr: str, bench: Bench, sanoid: "Callable[..., str]") -> None:
    copies = bench.pool(name="copies")

    def both() -> None:
        # They report disks that are deleted while they work, and continue.
        sanoid(sr, "take", "hourly")
        syncoid(sr, f"{copies}/copy")
        sanoid(sr, "prune", "hourly")

    alive: "dict[str, int]" = {}
    with again_and_again(both) as rounds:
        number = 0
        while number < 4 or rounds[0] < 1:
            number += 1
            disk = create(sr, SIZE)
            write(sr, disk, number)
            taken = snapshot(sr, disk)
            write(sr, disk, number + 1000)
            made = clone(sr, disk)
            held = {disk: number + 1000, taken: number, made: number + 1000}
            if number % 2:
                revert(sr, disk, taken)
                held[disk] = number
            stays = [*held][number % 3]
            destroy(sr, *(key for key in held if key != stays))
            alive[stays] = held[stays]
            if len(alive) > 3:
                destroy(sr, *[*alive][:2])
                alive = {key: alive[key] for key in [*alive][2:]}
            assert set(listed(sr)) == set(alive)
    require_content(sr, alive, SIZE)
    destroy(sr, *alive)
    for name in sorted(names(sr)):
        if "@autosnap_" in name or "@syncoid_" in name:
            run("zfs", "destroy", f"{sr}/{name}")
    attach(sr)
    assert names(sr) == set()

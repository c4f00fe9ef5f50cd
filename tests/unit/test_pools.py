# SPDX-License-Identifier: LGPL-2.1-only
"""The meaning of what `zpool import` says when it fails, as cmd/zpool/zpool_main.c of OpenZFS prints it."""

import pytest

from zfsvol.errors import StorageError
from zfsvol.host import lock
from zfsvol.host.command import CommandFailed
from zfsvol.zfs import pools
from zfsvol.zfs.pool import Missing

USED = """\
cannot import 'tank': pool was previously in use from another system.
Last accessed by one (hostid=1111aaaa) at Thu Nov 26 12:00:00 2026
The pool can be imported, use 'zpool import -f' to import the pool.
"""
ACTIVE = """\
cannot import 'tank': pool is imported on one (hostid: 0x1111aaaa)
Export the pool on the other system, then run 'zpool import'.
"""
NO_HOSTID = """\
Cannot import 'tank': pool has the multihost property on and the
system's hostid is not set. Set a unique hostid with the zgenhostid(8) command.
"""


@pytest.fixture
def said(request, monkeypatch):
    """Makes every `zpool import` fail with this message."""

    def fail(argv):
        raise CommandFailed(argv, 1, request.param)

    monkeypatch.setattr(pools, "_searching", fail)
    monkeypatch.setattr(lock, "note_change", lambda: None)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (USED, pools.UsedElsewhere),
        (ACTIVE, pools.UsedElsewhere),
        (NO_HOSTID, pools.UsedElsewhere),
        ("cannot import 'tank': no such pool available\n", Missing),
        ("cannot import 'tank': one or more devices is currently unavailable\n", CommandFailed),
    ],
    ids=["used", "active", "no hostid", "missing", "anything else"],
    indirect=["said"],
)
def test_an_import(said, kind):
    with pytest.raises(StorageError) as caught:
        pools.import_("1", ["/dev/sda"], force=False, own=True)
    assert type(caught.value) is kind


class TestSearch:
    @pytest.mark.parametrize("said", ["", "no pools available to import\n"], indirect=True)
    def test_finds_nothing(self, said):
        assert pools.importable(["/dev/sda"]) == []

    @pytest.mark.parametrize("said", ["internal error: out of memory\n"], indirect=True)
    def test_fails(self, said):
        """Nobody must believe that there is no pool."""
        with pytest.raises(CommandFailed):
            pools.importable(["/dev/sda"])

# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.layout: which words reach zpool, and the block size that suits a pool."""

from fractions import Fraction
import re

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from zfsvol.errors import DeviceInvalid, InvalidArgument, StorageError
from zfsvol.repository import layout

# A slow machine is not an error.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

A, B, C, D, E, F = (f"/dev/disk/by-id/ata-DISK_{letter}" for letter in "ABCDEF")

# Words that zpool would not take for a device, and some that only look like devices.
SMUGGLED = [
    "-f",
    "-n",
    "-o",
    "-O",
    "--",
    "-R/",
    "-t",
    "ashift=9",
    "cachefile=/etc/passwd",
    "-oashift=9",
    "--force",
    "sdb",
    "./sdb",
    "/tmp/disk",
    "/etc/passwd",
    "/dev/../etc/passwd",
    "/dev/disk/../../etc/passwd",
    "/device",
    "/dev",
    "/dev/",
    "//dev/sdb",
    "/dev/sdb;reboot",
    "/dev/sdb|x",
    "/dev/$HOME",
    "/dev/`id`",
    "/dev/sd*",
    "/dev/sd?",
    "/dev/sdb\\x",
    "/dev/sd\u0431",
    "/dev/sdb\0",
    "/dev/sdb'",
    "tank",
    "MIRROR",
    "mirrors",
    "mirror-0",
    "raidz0",
    "raidz4",
    "raidz-1",
    "raidz22",
    "draid0",
    "draid4",
    "draid:",
    "draid:4",
    "draid:d",
    "draid:4x",
    "draid:4d:",
    "draid::4d",
    "draid2:-4d",
    "draid2:4d:-f",
    "draid1-0-0",
    "logs",
    "spares",
    "indirect",
    "indirect-0",
    "hole",
    "missing",
    "root",
    "file",
    "disk",
    "replacing",
    "l2cache",
]


class TestDevices:
    """`device=`: each disk is a vdev of its own."""

    @pytest.mark.parametrize(
        ("text", "devices"),
        [
            (A, [A]),
            (A + "," + B, [A, B]),
            (f" {A} ,\t{B} , {C} ", [A, B, C]),
            ("/dev/sdb", ["/dev/sdb"]),
            ("/dev/nvme0n1p3", ["/dev/nvme0n1p3"]),
            ("/dev/mapper/3600a_b.c-d", ["/dev/mapper/3600a_b.c-d"]),
            ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1", ["/dev/disk/by-path/pci-0000:00:1f.2-ata-1"]),
            ("/dev/disk/by-id/nvme-eui.00a=b+c@d", ["/dev/disk/by-id/nvme-eui.00a=b+c@d"]),
        ],
    )
    def test_stripe(self, text, devices):
        found = layout.parse_devices(text)
        assert found.words == devices
        assert found.devices == devices
        assert found.data == [("", 1)] * len(devices)

    @pytest.mark.parametrize("word", [*SMUGGLED, "mirror", "raidz", "log", "draid2:4d"], ids=ascii)
    def test_nothing_else(self, word):
        for text in (word, A + "," + word, word + "," + A):
            with pytest.raises(DeviceInvalid) as caught:
                layout.parse_devices(text)
            assert f"'{word.strip()}'" in str(caught.value)

    @pytest.mark.parametrize("text", ["", " ", ",", A + ",", "," + A, A + ",," + B, A + " " + B, A + "\n" + B])
    def test_holes_and_wrong_separators(self, text):
        with pytest.raises(DeviceInvalid):
            layout.parse_devices(text)

    def test_named_twice(self):
        with pytest.raises(InvalidArgument, match=A + " is named twice"):
            layout.parse_devices(f"{A},{B},{A}")


class TestVdevs:
    """`vdev=`: the words of a `zpool create` command line."""

    @pytest.mark.parametrize(
        ("text", "data"),
        [
            (A, [("", 1)]),
            (f"{A} {B}", [("", 1), ("", 1)]),
            (f"mirror {A} {B}", [("mirror", 2)]),
            (f"mirror {A} {B} {C}", [("mirror", 3)]),
            (f"mirror {A} {B} mirror {C} {D}", [("mirror", 2), ("mirror", 2)]),
            (f"raidz {A} {B} {C}", [("raidz1", 3)]),
            (f"raidz1 {A} {B}", [("raidz1", 2)]),
            (f"raidz2 {A} {B} {C} {D}", [("raidz2", 4)]),
            (f"raidz3 {A} {B} {C} {D} {E}", [("raidz3", 5)]),
            (f"raidz {A} {B} raidz2 {C} {D} {E}", [("raidz1", 2), ("raidz2", 3)]),
            (f"draid {A} {B} {C}", [("draid", 3)]),
            (f"draid1 {A} {B} {C}", [("draid1", 3)]),
            (f"draid2:2d:5c:1s {A} {B} {C} {D} {E}", [("draid2:2d:5c:1s", 5)]),
            (f"draid3:1d:4c {A} {B} {C} {D}", [("draid3:1d:4c", 4)]),
            (f"draid:1s {A} {B} {C}", [("draid:1s", 3)]),
            (f"{A} mirror {B} {C}", [("", 1), ("mirror", 2)]),
            (f"{A} log {B}", [("", 1)]),
            (f"{A} cache {B}", [("", 1)]),
            (f"{A} special {B}", [("", 1)]),
            (f"{A} dedup {B}", [("", 1)]),
            (f"{A} spare {B} {C}", [("", 1)]),
            (f"mirror {A} {B} log mirror {C} {D}", [("mirror", 2)]),
            (f"mirror {A} {B} special mirror {C} {D} cache {E} spare {F}", [("mirror", 2)]),
            (f"log {A} special {B} mirror {C} {D}", None),
            (f"  mirror\t{A}\n{B}  ", [("mirror", 2)]),
        ],
    )
    def test_words(self, text, data):
        if data is None:  # as for zpool, all words after a class belong to that class
            with pytest.raises(InvalidArgument, match="no device to hold data"):
                layout.parse_vdevs(text)
            return
        found = layout.parse_vdevs(text)
        assert found.words == text.split()
        assert found.devices == [word for word in text.split() if word.startswith("/dev/")]
        assert found.data == data

    @pytest.mark.parametrize("word", SMUGGLED, ids=ascii)
    def test_nothing_else(self, word):
        for text in ("{} {}", "{} mirror {} {}", "{1} {0}", "mirror {1} {2} {0}", "mirror {1} {0} {2}", "{1} log {0}"):
            with pytest.raises(DeviceInvalid) as caught:
                layout.parse_vdevs(text.format(word, A, B))
            assert "vdev" in str(caught.value)

    @pytest.mark.parametrize("text", ["{0} {0}", "mirror {0} {0}", "{0} log {0}", "mirror {0} {1} spare {0}"])
    def test_named_twice(self, text):
        with pytest.raises(InvalidArgument, match=A + " is named twice"):
            layout.parse_vdevs(text.format(A, B))

    @pytest.mark.parametrize(
        ("group", "fewest"),
        [
            ("mirror", 2),
            ("raidz", 2),
            ("raidz1", 2),
            ("raidz2", 3),
            ("raidz3", 4),
            ("draid", 2),
            ("draid1", 2),
            ("draid2", 3),
            ("draid3", 4),
        ],
    )
    @pytest.mark.parametrize("before", ["", F + " "])
    @pytest.mark.parametrize("after", ["", " mirror /dev/x /dev/y", " log /dev/x"])
    def test_too_few(self, group, fewest, before, after):
        enough = [A, B, C, D][:fewest]
        assert layout.parse_vdevs(before + " ".join([group, *enough]) + after).words
        for number in range(fewest):
            sentence = f"needs at least {fewest} devices, {number} given"
            with pytest.raises(InvalidArgument, match=sentence) as caught:
                layout.parse_vdevs(before + " ".join([group, *enough[:number]]) + after)
            assert group in str(caught.value)

    def test_too_few_in_a_class(self):
        with pytest.raises(InvalidArgument, match="'mirror' needs at least 2 devices, 1 given"):
            layout.parse_vdevs(f"{A} log mirror {B}")

    @pytest.mark.parametrize("text", ["", " ", "log " + A, f"spare {A} {B}", "cache " + A])
    def test_no_data(self, text):
        with pytest.raises(InvalidArgument, match="no device to hold data"):
            layout.parse_vdevs(text)

    @given(
        st.lists(
            st.one_of(
                st.sampled_from([A, B, C, D, E, F]),
                st.sampled_from(["mirror", "raidz", "raidz2", "draid", "draid2:4d:8c:1s", "log", "special", "spare"]),
                st.sampled_from(SMUGGLED),
                st.text(max_size=12),
            ),
            max_size=8,
        ),
        st.sampled_from([" ", "\t", ","]),
    )
    def test_only_keywords_and_devices_come_through(self, words, separator):
        parse = layout.parse_devices if separator == "," else layout.parse_vdevs
        try:
            found = parse(separator.join(words))
        except StorageError:
            return
        for word in found.words:
            keyword = re.match(r"(mirror|d?raidz?[123]?(:[0-9]+[dcs])*|log|cache|special|dedup|spare)\Z", word)
            assert keyword or re.match(r"/dev/[^.\s]*\Z", word)

    def test_renamed(self):
        found = layout.parse_vdevs(f"mirror /dev/sdb {A} log /dev/sdc")
        renamed = found.renamed({"/dev/sdb": B, A: A, "/dev/sdc": C})
        assert renamed.words == ["mirror", B, A, "log", C]
        assert renamed.devices == [B, A, C]
        assert renamed.data == found.data
        assert found.words[1] == "/dev/sdb"


# ----------------------------------------------------------------------------------------------------
# Block sizes
# ----------------------------------------------------------------------------------------------------

KIB = 1024


def raidz_sectors(disks, parity, sectors):
    """Sectors that a block uses on raidz, laid out as in zpool-raidz(7): in rows of at most
    disks - parity data sectors, each row with its parity, the whole padded to a multiple of parity + 1.
    """
    taken = 0
    column = 0
    for _ in range(sectors):
        if column == 0:  # a new row begins
            taken += parity
        taken += 1
        column = (column + 1) % (disks - parity)
    while taken % (parity + 1):
        taken += 1
    return taken


def draid_sectors(data, parity, sectors):
    """Sectors that a block uses on draid: whole stripes of a fixed width, see zpoolconcepts(7)."""
    taken = 0
    while sectors > 0:
        taken += data + parity
        sectors -= data
    return taken


def default_data_disks(disks, parity, spares):
    """zpoolconcepts(7): `:data` is 8 "unless the number of children minus parity minus spares is less than 8"."""
    return min(8, disks - parity - spares)


def model(taken, ashift):
    """The smallest power of two from 16 KiB on at which data uses at most a tenth more space than in blocks of 128 KiB,
    for which ZFS computes the pool's size. `taken`: the sectors that a block uses, by its sectors of data.
    """

    def for_one_largest(block):
        sectors = -(-block // (1 << ashift))
        return taken(sectors) * (128 * KIB // block)

    sizes = [16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB]
    for block in sizes:
        if for_one_largest(block) <= for_one_largest(128 * KIB) * Fraction(11, 10):
            return block
    raise AssertionError


class TestAddition:
    @pytest.mark.parametrize(
        ("text", "groups"),
        [
            ("/dev/a", [("", "", 1)]),
            ("/dev/a mirror /dev/b /dev/c", [("", "", 1), ("", "mirror", 2)]),
            ("spare /dev/a /dev/b", [("spare", "", 1), ("spare", "", 1)]),
            ("log mirror /dev/a /dev/b cache /dev/c", [("log", "mirror", 2), ("cache", "", 1)]),
            ("special raidz /dev/a /dev/b /dev/c", [("special", "raidz1", 3)]),
        ],
    )
    def test_groups(self, text, groups):
        assert layout.parse_addition(text).groups == groups

    @pytest.mark.parametrize("text", ["", "log", "spare cache"])
    def test_no_device(self, text):
        with pytest.raises(InvalidArgument, match="no device is named"):
            layout.parse_addition(text)

    @pytest.mark.parametrize(
        ("kind", "disks", "parity"),
        [("", 1, 0), ("mirror", 2, 1), ("mirror", 3, 2), ("raidz1", 5, 1), ("raidz3", 8, 3), ("draid2:4d", 9, 2)],
    )
    def test_parity(self, kind, disks, parity):
        assert layout.parity(kind, disks) == parity


@pytest.mark.parametrize("ashift", [9, 12, 13])
class TestVolblocksize:
    @pytest.mark.parametrize("kinds", [[("", 1)], [("", 1)] * 3, [("mirror", 2)], [("mirror", 3), ("", 1)]])
    def test_disks_and_mirrors(self, ashift, kinds):
        assert layout.default_volblocksize(kinds, ashift) == 16 * KIB

    @pytest.mark.parametrize("parity", [1, 2, 3])
    def test_raidz(self, ashift, parity):
        for disks in range(max(2, parity + 1), 13):
            expected = model(lambda sectors, disks=disks: raidz_sectors(disks, parity, sectors), ashift)
            assert layout.default_volblocksize([(f"raidz{parity}", disks)], ashift) == expected, disks

    @pytest.mark.parametrize("parity", [1, 2, 3])
    def test_draid(self, ashift, parity):
        for disks in range(max(2, parity + 1), 13):
            data = default_data_disks(disks, parity, 0)
            expected = model(lambda sectors, data=data: draid_sectors(data, parity, sectors), ashift)
            assert layout.default_volblocksize([(f"draid{parity}", disks)], ashift) == expected, disks

    @pytest.mark.parametrize("parity", [1, 2, 3])
    @pytest.mark.parametrize("spares", [1, 2])
    def test_draid_with_distributed_spares(self, ashift, parity, spares):
        for disks in range(parity + spares + 1, 13):
            data = default_data_disks(disks, parity, spares)
            expected = model(lambda sectors, data=data: draid_sectors(data, parity, sectors), ashift)
            kind = f"draid{parity}:{spares}s"
            assert layout.default_volblocksize([(kind, disks)], ashift) == expected, disks

    @pytest.mark.parametrize("parity", [1, 2, 3])
    def test_draid_with_given_data_disks(self, ashift, parity):
        for disks in range(parity + 1, 13):
            for data in range(1, disks - parity + 1):
                expected = model(lambda sectors, data=data: draid_sectors(data, parity, sectors), ashift)
                # In any order, as `zpool status` shows it.
                for spec in ("draid{0}:{1}d:{2}c:0s", "draid{0}:{2}c:{1}d"):
                    kind = spec.format(parity, data, disks)
                    assert layout.default_volblocksize([(kind, disks)], ashift) == expected, kind

    def test_plain_words_mean_one_disk_of_parity(self, ashift):
        for kind in ("raidz", "draid"):
            for disks in range(2, 13):
                plain = layout.default_volblocksize([(kind, disks)], ashift)
                assert plain == layout.default_volblocksize([(kind + "1", disks)], ashift)

    def test_the_most_demanding_vdev_decides(self, ashift):
        kinds = [("", 1), ("mirror", 2), ("raidz1", 3), ("raidz2", 6), ("raidz2", 5), ("draid2:8d:10c:0s", 10)]
        each = [layout.default_volblocksize([kind], ashift) for kind in kinds]
        assert layout.default_volblocksize(kinds, ashift) == max(each)


def test_known_allocations():
    """Checks the model itself against numbers worked out by hand."""
    # Three disks, one of parity: four sectors are two rows of 2 + 1.
    assert raidz_sectors(3, 1, 4) == 6
    # One sector and its parity.
    assert raidz_sectors(3, 1, 1) == 2
    # Five disks, two of parity: four sectors are 3 + 2 and 1 + 2, padded from eight to nine.
    assert raidz_sectors(5, 2, 4) == 9
    assert draid_sectors(8, 2, 1) == 10
    assert draid_sectors(4, 1, 5) == 10


@pytest.mark.parametrize(
    ("kind", "disks", "block"),
    [
        ("raidz1", 2, 16),
        ("raidz1", 3, 16),
        ("raidz1", 4, 16),
        ("raidz2", 5, 128),
        ("raidz2", 6, 16),
        ("draid2:8d:10c:0s", 10, 32),
    ],
)
def test_known_block_sizes(kind, disks, block):
    """For disks with 4 KiB sectors."""
    assert layout.default_volblocksize([(kind, disks)], 12) == block * KIB

# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.configuration: each key of device-config, with values that it accepts and refuses."""

import pytest

from zfsvol import naming
from zfsvol.errors import DeviceMissing, InvalidArgument
from zfsvol.repository import configuration

UUID = "5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1"

ON_OFF = ["on", "off"]
SWITCH = ["true", "false"]
CACHE = ["all", "none", "metadata"]

# The values that OpenZFS 2.1 documents in zfsprops(7) and zpoolprops(7) and an SR can use, and some similar ones.
GOOD = {
    "ashift": ["9", "12", "13", "16"],
    "autotrim": ON_OFF,
    "failmode": ["wait", "continue", "panic"],
    "multihost": ON_OFF,
    "compression": [
        "on",
        "off",
        "lz4",
        "lzjb",
        "zle",
        "gzip",
        "gzip-1",
        "gzip-9",
        "zstd",
        "zstd-1",
        "zstd-19",
        "zstd-fast",
    ],
    "checksum": ["on", "fletcher4", "sha256", "sha512", "skein", "edonr"],
    "copies": ["1", "2", "3"],
    "dedup": ["on", "off", "verify", "sha256", "sha512", "skein"],
    "logbias": ["latency", "throughput"],
    "primarycache": CACHE,
    "secondarycache": CACHE,
    "sync": ["standard", "always", "disabled"],
    "quota": ["1", "500G", "2T", "1000000000000", "10P", "64K", "512M", "1.5T", "500GB", "2TiB", "500g", "none"],
    "reservation": ["1", "500G", "2T"],
    "volblocksize": ["4096", "131072", "4K", "8K", "16K", "32K", "64K", "128K", "16k", "16KB", "16KiB", "4096B"],
    "datapath": ["tapdisk", "blkback"],
    "provisioning": ["thin", "thick"],
    "scrub": ["monthly 02:30", "weekly 00:00", "daily 23:59", "off"],
    "trim": ["monthly 02:30", "weekly 01:00", "off"],
    "force-create": SWITCH,
    "force-import": SWITCH,
    "sr_uuid": [UUID],
    "pool-guid": ["9755967416370671464"],
}
BAD = {
    "ashift": ["", "0", "8", "17", "12.0", "012", "4096", "twelve", " 12"],
    "autotrim": ["", "true", "yes", "ON", "1"],
    "failmode": ["", "stop", "Wait"],
    "multihost": ["", "true"],
    # checksum=off would defeat the purpose of ZFS.
    "checksum": ["", "off", "noparity", "md5"],
    "compression": ["", "yes", "gzip-0", "gzip-10", "zstd-0", "zstd-20", "lz5", "LZ4", "lz4 "],
    "copies": ["", "0", "4", "two"],
    "dedup": ["", "true", "md5"],
    "logbias": ["", "fast"],
    "primarycache": ["", "data"],
    "secondarycache": ["", "data"],
    "sync": ["", "off"],
    "quota": ["", "lots", "-1", "-5G", "5 G", "5GG", "G", "0x10", "5G\n", "1e9", "\u0665G"],
    "reservation": ["", "lots", "-1", "5G,mountpoint=/"],
    "volblocksize": ["", "512", "1K", "2K", "3K", "256K", "1M", "16 KB", "16384 ", "5000", "KB", "16.0K"],
    "datapath": ["", "vbd3", "Tapdisk"],
    "provisioning": ["", "sparse", "Thin"],
    "scrub": ["", "on", "yearly", "monthly 24:00", "02:30"],
    "trim": ["", "true", "weekly 1"],
    "force-create": ["", "yes", "1", "TRUE"],
    "force-import": ["", "yes", "1", "TRUE"],
}
POOL_ONLY = ["ashift", "autotrim", "failmode", "multihost", "force-create"]

CASES_GOOD = [(name, value) for name, values in GOOD.items() for value in values]
CASES_BAD = [(name, value) for name, values in BAD.items() for value in values]


def check(**given):
    """Checks a device-config with one device and these keys, written with underscores."""
    keys = {name.replace("_", "-") if name != "sr_uuid" else name: value for name, value in given.items()}
    return configuration.check({"device": "/dev/sdb", **keys})


class TestKeys:
    def test_every_key_has_cases_here(self):
        elsewhere = {"device", "vdev", "zpool", "encryption", "encryption-key-file"}
        assert set(configuration.KEYS) == set(GOOD) | elsewhere

    def test_every_key_is_described(self):
        for name, key in configuration.KEYS.items():
            assert 10 < len(key.description) < 100, name
            assert key.default is None or key.choices is None or key.default in key.choices

    @pytest.mark.parametrize(("name", "value"), CASES_GOOD)
    def test_good_value(self, name, value):
        expected = {"16k": "16384", "4K": "4096", "8K": "8192", "16K": "16384", "32K": "32768", "64K": "65536"}
        expected.update({"128K": "131072", "16KB": "16384", "16KiB": "16384", "4096B": "4096"})
        wanted = expected.get(value, value) if name == "volblocksize" else value
        assert configuration.check({"device": "/dev/sdb", name: value}) == {"device": "/dev/sdb", name: wanted}

    @pytest.mark.parametrize(("name", "value"), CASES_BAD)
    def test_bad_value(self, name, value):
        with pytest.raises(InvalidArgument) as caught:
            configuration.check({"device": "/dev/sdb", name: value})
        # It says which key, which value, and what to write instead.
        sentence = str(caught.value)
        assert f"device-config:{name}={value}" in sentence
        assert ("500G" if name in ("quota", "reservation") else GOOD[name][0]) in sentence

    @pytest.mark.parametrize("name", ["", "Device", "compresion", "device ", "mountpoint", "readonly", "-o", "volsize"])
    def test_unknown_key(self, name):
        with pytest.raises(InvalidArgument) as caught:
            configuration.check({"device": "/dev/sdb", name: "on"})
        assert f"device-config:{name} is no key" in str(caught.value)
        assert "zpool" in str(caught.value)

    def test_the_given_dictionary_is_left_alone(self):
        given = {"device": "/dev/sdb", "volblocksize": "16K"}
        assert configuration.check(given)["volblocksize"] == "16384"
        assert given["volblocksize"] == "16K"


class TestPlace:
    @pytest.mark.parametrize(
        "given", [{}, {"device": ""}, {"device": " \n"}, {"zpool": ""}, {"vdev": ""}, {"ashift": "12"}]
    )
    def test_none(self, given):
        with pytest.raises(DeviceMissing, match="The request is missing the device parameter"):
            configuration.check(given)

    @pytest.mark.parametrize(
        ("given", "named"),
        [
            ({"device": "/dev/sdb", "zpool": "tank"}, "device and zpool"),
            ({"device": "/dev/sdb", "vdev": "mirror /dev/sdc /dev/sdd"}, "device and vdev"),
            ({"vdev": "mirror /dev/sdc /dev/sdd", "zpool": "tank"}, "vdev and zpool"),
            ({"vdev": "/dev/sdc", "zpool": "tank", "device": "/dev/sdb"}, "device and vdev and zpool"),
        ],
    )
    def test_several(self, given, named):
        with pytest.raises(InvalidArgument, match=named):
            configuration.check(given)

    @pytest.mark.parametrize("name", ["device", "vdev"])
    def test_new_pool(self, name):
        given = {name: "/dev/sdb", **{key: GOOD[key][0] for key in POOL_ONLY}}
        assert configuration.check(given) == given

    def test_existing_pool(self):
        others = {key: values[0] for key, values in GOOD.items() if key not in POOL_ONLY}
        given = {"zpool": "tank/vms", **others}
        assert configuration.check(given) == given

    @pytest.mark.parametrize("name", POOL_ONLY)
    def test_existing_pool_takes_no_properties_of_a_new_one(self, name):
        with pytest.raises(InvalidArgument) as caught:
            configuration.check({"zpool": "tank/vms", name: GOOD[name][0]})
        assert f"device-config:{name} is for a new pool, but the pool tank exists" in str(caught.value)

    @pytest.mark.parametrize("name", ["-f", "tank/", "/dev/sdb", "tank@x"])
    def test_name_of_no_pool(self, name):
        with pytest.raises(InvalidArgument, match="not the name of a pool"):
            configuration.check({"zpool": name})


class TestNames:
    # As `zfs create` accepts and refuses them: a pool's name begins with a letter, other names with any allowed
    # character.
    @pytest.mark.parametrize(
        "name",
        [
            "tank",
            "t",
            "Tank-1_x.y:z",
            "tank/vms",
            "tank/a/b/c",
            "my pool/my vms",
            "tank/_vms",
            "tank/-x",
            "tank/.a",
            "tank/1",
        ],
    )
    def test_good(self, name):
        naming.require_dataset_name(name)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "/",
            "/tank",
            "tank/",
            "tank//vms",
            "tank/.",
            "tank/..",
            "tank/../other",
            "_tank",
            "-tank",
            "1tank",
            " tank",
            ".tank",
            "tank@snapshot",
            "tank#bookmark",
            "tank/a@b",
            "tank\n",
            "tank/a\n",
            "tank\tx",
            "tank\0",
            "tank/%recv",
            "tank\u00e4",
            "tank/a=b",
            "tank,b",
            "tank/*",
            "$(id)",
        ],
        ids=ascii,
    )
    def test_bad(self, name):
        with pytest.raises(InvalidArgument, match="not the name of a pool or of a dataset"):
            naming.require_dataset_name(name)

    def test_uuid(self):
        assert naming.require_uuid(UUID, "It") == UUID
        with pytest.raises(InvalidArgument, match="The VDI 'x' is not a uuid"):
            naming.require_uuid("x", "The VDI")


class TestProperties:
    def test_defaults_of_a_new_pool(self):
        assert configuration.of_kind(check(), configuration.POOL, defaults=True) == {"ashift": "12", "autotrim": "on"}
        assert configuration.of_kind(check(), configuration.DATASET, defaults=True) == {"compression": "on"}

    def test_given_values_win(self):
        values = check(ashift="13", autotrim="off", failmode="panic", compression="zstd", sync="always")
        found = configuration.of_kind(values, configuration.POOL, defaults=True)
        assert found == {"ashift": "13", "autotrim": "off", "failmode": "panic"}
        found = configuration.of_kind(values, configuration.DATASET, defaults=True)
        assert found == {"compression": "zstd", "sync": "always"}

    def test_only_what_was_given(self):
        values = configuration.check({"zpool": "tank", "sync": "always", "volblocksize": "8K"})
        assert configuration.of_kind(values, configuration.DATASET, defaults=False) == {"sync": "always"}
        assert configuration.of_kind(values, configuration.POOL, defaults=False) == {}

    def test_the_drivers_own_keys_reach_no_pool_and_no_dataset(self):
        values = check(provisioning="thick", volblocksize="8K", force_create="true", force_import="true", sr_uuid=UUID)
        found = {
            **configuration.of_kind(values, configuration.POOL, defaults=False),
            **configuration.of_kind(values, configuration.DATASET, defaults=False),
        }
        assert found == {}


RAW = bytes(range(200, 232))
HEX = "0123456789abcdef" * 4


class TestKeyFiles:
    @pytest.fixture
    def key_file(self, tmp_path):
        """Writes a key file; its path."""

        def write(data):
            path = tmp_path / "key file"
            path.write_bytes(data)
            return str(path)

        return write

    def properties(self, path, **given):
        return configuration.encryption_properties(check(encryption_key_file=path, **given))

    @pytest.mark.parametrize(
        ("data", "keyformat"),
        [
            (RAW, "raw"),
            (b"\n" * 32, "raw"),
            (b"\0" * 32, "raw"),
            (HEX.encode(), "hex"),
            (HEX.encode() + b"\n", "hex"),
            (HEX.upper().encode(), "hex"),
            (b"12345678", "passphrase"),
            (b"12345678\n", "passphrase"),
            (b"correct horse battery staple", "passphrase"),
            ("Schlüssel\n".encode(), "passphrase"),
            (b"x" * 512, "passphrase"),
            (b"x" * 512 + b"\n", "passphrase"),
            (HEX[:-1].encode(), "passphrase"),
            (HEX.encode() + b"0", "passphrase"),
            (HEX[:-1].encode() + b"g", "passphrase"),
        ],
    )
    def test_format(self, key_file, data, keyformat):
        path = key_file(data)
        assert self.properties(path) == {
            "encryption": "aes-256-gcm",
            "keyformat": keyformat,
            "keylocation": "file://" + path,
        }

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\n",
            b"1234567",
            b"1234567\n",
            b"x" * 513,
            b"x" * 513 + b"\n",
            b"x" * 100000,
            b"two lines\nof text",
            b"\n12345678",
        ],
        ids=lambda data: repr(data)[:20],
    )
    def test_no_key(self, key_file, data):
        path = key_file(data)
        with pytest.raises(InvalidArgument, match="holds no key that ZFS accepts") as caught:
            self.properties(path)
        assert path in str(caught.value)

    def test_the_key_is_not_told(self, key_file):
        with pytest.raises(InvalidArgument) as caught:
            self.properties(key_file(b"secret1"))
        assert "secret1" not in str(caught.value)

    @pytest.mark.parametrize(
        "path", ["", "key", "./key", "prompt", "file:///key", "https://host/key", "/nowhere/key", "/dev"]
    )
    def test_no_file(self, path, tmp_path, monkeypatch):
        # A relative path is refused, even if the verb happens to run where such a file exists.
        (tmp_path / "key").write_bytes(RAW)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InvalidArgument, match="is not the path of a file") as caught:
            self.properties(path)
        assert f"encryption-key-file={path}" in str(caught.value)

    @pytest.mark.parametrize("cipher", [f"aes-{bits}-{mode}" for bits in (128, 192, 256) for mode in ("ccm", "gcm")])
    def test_cipher(self, key_file, cipher):
        assert self.properties(key_file(RAW), encryption=cipher)["encryption"] == cipher

    @pytest.mark.parametrize("cipher", ["", "on", "off", "aes", "aes-256", "aes-256-cbc", "AES-256-GCM"])
    def test_unknown_cipher(self, key_file, cipher):
        with pytest.raises(InvalidArgument, match="device-config:encryption="):
            self.properties(key_file(RAW), encryption=cipher)

    def test_cipher_without_key_file(self):
        with pytest.raises(InvalidArgument, match="encryption needs encryption-key-file"):
            check(encryption="aes-256-gcm")

    def test_neither(self):
        assert configuration.encryption_properties(check()) == {}

# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.naming: the names of SRs and VDIs in ZFS, and that no other names are taken for them."""

import re

import pytest

from zfsvol import naming
from zfsvol.errors import InvalidArgument

UUID = "5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1"
VDI = "0f0e5a52-3a1e-4b0e-8a4e-1f6b8c1f2d3e"
OWN = "sr-" + UUID

NO_UUIDS = [
    "",
    "x",
    UUID[:-1],
    UUID + "0",
    UUID + "\n",
    UUID.upper(),
    UUID.replace("-", ""),
    "{" + UUID + "}",
    UUID.replace("5", "g"),
    " " + UUID,
    UUID.replace("5", "\u0665"),  # a digit in Unicode
]

# Strings that name no SR of this driver.
NO_SRS = [
    "",
    "tank",
    "tank/vms",
    "sr-",
    "sr-x",
    UUID,
    "SR-" + UUID,
    "sr-" + UUID.upper(),
    OWN + "/",
    OWN + "/" + VDI,
    OWN + "@snapshot",
    OWN + "\n",
    "/" + OWN,
    "//" + OWN,
    "-f/" + OWN,
    "-r" + OWN,
    "tank//" + OWN,
    "tank@x/" + OWN,
    "tank\n/" + OWN,
    "tank\t/" + OWN,
    "1tank/" + OWN,
    "tank/../" + OWN,
    "tank\0/" + OWN,
    "/dev/zvol/" + OWN,
]


class TestRoot:
    def test_in_a_pool_of_its_own(self):
        root = naming.root_for({"device": "/dev/sdb"}, UUID)
        assert (root.dataset, root.pool, root.uuid, root.owns_pool) == (OWN, OWN, UUID, True)

    @pytest.mark.parametrize("parent", ["tank", "tank/vms", "tank/a/b/c", "my pool", "Tank_1.x:y-z/A b"])
    def test_in_the_administrators_pool(self, parent):
        root = naming.root_for({"zpool": parent}, UUID)
        assert (root.dataset, root.uuid, root.owns_pool) == (parent + "/" + OWN, UUID, False)
        assert root.pool == parent.split("/")[0]

    def test_pool_called_as_an_sr_may_hold_another(self):
        parent = "sr-" + VDI
        root = naming.root_for({"zpool": parent}, UUID)
        assert (root.pool, root.uuid, root.owns_pool) == (parent, UUID, False)

    def test_volume_and_uri(self):
        root = naming.Root("tank/" + OWN)
        assert root.volume(VDI) == f"tank/{OWN}/{VDI}"
        assert root.uri(VDI) == f"zvol://tank/{OWN}/{VDI}"

    @pytest.mark.parametrize("dataset", ["", "tank/", "my pool/a b/", "tank/a.b:c-d_e/"])
    def test_uri_and_back(self, dataset):
        root, key = naming.parse_uri(naming.Root(dataset + OWN).uri(VDI))
        assert (root.dataset, root.uuid, key) == (dataset + OWN, OWN[3:], VDI)

    @pytest.mark.parametrize(
        "uri",
        [
            "",
            "zvol://",
            f"zvol://{VDI}",
            f"zvol://tank/{VDI}",
            f"zvol://{OWN}/",
            f"zvol://{OWN}/{VDI}/",
            f"file://{OWN}/{VDI}",
            f"zvol://../{OWN}/{VDI}",
            f"zvol://tank@a/{OWN}/{VDI}",
            f"zvol://{OWN}/.gone/{VDI}",
            f"zvol://{OWN}/{VDI} ",
        ],
    )
    def test_uri_of_no_disk(self, uri):
        with pytest.raises(InvalidArgument):
            naming.parse_uri(uri)

    def test_uri_has_no_spaces(self):
        uri = naming.Root("my pool/a b/" + OWN).uri(VDI)
        assert uri == f"zvol://my%20pool/a%20b/{OWN}/{VDI}"
        assert re.match(r"[!-~]+\Z", uri)

    @pytest.mark.parametrize("uuid", NO_UUIDS, ids=ascii)
    def test_bad_uuid(self, uuid):
        with pytest.raises(InvalidArgument, match="SR's uuid"):
            naming.root_for({}, uuid)

    @pytest.mark.parametrize("parent", ["", " ", "-f", "tank/", "/tank", "tank@snap", "tank#mark", "tank//a", "ta\nnk"])
    def test_bad_parent(self, parent):
        with pytest.raises(InvalidArgument, match="not the name of a pool"):
            naming.root_for({"zpool": parent}, UUID)


class TestClientsString:
    @pytest.mark.parametrize("dataset", [OWN, "tank/" + OWN, "my pool/a b/" + OWN, f"sr-{VDI}/{OWN}"])
    def test_every_root_is_found_again(self, dataset):
        root = naming.parse_sr(dataset)
        assert root.dataset == dataset
        assert root.uuid == UUID
        assert naming.is_root(dataset)

    @pytest.mark.parametrize("sr", NO_SRS, ids=ascii)
    def test_no_sr(self, sr):
        with pytest.raises(InvalidArgument):
            naming.parse_sr(sr)


@pytest.mark.parametrize("dataset", ["tank", "", UUID, "sr-x", OWN + "/" + VDI, "tank/sr-" + UUID.upper(), OWN + "x"])
def test_no_root(dataset):
    assert not naming.is_root(dataset)


@pytest.mark.parametrize("uuid", NO_UUIDS, ids=ascii)
def test_no_uuid(uuid):
    assert not naming.is_uuid(uuid)


def test_uuid():
    assert naming.is_uuid(UUID)
    assert naming.is_uuid("00000000-0000-0000-0000-000000000000")


class TestZvolsThatAreNoVDIs:
    def test_revert(self):
        name = naming.revert_name(VDI)
        assert name == f".revert-{VDI}"
        assert naming.reverted(name) == VDI
        assert not naming.is_uuid(name)

    @pytest.mark.parametrize(
        "name",
        [
            *("", VDI, ".revert-", ".revert", "revert-" + VDI, ".Revert-" + VDI, ".gone/.revert-" + VDI),
            *(".revert-" + uuid for uuid in NO_UUIDS),
            *(f".revert-{VDI}@{UUID}", f".revert-{VDI}/x", f"x.revert-{VDI}", f".revert-.revert-{VDI}"),
        ],
        ids=ascii,
    )
    def test_no_revert(self, name):
        assert naming.reverted(name) is None

    @pytest.mark.parametrize("dataset", [OWN, "my pool/a b/" + OWN])
    def test_graves(self, dataset):
        root = naming.Root(dataset)
        graves = {root.grave(uuid, token) for uuid in (UUID, VDI) for token in ("0a1b2c3d", "0a1b2c3e")}
        assert len(graves) == 4
        for grave in graves:
            assert grave.startswith(dataset + "/.gone-")
            # It is neither a VDI, nor a future one, nor an SR.
            last = grave.rpartition("/")[2]
            assert not naming.is_uuid(last)
            assert naming.reverted(last) is None
            assert not naming.is_root(grave)

    def test_longest_name_fits(self):
        """ZFS allows 255 bytes including the snapshot; the administrator's dataset may use the rest."""
        root = naming.Root(OWN)
        longest = max(root.grave(VDI, "0a1b2c3d"), root.volume(naming.revert_name(VDI)), key=len)
        assert len(f"{longest}@{UUID}") < 255 - 100


def test_names_of_properties():
    # zfsprops(7): lower-case letters, digits and these, with a colon. And all of ours must differ.
    names = [value for name, value in vars(naming).items() if name.startswith(("SR_", "VDI_"))]
    assert len(set(names)) == len(names) > 5
    for name in names:
        assert re.match(r"zfsvol:[a-z-]+\Z", name)

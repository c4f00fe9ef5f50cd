# SPDX-License-Identifier: LGPL-2.1-only
"""The documents name everything that exists, and nothing else."""

import re

import pytest

from tests.client import CHECKOUT
from zfsvol import naming
from zfsvol.repository import configuration
from zfsvol.service import sources


def document(name: str) -> str:
    """A document's text."""
    return (CHECKOUT / name).read_text()


def test_device_config_keys() -> None:
    rows = re.findall(r"^\| `([a-z_-]+)` \|([^|]*)\| (.*) \|$", document("docs/administration.md"), re.MULTILINE)
    assert [name for name, _, _ in rows] == list(configuration.KEYS)
    for name, default, consequence in rows:
        key = configuration.KEYS[name]
        if key.default is not None:
            assert default.split()[0] == key.default, name
        # force-create is a key for the driver, but only for new pools; its row says so in other words.
        assert consequence.startswith("*New pool.*") == (key.kind == configuration.POOL), name


def test_properties() -> None:
    told = set(re.findall(r"`(zfsvol:[a-z-]+)`", document("docs/administration.md")))
    assert told == {value for value in vars(naming).values() if str(value).startswith("zfsvol:")}


def test_modules() -> None:
    rows = re.findall(r"^\| (`[a-z_`/, ]+`) \|", document("docs/architecture.md"), re.MULTILINE)
    told = {name.strip("` ") for row in rows for name in row.split(",")} - {"devices", "search"}
    package = CHECKOUT / "zfsvol"
    modules = {path.relative_to(package).with_suffix("").as_posix() for path in package.rglob("*.py")}
    assert told == {name for name in modules if not name.endswith("__init__")}


def test_data_sources() -> None:
    rows = re.findall(
        r"^\| (host|sr|vm) \| `([a-z_<>]+)` \| ([^|]+) \|", document("docs/administration.md"), re.MULTILINE
    )
    made = [("sr", source.name, source.units) for source in sources.SR]
    made += [("host", source.name, source.units) for source in sources.HOST]
    made += [("host", sources.host_name("<sr>").format(source.name), source.units) for source in sources.DISK]
    made += [("vm", sources.vm_name("<device>").format(source.name), source.units) for source in sources.VM_DISK]
    assert sorted(rows) == sorted(made)


@pytest.mark.parametrize(
    "name", ["README.md", "docs/administration.md", "docs/architecture.md", "docs/care.md", "lab/README.md"]
)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document(name)):
        assert (CHECKOUT / name).parent.joinpath(target).exists(), target

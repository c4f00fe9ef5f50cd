# SPDX-License-Identifier: LGPL-2.1-only
"""The commands in lab/README.md and benchmarks/README.md do what those files say. Slow ones are shortened."""

import os
from pathlib import Path
import re
import subprocess
from typing import Iterator, List

import pytest

from tests.client import CHECKOUT
from tests.lab.guest import ZFS

LIMIT = 900  # seconds


def examples(document: str, beginning: str) -> "List[str]":
    """The lines of the first indented block with this beginning, without comments."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", (CHECKOUT / document).read_text(), re.MULTILINE)
    block = next(block for block in blocks if block.strip().startswith(beginning))
    return [re.sub(r" +# .*", "", line.strip()) for line in block.splitlines() if line]


def shell(script: str, **variables: str) -> str:
    """Runs a script in a shell in the checkout, as a person does; returns its output."""
    environment = {**os.environ, "ZFSVOL_LAB_ZFS": ZFS, **variables}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def own(line: str) -> str:
    """The line, with guest names of the test's own and the tested version of OpenZFS."""
    line = re.sub(r"--name ([a-z]+)", rf"--name documents-{os.getpid()}-\1", line)
    return re.sub(r"^lab/vm( start)?(?= --)", rf"lab/vm\1 --zfs {ZFS}", line)


@pytest.fixture(autouse=True, scope="module")
def removed_guests() -> "Iterator[None]":
    """Removes the guests of the examples, some of which keep theirs for the next command."""
    yield
    shell("\n".join(own(f"lab/vm remove --name {name}") for name in ("first", "fails", "a", "b", "benchmarks")))


def test_the_first_example() -> None:
    _, line = examples("lab/README.md", "lab/build")
    assert "state: ONLINE" in shell(own(line.replace("lab/vm", "lab/vm --name first")))


def test_a_disk_that_fails() -> None:
    *lines, gone, flakey, back = examples("lab/README.md", "set -- $VM_DISKS")
    script = "\n".join([*lines, flakey, back, "zpool clear tank; zpool status tank; zpool export tank", gone])
    guest = f"lab/vm --zfs {ZFS} --name documents-{os.getpid()}-fails --disks 1 --fresh"
    assert "state: ONLINE" in shell(f"{guest} -- sh -ec '{script}'")


def test_two_hosts(tmp_path: Path) -> None:
    *lines, refused = [
        own(line.replace("/var/tmp", str(tmp_path))) for line in examples("lab/README.md", "truncate -s 1G")
    ]
    shell("\n".join([*lines, f"! {refused}"]))


def test_benchmarks() -> None:
    line = examples("benchmarks/README.md", "lab/vm")[0]
    line = own(line.replace("lab/vm", "lab/vm --name benchmarks"))
    # Without the tables that take minutes however few rounds there are, the sequences, and one that is like another.
    printed = shell(
        f"{line} --tables verbs families changes volumes --repeat 1 --volumes 10 --families 2 --depths 1 --changes 1"
    )
    for name in ("Volume.snapshot", "SR.probe", "generations", "By the number of volumes"):
        assert name in printed

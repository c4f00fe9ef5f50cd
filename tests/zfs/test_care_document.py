# SPDX-License-Identifier: LGPL-2.1-only
"""docs/care.md: each example does what it says, and what `status` tells is listed."""

import re
import shlex
from typing import List, Tuple

from tests.care import call
from tests.client import CHECKOUT
from tests.zfs.conftest import MIB, Bench
from tests.zfs.test_care_status import new_volume
from zfsvol.wire import functions

DOCUMENT = (CHECKOUT / "docs" / "care.md").read_text()


def examples() -> "List[Tuple[str, List[str]]]":
    """The function of each example, and its arguments."""
    lines = re.findall(r"^    xe host-call-plugin (.*)$", DOCUMENT.replace("\\\n", " "), re.MULTILINE)
    found = [shlex.split(line) for line in lines]
    return [(words[2][len("fn=") :], [word[len("args:") :] for word in words[3:]]) for words in found]


def test_examples(bench: Bench) -> None:
    disks = bench.disks(7, 256 * MIB)
    sr = bench.sr(vdev="mirror {} {} mirror {} {}".format(*disks))
    names = {"ata-A": disks[0], "ata-B": disks[1], "/dev/sdd": disks[4], "/dev/sde": disks[5], "/dev/sdf": disks[6]}
    names = {"/dev/disk/by-id/ata-A": disks[0], "/dev/disk/by-id/ata-B": disks[1], **names}
    names.update({"<sr>": sr[3:], "<vdi>": new_volume(sr)})
    for function, words in examples():
        given = {}
        for word in words:
            for name, real in names.items():
                word = word.replace(name, real)  # noqa: PLW2901 - name by name
            argument, _, value = word.partition("=")
            given[argument.replace("-", "_")] = value
        if function == "diagnose":
            given["file"] = str(bench.directory / "report")
        is_change = "dry-run" in functions.FUNCTIONS[function].arguments
        answer = call(function, **given, **({"dry_run": "true"} if is_change else {}))
        if is_change:
            # Without the redundancy that it asks for, the one example of detach would need force.
            assert answer["needs-force"] == [] or given.get("force") == "true" or function == "detach", function


def test_what_status_tells(bench: Bench) -> None:
    sr = bench.sr(vdev="mirror {} {}".format(*bench.disks(2)))
    new_volume(sr)
    call("scrub", sr)
    found = call("status", sr)
    rows = dict(re.findall(r"^\| (`sr`.*?|`[a-z-]+`.*?) \| (.*) \|$", DOCUMENT, re.MULTILINE))
    keys = {key for cell in rows for key in re.findall(r"`([a-z-]+)`", cell)}
    assert set(found) <= keys

    def described(key: str) -> "set[str]":
        (told,) = (told for cell, told in rows.items() if f"`{key}`" in cell)
        return set(re.findall(r"[a-z-]+", told))

    (mirror,) = found["layout"]
    half = mirror["children"][0]
    for key, records in (
        ("pool", [found["pool"]]),
        ("layout", [mirror, half, half["errors"]]),
        ("scans", found["scans"]),
        ("space", [found["space"]]),
        ("disks", found["disks"]),
        ("schedule", [found["schedule"], found["schedule"]["scrub"]]),
    ):
        for record in records:
            assert set(record) - {"vdev"} <= described(key), key

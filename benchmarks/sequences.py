# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs that the client calls to start a VM, copy a disk or export a snapshot, in the client's order.

Each sequence is compared with a shell script of bare commands that does the same, and one interpreter for each verb.
"""

import json
import os
import subprocess
import time

from benchmarks.measuring import CHECKOUT, Bench, middle
from benchmarks.pools import VOLUME, Failed, Pools
from tests import client
from zfsvol.host import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Calls = list[tuple[str, dict[str, Any]]]

STORM = 20

# By hand: $1 is the disk's zvol, $2 its snapshot's, $3 one for a copy.
_FUNCTIONS = """
set -eu
show() { zfs set volmode=dev "$1"; until node=$(ls -t /dev/zd* 2>/dev/null | head -n 1) && [ -n "$node" ]; do :; done; }
hide() { zfs inherit volmode "$1"; }
state=/run/zfs-vol-benchmark
"""
_BY_HAND = {
    "VM start": """
        show "$1"
        minor=$(tap-ctl allocate); minor=${minor##*[!0-9]}
        tap-ctl spawn >$state 2>/dev/null </dev/null
        read -r pid <$state
        until tap-ctl attach -p "$pid" -m "$minor" 2>/dev/null; do :; done
        tap-ctl open -p "$pid" -m "$minor" -a "aio:$node"
        echo "$pid $minor" >$state
        """,
    "VM shutdown": """
        read -r pid minor <$state
        tap-ctl close -p "$pid" -m "$minor" -t 30
        tap-ctl detach -p "$pid" -m "$minor"
        while [ -e "/proc/$pid/exe" ]; do :; done
        tap-ctl free -m "$minor"
        hide "$1"
        """,
    "VDI.copy": 'zfs create -s -V 10G "$3"; zfs set zfsvol:key=user "$3"; show "$1"; show "$3"; hide "$3"; hide "$1"',
    "export of a snapshot": 'show "$2"; hide "$2"',
    f"{STORM} attaches in dom0": 'show "$1"',
    f"{STORM} detaches in dom0": 'hide "$1"',
}


class Stage:
    """A disk and its snapshot, and the verbs that each sequence calls on them."""

    def __init__(self, pools: Pools) -> None:
        self.pools = pools
        self.disk = pools.add(client.new_uuid())
        self.snapshot = str(client.call_inside("Volume.snapshot", sr=pools.sr, key=self.disk)["key"])

    def datapath(self, key: str, domain: str, *verbs: str) -> "Calls":
        """Datapath verbs, each with the Volume.stat that the client makes before it."""
        found: "Calls" = []
        for verb in verbs:
            found.append(("Volume.stat", {"sr": self.pools.sr, "key": key}))
            found.append(("Datapath." + verb, {"uri": f"zvol://{self.pools.sr}/{key}", "domain": domain}))
        return found

    def copy(self) -> "Calls":
        """xe vdi-copy without the copying itself: makes a disk, and attaches both disks to dom0."""
        made = self.pools.add(client.new_uuid())
        create = {"sr": self.pools.sr, "name": "copy", "description": "", "size": VOLUME, "sharable": False}
        return [
            ("Volume.create", create),
            ("Volume.set", {"sr": self.pools.sr, "key": made, "k": "vdi-type", "v": "user"}),
            *self.datapath(self.disk, "u0_a", "attach", "activate_readonly"),
            *self.datapath(made, "u0_b", "attach", "activate", "deactivate", "detach"),
            *self.datapath(self.disk, "u0_a", "deactivate", "detach"),
        ]

    def calls(self, name: str) -> "Calls":
        """The verbs of a sequence of _BY_HAND."""
        if name == "VM start":
            return self.datapath(self.disk, "7", "attach", "activate")
        if name == "VM shutdown":
            return self.datapath(self.disk, "7", "deactivate", "detach")
        if name == "VDI.copy":
            return self.copy()
        if name == "export of a snapshot":
            return self.datapath(self.snapshot, "u0_a", "attach", "activate_readonly", "deactivate", "detach")
        verbs = ("attach", "activate_readonly") if "attaches" in name else ("deactivate", "detach")
        return [call for number in range(STORM) for call in self.datapath(self.disk, f"u0_{number}", *verbs)]

    def zvols(self) -> "list[str]":
        """The arguments of a script."""
        return [self.pools.volume(key) for key in (self.disk, self.snapshot, client.new_uuid())]


def each_sequence(bench: Bench, rounds: int) -> "list[dict[str, Any]]":
    """The table of sequences."""
    stage = Stage(bench.pools)
    children = {name: sum(_children(bench, call) for call in stage.calls(name)) for name in _BY_HAND}
    times: "dict[str, dict[str, list[list[float]]]]" = {
        name: {"python": [], "by hand": [], "driver": []} for name in _BY_HAND
    }
    for _ in range(rounds):
        for name in _BY_HAND:
            calls = stage.calls(name)
            python = bench.watch.time([bench.python, "-c", "pass"], env=client.environment())
            times[name]["python"].append([seconds * len(calls) for seconds in python])
            times[name]["driver"].append(
                _at_once(bench, calls) if name.startswith(str(STORM)) else _in_turn(bench, calls)
            )
        for name, script in _BY_HAND.items():
            argv = ["sh", "-c", _FUNCTIONS + script, "sh", *stage.zvols()]
            times[name]["by hand"].append(bench.watch.time(argv, env=command.ENVIRONMENT, cwd="/"))
    _line("milliseconds", "verbs", "children", *(["python", "by hand", "driver", "ratio"] * 2))
    results = []
    for name, measured in times.items():
        result: "dict[str, Any]" = {"sequence": name, "verbs": len(stage.calls(name)), "children": children[name]}
        result.update({kind: middle(values) for kind, values in measured.items()})
        cells = []
        for index in (0, 1):
            floor = result["python"][index] + result["by hand"][index]
            cells += [f"{result[kind][index] * 1000:.0f}" for kind in ("python", "by hand", "driver")]
            cells.append(f"{result['driver'][index] / floor:.2f}")
        _line(name, str(result["verbs"]), str(result["children"]), *cells)
        results.append(result)
    bench.pools.have(len(bench.pools.volumes))  # the families would take the disk and its snapshot for their own
    return results


def _line(name: str, *cells: str) -> None:
    widths = (7, 10, 9, 9, 8, 7, 10, 9, 8, 7)
    print((name.ljust(25) + "".join(cell.rjust(width) for cell, width in zip(cells, widths))).rstrip(), flush=True)


def _request(arguments: "dict[str, Any]") -> bytes:
    return json.dumps(dict(arguments, dbg="benchmark")).encode()


def _children(bench: Bench, call: "tuple[str, dict[str, Any]]") -> int:
    """Runs a verb; returns how many children it has started."""
    verb, arguments = call
    path = bench.watch.directory / "children"
    argv = [bench.python, str(CHECKOUT / "benchmarks" / "children.py"), str(path), verb, "--json"]
    bench.watch.time(argv, _request(arguments), env=client.environment())
    with path.open() as file:
        return len(json.load(file))


def _in_turn(bench: Bench, calls: "Calls") -> "list[float]":
    """Runs one verb after the other, as for one disk."""
    times = [bench.watch.time(client.argv(verb), _request(given), env=client.environment()) for verb, given in calls]
    return [sum(each[index] for each in times) for index in (0, 1)]


def _at_once(bench: Bench, calls: "Calls") -> "list[float]":
    """Runs all domains at once, each in a shell that runs its verbs one after the other."""
    each = len(calls) // STORM
    began = time.perf_counter()
    running = []
    for number in range(STORM):
        lines = []
        for index, (verb, arguments) in enumerate(calls[number * each : (number + 1) * each]):
            request = bench.watch.directory / f"request-{number}-{index}"
            request.write_bytes(_request(arguments))
            lines.append("{} <{} >/dev/null || exit 1".format(" ".join(client.argv(verb)), request))
        running.append(subprocess.Popen(["sh", "-c", "\n".join(lines)], env=client.environment()))
    cpu = 0.0
    for process in running:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if status:
            raise Failed("A verb of many at once has failed; see the log.")
        cpu += usage.ru_utime + usage.ru_stime
    return [time.perf_counter() - began, cpu]

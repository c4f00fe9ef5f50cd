# SPDX-License-Identifier: LGPL-2.1-only
"""What the resident service costs while nothing happens: see README.md beside this file.

Needs root and OpenZFS, on this host or in the lab:

  lab/vm -- /usr/bin/python3 -m benchmarks.service

It makes three SRs on loop devices with some attached disks, and removes them at the end.
"""

import argparse
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time

from benchmarks.pools import MIB, Pools
from tests import blktap, client
from zfsvol import naming
from zfsvol.repository import record as records
from zfsvol.repository.sr import SR
from zfsvol.service.follower import Follower
from zfsvol.service.messages import Sender
from zfsvol.service.sight import Looker
from zfsvol.service.statistics import Statistics

SRS = 3
START = 20  # seconds that it gets for its start and its first looks
CALLS = 300


def attached_sr(pools: Pools) -> str:
    """A new SR without disks."""
    configuration = {"device": pools.disk(), "autotrim": "off", "datapath": "blkback"}
    made = client.call("SR.create", uuid=client.new_uuid(), configuration=configuration, name="sr", description="")
    return str(client.call("SR.attach", configuration=made))


def attached_disk(sr: str, domain: int) -> "tuple[str, str]":
    """A new disk that a VM has; returns its URI and the domain."""
    uri = client.call("Volume.create", sr=sr, name="disk", description="", size=64 * MIB, sharable=False)["uri"][0]
    for verb in ("attach", "activate"):
        client.call(f"Datapath.{verb}", uri=uri, domain=str(domain))
    return uri, str(domain)


def xenstore(given: "list[tuple[str, str]]") -> "dict[str, str]":
    """What the toolstack would have written of VMs with these disks."""
    values = {}
    for uri, domain in given:
        root, key = naming.parse_uri(uri)
        backend = f"/local/domain/0/backend/vbd/{domain}/51712"
        node = records.read(SR(root.dataset), key).node
        values.update({f"/local/domain/{domain}/vm": f"/vm/{client.new_uuid()}", f"{backend}/dev": "xvda"})
        values[f"{backend}/params"] = str(node)
    return values


def processor_time(pid: int) -> "tuple[float, float]":
    """Seconds of the processor that a process used so far, itself and by children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:15]]
    return ticks[0] + ticks[1], ticks[2] + ticks[3]


def memory(pid: int) -> str:
    """The memory of a process, in the words of the kernel."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return ", ".join(" ".join(line.split()) for line in lines if line.startswith(("VmHWM", "VmRSS", "Threads")))


def idle_service(seconds: int) -> str:
    """The cost of the service while nothing happens."""
    argv = [sys.executable, "-m", "zfsvol.service", "--foreground"]
    process = subprocess.Popen(argv, env=client.environment())
    try:
        time.sleep(START)
        before, began = processor_time(process.pid), time.monotonic()
        time.sleep(seconds)
        after, took = processor_time(process.pid), time.monotonic() - began
        own, children = ((after[i] - before[i]) / took * 100 for i in (0, 1))
        return (
            f"{own:.3f} % of a processor itself, {children:.3f} % its children, in {took:.0f} s; {memory(process.pid)}"
        )
    finally:
        process.terminate()
        process.wait()


def updates(srs: "list[str]", directory: Path) -> str:
    """The cost of one update of the statistics, without the service."""
    followers = [Follower(SR(sr), "", Sender()) for sr in srs]
    for follower in followers:
        follower.sight = Looker(follower.sr).look()
    statistics = Statistics(str(directory / "metrics"))
    statistics.update(0, followers)
    time.sleep(5)  # until xenstore was asked
    began = time.process_time(), time.perf_counter()
    for turn in range(1, CALLS + 1):
        statistics.update(5 * turn, followers)
    cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    statistics.close()
    share = cpu / CALLS / 5 * 100
    return (
        f"{cpu / CALLS * 1000:.2f} ms of a processor ({wall / CALLS * 1000:.2f} ms of wall clock): {share:.3f} % of one"
    )


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=300, help="how long the service is watched (default 300)")
    parser.add_argument("--disks", type=int, nargs="+", default=[0, 5], help="attached disks per SR (default 0 5)")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="zfs-vol-benchmark-"))
    pools = Pools(directory, [])
    given: "list[tuple[str, str]]" = []
    blktap.install()
    try:
        srs = [attached_sr(pools) for _ in range(SRS)]
        for number in options.disks:
            while len(given) < number * SRS:
                given.append(attached_disk(srs[len(given) % SRS], len(given) + 1))
            print(f"{SRS} SRs, {number} attached disks in each")
            with blktap.domains(*(domain for _, domain in given)), blktap.xenstore(xenstore(given)):
                print(f"  one update: {updates(srs, directory)}", flush=True)
                print(f"  the service: {idle_service(options.seconds)}", flush=True)
        for uri, domain in given:
            for verb in ("deactivate", "detach"):
                client.call(f"Datapath.{verb}", uri=uri, domain=domain)
    finally:
        pools.close()
        blktap.uninstall()
        shutil.rmtree(str(directory))


if __name__ == "__main__":
    main()

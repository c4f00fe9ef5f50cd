# SPDX-License-Identifier: LGPL-2.1-only
"""The part of the demonstration about the resident service: statistics, a disk that dies, its replacement by xe."""

import json
import math
import os
from pathlib import Path
import subprocess
import tempfile
import time

from demo.show import GIB, MIB, attached, command, create_disk, create_sr, human, shell, title
from tests import rrdd, zvol
from tests.client import call
from tests.hostplugin import as_xapi
from tests.service import Service
from tests.xapi import Message, Xapi

METRICS = Path("/dev/shm/metrics")  # noqa: S108 - where xcp-rrdd looks
SECTORS = 2 * GIB // 512


def disk_of(name: str, number: int) -> str:
    """A disk that can be made to fail: a part of the lab's last one."""
    whole = os.environ["VM_DISKS"].split()[5]
    table = f"0 {SECTORS // 2} linear {whole} {number * SECTORS // 2}"
    subprocess.run(["dmsetup", "create", name, "--table", table], check=True)
    return f"/dev/mapper/{name}"


def as_xo_shows(messages: "list[Message]") -> None:
    """The messages of an SR."""
    for message in messages:
        print(f"  [priority {message.priority}] {message.name}: {message.body}")


class Reading:
    """What XO gets: messages by xapi, numbers by xcp-rrdd. Both are stand-ins of the tests that check what they get."""

    def __init__(self) -> None:
        self.xapi = Xapi()
        self.xapi.start()
        self.shown = 0

    def await_messages(self, *names: str) -> None:
        """Shows the messages as they come, until one of each of these names has come."""
        wanted = set(names)
        end = time.monotonic() + 120
        while wanted:
            assert time.monotonic() < end, f"no message {wanted}"
            new = self.xapi.messages[self.shown :]
            self.shown += len(new)
            as_xo_shows(new)
            wanted -= {message.name for message in new}
            time.sleep(0.2)

    def numbers(self, sr: str, *names: str) -> "dict[str, float]":
        """The SR's data sources of these names, from the next update on."""
        end = time.monotonic() + 30
        daemon = rrdd.Daemon(METRICS)
        while True:
            try:
                found = daemon.read()
                values = {name: float(found[f"sr {sr[3:]}", name].value) for name in names}
                if not any(math.isnan(value) for value in values.values()):  # not known yet
                    return values
            except (rrdd.NoUpdate, FileNotFoundError, KeyError):
                pass
            assert time.monotonic() < end, "no statistics"
            time.sleep(1)


def main() -> None:
    """The service from its start to its end."""
    title("The resident service looks after the SRs")
    reading = Reading()
    left, right, new = (disk_of(name, number) for number, name in enumerate(("left", "right", "new")))
    sr = create_sr("looked after", vdev=f"mirror {left} {right}", autotrim="off")
    reading.xapi.srs.add(sr[3:])
    command("systemctl start zfs-vol.service")
    service = Service(Path(tempfile.mkdtemp()))
    service.wait_for(f"{sr} is followed")
    print("  it follows", ", ".join(line.split()[0] for line in service.read() if line.endswith("is followed")))

    title("Statistics while a VM writes")
    key = create_disk(sr, "busy disk", 256 * MIB)
    with attached(sr, key) as name, zvol.opened(name, writable=True) as descriptor:
        reading.numbers(sr, "write_bytes")
        for number in range(200):
            os.pwrite(descriptor, os.urandom(MIB), number % 100 * MIB)
            os.fsync(descriptor)
            time.sleep(0.03)
        command(f"rrd2csv AVERAGE:sr:{sr[3:]}:write_bytes …   # as xcp-rrdd reads it from the service")
        found = reading.numbers(sr, "write_bytes", "write_requests", "used", "available", "compression_ratio")
        print(
            f"  written {human(round(found['write_bytes']))}/s in {found['write_requests']:.0f} requests/s,"
            f" used {human(round(found['used']))}, available {human(round(found['available']))}"
        )

        title("A disk dies: the alarm, as XO gets it")
        print("*** every read and write of /dev/mapper/right fails from now on ***")
        began = time.monotonic()
        load = f"dmsetup load right --table '0 {SECTORS // 2} error'"
        subprocess.run(f"dmsetup suspend --noflush right; {load}; dmsetup resume right", shell=True, check=True)
        os.pwrite(descriptor, os.urandom(MIB), 0)
        os.fsync(descriptor)
        reading.await_messages("ZFSVOL_DEVICE_FAULTED")
        print(f"  {time.monotonic() - began:.1f} s after the disk had died; the VM goes on")

        title("It is replaced by xe, and the recovery is told")
        (mirror,) = as_xapi("status", sr_uuid=sr[3:])["layout"]
        bad = next(disk for disk in mirror["children"] if disk["state"] != "ONLINE")
        words = f"args:sr-uuid={sr[3:]} args:device={bad['name']} args:new-device={new}"
        command(f"xe host-call-plugin host-uuid=… plugin=zfs-vol fn=replace {words}")
        answer = as_xapi("replace", sr_uuid=sr[3:], device=bad["name"], new_device=new)
        print("  " + json.dumps(answer))
        reading.await_messages("ZFSVOL_DEVICE_FAULTED_OVER", "ZFSVOL_RESILVER_FINISHED")
    shell(f"python3 -m zfsvol status {sr}")
    print(f"\n  the service ends within {service.stop():.1f} s")
    reading.xapi.stop()
    command(f"xe sr-destroy uuid={sr[3:]}")
    call("SR.destroy", sr=sr)


if __name__ == "__main__":
    main()

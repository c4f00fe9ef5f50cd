# SPDX-License-Identifier: LGPL-2.1-only
"""All data sources of the service: names, units and descriptions as people read them in xapi's lists.

`docs/administration.md` has the same as a table. Those of `DISK` are rrdp-iostat's own, which makes them for the disks
that tapdisks serve (xen-api, `ocaml/xcp-rrdd/bin/rrdp-iostat/rrdp_iostat.ml`): names, types, units and kinds of values
are the same, because a disk may change from one to the other, and the daemon would end a cycle with an error if a
value's kind changed. Xen Orchestra draws those of the host that end in the first 8 characters of an SR's uuid, and
those of a VM (`packages/xo-server/src/xapi-stats.mjs`).
"""

from zfsvol.service.metrics import ABSOLUTE, DERIVE, GAUGE, Source

BYTES, RATE, FRACTION, COUNT = "B", "B/s", "(fraction)", "count"
REQUESTS, REQUESTS_RATE, MICROSECONDS = "requests", "requests/s", "μs"

OF_HOST = "host"


class Template:
    """A data source that several owners have. `whole`: integers, not floats."""

    def __init__(
        self,
        name: str,
        units: str,
        description: str,
        *,
        kind: str = GAUGE,
        whole: bool = False,
        most: "float | None" = None,
    ) -> None:
        self.name = name
        self.units = units
        self._kind = kind
        self._description = description
        self._whole = whole
        self._most = most

    def of(self, owner: str, name: str = "{}") -> Source:
        """The data source of one owner. `name` has a {} in place of the template's name."""
        return Source(
            owner,
            name.format(self.name),
            kind=self._kind,
            units=self.units,
            description=self._description,
            whole=self._whole,
            maximum=self._most,
        )


SR = (
    Template("read_bytes", RATE, "Data read from the SR's disks"),
    Template("write_bytes", RATE, "Data written to the SR's disks"),
    Template("read_requests", REQUESTS_RATE, "Read requests to the SR's disks"),
    Template("write_requests", REQUESTS_RATE, "Write requests to the SR's disks"),
    Template("read_latency", MICROSECONDS, "Mean time of a read request to the SR's disks"),
    Template("write_latency", MICROSECONDS, "Mean time of a write request to the SR's disks"),
    Template("inflight", REQUESTS, "Requests to the SR's disks that are not done yet"),
    Template("used", BYTES, "Space that the SR uses"),
    Template("available", BYTES, "Space that ZFS would still give to the SR"),
    Template("promised", BYTES, "What the thin disks of the SR may still grow by"),
    Template("promised_ratio", FRACTION, "Space used if all disks were full, relative to the used and available space"),
    Template("disks", COUNT, "Number of disks of the SR, snapshots included"),
    Template("compression_ratio", FRACTION, "Size of the SR's data relative to what it takes compressed"),
    Template("pool_fragmentation", FRACTION, "Fragmentation of the pool's free space", most=1),
    Template("pool_scrub_progress", FRACTION, "How far the pool's scrub is, while there is one", most=1),
    Template("pool_resilver_progress", FRACTION, "How far the pool's resilver is, while there is one", most=1),
    Template("pool_read_errors", COUNT, "Read errors of the pool's disks"),
    Template("pool_write_errors", COUNT, "Write errors of the pool's disks"),
    Template("pool_checksum_errors", COUNT, "Checksum errors of the pool's disks"),
    Template("pool_data_errors", COUNT, "Blocks of the pool that are known to be lost"),
)

HOST = (
    Template("zfs_arc_size", BYTES, "Memory that ZFS's cache (ARC) uses"),
    Template("zfs_arc_hit_ratio", FRACTION, "Blocks asked for that were in ZFS's cache (ARC)", most=1),
)

# These count bytes since some time in the past, and the daemon derives the rate. rrdp-iostat has them of SRs, too, but
# nothing draws those, and the sum of counters goes back when a disk is detached.
_TOTALS = (
    Template("read", RATE, "Data read by the VM, in B/s", kind=DERIVE, whole=True),
    Template("write", RATE, "Data written by the VM, in B/s", kind=DERIVE, whole=True),
)
DISK = (
    Template("read_latency", MICROSECONDS, "Read latency, in microseconds", whole=True),
    Template("write_latency", MICROSECONDS, "Write latency, in microseconds", whole=True),
    Template("io_throughput_read", "MiB/s", "Data read, in MiB/s", kind=ABSOLUTE),
    Template("io_throughput_write", "MiB/s", "Data written, in MiB/s", kind=ABSOLUTE),
    Template("io_throughput_total", "MiB/s", "All I/O, in MiB/s", kind=ABSOLUTE),
    Template("iops_read", REQUESTS_RATE, "Read requests per second", kind=ABSOLUTE, whole=True),
    Template("iops_write", REQUESTS_RATE, "Write requests per second", kind=ABSOLUTE, whole=True),
    Template("iops_total", REQUESTS_RATE, "I/O requests per second", kind=ABSOLUTE, whole=True),
    Template("iowait", "s/s", "Total I/O wait time (all requests) per second", kind=ABSOLUTE),
    Template("inflight", REQUESTS, "Number of I/O requests currently in flight", whole=True),
    Template("latency", MICROSECONDS, "Average I/O latency"),
    Template("avgqu_sz", REQUESTS, "Average I/O queue size"),
)
VM_DISK = (*_TOTALS, *DISK)


def host_name(sr_uuid: str) -> str:
    """The name of a host's data source about an SR, with {} in place of a template's name."""
    return "{}_" + sr_uuid[:8]


def vm_name(device: str) -> str:
    """The name of a VM's data source about a disk, such as xvda, likewise."""
    return f"vbd_{device}_{{}}"

# SPDX-License-Identifier: LGPL-2.1-only
"""What was asked of disks between two readings of the kernel's counters."""

from zfsvol.zfs import counters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

_MIB = 1 << 20


class Work:
    """What one disk did, or several together. Bytes, requests, and the milliseconds that the requests took.

    `ended_reads`, `ended_writes`: the requests that these times belong to. `waiting`: requests that have not ended.
    """

    def __init__(self) -> None:
        self.bytes_read = self.bytes_written = self.reads = self.writes = 0
        self.ended_reads = self.read_time = self.ended_writes = self.write_time = 0
        self.waiting = 0

    @classmethod
    def together(cls, works: "Iterable[Work]") -> "Work":
        """The sum."""
        total = cls()
        for work in works:
            for name, value in vars(work).items():
                setattr(total, name, getattr(total, name) + value)
        return total

    @property
    def read_latency(self) -> float:
        """Mean time of a read request in microseconds; 0 if there was none."""
        return _mean(self.read_time, self.ended_reads)

    @property
    def write_latency(self) -> float:
        """The same of a write request."""
        return _mean(self.write_time, self.ended_writes)

    def of_sr(self, seconds: float) -> "dict[str, float]":
        """The values of the SR's data sources, if all this happened within so many seconds."""
        return {
            "read_bytes": self.bytes_read / seconds,
            "write_bytes": self.bytes_written / seconds,
            "read_requests": self.reads / seconds,
            "write_requests": self.writes / seconds,
            "read_latency": self.read_latency,
            "write_latency": self.write_latency,
            "inflight": self.waiting,
        }

    def as_rrdp_iostat(self, seconds: float) -> "dict[str, float]":
        """The values of the data sources that rrdp-iostat makes of disks that tapdisks serve.

        Throughput, requests and iowait are sums, which the daemon divides by the time since the last values.
        """
        read, written = self.bytes_read / _MIB, self.bytes_written / _MIB
        waited = (self.read_time + self.write_time) / 1000
        return {
            "read_latency": self.read_latency,
            "write_latency": self.write_latency,
            "io_throughput_read": read,
            "io_throughput_write": written,
            "io_throughput_total": read + written,
            "iops_read": self.reads,
            "iops_write": self.writes,
            "iops_total": self.reads + self.writes,
            "iowait": waited,
            "inflight": self.waiting,
            "latency": _mean(self.read_time + self.write_time, self.ended_reads + self.ended_writes),
            "avgqu_sz": waited / seconds,
        }


def _mean(milliseconds: int, requests: int) -> float:
    return milliseconds * 1000 / requests if requests else 0.0


class Watch:
    """Reads the kernel's counters of disks again and again."""

    def __init__(self) -> None:
        self._datasets = counters.Datasets()
        self._traffic = counters.Meter()
        self._devices = counters.Meter()
        self.totals: "dict[str, tuple[int, int]]" = {}

    def look(self, disks: "dict[str, str | None]") -> "dict[str, Work]":
        """What each disk did since the last call; nothing in its first. `disks`: the device node of each zvol, if any.

        Afterwards `totals` are the bytes read from and written to each of them. They never go back while the disk is
        among `disks`; where they start says nothing.
        """
        datasets = self._datasets.read(disks)
        devices = {}
        for zvol, node in disks.items():
            device = counters.device(node) if node is not None else None
            if device is not None:
                devices[zvol] = device
        traffic = self._traffic.grown(
            {
                zvol: (one.born, (one.bytes_read, one.bytes_written, one.reads, one.writes))
                for zvol, one in datasets.items()
            }
        )
        times = self._devices.grown(
            {
                (zvol, disks[zvol]): (0, (one.reads, one.read_time, one.writes, one.write_time))
                for zvol, one in devices.items()
            }
        )
        found: "dict[str, Work]" = {}
        totals: "dict[str, tuple[int, int]]" = {}
        for zvol, node in disks.items():
            work = found[zvol] = Work()
            work.bytes_read, work.bytes_written, work.reads, work.writes = traffic.get(zvol, (0, 0, 0, 0))
            work.ended_reads, work.read_time, work.ended_writes, work.write_time = times.get((zvol, node), (0, 0, 0, 0))
            work.waiting = devices[zvol].waiting if zvol in devices else 0
            if zvol in self.totals:
                read, written = self.totals[zvol]
                totals[zvol] = read + work.bytes_read, written + work.bytes_written
            elif zvol in datasets:
                # The kernel's counters, so that they go on where they were if the service is started again.
                totals[zvol] = datasets[zvol].bytes_read, datasets[zvol].bytes_written
        self.totals = totals
        return found

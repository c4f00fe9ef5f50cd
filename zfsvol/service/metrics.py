# SPDX-License-Identifier: LGPL-2.1-only
"""The file through which xcp-rrdd, the statistics daemon of xapi, gets numbers: its protocol V2, without any call.

What this relies on (xen-api, `ocaml/xcp-rrdd`: `bin/rrdd/xcp_rrdd.ml`, `bin/rrdd/rrdd_server.ml`,
`lib/transport/base/rrd_protocol_v2.ml`):

- The daemon watches the directory. A file that is created there, or renamed into it, is registered by its name unless
  that ends in `.tmp`. A file that is removed is forgotten. When the daemon starts, it registers what is there.
- It maps a file when it registers it, and ignores a name that it knows already. So a file never changes its size, and
  one with other data sources gets a name that was not used before. Under the old name the daemon would keep the old
  file if it missed the removal, as it does when an earlier event made it start over.
- The old file goes before the new one comes, so that no data source is ever there twice.
- A file with a wrong checksum, or with that of the last time, is not read again for two cycles of five seconds, then
  for four, up to 256. The timestamp is part of what the checksum covers, so each update changes it.
- Members of the metadata are in the order of the values, and two data sources of different owners may have the same
  name: then JSON has the same key twice. The daemon's own programs write that, too.
"""

import json
import os
import struct
import zlib

from zfsvol.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DIRECTORY = "/dev/shm/metrics"  # noqa: S108 - the protocol's

# What the daemon does with a number: takes it as it is; divides it by the seconds since the last one, which it knows
# from the timestamps (older versions: from its own clock; some of 2025 do not divide: xen-api#6646); does so with the
# difference to the last one.
GAUGE = "gauge"
ABSOLUTE = "absolute"
DERIVE = "derive"

_PREFIX = "zfs-vol-"
_MAGIC = b"DATASOURCES"
_COUNTS = struct.Struct(">III")  # checksum of timestamp and values, checksum of the metadata, number of values
_LENGTH = struct.Struct(">I")


class Source:
    """A data source. `owner`: host, `sr <uuid>` or `vm <uuid>`. `whole`: its values are integers, not floats.

    `maximum`: the daemon takes larger values, and negative ones, for unknown.
    """

    def __init__(
        self, owner: str, name: str, *, kind: str, units: str, description: str, whole: bool, maximum: "float | None"
    ) -> None:
        self.owner = owner
        self.name = name
        self.whole = whole
        member = {
            "description": description,
            "owner": owner,
            "value_type": "int64" if whole else "float",
            "type": kind,
            "default": "true",  # else it is kept only if somebody asks for it
            "units": units,
            "min": "0.0",
        }
        if maximum is not None:
            member["max"] = str(maximum)
        self.text = f"{json.dumps(name)}: {json.dumps(member, ensure_ascii=False)}"


class Metrics:
    """The file: there is one while there are data sources. Only one process of the host has an object of this class."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        """Removes what an earlier process left. Raises OSError."""
        self._directory = directory
        self._path = ""
        self._descriptor = -1
        self._sources: "list[Source]" = []
        self._metadata = b""
        self._layout = struct.Struct(">d")
        self._made = 0
        for name in files.names(directory):
            if name.startswith(_PREFIX):
                os.unlink(os.path.join(directory, name))

    def write(self, time: float, readings: "Sequence[tuple[Source, float]]") -> None:
        """Gives the daemon new values. `time`: seconds since 1970. nan is an unknown value, of a float only.

        If the data sources are others than last time, or somebody has removed the file, there is a new one. A kill
        leaves the old file, the new one, or none, and maybe one that ends in `.tmp`. Raises OSError.
        """
        sources = [source for source, _ in readings]
        is_same = sources == self._sources
        if not is_same:
            self._sources = sources
            self._layout = struct.Struct(">d" + "".join("q" if source.whole else "d" for source in sources))
            self._metadata = f'{{"datasources": {{{", ".join(source.text for source in sources)}}}}}'.encode()
        data = self._layout.pack(time, *(int(value) if source.whole else value for source, value in readings))
        changing = _COUNTS.pack(zlib.crc32(data), zlib.crc32(self._metadata), len(sources)) + data
        if is_same and self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink:
            # A reader that comes in between sees a wrong checksum. In one write that is shortest.
            os.pwrite(self._descriptor, changing, len(_MAGIC))
            return
        self.remove()
        if sources:
            self._create(_MAGIC + changing + _LENGTH.pack(len(self._metadata)) + self._metadata)

    def _create(self, content: bytes) -> None:
        os.makedirs(self._directory, mode=0o755, exist_ok=True)
        self._made += 1
        path = os.path.join(self._directory, f"{_PREFIX}{os.getpid()}-{self._made}")
        self._path = path + ".tmp"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # os.write may write a part only, as when memory is short.
            with os.fdopen(os.dup(self._descriptor), "wb") as file:
                file.write(content)
            os.rename(self._path, path)
        except OSError:
            self.remove()
            raise
        self._path = path

    def remove(self) -> None:
        """Removes the file. Idempotent. Raises OSError."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            files.remove(self._path)

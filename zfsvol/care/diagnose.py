# SPDX-License-Identifier: LGPL-2.1-only
"""One archive for a bug report: versions, pools, SRs, logs. It holds no keys, and no names that users gave to disks."""

import io
import json
import os
import re
import tarfile
import time

from zfsvol import naming, properties
from zfsvol.care import status, target
from zfsvol.errors import InvalidArgument, StorageError
from zfsvol.host import command, files
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import SR
from zfsvol.verbs import plugin_srs
from zfsvol.zfs import history, kernel, pools
from zfsvol.zfs.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_PLACE = "/var/tmp"  # noqa: S108 - the file's name is new, and the file is nobody else's
_LOG = "/var/log/SMlog"
_PARAMETERS = "/sys/module/zfs/parameters"

_LOG_SIZE = 4 << 20  # bytes, of the end of the log
_EVENTS = 2000  # of each source

# Commands about the host as a whole.
_OF_HOST = {
    "disks.txt": ["lsblk", "-o", "NAME,TYPE,SIZE,PHY-SEC,ROTA,MODEL,SERIAL,FSTYPE"],
    "kernel-log.txt": ["dmesg"],
}

# What users write: names of disks, descriptions, the client's keys.
_TEXTS = (naming.SR_NAME, naming.SR_DESCRIPTION, naming.VDI_NAME, naming.VDI_DESCRIPTION, properties.KEY_PREFIX)
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')


def diagnose(file: "str | None" = None) -> "dict[str, Any]":
    """Writes the archive, readable by root only, and tells its path. What cannot be read is replaced by the reason.

    Raises InvalidArgument for a file that exists or cannot be written. A crash leaves a part of it, as `<file>.part`.
    """
    path = file or os.path.join(_PLACE, time.strftime("zfs-vol-%Y%m%d-%H%M%S.tar.gz"))
    if not os.path.isabs(path) or os.path.lexists(path):
        raise InvalidArgument(f"file={path} must be the absolute path of a file that does not exist.")
    part = path + ".part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InvalidArgument(f"file={path} cannot be written: {error.strerror}.") from None
    try:
        with open(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for name, read in _contents().items():
                data = _read(read).encode("utf-8", "backslashreplace")
                member = tarfile.TarInfo("zfs-vol/" + name)
                member.size, member.mtime = len(data), int(time.time())
                archive.addfile(member, io.BytesIO(data))
        os.rename(part, path)
    except OSError as error:
        files.remove(part)
        raise StorageError(f"The archive {path} cannot be written: {error.strerror}.") from None
    return {"file": path, "bytes": os.stat(path).st_size}


def _contents() -> "dict[str, Callable[[], str]]":
    """What reads each file of the archive, by the file's name."""
    found: "dict[str, Callable[[], str]]" = {"summary.txt": lambda: plugin_srs.diagnostics("")}
    for name, argv in _OF_HOST.items():
        found[name] = _running(argv)
    found["log.txt"] = _log
    found["module.txt"] = _parameters
    try:
        names = list(pools.imported().values()) if kernel.is_loaded() else []
        found_srs = target.all_srs()
    except StorageError:  # zpool does not answer: so much is known without it
        found_srs = srs.attached()
        names = sorted({sr.pool for sr in found_srs})
    for name in names:
        pool = Pool(name)
        for file, words in (
            ("status.txt", ["zpool", "status", "-v", "-s", "-t", "-P"]),
            ("list.txt", ["zpool", "list", "-v", "-P"]),
            ("settings.txt", ["zpool", "get", "all"]),
        ):
            found[f"pools/{name}/{file}"] = _asking(pool, [*words, name])
        found[f"pools/{name}/history.txt"] = _events(history.history, pool)
        found[f"pools/{name}/events.txt"] = _events(history.events, pool)
    for sr in found_srs:
        found[f"srs/{sr.dataset}/status.json"] = _status(sr)
        found[f"srs/{sr.dataset}/properties.txt"] = _properties(sr)
    return found


def _read(read: "Callable[[], str]") -> str:
    try:
        return read()
    except (StorageError, OSError) as error:
        return f"not readable: {error}\n"


def _running(argv: "list[str]") -> "Callable[[], str]":
    return lambda: command.run(argv, command.READ_LIMIT)


def _asking(pool: Pool, argv: "list[str]") -> "Callable[[], str]":
    return lambda: pool.read(argv)


def _events(source: "Callable[[Pool], list[dict[str, Any]]]", pool: Pool) -> "Callable[[], str]":
    def told() -> str:
        lines = []
        for event in source(pool)[-_EVENTS:]:
            about = [event["what"], event.get("device", ""), event.get("user", "")]
            lines.append("{} {}\n".format(event["time"], " ".join(filter(None, about))))
        return _without_texts("".join(lines))

    return told


def _without_texts(text: str) -> str:
    """The text without JSON's quoted texts, as command lines have them that set a name."""
    return _QUOTED.sub('"…"', text)


def _status(sr: SR) -> "Callable[[], str]":
    def told() -> str:
        found = status.of(sr)
        for record in (found, *(found["disks"] or [])):
            record.update({name: "…" for name in ("name", "description") if record.get(name)})
        return json.dumps(found, indent=1)

    return told


def _properties(sr: SR) -> "Callable[[], str]":
    def told() -> str:
        argv = ["zfs", "get", "-Hp", "-r", "-t", "filesystem,volume,snapshot,bookmark", "all", sr.dataset]
        lines = []
        for line in sr.zfs.read(argv).split("\n"):
            fields = line.split("\t")
            # Another program's value may hold line breaks: such lines are left out.
            if len(fields) == 4:
                is_text = fields[1].startswith(_TEXTS)
                lines.append("\t".join([*fields[:2], f"({len(fields[2])} bytes)" if is_text else fields[2], fields[3]]))
        return "\n".join(lines)

    return told


def _log() -> str:
    """The driver's lines at the end of the log."""
    with open(_LOG, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_SIZE))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return _without_texts("".join(line + "\n" for line in lines if "zfs-vol" in line))


def _parameters() -> str:
    def value(name: str) -> str:
        return _read(lambda: files.text(os.path.join(_PARAMETERS, name)).strip())

    return "".join(f"{name} {value(name)}\n" for name in sorted(files.names(_PARAMETERS)))

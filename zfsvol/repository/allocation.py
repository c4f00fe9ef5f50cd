# SPDX-License-Identifier: LGPL-2.1-only
"""What ZFS snapshots have allocated, remembered: a fact that never changes, by the snapshot's guid.

To know it saves reading the snapshot once more. Nothing depends on it: all files may be deleted at any time. A file is
compressed by gzip, which has a checksum, and holds ranges as pairs of 64-bit numbers: where one starts and ends, in
bytes.
"""

from array import array
import gzip
import os
import zlib

from zfsvol import log
from zfsvol.host import files
from zfsvol.repository.sr import SR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DIRECTORY = "/var/cache/zfs-vol"

# Bytes: all files together, and one file. A pair takes about four bytes.
_LARGEST_SUM = 256 << 20
_LARGEST = 64 << 20

_HEAD = "zfs-vol allocation 1, {:016x}\n"
_NUMBERS = 1 << 14  # written or read at once
_TEMPORARY = ".new"
_ABANDONED = 86400  # seconds after which a temporary file is nobody's any more
_FAILURES = (OSError, EOFError, ValueError, zlib.error)


class Memory:
    """What is remembered of an SR's snapshots."""

    def __init__(self, sr: SR) -> None:
        self._directory = os.path.join(DIRECTORY, sr.guid, sr.uuid)

    def _path(self, guid: int) -> str:
        return os.path.join(self._directory, f"{guid:016x}")

    def recall(self, guid: int) -> "Iterator[tuple[int, int]] | None":
        """What the snapshot with this guid has allocated, as ranges in order; None if that is not known."""
        path = self._path(guid)
        if not os.path.isfile(path):
            return None
        try:
            for _ in _read(path, guid):
                pass  # to its end, where its checksum is
            os.utime(path)
            return _read(path, guid)
        except _FAILURES as error:
            log.warning(f"{path} is damaged and was removed: {error}")
            _remove(path)
            return None

    def keeping(self, guid: int, ranges: "Iterable[tuple[int, int]]") -> "Iterator[tuple[int, int]]":
        """Passes the ranges on, and remembers them when all have passed. Raises nothing of its own.

        A crash may leave a temporary file, which `tidy` removes.
        """
        path = self._path(guid)
        temporary = f"{path}.{os.getpid()}{_TEMPORARY}"
        kept = _Writer(temporary, guid)
        try:
            for start, end in ranges:
                kept.add(start, end)
                yield start, end
            kept.finish(path)
        finally:
            kept.close()
            _remove(temporary)

    def tidy(self, guids: "set[int]", when: float) -> None:
        """Forgets all but these snapshots of the SR, which were all at the time `when`, in seconds since 1970.

        If there is too much of all SRs, forgets what was not used for the longest time. Raises nothing.
        """
        wanted = {f"{guid:016x}" for guid in guids}
        for name in files.names(self._directory):
            path = os.path.join(self._directory, name)
            if name not in wanted and not name.endswith(_TEMPORARY) and _changed(path) < when:
                _remove(path)
        _shrink()

    def forget(self) -> None:
        """Forgets all of the SR."""
        for name in files.names(self._directory):
            _remove(os.path.join(self._directory, name))
        for directory in (self._directory, os.path.dirname(self._directory)):
            try:
                os.rmdir(directory)
            except OSError:
                return


def _changed(path: str) -> float:
    """When the file was written or used last; 0 if it is gone."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0


def _remove(path: str) -> None:
    try:
        files.remove(path)
    except OSError as error:
        log.warning(f"{path} cannot be removed: {error}")


def _shrink() -> None:
    found = []
    for directory, _, names in os.walk(DIRECTORY):
        for name in names:
            try:
                about = os.stat(os.path.join(directory, name))
            except OSError:
                continue
            found.append((about.st_mtime, about.st_size, os.path.join(directory, name)))
    total = sum(size for _, size, _ in found)
    newest = max((when for when, _, _ in found), default=0)
    for when, size, path in sorted(found):
        if path.endswith(_TEMPORARY) and newest - when < _ABANDONED:
            continue
        if total > _LARGEST_SUM or path.endswith(_TEMPORARY):
            _remove(path)
            total -= size


class _Writer:
    """Writes a file of ranges, until that fails or the file is too large; then it has none."""

    def __init__(self, path: str, guid: int) -> None:
        self._numbers = array("Q")
        self._path = path
        self._file: "gzip.GzipFile | None" = None
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._file = gzip.GzipFile(path, "wb", compresslevel=1)
            self._file.write(_HEAD.format(guid).encode())
        except OSError as error:
            self._give_up(str(error))

    def add(self, start: int, end: int) -> None:
        if self._file is not None:
            self._numbers.append(start)
            self._numbers.append(end)
            if len(self._numbers) >= _NUMBERS:
                self._write()

    def _write(self) -> None:
        try:
            if self._file is not None:
                self._file.write(self._numbers.tobytes())
                if os.stat(self._path).st_size > _LARGEST:
                    self._give_up("it would be too large")
        except OSError as error:
            self._give_up(str(error))
        del self._numbers[:]

    def _give_up(self, why: str) -> None:
        log.warning(f"{self._path} is not written: {why}")
        self.close()

    def finish(self, path: str) -> None:
        """Gives the complete file its name."""
        self._write()
        if self._file is not None:
            try:
                self._file.close()
                self._file = None
                os.rename(self._path, path)
            except OSError as error:
                self._give_up(str(error))

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                pass
            self._file = None


def _read(path: str, guid: int) -> "Iterator[tuple[int, int]]":
    reached = 0
    with gzip.open(path, "rb") as file:
        if file.readline(100) != _HEAD.format(guid).encode():
            raise ValueError("it is not what its name says")
        while True:
            numbers = array("Q")
            numbers.frombytes(file.read(numbers.itemsize * _NUMBERS))
            if not numbers:
                return
            pairs = iter(numbers)
            for start, end in zip(pairs, pairs):
                if not reached <= start < end:
                    raise ValueError("its ranges are not in order")
                reached = end
                yield start, end

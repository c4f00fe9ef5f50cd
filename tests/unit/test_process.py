# SPDX-License-Identifier: LGPL-2.1-only
"""What /proc does not tell must not be taken for an answer."""

import errno

import pytest

from zfsvol.errors import StorageError
from zfsvol.host import process


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH])
def test_the_environment_of_a_process_that_is_gone(number, monkeypatch):
    assert environment(number, monkeypatch) == []


def test_an_environment_that_cannot_be_read(monkeypatch):
    """A tapdisk would seem to be gone, while it may still write."""
    with pytest.raises(StorageError, match="cannot be read"):
        environment(errno.ENOMEM, monkeypatch)


def environment(number, monkeypatch):
    """The environment of a process whose file cannot be opened for this reason."""

    def refuse(path, mode):
        raise OSError(number, "refused", path)

    monkeypatch.setattr(process, "open", refuse, raising=False)
    return process.environment("1")

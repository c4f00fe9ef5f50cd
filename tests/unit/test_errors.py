# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.errors: the codes and the format that xapi and its clients know."""

import pytest

from tests import contract
from zfsvol import errors
from zfsvol.host import command
from zfsvol.verbs import datapath, sr, sr_attach, sr_destroy, volume_idle  # noqa: F401 - loads all modules that define errors
from zfsvol.wire import protocol
from zfsvol.zfs import pool, pools, sendstream


def descendants(kind: type) -> "set[type]":
    """All classes derived from it."""
    children: "list[type]" = kind.__subclasses__()
    return {kind}.union(*map(descendants, children))


# Numbers and names are those of drivers/XE_SR_ERRORCODES.xml in the storage manager's repository.
CODES = {
    errors.StorageError: "",
    errors.InvalidArgument: "_1",  # InvalidArg
    errors.SRInUse: "_16",  # SRInUse
    pools.UsedElsewhere: "_16",
    errors.VDIInUse: "_24",  # VDIInUse
    errors.LockTimeout: "_37",  # LockErr
    errors.SRNotEmpty: "_39",  # SRNotEmpty
    errors.SRExists: "_42",  # SRExists
    errors.NoSpace: "_44",  # SRNoSpace
    errors.VDIUnavailable: "_46",  # VDIUnavailable
    errors.NodeMissing: "_46",
    errors.SRUnavailable: "_47",  # SRUnavailable
    errors.InvalidSize: "_79",  # VDISize
    errors.ChangesUnknown: "_460",  # CBTChangedBlocksError
    errors.DeviceMissing: "_90",  # DeviceMissing, in xcp-ng-tests
    errors.DeviceInvalid: "_91",  # DeviceInvalid, likewise
    # Errors without a code of their own.
    errors.TapdiskFailed: "",
    errors.NbdFailed: "",
    command.CommandFailed: "",
    command.CommandTimeout: "",
    sendstream.Damaged: "",
    pool.Missing: "",
    pool.Exists: "",
    pool.Busy: "",
}


@pytest.mark.parametrize("kind", sorted(descendants(errors.StorageError), key=str))
def test_code(kind):
    assert kind.code == "SR_BACKEND_FAILURE" + CODES[kind]


def test_sentence_is_the_second_parameter():
    error = errors.NoSpace("It does not fit.")
    assert error.params == ["", "It does not fit.", ""]
    assert str(error) == "It does not fit."


def test_words_that_xcp_ng_tests_look_for():
    assert errors.DeviceMissing().params == ["", "The request is missing the device parameter", ""]
    assert "VDI Invalid size" in errors.InvalidSize("5 bytes.").params[1]


def test_command_that_failed():
    error = command.CommandFailed(["zfs", "set", "a=b", "tank"], 1, "cannot set property:\n  no  reason\n")
    assert error.params == ["", "'zfs set a=b tank' failed with status 1: cannot set property: no reason", ""]


def test_command_that_said_nothing():
    assert "it gave no reason" in str(command.CommandFailed(["zfs"], 2, ""))


def test_command_that_did_not_end():
    sentence = str(command.CommandTimeout(["zpool", "export", "tank"], 600.4))
    assert "'zpool export tank' did not end within 600 seconds" in sentence
    assert "zpool status" in sentence


def raised(error):
    """The client's answer for an exception."""
    with pytest.raises(type(error)) as caught:
        raise error
    answer = protocol._failure(caught.value)
    contract.check_error(answer)
    return answer


@pytest.mark.parametrize(
    "error",
    [
        errors.DeviceMissing(),
        errors.SRInUse("a\nb"),
        command.CommandFailed(["zfs"], 1, "\udcff"),
        command.CommandTimeout(["zfs"], 1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_client_is_told(error):
    answer = raised(error)
    assert answer["code"] == error.code
    assert answer["params"] == error.params
    assert answer["backtrace"]["error"] == str(error)
    # The place where it was raised, for the log.
    assert answer["backtrace"]["files"][-1] == __file__


def test_fault_of_the_driver():
    # The interface's library reports unknown exceptions like this.
    answer = raised(ZeroDivisionError("division by zero"))
    assert answer["code"] == "SR_BACKEND_FAILURE"
    assert answer["params"] == ["ZeroDivisionError", "division by zero"]

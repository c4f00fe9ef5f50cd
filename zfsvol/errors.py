# SPDX-License-Identifier: LGPL-2.1-only
"""The errors that the client gets.

The codes are those of XCP-ng's storage manager (drivers/XE_SR_ERRORCODES.xml of the sm package), so xapi and its
clients recognise them. The sentence is for the administrator: what was asked, what prevents it, what to do.
"""


class StorageError(Exception):
    """Any refusal or failure of a verb.

    `code` and `params` reach the XenAPI client unchanged. `params` is `["", sentence, ""]`, as in the storage manager's
    own drivers; xcp-ng-tests rely on that.
    """

    code = "SR_BACKEND_FAILURE"

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.params = ["", sentence, ""]


class InvalidArgument(StorageError):
    """The request itself is wrong, and nothing was changed. A retry cannot help."""

    code = "SR_BACKEND_FAILURE_1"


class SRInUse(StorageError):
    """Something else uses the SR, its pool or one of its devices. A retry may help once it stops."""

    code = "SR_BACKEND_FAILURE_16"


class VDIInUse(StorageError):
    """The VDI's zvol is open. A retry may help once it is closed."""

    code = "SR_BACKEND_FAILURE_24"


class LockTimeout(StorageError):
    """Another verb has held a lock for longer than this one may wait. A retry may help."""

    code = "SR_BACKEND_FAILURE_37"


class SRNotEmpty(StorageError):
    """The SR holds datasets that are not this driver's."""

    code = "SR_BACKEND_FAILURE_39"


class SRExists(StorageError):
    """An SR with this uuid exists already."""

    code = "SR_BACKEND_FAILURE_42"


class NoSpace(StorageError):
    """The pool or the SR's quota has too little space. Nothing was made."""

    code = "SR_BACKEND_FAILURE_44"


class VDIUnavailable(StorageError):
    """The SR has no such VDI, or the VDI cannot be used now."""

    code = "SR_BACKEND_FAILURE_46"


class NodeMissing(StorageError):
    """The VDI's zvol has no device node, or its node does not answer. A retry may help."""

    code = "SR_BACKEND_FAILURE_46"


class TapdiskFailed(StorageError):
    """A tapdisk cannot be started, or does not close a VDI's zvol."""


class NbdFailed(StorageError):
    """An NBD server refused or failed, is gone, or is not understood. The connection to it is of no more use."""


class SRUnavailable(StorageError):
    """The SR's pool is not imported, is suspended, or holds no such SR."""

    code = "SR_BACKEND_FAILURE_47"


class InvalidSize(StorageError):
    """No VDI can have this size. xcp-ng-tests look for the words "VDI Invalid size"."""

    code = "SR_BACKEND_FAILURE_79"

    def __init__(self, sentence: str) -> None:
        super().__init__("VDI Invalid size: " + sentence)


class ChangesUnknown(StorageError):
    """The changed blocks between two VDIs cannot be told. The sentence is the one of the storage manager's drivers."""

    code = "SR_BACKEND_FAILURE_460"

    def __init__(self, why: str) -> None:
        super().__init__(f"Failed to calculate changed blocks for given VDIs. [opterr={why}]")


class DeviceMissing(StorageError):
    """No device-config key says where the SR is. xcp-ng-tests compare the sentence literally."""

    code = "SR_BACKEND_FAILURE_90"

    def __init__(self) -> None:
        super().__init__("The request is missing the device parameter")


class DeviceInvalid(StorageError):
    """A given path is not a block device that a pool can use."""

    code = "SR_BACKEND_FAILURE_91"

# SPDX-License-Identifier: LGPL-2.1-only
"""What can go wrong, as the client is told.

A code is one of those that XCP-ng's storage manager has always used (drivers/XE_SR_ERRORCODES.xml of the sm
package), so that xapi and its clients recognise it; the sentence is for the administrator: what was asked, what
stands in the way, what to do.
"""


class StorageError(Exception):
    """Anything a verb refuses or fails at.

    `code` and `params` go to the XenAPI client as they are; `params` is `["", sentence, ""]`, the shape in which
    the storage manager's own drivers report and on which xcp-ng-tests compare.
    """

    code = "SR_BACKEND_FAILURE"

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.params = ["", sentence, ""]


class InvalidArgument(StorageError):
    """The request itself is wrong: nothing was looked at, nothing changed. A retry cannot help."""

    code = "SR_BACKEND_FAILURE_1"


class SRInUse(StorageError):
    """The SR, its pool or one of its devices is held by something else. A retry may help once that lets go."""

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
    """The pool, or the SR's quota, has no room for it. Nothing was made."""

    code = "SR_BACKEND_FAILURE_44"


class VDIUnavailable(StorageError):
    """The SR has no such VDI, or cannot give it to anybody now."""

    code = "SR_BACKEND_FAILURE_46"


class NodeMissing(StorageError):
    """The VDI's zvol has no device node, or one that does not answer. A retry may help."""

    code = "SR_BACKEND_FAILURE_46"


class TapdiskFailed(StorageError):
    """A tapdisk could not be started, or does not close a VDI's zvol."""


class SRUnavailable(StorageError):
    """The SR's pool is not imported, is suspended, or holds no such SR."""

    code = "SR_BACKEND_FAILURE_47"


class InvalidSize(StorageError):
    """No VDI can have this size. xcp-ng-tests look for the words "VDI Invalid size"."""

    code = "SR_BACKEND_FAILURE_79"

    def __init__(self, sentence: str) -> None:
        super().__init__("VDI Invalid size: " + sentence)


class DeviceMissing(StorageError):
    """No device-config key says where the SR is. xcp-ng-tests compare the sentence to the letter."""

    code = "SR_BACKEND_FAILURE_90"

    def __init__(self) -> None:
        super().__init__("The request is missing the device parameter")


class DeviceInvalid(StorageError):
    """A path that was given is not a block device that a pool can use."""

    code = "SR_BACKEND_FAILURE_91"

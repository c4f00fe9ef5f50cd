# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for the generated module of the same name; see the docstring of the package `xapi`."""

from xapi import *
from xapi._generator import error, interface

Sr_not_attached = error("Sr_not_attached")
SR_does_not_exist = error("SR_does_not_exist")
Volume_does_not_exist = error("Volume_does_not_exist")
Cancelled = error("Cancelled")
Activated_on_another_host = error("Activated_on_another_host")

SR_skeleton, SR_server_dispatcher, SR_commandline = interface("SR")
Volume_skeleton, Volume_server_dispatcher, Volume_commandline = interface("Volume")

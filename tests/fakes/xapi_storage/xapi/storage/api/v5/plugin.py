# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for the generated module of the same name; see the docstring of the package `xapi`."""

from xapi import *
from xapi._generator import interface

Plugin_skeleton, Plugin_server_dispatcher, Plugin_commandline = interface("Plugin")

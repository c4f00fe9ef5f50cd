# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for the generated module of the same name; see the docstring of the package `xapi`."""

from xapi import *
from xapi._generator import interface

Datapath_skeleton, Datapath_server_dispatcher, Datapath_commandline = interface("Datapath")
Data_skeleton, Data_server_dispatcher, Data_commandline = interface("Data")

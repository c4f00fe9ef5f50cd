#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Every verb of the volume plugin is a link to this file; the name it is called by says which."""

from zfsvol.wire import protocol, table

protocol.main(table.VOLUME)

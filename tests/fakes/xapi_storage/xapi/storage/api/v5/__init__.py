# SPDX-License-Identifier: LGPL-2.1-only
"""Part of the stand-in for python3-xapi-storage; see the docstring of the package `xapi`."""

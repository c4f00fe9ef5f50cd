# SPDX-License-Identifier: LGPL-2.1-only
"""The demonstration of the README: see `run`."""

# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs of the interface, one module per part."""

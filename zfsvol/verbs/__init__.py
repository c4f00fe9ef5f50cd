# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs of the interface, a module for each of its parts; and the commands for administrators."""

# SPDX-License-Identifier: LGPL-2.1-only
"""The resident service: looks after the SRs that are attached on this host. No verb needs it."""

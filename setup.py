# SPDX-License-Identifier: LGPL-2.1-only
"""Installs the library. The RPM installs the executables and everything else that a host needs."""

from pathlib import Path
import re

from setuptools import setup


def read_version() -> str:
    """Return the version without importing the package, whose imports a build host may not have."""
    text = Path(__file__).resolve().parent.joinpath("zfsvol", "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if not found:
        raise SystemExit("zfsvol/__init__.py does not set __version__")
    return found.group(1)


setup(
    name="zfsvol",
    version=read_version(),
    description="Library of zfs-vol, a SMAPIv3 storage driver for ZFS volumes",
    license="LGPL-2.1-only",
    packages=[
        "zfsvol",
        *(
            "zfsvol." + room
            for room in ("nbd", "host", "zfs", "repository", "motion", "verbs", "care", "service", "wire")
        ),
    ],
    package_data={"zfsvol.zfs": ["*.lua"]},
    python_requires=">=3.6",
)

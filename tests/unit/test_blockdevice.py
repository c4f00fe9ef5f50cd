# SPDX-License-Identifier: LGPL-2.1-only
"""What of blockdevice can be tried without block devices."""

import os

from zfsvol import blockdevice


def test_a_link_that_vanishes_while_it_is_followed(tmp_path, monkeypatch):
    """As udev's do at any moment."""
    link = tmp_path / "link"
    link.symlink_to("target")
    assert blockdevice.real_path(str(link)) == str(tmp_path / "target")

    def vanished(path, **_how):
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "readlink", vanished)
    assert blockdevice.real_path(str(link)) == str(link)

# SPDX-License-Identifier: LGPL-2.1-only
"""Links that others remove."""

import os

from zfsvol.host import files


def test_a_link_that_vanishes_while_it_is_followed(tmp_path, monkeypatch):
    """udev's links may do so at any moment."""
    link = tmp_path / "link"
    link.symlink_to("target")
    assert files.real_path(str(link)) == str(tmp_path / "target")

    def vanished(path, **_how):
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "readlink", vanished)
    assert files.real_path(str(link)) == str(link)

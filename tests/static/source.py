# SPDX-License-Identifier: LGPL-2.1-only
"""For the tests of the source and of the package: the repository's files, and dom0's version of Python."""

from pathlib import Path
import re
import shutil
import subprocess
from typing import Iterator, List, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> List[str]:
    """Return the names of the files that are tracked, or untracked and not ignored."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
    # Skip deleted files, but keep links that lead nowhere: the tests must find those.
    return sorted({name for name in names if (ROOT / name).is_symlink() or (ROOT / name).is_file()})


def texts() -> Iterator[Tuple[str, str]]:
    """Return (name, text) of the tracked files that are texts and not links."""
    for name in tracked():
        if "__pycache__" not in name and not (ROOT / name).is_symlink():
            try:
                yield name, (ROOT / name).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def written_in(suffix: str, interpreter: str) -> List[str]:
    """Return the names of the files in a language, recognised by suffix or shebang."""
    shebang = re.compile(rf"#!\s*\S*/(env )?{interpreter}\b")
    return [name for name, text in texts() if name.endswith(suffix) or shebang.match(text)]


def python_3_6() -> Optional[str]:
    """Return dom0's version of Python if the machine has it, even if only in pyenv."""
    candidates = [shutil.which("python3.6"), *Path.home().glob(".pyenv/versions/3.6*/bin/python3.6")]
    for candidate in filter(None, candidates):
        # pyenv's programs on PATH exist, but fail if another version is selected.
        if subprocess.run([str(candidate), "-V"], check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return str(candidate)
    return None

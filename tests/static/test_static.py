# SPDX-License-Identifier: LGPL-2.1-only
"""Checks of the source by tools and simple searches, one test for each.

The tools of tests/requirements.txt are taken from the directory that ZFSVOL_TOOLS names, else from PATH.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.static.source import ROOT, python_3_6, texts, written_in

# Files that dom0's Python runs.
ON_DOM0 = ("zfsvol/", "volume/", "datapath/", "plugins/")


def tool(name):
    """Return the path of a tool."""
    place = os.environ.get("ZFSVOL_TOOLS")
    found = shutil.which(name, path=place)
    assert found, "{} is not in {}".format(name, place or "PATH")
    return found


def run(*command):
    """Run a command in the root of the repository; it must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout


def of_dom0():
    """Return the names of the Python files that must run on dom0's Python; setup.py runs when the package is built."""
    return [name for name in written_in(".py", "python3") if name == "setup.py" or name.startswith(ON_DOM0)]


def test_format():
    run(tool("ruff"), "format", "--check", "--diff", ".")


def test_ruff():
    run(tool("ruff"), "check", ".")


def test_types():
    # mypy finds pytest's types beside this pytest.
    run(tool("mypy"), "--python-executable", sys.executable)


def test_nothing_newer_than_python_3_6():
    # The files of tests/ that also run on an XCP-ng test host.
    on_test_host = ["tests/__init__.py", "tests/client.py", "tests/contract.py", "tests/zfs", "benchmarks"]
    on_test_host += [
        "tests/blktap.py",
        "tests/zvol.py",
        "tests/model.py",
        "tests/leases.py",
        "tests/attached.py",
        "tests/care.py",
    ]
    run(tool("vermin"), "--target=3.6-", "--violations", "--no-tips", *of_dom0(), *on_test_host)


def test_compiles_with_python_3_6():
    python = python_3_6()
    if python is None:
        pytest.skip("no Python 3.6 on this machine")
    run(python, "-c", "import sys\nfor f in sys.argv[1:]: compile(open(f, 'rb').read(), f, 'exec')", *of_dom0())


def test_shell_scripts():
    scripts = written_in(".sh", "(ba|da)?sh")
    if not scripts:
        pytest.skip("no shell scripts in the repository")
    run("shellcheck", *scripts)


def test_every_file_names_its_licence():
    def names_it(name, text):
        # A patch has the licence of the code that it changes.
        licence = "" if name.endswith(".patch") else "LGPL-2.1-only"
        return any("SPDX-License-Identifier: " + licence in line for line in text.splitlines()[:3])

    exempt = ("LICENSE", ".md", ".json")
    assert [name for name, text in texts() if text and not name.endswith(exempt) and not names_it(name, text)] == []


def test_no_path_of_one_machine():
    # Written so that it does not match itself.
    pattern = re.compile(r"(?<![\w.}~])/(work|root|home)" + "/")
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []

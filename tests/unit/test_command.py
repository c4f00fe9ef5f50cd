# SPDX-License-Identifier: LGPL-2.1-only
"""What a child gets from the driver, and what the driver learns of it: with real processes, started in both ways."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests import client
from tests.unit.older import no_posix_spawn
from zfsvol import log
from zfsvol.host import command
from zfsvol.host.command import Child, CommandFailed, CommandTimeout

LIMIT = 60
PYTHON = os.environ.get("ZFSVOL_PYTHON", sys.executable)


@pytest.fixture(
    autouse=True,
    params=[
        "fork_exec",
        pytest.param("posix_spawn", marks=pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="3.6")),
    ],
)
def way(request, monkeypatch):
    """How programs are started."""
    if request.param == "fork_exec":
        no_posix_spawn(monkeypatch.setattr)
    return request.param


def sh(script, *words, **how):
    """The output of a shell script."""
    return Child(["sh", "-c", script, *words], **how).finish(LIMIT)


def failure(argv, **how):
    """The error of a command that fails."""
    with pytest.raises(CommandFailed) as caught:
        Child(argv, **how).finish(LIMIT)
    return caught.value


def descriptors():
    """Where the descriptors of this process lead to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one of the listing
    return found


def children():
    """The children of this process, also those that have ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # another process, which has just ended
        if text.rpartition(")")[2].split()[1] == str(os.getpid()):
            found.append(text.split()[0])
    return found


class TestStart:
    def test_a_program_that_is_not_there(self):
        before = descriptors()
        for name in ("no-such-program", "/no/such/program"):
            error = failure([name])
            assert error.status == 127
            assert name in error.stderr
            assert "No such" in error.stderr
        assert descriptors() == before

    @pytest.mark.parametrize("content", ["text", "#!/no/such/interpreter\n"])
    def test_a_file_that_cannot_run(self, tmp_path, content):
        before, processes = descriptors(), children()
        path = tmp_path / "program"
        path.write_text(content)
        for mode in (0o644, 0o755):
            path.chmod(mode)
            error = failure([str(path)])
            assert error.status == 127
            assert error.stderr
        assert descriptors() == before
        assert children() == processes

    def test_the_path_is_that_of_the_child(self, tmp_path, monkeypatch):
        program = tmp_path / "only-here"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert failure(["only-here"]).status == 127
        assert sh("echo found") == "found\n"

    def test_words_arrive_as_they_are(self):
        words = ["", " ", "a b", "*", "$HOME", "'", '"', "\\", "\n", "é", "\udcff"]
        data = b"".join(Child(["sh", "-c", 'printf "%s\\0" "$@"', "sh", *words]).chunks(LIMIT))
        assert data == b"".join(os.fsencode(word) + b"\0" for word in words)

    def test_no_room_for_the_words(self):
        assert failure(["true", "x" * (1 << 20)]).status == 127


class TestWhatAChildGets:
    def test_environment(self, monkeypatch):
        monkeypatch.setenv("LD_PRELOAD", "")
        monkeypatch.setenv("SECRET", "word")
        values = dict(line.split("=", 1) for line in command.run(["env"], LIMIT).splitlines())
        assert values == command.ENVIRONMENT

    def test_stdin_is_empty(self):
        assert command.run(["cat"], LIMIT) == ""
        assert command.run(["readlink", "/proc/self/fd/0"], LIMIT) == "/dev/null\n"

    def test_signals(self):
        """Python ignores SIGPIPE; a program that does as well goes on when nobody reads."""
        assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
        ignored = command.run(["sed", "-n", "s/^SigIgn:\t//p", "/proc/self/status"], LIMIT)
        ours = {signal.SIGPIPE, signal.SIGXFSZ}
        assert not int(ignored, 16) & sum(1 << (number - 1) for number in ours)

    def test_the_named_descriptors_and_no_others(self, tmp_path):
        held, own, inheritable = [os.open(str(tmp_path / name), os.O_RDWR | os.O_CREAT) for name in "hoi"]
        os.set_inheritable(inheritable, True)  # as one that the driver itself was started with
        try:
            listing = command.run(["ls", "-l", "/proc/self/fd"], LIMIT, held=[held])
            assert str(tmp_path / "h") in listing
            assert str(tmp_path / "o") not in listing
            assert str(tmp_path / "i") not in listing
            assert listing.count("pipe:") == 2
            # The duplicates are the child's alone.
            assert sum(str(tmp_path) in path for path in descriptors().values()) == 3
        finally:
            for descriptor in (held, own, inheritable):
                os.close(descriptor)

    def test_a_daemon_gets_variables_and_what_is_named(self, tmp_path):
        held = os.open(str(tmp_path / "lock"), os.O_RDWR | os.O_CREAT)
        words = ["sh", "-c", "echo $TOKEN; ls -l /proc/self/fd"]
        try:
            said = [
                Child(words, held=named, output=str(tmp_path / "output"), daemon={"TOKEN": "word"}).finish(LIMIT)
                for named in ([held], [])
            ]
        finally:
            os.close(held)
        assert all(text.startswith("word\n") and "pipe:" not in text for text in said)
        assert ["lock" in text for text in said] == [True, False]

    def test_a_daemon_starts_in_the_groups(self, tmp_path, monkeypatch):
        groups = [str(tmp_path / "one"), str(tmp_path / "two")]
        monkeypatch.setattr(command, "_service_groups", lambda: groups)
        assert sh("echo started $*", "sh", "--", daemon={}) == "started --\n"
        assert [Path(path).read_text() for path in groups] == ["0\n", "0\n"]

    def test_a_daemon_that_cannot_leave_its_group(self, monkeypatch):
        monkeypatch.setattr(command, "_service_groups", lambda: ["/dev/full"])
        assert "echo" in failure(["true"], daemon={}).stderr

    @pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "0 2", "1 2", "0 1 2"])
    def test_a_driver_without_streams(self, closed, tmp_path, way):
        """Its pipes and locks have the numbers of streams then."""
        text = "\n".join(
            [
                "import os, sys",
                "from tests.unit.older import no_posix_spawn",
                "from zfsvol.host import command",
                "no_posix_spawn()" if way == "fork_exec" else "",
                *(f"os.close({number})" for number in closed.split()),
                f"lock = os.open({str(tmp_path / 'lock')!r}, os.O_RDWR | os.O_CREAT)",
                "said = command.run(['sh', '-c', 'cat; ls -l /proc/self/fd; echo more >&2'], 60, held=[lock])",
                "try:",
                "    command.run(['sh', '-c', 'echo why >&2; exit 3'], 60)",
                "except command.CommandFailed as error:",
                "    said += f'{error.status} {error.stderr}'",
                f"open({str(tmp_path / 'said')!r}, 'w').write(said)",
                "os._exit(0)",
            ]
        )
        subprocess.run([PYTHON, "-c", text], check=True, env=client.environment(), timeout=LIMIT)
        said = (tmp_path / "said").read_text()
        assert said.endswith("3 why\n")
        assert "0 -> /dev/null" in said
        assert said.count("pipe:") == 2
        assert str(tmp_path / "lock") in said


class TestEnd:
    @pytest.mark.parametrize("status", [1, 126, 127, 255])
    def test_status(self, status):
        child = Child(["sh", "-c", f"echo why >&2; exit {status}"])
        assert child.returncode is None
        with pytest.raises(CommandFailed, match="why") as caught:
            child.finish(LIMIT)
        assert (caught.value.status, child.returncode) == (status, status)

    def test_success(self):
        child = Child(["true"])
        assert child.finish(LIMIT) == ""
        assert child.returncode == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
    def test_a_child_that_is_killed(self, number):
        assert failure(["sh", "-c", f"ulimit -c 0; kill -{int(number)} $$"]).status == -number

    def test_a_child_that_closes_its_pipes_first(self):
        child = Child(["sh", "-c", "exec >&- 2>&-; exec sleep 600"])
        with pytest.raises(CommandTimeout):
            child.finish(LIMIT, lambda: True)
        assert Child(["sh", "-c", "exec >&- 2>&-; sleep 0.1"]).finish(LIMIT) == ""

    def test_a_limit(self):
        before = descriptors()
        child = Child(["sh", "-c", "echo $$; exec sleep 600"])
        began = time.monotonic()
        with pytest.raises(CommandTimeout):
            child.finish(0.1)
        assert time.monotonic() - began < 10
        assert child.returncode == -signal.SIGKILL
        assert descriptors() == before

    def test_a_reader_that_stops(self):
        before = descriptors()
        child = Child(["sh", "-c", "echo first; exec sleep 600"])
        for piece in child.chunks(LIMIT):
            assert piece == b"first\n"
            break
        assert child.returncode == -signal.SIGKILL
        assert descriptors() == before

    def test_a_child_that_cannot_be_killed(self, monkeypatch):
        """It is left behind with a warning, and the driver goes on."""
        said: "list[str]" = []
        monkeypatch.setattr(log, "warning", said.append)
        monkeypatch.setattr(command, "_KILL_LIMIT", 0.1)
        kill = os.kill
        monkeypatch.setattr(os, "kill", lambda pid, number: None)
        child = Child(["sleep", "600"])
        with pytest.raises(CommandTimeout):
            child.finish(0.1)
        assert child.returncode is None
        assert "left behind: sleep 600" in said[0]
        kill(child._pid, signal.SIGKILL)
        os.waitpid(child._pid, 0)

    def test_an_end_that_nobody_can_know(self):
        """The kernel forgets how children ended if SIGCHLD is ignored. That must not look like success."""
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            assert failure(["true"]).status == 255
        finally:
            signal.signal(signal.SIGCHLD, before)


class TestThreads:
    def test_children_do_not_get_each_others_pipes(self):
        """Otherwise each would wait for the other's end."""
        stop = time.monotonic() + 2
        said, ended = [], []

        def run():
            while time.monotonic() < stop:
                with pytest.raises(CommandTimeout):
                    Child(["sleep", "600"]).finish(0.01)
                said.append(sh("ls -l /proc/self/fd").count("pipe:"))
            ended.append(True)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert len(ended) == len(threads)
        assert set(said) == {2}


def test_the_verb_starts_children_in_the_root(tmp_path):
    """No child that is left behind keeps a file system in use."""
    text = """
import sys
from zfsvol.host import command
from zfsvol.verbs import plugin_srs
from zfsvol.wire import protocol, table
plugin_srs.ls = lambda dbg: [command.run(['pwd'], 60)]
sys.argv = ['Plugin.ls', '--json']
protocol.main(table.VOLUME)
"""
    done = subprocess.run(
        [PYTHON, "-c", text],
        env=client.environment(),
        cwd=str(tmp_path),
        input=b'{"dbg": ""}',
        stdout=subprocess.PIPE,
        timeout=LIMIT,
    )
    assert done.stdout == b'["/\\n"]'

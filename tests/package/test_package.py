# SPDX-License-Identifier: LGPL-2.1-only
"""Builds the RPM from the working tree, inspects it, and installs and removes it below an empty directory.

Needs root and the packages of tests/debian-packages. Changes nothing outside the temporary directory.
"""

import json
import os
from pathlib import Path
import re
import subprocess
import tarfile

import pytest

from tests import contract
from tests.static.source import ROOT, python_3_6, tracked

SPEC = ROOT / "xcp-ng-xapi-storage-volume-zfsvol.spec"
LINT_CONFIG = Path(__file__).with_name("rpmlint.toml")
NAME = SPEC.stem

# What builds the package: dom0's version of Python if the machine has it, else its own.
PYTHON = python_3_6() or "/usr/bin/python3"
SITELIB = "/usr/lib/python3.6/site-packages"
SCRIPTS = "/usr/libexec/xapi-storage-script"
PLUGIN = SCRIPTS + "/volume/org.xen.xapi.storage.zfs-vol"
UNIT = "/usr/lib/systemd/system/zfs-vol.service"
XAPI_PLUGINS = "/etc/xapi.d/plugins/"
STATE_DB = "/var/run/nonpersistent/xapi-storage-script/state.db"
SR_UUID = "5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1"

SCRIPTLETS = ("PREIN", "POSTIN", "PREUN", "POSTUN", "PRETRANS", "POSTTRANS")


def run(*command, **options):
    """Run a command that must succeed, and return its output."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    done = subprocess.run([str(word) for word in command], check=False, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}"
    return done.stdout


def spec_version():
    """Return the version that the spec file names."""
    (version,) = re.findall(r"^Version:\s*(\S+)$", SPEC.read_text(), re.MULTILINE)
    return version


class Build:
    """One run of rpmbuild."""

    def __init__(self, topdir, dist):
        prefix = f"{NAME}-{spec_version()}"
        sources = topdir / "SOURCES"
        sources.mkdir(parents=True)
        with tarfile.open(str(sources / (prefix + ".tar.gz")), "w:gz") as archive:
            for name in tracked():
                archive.add(str(ROOT / name), f"{prefix}/{name}", recursive=False)
        defines = {
            "_topdir": topdir,
            "dist": dist,
            "__python3": PYTHON,
            "python3_sitelib": SITELIB,
            # Replaces the policy that compiles with Python 2: the spec file must not let it run.
            "__os_install_post": "/bin/false",
        }
        options = [word for item in defines.items() for word in ("--define", "{} {}".format(*item))]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        # Debian's rpm database has none of the packages that the build requires.
        self.log = run("rpmbuild", "-ba", "--nodeps", *options, SPEC, env=environment)
        (self.package,) = topdir.glob("RPMS/*/*.rpm")
        (self.source_package,) = topdir.glob("SRPMS/*.rpm")

    def query(self, *arguments):
        """Ask rpm about the package."""
        return run("rpm", "-qp", *arguments, self.package)

    def files(self):
        """Return (mode, owner, link target) of each file, by path."""
        form = "[%{FILENAMES}\\t%{FILEMODES:perms}\\t%{FILEUSERNAME}:%{FILEGROUPNAME}\\t%{FILELINKTOS}\\n]"
        rows = [line.split("\t") for line in self.query("--qf", form).splitlines()]
        return {path: tuple(rest) for path, *rest in rows}

    def requirements(self):
        """Return the requirements as texts, without those on rpm's own format."""
        words = self.query("--requires").splitlines()
        return {" ".join(word.split()) for word in words if not word.startswith("rpmlib(")}

    def scriptlet(self, name):
        """Return the text of a scriptlet, "" if there is none."""
        text = self.query("--qf", f"%{{{name}}}")
        return "" if text == "(none)" else text


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The package."""
    return Build(tmp_path_factory.mktemp("build"), ".xcpng8.3")


@pytest.fixture(scope="module")
def next_build(tmp_path_factory):
    """The same with a higher release."""
    return Build(tmp_path_factory.mktemp("next"), ".xcpng8.4")


class Host:
    """A directory like a host's root, with the directories that xapi-storage-script watches."""

    def __init__(self, path):
        self.path = path
        self.watched = [self.at(SCRIPTS + "/volume"), self.at(SCRIPTS + "/datapath")]
        for directory in self.watched:
            directory.mkdir(parents=True)
        self.at("/var/lib/rpm").mkdir(parents=True)
        self.rpm("--initdb")

    def at(self, path):
        """Return the real path of a path on the host."""
        return self.path / path.lstrip("/")

    def rpm(self, *arguments):
        """Run rpm on the host's own database."""
        return run("rpm", "--root", self.path, "--dbpath", "/var/lib/rpm", *arguments)

    def change(self, *arguments):
        """Install, upgrade or erase, without scriptlets: the directory has no shell."""
        self.rpm(*arguments, "--nodeps", "--noscripts")

    def files(self):
        """Return the paths below the directory, without rpm's own."""
        found = {"/" + str(path.relative_to(self.path)) for path in self.path.rglob("*")}
        return {path for path in found if not path.startswith("/var/lib/rpm")}

    def inodes(self):
        """Return the inodes of the watched directories, by which inotify identifies them."""
        return [directory.stat().st_ino for directory in self.watched]


@pytest.fixture
def host(tmp_path):
    """An empty host."""
    return Host(tmp_path / "root")


class TestSpec:
    def test_version_is_the_library_s(self):
        text = (ROOT / "zfsvol" / "__init__.py").read_text()
        assert re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE) == [spec_version()]

    def test_spelling(self):
        documents = [ROOT / name for name in tracked() if name.endswith(".md")]
        run("codespell", "--check-filenames", SPEC, *documents)


class TestLint:
    def lint(self, build, config):
        """Return rpmlint's findings."""
        command = ["rpmlint", "-c", config, build.package, build.source_package, SPEC]
        done = subprocess.run([str(word) for word in command], check=False, stdout=subprocess.PIPE, text=True)
        assert "0 packages" not in done.stdout
        return [line for line in done.stdout.splitlines() if re.match(r"\S+: [EWI]: |\S+:\d+: [EWI]: ", line)]

    def test_nothing_found(self, build):
        findings = self.lint(build, LINT_CONFIG)
        if python_3_6() is None:
            # The library is where Python 3.6 looks for it, but compiled by this machine's Python.
            findings = [line for line in findings if "python-bytecode-wrong-magic-value" not in line]
        assert findings == []

    def test_every_filter_is_needed(self, build, tmp_path):
        text = LINT_CONFIG.read_text()
        bare = tmp_path / "rpmlint.toml"
        bare.write_text(text.split("Filters =", 1)[0])
        findings = self.lint(build, bare)
        filters = re.findall(r"^    '(.+)',$", text, re.MULTILINE)
        assert [item for item in filters if not any(re.search(item, line) for line in findings)] == []

    def test_spelling_is_looked_at(self):
        """Without a dictionary rpmlint silently skips the check of spelling."""
        program = "import enchant; assert enchant.Dict('en_US').check('volume')"
        run("/usr/bin/python3", "-c", program)


class TestPackage:
    def test_architecture(self, build):
        assert build.query("--qf", "%{ARCH}") == "noarch"

    def test_licence(self, build):
        assert build.query("--qf", "%{LICENSE}") == "LGPL-2.1-only"

    def test_requirements(self, build):
        assert build.requirements() >= {
            "blktap",
            "python3 >= 3.6",
            "python3-xapi-storage",
            "xapi-storage-script",
            "zfs >= 2.1",
            "kmod",
            "/usr/bin/python3",
            "python3-daemon",
            "python3-pyzfs",
            "systemd",
        }

    def test_no_requirement_that_dom0_cannot_meet(self, build):
        extra = {word for word in build.requirements() if re.match(r"python|/usr/bin/(env|python$)", word)}
        assert extra - {"python(abi) = 3.6"} == {
            "python3 >= 3.6",
            "python3-xapi-storage",
            "python3-daemon",
            "python3-pyzfs",
        }

    def test_no_weak_dependency(self, build):
        """The rpm of XCP-ng 8.3 does not support them."""
        for kind in ("--recommends", "--suggests", "--supplements", "--enhances"):
            assert build.query(kind) == ""

    def test_all_files_belong_to_root(self, build):
        assert {owner for _, owner, _ in build.files().values()} == {"root:root"}

    def test_parent_directories_are_not_packaged(self, build):
        parents = {SCRIPTS, SCRIPTS + "/volume", SCRIPTS + "/datapath", SITELIB, "/usr/lib/modules-load.d"}
        assert parents & set(build.files()) == set()

    def test_every_place_is_known(self, build):
        places = (
            PLUGIN,
            SCRIPTS + "/datapath/",
            XAPI_PLUGINS,
            SITELIB + "/zfsvol",
            "/usr/lib/modules-load.d/zfs-vol.conf",
            UNIT,
            "/var/lib/zfs-vol",
            "/usr/share/doc/" + NAME,
            "/usr/share/licenses/" + NAME,
        )
        assert [path for path in build.files() if not path.startswith(places)] == []

    def test_plugins_are_those_of_the_source(self, build):
        sources = {name for name in tracked() if name.startswith(("volume/", "datapath/"))}
        packaged = {
            path[len(SCRIPTS) + 1 :]: entry for path, entry in build.files().items() if path.startswith(SCRIPTS)
        }
        directories = {path for path, (mode, _, _) in packaged.items() if mode.startswith("d")}
        assert set(packaged) - directories == sources
        for name in sources:
            mode, _, target = packaged[name]
            if (ROOT / name).is_symlink():
                assert (mode[0], target) == ("l", os.readlink(str(ROOT / name)))
            else:
                executable = os.access(str(ROOT / name), os.X_OK)
                assert mode == ("-rwxr-xr-x" if executable else "-rw-r--r--")

    def test_xenapi_plugins(self, build):
        names = {name for name in tracked() if name.startswith("plugins/")}
        packaged = {path: mode for path, (mode, _, _) in build.files().items() if path.startswith(XAPI_PLUGINS)}
        assert packaged == {"/etc/xapi.d/" + name: "-rwxr-xr-x" for name in names}

    def test_verbs_are_links_to_one_executable(self, build):
        files = {path: entry for path, entry in build.files().items() if path.startswith(SCRIPTS)}
        verbs = {path: target for path, (_, _, target) in files.items() if re.search(r"/[A-Z]\w+\.\w+$", path)}
        assert set(verbs.values()) == {"verb.py"}
        for path in verbs:
            contract.find_verb(path.rsplit("/", 1)[1])

    def test_library_is_whole(self, build):
        packaged = {path[len(SITELIB) + 1 :] for path in build.files() if path.startswith(SITELIB)}
        assert {name for name in tracked() if name.startswith("zfsvol/")} <= packaged

    def test_programs_that_zfs_runs(self, build):
        """They are no modules, so setup.py could silently leave them out."""
        programs = {f"{SITELIB}/{name}" for name in tracked() if re.match(r"zfsvol/.+\.lua\Z", name)}
        assert programs
        assert {path for path in build.files() if path.endswith(".lua")} == programs
        assert {build.files()[path][0] for path in programs} == {"-rw-r--r--"}

    def test_byte_code_is_python_3_s_and_of_the_library_only(self, build):
        """Without it, the first verb would write byte code that no package owns."""
        files = set(build.files())
        modules = {path for path in files if path.startswith(SITELIB) and path.endswith(".py")}
        compiled = {path for path in files if path.endswith((".pyc", ".pyo"))}
        pattern = r"(.*)/__pycache__/(\w+)\.cpython-3\d+\.pyc"
        assert {re.sub(pattern, r"\1/\2.py", path) for path in compiled} == modules

    def test_module_is_loaded_at_boot(self, build, host):
        host.change("-i", build.package)
        assert host.at("/usr/lib/modules-load.d/zfs-vol.conf").read_text() == "zfs\n"

    def test_unit_is_sound(self, build, host):
        host.change("-i", build.package)
        assert run("systemd-analyze", "verify", host.at(UNIT)) == ""

    def test_unit_starts_the_library_that_is_installed(self, build, host):
        host.change("-i", build.package)
        (command,) = re.findall("^ExecStart=(.*)$", host.at(UNIT).read_text(), re.MULTILINE)
        python, *words = command.replace(" -I ", " ").split()  # not isolated, as it must find the library here
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(host.at(SITELIB)), "PYTHONDONTWRITEBYTECODE": "1"}
        assert "--foreground" in run(python, *words, "--help", cwd="/", env=environment)

    def test_shebangs(self, build, host):
        host.change("-i", build.package)
        for path, (mode, _, _) in build.files().items():
            if mode.startswith("-") and "x" in mode:
                # The XenAPI plugin needs XCP-ng's module, which Python finds only without -S.
                expected = "#!/usr/bin/python3" + ("" if path.startswith(XAPI_PLUGINS) else " -S")
                assert host.at(path).read_text().splitlines()[0] == expected, path

    def test_source_package_holds_spec_and_tarball(self, build):
        listed = run("rpm", "-qpl", build.source_package).split()
        assert sorted(listed) == [f"{NAME}-{spec_version()}.tar.gz", SPEC.name]


class TestScriptlets:
    @pytest.fixture
    def act(self, build, tmp_path):
        """Run a scriptlet with a systemctl and a modprobe that only record their arguments."""

        def act(name, argument, attached=None, module_loads=True, has_hostid=True):
            tools = tmp_path / "bin"
            tools.mkdir(exist_ok=True)
            notes = tmp_path / "notes"
            notes.write_text("")
            for tool, status in (("systemctl", 0), ("modprobe", 0 if module_loads else 1), ("zgenhostid", 0)):
                stub = tools / tool
                stub.write_text(f'#!/bin/sh\necho "{tool} $*" >> "{notes}"\nexit {status}\n')
                stub.chmod(0o755)
            database = tmp_path / "state.db"
            if attached is not None:
                database.write_text(attached)
            hostid = tmp_path / "hostid"
            if has_hostid:
                hostid.write_bytes(b"mine")
            script = build.scriptlet(name).replace(STATE_DB, str(database)).replace("/etc/hostid", str(hostid))
            environment = {"PATH": f"{tools}:/usr/bin:/bin"}
            printed = run("/bin/sh", "-e", "-c", script, "scriptlet", str(argument), env=environment)
            return notes.read_text().splitlines(), printed

        return act

    def test_host_id(self, act):
        assert "zgenhostid " in act("POSTIN", 1, has_hostid=False)[0]
        assert "zgenhostid " not in act("POSTIN", 2)[0]

    @pytest.mark.parametrize("name", SCRIPTLETS)
    def test_shell(self, build, name, tmp_path):
        script = tmp_path / name
        script.write_text("#!/bin/sh\n" + build.scriptlet(name))
        run("bash", "-n", script)
        run("shellcheck", script)

    def test_run_by_the_shell(self, build):
        for name in SCRIPTLETS:
            if build.scriptlet(name):
                assert build.query("--qf", f"%{{{name}PROG}}") == "/bin/sh"

    @pytest.mark.parametrize("count", [1, 2])
    @pytest.mark.parametrize("attached", [None, "", "()"])
    def test_service_is_restarted_while_no_sr_is_attached(self, act, count, attached):
        notes, printed = act("POSTIN", count, attached)
        assert notes[:2] == ["modprobe zfs", "systemctl try-restart xapi-storage-script.service"]
        assert "xe-toolstack-restart" in printed

    @pytest.mark.parametrize("count", [1, 2])
    def test_service_is_left_alone_while_an_sr_is_attached(self, act, count):
        """A restart would end the daemons of SMAPIv3 plugins, and so the disks of running VMs."""
        notes, printed = act("POSTIN", count, f"(({SR_UUID} ((sr tank)(uids()))))")
        assert not [line for line in notes if "xapi-storage-script" in line]
        assert "xe-toolstack-restart" in printed

    def test_a_module_that_does_not_load_is_told_and_no_more(self, act):
        notes, printed = act("POSTIN", 1, module_loads=False)
        assert "systemctl try-restart xapi-storage-script.service" in notes
        assert "zfs kernel module cannot be loaded" in printed

    def test_upgrade_leaves_everything_as_it_is_at_its_end(self, act):
        assert act("POSTUN", 1) == ([], "")

    def test_the_driver_s_own_service(self, act):
        unit = "zfs-vol.service"
        assert act("POSTIN", 1)[0][-2:] == ["systemctl daemon-reload", f"systemctl enable --now {unit}"]
        assert act("POSTIN", 2)[0][-2:] == ["systemctl daemon-reload", f"systemctl try-restart {unit}"]
        assert act("PREUN", 1) == ([], "")
        assert act("PREUN", 0) == ([f"systemctl disable --now {unit}"], "")

    def test_erasure_gives_a_hint(self, act):
        notes, printed = act("POSTUN", 0)
        assert notes == ["systemctl daemon-reload"]
        assert "xe-toolstack-restart" in printed

    def test_hints_are_one_line(self, act):
        assert act("POSTIN", 1)[1].count("\n") == act("POSTUN", 0)[1].count("\n") == 1


class TestInstallation:
    def test_erasure_leaves_nothing_but_the_parents(self, build, host):
        before = host.files()
        inodes = host.inodes()
        host.change("-i", build.package)
        assert host.files() >= set(build.files())
        host.change("-e", NAME)
        new_directories = {path for path in host.files() - before if host.at(path).is_dir()}
        assert host.files() - before == new_directories
        assert not [path for path in new_directories if re.search("zfs-?vol", path)]
        assert host.inodes() == inodes

    def test_upgrade_keeps_the_watched_directories(self, build, next_build, host):
        host.change("-i", build.package)
        inodes = host.inodes()
        plugin = host.at(PLUGIN).stat().st_ino
        host.change("-U", next_build.package)
        assert host.rpm("-q", "--qf", "%{RELEASE}", NAME) == next_build.query("--qf", "%{RELEASE}")
        assert host.files() >= set(next_build.files())
        assert host.inodes() == inodes
        assert host.at(PLUGIN).stat().st_ino == plugin

    @pytest.mark.parametrize("python", ["/usr/bin/python3", PYTHON])
    def test_answers_the_client(self, build, host, python):
        host.change("-i", build.package)
        before = host.files()
        command = [python, str(host.at(PLUGIN + "/Plugin.Query")), "--json"]
        if python == "/usr/bin/python3":
            del command[0]
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(host.at(SITELIB)), "PYTHONDONTWRITEBYTECODE": "1"}
        request = json.dumps({"dbg": "test"})
        done = subprocess.run(
            command, check=False, input=request, stdout=subprocess.PIPE, text=True, cwd="/", env=environment, timeout=60
        )
        assert done.returncode == 0, done.stdout
        # Without PYTHONPATH it finds the library here.
        assert f'sys.path.append("{SITELIB}")' in host.at(PLUGIN + "/Plugin.Query").read_text()
        answer = json.loads(done.stdout)
        contract.check_result("Plugin.Query", answer)
        assert answer["plugin"] == PLUGIN.rsplit(".", 1)[1] == "zfs-vol"
        assert answer["version"] == spec_version()
        assert host.files() == before

    @pytest.mark.parametrize("python", ["/usr/bin/python3", PYTHON])
    def test_answers_the_administrator(self, build, host, python):
        host.change("-i", build.package)
        before = host.files()
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(host.at(SITELIB)), "PYTHONDONTWRITEBYTECODE": "1"}
        for arguments in ([], ["check"]):
            printed = run(python, "-m", "zfsvol", *arguments, "--help", cwd="/", env=environment)
            assert printed.startswith("usage: python3 -m zfsvol")
            assert "check" in printed
        assert host.files() == before

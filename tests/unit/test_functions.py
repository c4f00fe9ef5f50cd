# SPDX-License-Identifier: LGPL-2.1-only
"""The functions of care: their table, their documentation, and how the plugin and the command line call them."""

import json
import os
import re
import subprocess
import sys
from typing import Any
import xmlrpc.client

import pytest

from tests.client import CHECKOUT
from zfsvol.care.tuning import SETTINGS
from zfsvol.errors import InvalidArgument, NoSpace
from zfsvol.wire import functions, hostplugin, people

PLUGIN = CHECKOUT / "plugins" / "zfs-vol"
FAKE = CHECKOUT / "tests" / "fakes" / "xapi_plugin"
UUID = "5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1"

NAMES = (
    *("list", "status", "scrub", "trim", "replace", "attach", "detach", "online", "offline", "add", "remove"),
    *("clear", "grow", "check", "repair", "events", "get", "set", "diagnose"),
)


class TestTable:
    def test_names(self):
        assert tuple(functions.FUNCTIONS) == NAMES

    @pytest.mark.parametrize("name", NAMES)
    def test_functions_take_their_arguments(self, name):
        function = functions.FUNCTIONS[name]
        module = __import__("zfsvol.care." + function.module, fromlist=[function.name])
        code = getattr(module, function.name).__code__
        takes = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        given = {argument.replace("-", "_") for argument in function.arguments}
        if name == "set":  # the settings are keywords
            given -= set(SETTINGS)
        assert given == takes
        assert set(function.required) <= set(function.arguments)

    @pytest.mark.parametrize("name", NAMES)
    def test_documented(self, name):
        document = (CHECKOUT / "docs" / "care.md").read_text()
        section = re.split(r"^## ", document, flags=re.MULTILINE)[1 + NAMES.index(name)]
        assert section.startswith(name + "\n")
        assert f"fn={name}" in section or f"zfsvol {name}" in section
        for argument in functions.FUNCTIONS[name].arguments:
            assert f"`{argument}" in section or f"args:{argument}=" in section, argument

    def test_examples_are_accepted(self):
        """Each example names a function, its arguments and its required ones."""
        document = (CHECKOUT / "docs" / "care.md").read_text().replace("\\\n", " ")
        examples = re.findall(r"^    xe host-call-plugin .* fn=(\w+)(.*)$", document, re.MULTILINE)
        assert {name for name, _ in examples} | {"status"} == set(NAMES)
        for name, rest in examples:
            function = functions.FUNCTIONS[name]
            given = dict(re.findall(r'args:([a-z-]+)="?([^"\s]+)', rest))
            assert set(given) <= set(function.arguments), name
            assert set(function.required) <= set(given), name
            for argument, value in given.items():
                function.arguments[argument].parsed(value)


class TestCall:
    @pytest.mark.parametrize(
        ("name", "given", "sentence"),
        [
            ("nonsense", {}, r"no function 'nonsense'\. There are list, status"),
            ("list", {"a": "b"}, "list has no argument 'a': it takes none"),
            ("scrub", {"uuid": UUID}, "scrub has no argument 'uuid': it takes sr-uuid, action, dry-run"),
            ("scrub", {}, "scrub needs the argument 'sr-uuid': the SR"),
            ("scrub", {"sr-uuid": ""}, "scrub needs the argument 'sr-uuid'"),
            ("replace", {"sr-uuid": UUID, "device": "x"}, "replace needs the argument 'new-device'"),
            ("scrub", {"sr-uuid": UUID, "action": "go"}, "action=go is not allowed; choose one of start, pause, stop"),
            ("scrub", {"sr-uuid": UUID, "dry-run": "yes"}, "dry-run=yes is not allowed; choose one of true, false"),
            ("scrub", {"sr-uuid": 5}, "the argument 'sr-uuid' is not a text"),
            ("scrub", {"sr-uuid": "x"}, "The SR's uuid 'x' is not a uuid"),
        ],
    )
    def test_wrong(self, name, given, sentence):
        with pytest.raises(InvalidArgument, match=sentence):
            functions.call(name, given)

    def test_types(self, monkeypatch):
        calls = []
        module = __import__("zfsvol.care.scrub", fromlist=["scrub"])
        monkeypatch.setattr(module, "scrub", lambda **given: calls.append(given))
        functions.call("scrub", {"sr-uuid": UUID, "dry-run": "true", "action": "stop"})
        functions.call("scrub", {"sr-uuid": UUID, "dry-run": "false"})
        assert calls == [
            {"sr_uuid": UUID, "dry_run": True, "action": "stop"},
            {"sr_uuid": UUID, "dry_run": False},
        ]


class Failure(Exception):
    """As XenAPIPlugin's."""

    def __init__(self, code: str, params: "list[str]") -> None:
        super().__init__()
        self.params = [code, *params]


class TestHostPlugin:
    def serve(self, monkeypatch, result: Any, **given: str) -> str:
        def call(_name: str, _given: "dict[str, str]") -> Any:
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(functions, "call", call)
        return hostplugin.table(Failure)["status"](None, given)

    def test_every_function_is_offered(self):
        assert tuple(hostplugin.table(Failure)) == NAMES

    def test_an_answer_is_a_text(self, monkeypatch):
        answer = self.serve(monkeypatch, {"name": "“\ud800\n”", "size": 5, "none": None})
        assert answer.isascii()
        assert json.loads(answer) == {"name": "“\ud800\n”", "size": 5, "none": None}

    def test_a_failure_has_the_driver_s_code_and_sentence(self, monkeypatch):
        with pytest.raises(Failure) as caught:
            self.serve(monkeypatch, NoSpace("It does\x00 not “fit”."))
        assert caught.value.params == ["SR_BACKEND_FAILURE_44", "", r"It does\x00 not \u201cfit\u201d.", ""]

    def test_a_bug_is_a_failure_too(self, monkeypatch):
        with pytest.raises(Failure) as caught:
            self.serve(monkeypatch, KeyError("x"))
        assert caught.value.params == ["SR_BACKEND_FAILURE", "KeyError", "'x'"]


def as_xapi(function: str, arguments: "dict[str, str]") -> "dict[str, Any]":
    """Runs the plugin as xapi does; returns what is in its answer."""
    call = xmlrpc.client.dumps(("OpaqueRef:session", arguments), function)
    done = subprocess.run(
        [sys.executable, str(PLUGIN), call],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{FAKE}:{CHECKOUT}", "LC_ALL": "C"},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    ((answer,), method) = xmlrpc.client.loads(done.stdout)
    assert method is None
    assert isinstance(answer, dict)
    return answer


class TestPlugin:
    """In processes of their own, on a machine that needs no ZFS."""

    def test_a_refusal(self):
        answer = as_xapi("scrub", {"sr-uuid": "“x”"})
        sentence = r"The SR's uuid '\u201cx\u201d' is not a uuid."
        assert answer == {"Status": "Failure", "ErrorDescription": ["SR_BACKEND_FAILURE_1", "", sentence, ""]}

    def test_an_unknown_function(self):
        answer = as_xapi("nonsense", {})
        assert answer == {"Status": "Failure", "ErrorDescription": ["UNKNOWN_XENAPI_PLUGIN_FUNCTION", "nonsense"]}

    def test_executable(self):
        assert os.access(str(PLUGIN), os.X_OK)


class TestPeople:
    def test_arguments(self):
        assert people._arguments([UUID, "action=stop", "vdev=mirror /dev/a=b"]) == {
            "sr-uuid": UUID,
            "action": "stop",
            "vdev": "mirror /dev/a=b",
        }

    @pytest.mark.parametrize("words", [["a=1", "a=2"], [UUID, "sr-uuid=" + UUID]])
    def test_twice(self, words):
        with pytest.raises(InvalidArgument, match="is given twice"):
            people._arguments(words)

    def test_a_refusal_is_a_sentence(self):
        done = subprocess.run(
            [sys.executable, "-m", "zfsvol", "scrub", "x"], cwd=str(CHECKOUT), capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "The SR's uuid 'x' is not a uuid.\n"

    @pytest.mark.parametrize("name", NAMES)
    def test_help(self, name, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["zfsvol", name, "--help"])
        with pytest.raises(SystemExit) as caught:
            people.main()
        assert caught.value.code == 0
        printed = capsys.readouterr().out
        if name != "check":  # it takes a dataset
            assert all(f"  {argument}=" in printed for argument in functions.FUNCTIONS[name].arguments)

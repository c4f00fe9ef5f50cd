# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.protocol: to any input a verb answers with exactly one JSON value, or with an error."""

import inspect
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests import client, contract
from zfsvol.errors import InvalidArgument
from zfsvol.wire import protocol
from zfsvol.wire.table import DATAPATH, VOLUME

# An SR that exists on no host.
SR = "sr-5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1"
KEY = "0f0e5a52-3a1e-4b0e-8a4e-1f6b8c1f2d3e"

INVALID_ARGUMENT = "SR_BACKEND_FAILURE_1"
SR_UNAVAILABLE = "SR_BACKEND_FAILURE_47"
INVALID_SIZE = "SR_BACKEND_FAILURE_79"

GOOD = {str: "text", int: 1, bool: True, dict: {"key": "text"}, list: ["MirrorV1", "text"]}
BAD: "dict[type, list[Any]]" = {
    str: [None, True, 0, 1.5, [], ["text"], {}, {"text": "text"}],
    int: [None, True, False, "1", "", 1.0, 1e3, [], [1], {}],
    bool: [None, 0, 1, "true", "false", "", [], {}],
    dict: [
        None,
        True,
        0,
        "text",
        "",
        [],
        [["key", "text"]],
        {"key": 1},
        {"key": None},
        {"key": {}},
        {"a": "b", "key": []},
    ],
    list: [None, True, 0, "text", "", {}, {"key": "text"}, [1], ["MirrorV1", None], ["MirrorV1", ["text"]]],
}
SENTENCES = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    dict: "an object of texts",
    list: "a list of texts",
}


VERBS = {**DATAPATH, **VOLUME}


def arguments_of(verb):
    """The verb's arguments with their types."""
    return {"dbg": str, **VERBS[verb][2]}


def good_request(verb):
    """A request with arguments of the right types."""
    return {name: GOOD[kind] for name, kind in arguments_of(verb).items()}


def understood(verb, request):
    """The arguments that the verb's function would get."""
    return protocol._arguments(client.verbs_beside(verb), verb, json.dumps(request).encode())


def refused(call, *arguments, **keywords):
    """The error that a verb answers with."""
    with pytest.raises(client.VerbError) as caught:
        call(*arguments, **keywords)
    return caught.value


class TestTable:
    """The list of verbs against the interface, the code and the executables."""

    @pytest.mark.parametrize("verb", VERBS)
    def test_arguments_are_those_of_the_interface(self, verb):
        kinds: "dict[int, type]" = {
            id(contract.TEXT): str,
            id(contract.TEXT_MAP): dict,
            id(contract.SIZE): int,
            id(contract.INT): int,
            id(contract.BOOL): bool,
            id(contract.OPERATION): list,
        }
        wanted = [(name, kinds[id(kind)]) for name, kind in contract.find_verb(verb).arguments.items()]
        assert list(arguments_of(verb).items()) == wanted

    @pytest.mark.parametrize("verb", VERBS)
    def test_arguments_are_those_of_the_function(self, verb):
        # The order counts, too: the command line passes them by position.
        assert list(inspect.signature(protocol.implementation(client.verbs_beside(verb), verb)).parameters) == list(
            arguments_of(verb)
        )

    def test_one_executable_for_each_verb(self):
        # xapi treats every executable as a capability.
        for directory, verbs in ((client.PLUGIN, VOLUME), (client.DATAPATH, DATAPATH)):
            links = {path.name for path in directory.iterdir() if path.is_symlink()}
            assert links == set(verbs)
            assert all(os.access(path, os.X_OK) for path in directory.iterdir())


class TestArguments:
    @pytest.mark.parametrize("verb", VERBS)
    def test_good(self, verb):
        assert understood(verb, good_request(verb)) == good_request(verb)

    @pytest.mark.parametrize("verb", VERBS)
    def test_what_the_interface_does_not_know_is_left_out(self, verb):
        assert understood(verb, {**good_request(verb), "colour": "blue", "": None, "self": 1}) == good_request(verb)

    @pytest.mark.parametrize("verb", VERBS)
    def test_missing(self, verb):
        for name in arguments_of(verb):
            request = good_request(verb)
            del request[name]
            with pytest.raises(InvalidArgument) as caught:
                understood(verb, request)
            assert str(caught.value) == f"{verb}: the argument '{name}' is missing."

    @pytest.mark.parametrize("verb", VERBS)
    def test_of_another_type(self, verb):
        for name, kind in arguments_of(verb).items():
            for value in BAD[kind]:
                with pytest.raises(InvalidArgument) as caught:
                    understood(verb, {**good_request(verb), name: value})
                assert str(caught.value) == f"{verb}: the argument '{name}' is not {SENTENCES[kind]}."

    @pytest.mark.parametrize("number", [0, -1, 1 << 63, 1 << 64, -(1 << 70)])
    def test_any_whole_number(self, number):
        # The verb decides which of them are possible.
        assert understood("Volume.resize", {**good_request("Volume.resize"), "new_size": number})["new_size"] == number

    @pytest.mark.parametrize(
        "text", ["", "\0", "\ud800", "\U0001f4a9", "x" * 1000000, "a\nb"], ids=lambda text: ascii(text)[:9]
    )
    def test_any_text(self, text):
        request = {**good_request("Volume.set"), "k": text, "v": text}
        assert understood("Volume.set", request) == request


# Inputs that are no requests, and a part of the error for each.
MALFORMED = {
    "nothing": (b"", "is not JSON"),
    "a blank": (b" \n", "is not JSON"),
    "half": (b'{"dbg": "x"', "is not JSON"),
    "a brace": (b"}", "is not JSON"),
    "a word": (b"dbg", "is not JSON"),
    "two values": (b'{"dbg": "x"} {"dbg": "x"}', "is not JSON"),
    "single quotes": (b"{'dbg': 'x'}", "is not JSON"),
    "a comma": (b'{"dbg": "x",}', "is not JSON"),
    "a line break in a text": (b'{"dbg": "a\nb"}', "is not JSON"),
    "a byte order mark": (b'\xef\xbb\xbf{"dbg": "x"}', "is not JSON"),
    "NUL": (b"\0", "is not JSON"),
    "Latin-1": ('{"dbg": "é"}'.encode("latin-1"), "is not UTF-8"),
    "a surrogate in UTF-8": (b'{"dbg": "\xed\xa0\x80"}', "is not UTF-8"),
    "an overlong NUL": (b'{"dbg": "\xc0\x80"}', "is not UTF-8"),
    "UTF-16": ('{"dbg": "x"}'.encode("utf-16"), "is not UTF-8"),
    "a list": (b'["dbg"]', "is not a JSON object"),
    "a text": (b'"dbg"', "is not a JSON object"),
    "null": (b"null", "is not a JSON object"),
    "true": (b"true", "is not a JSON object"),
    "a number": (b"1", "is not a JSON object"),
    "deep lists": (b"[" * 100000 + b"]" * 100000, "is not JSON"),
    "deep objects": (b'{"dbg":' * 100000, "is not JSON"),
    "a deep argument": (b'{"dbg": ' + b"[" * 100000 + b"]" * 100000 + b"}", "is not JSON"),
    "an empty object": (b"{}", "'dbg' is missing"),
    "a JSON-RPC envelope": (b'{"method": "Plugin.query", "params": [{"dbg": "x"}], "id": 1}', "'dbg' is missing"),
}


class TestWire:
    """Verbs in processes of their own, as the client runs them."""

    def test_answer(self):
        assert client.call("Plugin.Query")["plugin"] == "zfs-vol"

    @pytest.mark.parametrize("name", MALFORMED)
    def test_malformed(self, name):
        request, complaint = MALFORMED[name]
        error = refused(client.raw, "Plugin.Query", request)
        assert error.code == INVALID_ARGUMENT
        assert error.sentence.startswith("Plugin.Query: the ")
        assert complaint in error.sentence
        # Suitable for a log of lines, and not as long as the input.
        assert error.sentence.isprintable()
        assert len(error.sentence) < 200

    @pytest.mark.parametrize(
        "dbg",
        ["", "\0", "\ud800", "\U0001f4a9" * 100, "a\nb\t\x1b[31m", "%s{}", "x" * 200000],
        ids=lambda dbg: ascii(dbg)[:9],
    )
    def test_any_text(self, dbg):
        assert client.call("Plugin.Query", dbg=dbg)["plugin"] == "zfs-vol"

    def test_escaped_and_plain_letters_are_the_same(self):
        for request in (b'{"dbg": "\\u00e9\\ud83d\\ude00"}', '{"dbg": "é😀"}'.encode()):
            assert client.raw("Plugin.Query", request)["plugin"] == "zfs-vol"

    def test_missing_argument(self):
        error = refused(client.call_badly, "Volume.set", sr=SR, key=KEY, k="k")
        assert (error.code, error.sentence) == (INVALID_ARGUMENT, "Volume.set: the argument 'v' is missing.")

    def test_true_is_no_number(self):
        error = refused(client.call_badly, "Volume.resize", sr=SR, key=KEY, new_size=True)
        assert error.code == INVALID_ARGUMENT
        assert error.sentence == "Volume.resize: the argument 'new_size' is not a whole number."

    @pytest.mark.parametrize("size", [0, -1, (1 << 63) - 1, 1 << 63, 10**400])
    def test_number_that_is_no_size(self, size):
        error = refused(client.call_badly, "Volume.create", sr=SR, name="", description="", size=size, sharable=False)
        assert error.code == INVALID_SIZE
        assert error.sentence.startswith("VDI Invalid size: ")

    @pytest.mark.parametrize(
        "size", ["1e400", "-1e400", "NaN", "1.0", "0x10", "01", "9" * 5000], ids=lambda size: size[:9]
    )
    def test_number_that_is_no_whole_number(self, size):
        request = json.dumps({**good_request("Volume.create"), "size": "SIZE"}).replace('"SIZE"', size)
        error = refused(client.raw, "Volume.create", request.encode())
        # Some versions of Python limit the length of integers, some do not.
        assert error.code == (INVALID_SIZE if size.isdigit() and error.code == INVALID_SIZE else INVALID_ARGUMENT)

    @pytest.mark.parametrize("verb", [verb for verb in VOLUME if "sr" in VOLUME[verb][2]])
    def test_sr_of_nobody(self, verb):
        # Key and size are valid, so that all verbs get as far as the SR.
        request = {**good_request(verb), "key": KEY, "size": 1 << 30, "new_size": 1 << 30}
        error = refused(client.call_badly, verb, **{**request, "sr": "tank"})
        assert (error.code, error.sentence) == (INVALID_ARGUMENT, "'tank' is no SR of this driver.")
        if verb == "SR.detach":  # the SR is detached already
            assert client.call_badly(verb, **{**request, "sr": SR}) is None
        else:
            error = refused(client.call_badly, verb, **{**request, "sr": SR})
            assert error.code == SR_UNAVAILABLE
            assert f"The pool {SR} is not imported" in error.sentence

    @pytest.mark.parametrize("verb", [verb for verb in DATAPATH if "uri" in DATAPATH[verb][2]])
    def test_disk_of_nobody(self, verb):
        for uri in (
            "",
            "zvol://",
            f"zvol://tank/{KEY}",
            f"zvol://{SR}/",
            f"zvol://{SR}/../{KEY}",
            f"file://{SR}/{KEY}",
        ):
            error = refused(client.call_badly, verb, uri=uri, domain="7", remote="")
            assert (error.code, error.sentence) == (INVALID_ARGUMENT, f"'{uri}' is no disk of this driver.")
        request = {"uri": f"zvol://{SR}/{KEY}", "domain": "7", "remote": ""}
        if verb in ("Datapath.deactivate", "Datapath.detach"):  # the VDI is detached already
            assert client.call_badly(verb, **request) is None
        else:
            assert refused(client.call_badly, verb, **request).code == SR_UNAVAILABLE

    def test_name_of_no_verb(self):
        done = subprocess.run(
            [client.PLUGIN / "verb.py", "--json"],
            check=False,
            env=client.environment(),
            input=b"{}",
            capture_output=True,
            timeout=client.LIMIT,
        )
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"Volume.create" in done.stderr


class TestPipes:
    def run(self, *command, **keywords):
        """Runs a verb's process to its end."""
        return subprocess.run(command, check=False, env=client.environment(), timeout=client.LIMIT, **keywords)

    def test_nobody_reads_the_answer(self):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            command = client.argv("Plugin.Query")
            done = self.run(*command, input=b'{"dbg": ""}', stdout=writer, stderr=subprocess.PIPE)
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"")

    def test_no_stdout(self):
        # Nobody could learn what the verb did, so it does nothing.
        command = " ".join(["exec", *client.argv("Plugin.Query"), ">&-"])
        done = self.run("/bin/sh", "-c", command, input=b'{"dbg": ""}', stderr=subprocess.PIPE)
        assert done.returncode == 1

    def test_no_stdin(self):
        command = " ".join(["exec", *client.argv("Plugin.Query"), "<&-"])
        done = self.run("/bin/sh", "-c", command, capture_output=True)
        with pytest.raises(client.VerbError):
            client.understand("Plugin.Query", done.returncode, done.stdout, done.stderr)

    def program(self, body, request=b'{"dbg": "x"}'):
        """Runs Plugin.ls with this body as a program of its own; returns its status, stdout and stderr."""
        text = "\n".join(
            [
                "import os, sys",
                "from zfsvol import errors",
                "from zfsvol.verbs import plugin_srs",
                "from zfsvol.wire import protocol, table",
                "def ls(dbg):",
                *("    " + line for line in body),
                "plugin_srs.ls = ls",
                "sys.argv = ['Plugin.ls', '--json']",
                "protocol.main(table.VOLUME)",
            ]
        )
        python = os.environ.get("ZFSVOL_PYTHON", sys.executable)
        done = self.run(python, "-c", text, input=request, capture_output=True)
        return done.returncode, done.stdout, done.stderr

    def test_what_is_printed_on_the_way_is_no_part_of_the_answer(self):
        status, stdout, stderr = self.program(
            [
                "print('python')",
                "sys.stdout.flush()",
                "os.system('echo child')",
                "os.write(1, b'descriptor')",
                "return ['tank']",
            ]
        )
        assert (status, json.loads(stdout)) == (0, ["tank"])
        for noise in (b"python", b"child", b"descriptor"):
            assert noise in stderr

    def test_answer_larger_than_a_pipe(self):
        status, stdout, stderr = self.program(["return ['\\ud800\\u00e9' * 1000] * 1000"])
        assert (status, stderr) == (0, b"")
        assert json.loads(stdout) == ["\ud800é" * 1000] * 1000

    def test_errors_of_the_driver(self):
        status, stdout, stderr = self.program(["raise errors.NoSpace('It is full: \\ud800.')"])
        error = refused(client.understand, "Plugin.ls", status, stdout, stderr)
        assert (error.code, error.sentence) == ("SR_BACKEND_FAILURE_44", "It is full: \ud800.")

    @pytest.mark.parametrize(
        ("line", "params"),
        [
            ("return 1 // 0", ["ZeroDivisionError", "integer division or modulo by zero"]),
            ("return {}[dbg]", ["KeyError", "'x'"]),
            ("raise OSError(5, 'Input/output error')", ["OSError", "[Errno 5] Input/output error"]),
            ("return ls(dbg)", ["RecursionError", None]),
            ("raise ValueError", ["ValueError", ""]),
        ],
    )
    def test_faults_of_the_driver(self, line, params):
        status, stdout, stderr = self.program([line])
        answer = json.loads(stdout)
        contract.check_error(answer)
        assert (status, stderr, answer["code"]) == (1, b"", "SR_BACKEND_FAILURE")
        assert answer["params"][0] == params[0]
        assert params[1] in (None, answer["params"][1])

    def test_arguments_are_read_to_their_end(self):
        # The client writes all of it before it reads.
        request = b'{"dbg": "x", "more": "' + b"y" * (4 << 20) + b'"}'
        status, stdout, stderr = self.program(["return [dbg]"], request)
        assert (status, json.loads(stdout), stderr) == (0, ["x"], b"")

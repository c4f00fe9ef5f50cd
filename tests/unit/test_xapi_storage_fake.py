# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of the stand-in for python3-xapi-storage, in processes that find it as a verb does."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from tests.contract import TEXT_MAP, VERBS, check_error

FAKE = Path(__file__).resolve().parents[1] / "fakes" / "xapi_storage"

# Called with the name and the arguments of a verb.
PROGRAM = """
import sys
from xapi.storage.api.v5 import datapath, plugin, volume

class SR(volume.SR_skeleton):
    def create(self, dbg, uuid, configuration, name, description):
        return dict(configuration, dbg=dbg, uuid=uuid, name=name, description=description)
    def attach(self, dbg, configuration):
        return 1
    def stat(self, dbg, sr):
        return {"sr": sr}

class Volume(volume.Volume_skeleton):
    def create(self, dbg, sr, name, description, size, sharable):
        raise volume.XenAPIException("SR_BACKEND_FAILURE_44", [repr(size), repr(sharable)])
    def destroy(self, dbg, sr, key):
        raise volume.Volume_does_not_exist(key)
    def compare(self, dbg, sr, key, key2):
        return {"blocksize": 512, "ranges": [(0, 8)]}

class Data(datapath.Data_skeleton):
    def stat(self, dbg, operation):
        return {"failed": False, "complete": operation[0] == "MirrorV1"}

interface, method = sys.argv.pop(1).split(".")
module = {"Plugin": plugin, "Data": datapath, "Datapath": datapath}.get(interface, volume)
implementation = globals().get(interface) or getattr(module, interface + "_skeleton")
getattr(getattr(module, interface + "_commandline")(implementation()), method)()
"""


def call(verb, *arguments, stdin=None):
    """Run a verb; return its exit status, its output, and the last line of its error output."""
    environment = dict(os.environ, PYTHONPATH=str(FAKE), PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, verb, *arguments],
        check=False,
        input=stdin,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    return done.returncode, done.stdout, (done.stderr.splitlines() or [""])[-1]


def call_json(verb, **arguments):
    """Run a verb as the client does; return its exit status and answer."""
    status, printed, _ = call(verb, "--json", stdin=json.dumps(dict(arguments, dbg="test")))
    return status, json.loads(printed)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_there(verb):
    positional = [name for name, kind in VERBS[verb].arguments.items() if kind != TEXT_MAP]
    assert call(verb)[2].endswith("the following arguments are required: " + ", ".join(positional))


class TestCommandLine:
    def test_positional_arguments_and_dictionary(self):
        options = ("--configuration", "a", "b", "--configuration", "c", "d e")
        status, printed, _ = call("SR.create", "test", "u", "n", "text", *options)
        assert status == 0
        given = {"dbg": "test", "uuid": "u", "name": "n", "description": "text"}
        assert json.loads(printed) == dict(given, a="b", c="d e")

    def test_absent_dictionary_is_empty(self):
        assert call("SR.attach", "test")[2] == "xapi.TypeError: TypeError expected=text actual=1"

    def test_integers_and_booleans(self):
        status, printed, complaint = call("Volume.create", "test", "sr", "n", "", "42", "False")
        assert (status, printed, complaint) == (1, "", "xapi.XenAPIException")

    def test_variant(self):
        status, printed, _ = call("Data.stat", "test", '["MirrorV1", "id"]')
        assert (status, json.loads(printed)) == (0, {"failed": False, "complete": True})

    def test_wrong_use(self):
        status, printed, complaint = call("SR.stat")
        assert (status, printed) == (2, "")
        assert complaint.endswith("the following arguments are required: dbg, sr")

    def test_unimplemented(self):
        assert call("SR.ls", "test", "sr")[::2] == (1, "xapi.Unimplemented: SR.ls")


class TestJson:
    def test_code_and_params_of_the_exception(self):
        arguments = {"sr": "", "name": "", "description": "", "size": 42, "sharable": False}
        status, answer = call_json("Volume.create", **arguments)
        check_error(answer)
        assert (status, answer["code"], answer["params"]) == (1, "SR_BACKEND_FAILURE_44", ["42", "False"])

    def test_error_of_the_interface_has_no_code_of_its_own(self):
        status, answer = call_json("Volume.destroy", sr="", key="disk")
        check_error(answer)
        assert (status, answer["code"]) == (1, "SR_BACKEND_FAILURE")
        assert answer["params"] == ["Volume_does_not_exist", "disk"]

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ({}, "UnmarshalException thing=argument missing ty=sr desc="),
            ({"sr": 1}, "TypeError expected=text actual=1"),
        ],
    )
    def test_bad_arguments(self, arguments, complaint):
        assert call_json("SR.stat", **arguments)[1]["params"][1] == complaint

    def test_absent_member_of_a_result(self):
        assert call_json("SR.stat", sr="")[1]["params"] == ["KeyError", "'name'"]

    def test_pairs_are_tuples(self):
        status, answer = call_json("Volume.compare", sr="", key="", key2="")
        assert (status, answer) == (0, {"blocksize": 512, "ranges": [[0, 8]]})

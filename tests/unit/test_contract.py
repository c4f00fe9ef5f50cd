# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of the checks in tests/contract.py: for each rule there is an answer that it must refuse."""

import copy

import pytest

from tests.contract import VERBS, check_arguments, check_error, check_result, find_verb

SR_UUID = "5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1"
KEY = "0f0e5a52-3a1e-4b0e-8a4e-1f6b8c1f2d3e"

REMOVE = object()

QUERY = {
    "plugin": "zfs-vol",
    "name": "ZFS",
    "description": "",
    "vendor": "",
    "copyright": "",
    "version": "1.0",
    "required_api_version": "5.0",
    "features": ["SR_CREATE"],
    "configuration": {"device": "block device"},
    "required_cluster_stack": [],
}

SR_STAT = {
    "sr": "tank",
    "name": "",
    "uuid": SR_UUID,
    "description": "",
    "free_space": 1,
    "total_space": 2,
    "datasources": [],
    "clustered": False,
    "health": ["Healthy", ""],
}

PROBE = {
    "configuration": {"zpool": "tank", "sr_uuid": SR_UUID},
    "complete": True,
    "sr": SR_STAT,
    "extra_info": {},
}

VOLUME = {
    "key": KEY,
    "uuid": KEY,
    "name": "",
    "description": "",
    "read_write": True,
    "sharable": False,
    "virtual_size": 2097152,
    "physical_utilisation": 0,
    "uri": ["zvol://tank/" + KEY],
    "keys": {"vdi-type": "user", "is_a_snapshot": "false"},
    "cbt_enabled": False,
}

MANDATORY = [member for member in VOLUME if member != "cbt_enabled"]

BACKEND = {
    "implementations": [
        ["XenDisk", {"params": "/dev/zd0", "extra": {}, "backend_type": "vbd"}],
        ["BlockDevice", {"path": "/dev/zd0"}],
        ["Nbd", {"uri": "nbd:unix:/run/nbd.sock:exportname=disk"}],
    ]
}

STATUS = {"failed": False, "complete": False, "progress": 0.5}

ERROR = {
    "code": "SR_BACKEND_FAILURE_46",
    "params": ["", "The VDI is not available", ""],
    "backtrace": {"error": "VolumeError", "files": ["volume.py"], "lines": [12]},
}

ARGUMENTS = {
    "dbg": "test",
    "sr": "tank",
    "name": "",
    "description": "",
    "size": 1,
    "sharable": False,
}


def changed(value, *path_and_new):
    """Return a copy of a value in which the member at a path is changed or removed."""
    *path, new = path_and_new
    result = copy.deepcopy(value)
    parent = result
    for step in path[:-1]:
        parent = parent[step]
    if new is REMOVE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = new
    return result


def refused(check, *arguments):
    """Return the message of a check, which must fail."""
    with pytest.raises(AssertionError) as caught:
        check(*arguments)
    return str(caught.value)


class TestVerbs:
    def test_are_found_whatever_their_case(self):
        assert find_verb("Plugin.Query") is VERBS["Plugin.query"]

    def test_unknown_one_is_refused(self):
        assert refused(check_result, "Volume.defragment", None).startswith("Volume.defragment:")

    def test_begin_with_dbg(self):
        assert all(next(iter(verb.arguments)) == "dbg" for verb in VERBS.values())


class TestArguments:
    def test_good(self):
        check_arguments("Volume.create", ARGUMENTS)

    def test_negative_length_means_to_the_end(self):
        arguments = {"dbg": "", "sr": "tank", "key": KEY, "key2": KEY, "offset": 0, "length": -1}
        check_arguments("Volume.list_changed_blocks", arguments)

    @pytest.mark.parametrize(
        ("member", "value", "complaint"),
        [
            ("dbg", REMOVE, "arguments: dbg is missing"),
            ("sharable", REMOVE, "arguments: sharable is missing"),
            ("sharable", "false", "arguments.sharable: 'false' is not of type boolean"),
            ("sharable", 0, "arguments.sharable: 0 is not of type boolean"),
            ("size", True, "arguments.size: True is not of type size"),
            ("size", "1", "arguments.size: '1' is not of type size"),
            ("size", 1.0, "arguments.size: 1.0 is not of type size"),
            ("size", -1, "arguments.size: -1 is negative"),
            ("size", 1 << 63, "arguments.size: 9223372036854775808 does not fit in 64 bits"),
            ("name", None, "arguments.name: None is not of type text"),
            ("key", KEY, "arguments.key: the interface has no such member"),
        ],
    )
    def test_bad(self, member, value, complaint):
        assert refused(check_arguments, "Volume.create", changed(ARGUMENTS, member, value)) == complaint

    def test_not_an_object(self):
        assert refused(check_arguments, "Plugin.ls", ["test"]) == "arguments: ['test'] is not an object"

    @pytest.mark.parametrize("configuration", [["device", "/dev/sdb"], {"device": 1}, {"device": None}, {1: "device"}])
    def test_bad_configuration(self, configuration):
        arguments = {"dbg": "", "configuration": configuration}
        assert refused(check_arguments, "SR.attach", arguments).startswith("arguments.configuration")


class TestResults:
    @pytest.mark.parametrize(
        ("verb", "value"),
        [
            ("Plugin.Query", QUERY),
            ("Plugin.Query", changed(QUERY, "supported_image_formats", [])),
            ("Plugin.ls", ["tank"]),
            ("Plugin.diagnostics", ""),
            ("SR.create", {"zpool": "tank"}),
            ("SR.attach", "tank"),
            ("SR.detach", None),
            ("SR.stat", SR_STAT),
            ("SR.stat", changed(SR_STAT, "health", ["Unreachable", "the pool is suspended"])),
            ("SR.probe", []),
            ("SR.probe", [PROBE]),
            ("SR.probe", [{"configuration": {"zpool": "tank"}, "complete": True, "extra_info": {}}]),
            ("SR.probe", [{"configuration": {}, "complete": False, "extra_info": {}}]),
            ("SR.ls", []),
            ("SR.ls", [VOLUME]),
            ("Volume.stat", VOLUME),
            ("Volume.stat", changed(VOLUME, "cbt_enabled", REMOVE)),
            ("Volume.stat", changed(VOLUME, "keys", {})),
            ("Volume.destroy", None),
            ("Volume.compare", {"blocksize": 512, "ranges": [[0, 8]]}),
            ("Volume.list_changed_blocks", {"granularity": 65536, "bitmap": "gAA="}),
            ("Datapath.attach", BACKEND),
            ("Datapath.import_activate", "/run/socket"),
            ("Data.mirror", ["MirrorV1", "id"]),
            ("Data.stat", STATUS),
            ("Data.stat", changed(STATUS, "progress", REMOVE)),
        ],
    )
    def test_good(self, verb, value):
        check_result(verb, value)

    @pytest.mark.parametrize(
        ("member", "value", "complaint"),
        [
            *[(member, REMOVE, f"result: {member} is missing") for member in QUERY],
            ("plugin", "ZFS-vol", "result.plugin: 'ZFS-vol' is not in lower case"),
            ("plugin", "", "result.plugin: '' is not in lower case"),
            ("required_api_version", "4.0", "result.required_api_version: the client refuses '4.0'"),
            ("features", "SR_CREATE", "result.features: 'SR_CREATE' is not a list"),
            ("features", [1], "result.features[0]: 1 is not of type text"),
            ("configuration", [], "result.configuration: [] is not an object"),
            ("feature", [], "result.feature: the interface has no such member"),
        ],
    )
    def test_bad_query(self, member, value, complaint):
        assert refused(check_result, "Plugin.query", changed(QUERY, member, value)) == complaint

    @pytest.mark.parametrize(
        ("member", "value", "complaint"),
        [
            *[(member, REMOVE, f"result: {member} is missing") for member in SR_STAT],
            ("uuid", None, "result.uuid: None is not of type text"),
            ("uuid", "tank", "result.uuid: 'tank' is not a uuid"),
            ("clustered", 0, "result.clustered: 0 is not of type boolean"),
            ("free_space", True, "result.free_space: True is not of type size"),
            ("free_space", 3, "result.free_space: is more than total_space"),
            ("total_space", 2.0, "result.total_space: 2.0 is not of type size"),
            ("health", "Healthy", "result.health: 'Healthy' is not [name, value]"),
            ("health", ["Healthy"], "result.health: ['Healthy'] is not [name, value]"),
            ("health", ["Degraded", ""], "result.health[0]: 'Degraded' is not known"),
            ("health", ["Healthy", None], "result.health[1]: None is not of type text"),
            ("health", [["Healthy"], ""], "result.health[0]: ['Healthy'] is not known"),
        ],
    )
    def test_bad_sr_stat(self, member, value, complaint):
        assert refused(check_result, "SR.stat", changed(SR_STAT, member, value)) == complaint

    @pytest.mark.parametrize(
        ("path_and_new", "complaint"),
        [
            (("extra_info", REMOVE), "result[0]: extra_info is missing"),
            (("complete", "true"), "result[0].complete: 'true' is not of type boolean"),
            (("complete", False), "result[0].configuration.sr_uuid: is present in an incomplete result"),
            (("sr", None), "result[0].sr: None is not an object"),
            (("sr", "clustered", REMOVE), "result[0].sr: clustered is missing"),
            (("configuration", {}), "result[0].configuration: sr_uuid is missing beside sr"),
            (
                ("configuration", "sr_uuid", KEY),
                f"result[0].sr.uuid: '{SR_UUID}' is not configuration.sr_uuid '{KEY}'",
            ),
        ],
    )
    def test_bad_probe(self, path_and_new, complaint):
        assert refused(check_result, "SR.probe", [changed(PROBE, *path_and_new)]) == complaint

    @pytest.mark.parametrize(
        ("path_and_new", "complaint"),
        [
            *[((member, REMOVE), f"result: {member} is missing") for member in VOLUME if member != "cbt_enabled"],
            (("key", "disk"), "result.key: 'disk' is not a uuid"),
            (("key", KEY.upper()), f"result.key: '{KEY.upper()}' is not a uuid"),
            (("uuid", SR_UUID), f"result.uuid: '{SR_UUID}' is not the key '{KEY}'"),
            (("uuid", None), "result.uuid: None is not of type text"),
            (("cbt_enabled", None), "result.cbt_enabled: None is not of type boolean"),
            (("volume_type", "Data"), "result.volume_type: the interface has no such member"),
            (("read_write", "true"), "result.read_write: 'true' is not of type boolean"),
            (("virtual_size", False), "result.virtual_size: False is not of type size"),
            (("physical_utilisation", -1), "result.physical_utilisation: -1 is negative"),
            (("uri", "zvol://tank"), "result.uri: 'zvol://tank' is not a list"),
            (("uri", [None]), "result.uri[0]: None is not of type text"),
            (("keys", "is_a_snapshot", True), "result.keys.is_a_snapshot: True is not of type text"),
            (("keys", "is_a_snapshot", "True"), 'result.keys.is_a_snapshot: \'True\' is not "true" or "false"'),
            (("keys", []), "result.keys: [] is not an object"),
        ],
    )
    def test_bad_volume(self, path_and_new, complaint):
        assert refused(check_result, "Volume.stat", changed(VOLUME, *path_and_new)) == complaint

    def test_volume_listed_twice(self):
        assert refused(check_result, "SR.ls", [VOLUME, VOLUME]) == f"result[1].key: '{KEY}' is listed twice"

    @pytest.mark.parametrize(
        ("implementation", "complaint"),
        [
            (["Floppy", {}], "[0]: 'Floppy' is not known"),
            (["XenDisk", {"params": "", "extra": {}}], "[1]: backend_type is missing"),
            (["BlockDevice", {"path": "/dev/zd1"}], ": a second BlockDevice"),
            (["File", {"path": "/tmp/disk"}], "[1].path: does not begin with /dev/, so dom0 cannot use it"),
            (["Nbd", {"uri": "nbd+unix:///disk"}], "[1].uri: is not nbd:unix:<socket>:exportname=<name>"),
            ({"File": {}}, ": {'File': {}} is not [name, value]"),
        ],
    )
    def test_bad_implementation(self, implementation, complaint):
        backend = {"implementations": [["BlockDevice", {"path": "/dev/zd0"}], implementation]}
        assert refused(check_result, "Datapath.attach", backend) == "result.implementations[1]" + complaint

    @pytest.mark.parametrize(
        ("verb", "value", "complaint"),
        [
            ("SR.detach", "", "result: '' is not of type null"),
            ("SR.detach", {}, "result: {} is not of type null"),
            ("SR.attach", None, "result: None is not of type text"),
            ("SR.create", None, "result: None is not an object"),
            ("SR.ls", None, "result: None is not a list"),
            ("Data.mirror", ["Mirror", "id"], "result[0]: 'Mirror' is not known"),
            ("Data.stat", changed(STATUS, "complete", REMOVE), "result: complete is missing"),
            ("Data.stat", changed(STATUS, "progress", 1), "result.progress: 1 is not of type float"),
            ("Data.stat", changed(STATUS, "progress", 1.5), "result.progress: is not between 0 and 1"),
            ("Volume.compare", {"blocksize": 512, "ranges": [[0]]}, "result.ranges[0]: [0] is not a pair"),
            ("Volume.compare", {"blocksize": 512, "ranges": [[0, ""]]}, "result.ranges[0][1]: '' is not of type size"),
            ("Volume.list_changed_blocks", {"granularity": 0, "bitmap": ""}, "result.granularity: is not positive"),
            ("Volume.list_changed_blocks", {"granularity": 1, "bitmap": "\u00e9"}, "result.bitmap: is not base64"),
            ("Volume.list_changed_blocks", {"granularity": 1, "bitmap": "gAA"}, "result.bitmap: is not base64"),
        ],
    )
    def test_bad(self, verb, value, complaint):
        assert refused(check_result, verb, value) == complaint


class TestErrors:
    def test_good(self):
        check_error(ERROR)
        check_error(changed(ERROR, "params", []))

    @pytest.mark.parametrize(
        ("path_and_new", "complaint"),
        [
            (("code", REMOVE), "error: code is missing"),
            (("code", 46), "error.code: 46 is not of type text"),
            (("code", ""), "error.code: is empty"),
            (("params", "text"), "error.params: 'text' is not a list"),
            (("params", [None]), "error.params[0]: None is not of type text"),
            (("backtrace", REMOVE), "error: backtrace is missing"),
            (("backtrace", "error", REMOVE), "error.backtrace: error is missing"),
            (("backtrace", "files", [1]), "error.backtrace.files[0]: 1 is not of type text"),
            (("backtrace", "lines", ["1"]), "error.backtrace.lines[0]: '1' is not of type integer"),
            (("backtrace", "lines", []), "error.backtrace: files and lines differ in length"),
        ],
    )
    def test_bad(self, path_and_new, complaint):
        assert refused(check_error, changed(ERROR, *path_and_new)) == complaint

    def test_not_an_object(self):
        assert refused(check_error, "failed") == "error: 'failed' is not an object"

# SPDX-License-Identifier: LGPL-2.1-only
"""The verbs of the two plugins: the function that runs each, and the arguments that the client sends.

Names, order and types of the arguments are those of the SMAPIv3 interface (xen-api, ocaml/xapi-storage/generator/
lib/control.ml, data.ml and plugin.ml). The first argument of every verb is `dbg`, the client's tag for its own log.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXTS = dict

SR = {"sr": str}
VDI = {"sr": str, "key": str}

_DOMAIN = {"uri": str, "domain": str}

if TYPE_CHECKING:
    # verb: (module in zfsvol.verbs, function, arguments after dbg)
    Verbs = Mapping[str, tuple[str, str, Mapping[str, type]]]

VOLUME: "Verbs" = {
    "Plugin.Query": ("plugin", "query", {}),
    "Plugin.diagnostics": ("plugin_srs", "diagnostics", {}),
    "Plugin.ls": ("plugin_srs", "ls", {}),
    "SR.create": ("sr_attach", "create", {"uuid": str, "configuration": _TEXTS, "name": str, "description": str}),
    "SR.attach": ("sr_attach", "attach", {"configuration": _TEXTS}),
    "SR.detach": ("sr_detach", "detach", SR),
    "SR.destroy": ("sr_destroy", "destroy", SR),
    "SR.stat": ("sr_stat", "stat", SR),
    "SR.ls": ("sr", "ls", SR),
    "SR.probe": ("sr_attach", "probe", {"configuration": _TEXTS}),
    "SR.set_name": ("sr", "set_name", {"sr": str, "new_name": str}),
    "SR.set_description": ("sr", "set_description", {"sr": str, "new_description": str}),
    "Volume.create": (
        "volume_new",
        "create",
        {"sr": str, "name": str, "description": str, "size": int, "sharable": bool},
    ),
    "Volume.snapshot": ("volume_new", "snapshot", VDI),
    "Volume.clone": ("volume_new", "clone", VDI),
    "Volume.revert": ("volume_idle", "revert", {"sr": str, "snapshot": str, "key": str}),
    "Volume.destroy": ("volume_idle", "destroy", VDI),
    "Volume.resize": ("volume_idle", "resize", {"sr": str, "key": str, "new_size": int}),
    "Volume.compose": ("volume_compose", "compose", {"sr": str, "key": str, "key2": str}),
    "Volume.data_destroy": ("volume_idle", "data_destroy", VDI),
    "Volume.enable_cbt": ("volume_changes", "enable_cbt", VDI),
    "Volume.disable_cbt": ("volume_changes", "disable_cbt", VDI),
    "Volume.list_changed_blocks": (
        "volume_changes",
        "list_changed_blocks",
        {"sr": str, "key": str, "key2": str, "offset": int, "length": int},
    ),
    "Volume.stat": ("volume", "stat", VDI),
    "Volume.set": ("volume_set", "set", {"sr": str, "key": str, "k": str, "v": str}),
    "Volume.unset": ("volume_set", "unset", {"sr": str, "key": str, "k": str}),
    "Volume.set_name": ("volume_set", "set_name", {"sr": str, "key": str, "new_name": str}),
    "Volume.set_description": ("volume_set", "set_description", {"sr": str, "key": str, "new_description": str}),
}

DATAPATH: "Verbs" = {
    "Plugin.Query": ("plugin", "query_datapath", {}),
    "Datapath.attach": ("datapath", "attach", _DOMAIN),
    "Datapath.activate": ("datapath", "activate", _DOMAIN),
    "Datapath.activate_readonly": ("datapath", "activate_readonly", _DOMAIN),
    "Datapath.import_activate": ("datapath", "import_activate", _DOMAIN),
    "Datapath.deactivate": ("datapath", "deactivate", _DOMAIN),
    "Datapath.detach": ("datapath", "detach", _DOMAIN),
    "Data.mirror": ("data", "mirror", {"uri": str, "domain": str, "remote": str}),
    "Data.stat": ("data", "stat", {"operation": list}),
}

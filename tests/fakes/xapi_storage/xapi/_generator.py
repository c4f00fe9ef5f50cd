# SPDX-License-Identifier: LGPL-2.1-only
"""Makes the classes of one interface from the table in tests/contract.py; see the package's docstring."""

import argparse
import importlib.util
import json
from pathlib import Path
import sys
import traceback

import xapi


def _load_contract():
    # By path, because tests put only the directory of the stand-in on PYTHONPATH.
    spec = importlib.util.spec_from_file_location("_contract", str(Path(__file__).resolve().parents[3] / "contract.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


contract = _load_contract()

_SCALARS = {
    contract.TEXT: (str, bytes),
    contract.BOOL: bool,
    contract.INT: int,
    contract.SIZE: int,
    contract.FLOAT: float,
    contract.UNIT: type(None),
}


def _typecheck(kind, value):
    if isinstance(kind, contract.Struct):
        for name, field in kind.fields.items():
            if name not in kind.optional or name in value:
                _typecheck(field, value[name])
    elif isinstance(kind, contract.ListOf):
        _require(isinstance(value, list), "list", value)
        for item in value:
            _typecheck(kind.item, item)
    elif isinstance(kind, contract.Variant):
        _require(value[0] in kind.tags, "one of " + ", ".join(kind.tags), value)
        _typecheck(kind.tags[value[0]], value[1])
    elif kind == contract.TEXT_MAP:
        _require(isinstance(value, dict), kind, value)
        for key, item in value.items():
            _typecheck(contract.TEXT, key)
            _typecheck(contract.TEXT, item)
    elif kind == contract.PAIR:
        _require(isinstance(value, tuple) and len(value) == 2, kind, value)
        for item in value:
            _typecheck(contract.INT, item)
    else:
        _require(isinstance(value, _SCALARS[kind]), kind, value)


def _require(condition, expected, value):
    if not condition:
        raise xapi.TypeError(expected, repr(value))


def _skeleton_method(name):
    def method(self, *arguments):
        raise xapi.Unimplemented(name)

    return method


def _dispatcher_method(method_name, verb):
    def method(self, args):
        if not isinstance(args, dict):
            raise xapi.UnmarshalException("arguments", "dict", repr(args))
        values = []
        for name, kind in verb.arguments.items():
            if name not in args:
                raise xapi.UnmarshalException("argument missing", name, "")
            _typecheck(kind, args[name])
            values.append(args[name])
        results = getattr(self._impl, method_name)(*values)
        if verb.result != contract.UNIT:
            _typecheck(verb.result, results)
        return results

    return method


def _parse_bool(text):
    return json.loads(text.lower())


def _parser_options(kind):
    if isinstance(kind, contract.Variant):
        return {"type": json.loads}
    converters = {contract.INT: int, contract.SIZE: int, contract.FLOAT: float, contract.BOOL: _parse_bool}
    return {"type": converters[kind]} if isinstance(kind, str) and kind in converters else {}


def _parse(verb):
    if "--json" in sys.argv or "-j" in sys.argv:
        return dict(json.loads(sys.stdin.readline()), json=True)
    parser = argparse.ArgumentParser()
    parser.add_argument("-j", "--json", action="store_true")
    for name, kind in verb.arguments.items():
        if kind == contract.TEXT_MAP:
            parser.add_argument("--" + name, default={}, nargs=2, action=xapi.ListAction)
        else:
            parser.add_argument(name, **_parser_options(kind))
    return vars(parser.parse_args())


def _commandline_method(method_name, verb):
    def method(self):
        use_json = False
        try:
            request = _parse(verb)
            use_json = request["json"]
            print(json.dumps(getattr(self.dispatcher, method_name)(request)))
        except Exception as error:
            if use_json:
                xapi.handle_exception(error)
            traceback.print_exc()
            raise

    return method


def interface(name):
    """Return the classes NAME_skeleton, NAME_server_dispatcher and NAME_commandline."""
    verbs = {
        verb_name.split(".")[1]: verb for verb_name, verb in contract.VERBS.items() if verb_name.startswith(name + ".")
    }

    def init_dispatcher(self, impl):
        self._impl = impl

    def dispatch(self, method, params):
        return xapi.success(getattr(self, method.split(".")[1])(params[0]))

    def init_commandline(self, impl):
        self.impl = impl
        self.dispatcher = dispatcher(impl)

    def new_class(suffix, members, make_method):
        methods = {method: make_method(method) for method in verbs}
        return type(f"{name}_{suffix}", (), dict(members, **methods))

    skeleton = new_class("skeleton", {}, lambda method: _skeleton_method(f"{name}.{method}"))
    dispatcher = new_class(
        "server_dispatcher",
        {"__init__": init_dispatcher, "_dispatch": dispatch},
        lambda method: _dispatcher_method(method, verbs[method]),
    )
    commandline = new_class(
        "commandline", {"__init__": init_commandline}, lambda method: _commandline_method(method, verbs[method])
    )
    return skeleton, dispatcher, commandline


def error(name):
    """Return the class of an error that the interface declares with one argument."""

    def init(self, arg_0):
        xapi.Rpc_light_failure.__init__(self, name, [arg_0])
        _typecheck(contract.TEXT, arg_0)
        self.arg_0 = arg_0

    return type(name, (xapi.Rpc_light_failure,), {"__init__": init})

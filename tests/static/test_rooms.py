# SPDX-License-Identifier: LGPL-2.1-only
"""The rooms of the library: imports go in one direction, as docs/architecture.md shows."""

import ast

import pytest

from tests.static.source import ROOT

PACKAGE = ROOT / "zfsvol"

# From the top. A room imports from itself and from the rooms below. The modules beside the rooms are the ground.
ROOMS = ("wire", "service", "care", "verbs", "motion", "repository", "zfs", "host", "nbd")
GROUND = ("errors", "log", "naming", "properties")

MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def floor(module):
    """The height of a module's room, by the module's path below the package; 0 is the ground."""
    room, slash, _ = module.partition("/")
    if module == "__main__":
        return len(ROOMS)
    return len(ROOMS) - ROOMS.index(room) if slash else 0


def imports(module):
    """Return (path of the imported module, whether within a function, line) for each import from this package."""
    path = PACKAGE / (module + ".py")
    tree = ast.parse(path.read_text())
    lines = path.read_text().splitlines()
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    found = []
    for node in ast.walk(tree):
        line = lines[node.lineno - 1] if hasattr(node, "lineno") else ""
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "zfsvol":
            base = node.module.split(".")[1:]
            for alias in node.names:
                names = "/".join([*base, alias.name]), "/".join(base)
                found += [(name, node in inner, line) for name in names if name in MODULES][:1]
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and node in inner:
            found.append(("", True, line))
    return found


# A room that nothing of the driver's is needed in.
ALONE = "nbd"


def test_every_module_has_a_room():
    assert [module for module in MODULES if "/" not in module] == ["__init__", "__main__", *GROUND]
    assert {module.partition("/")[0] for module in MODULES if "/" in module} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    assert [name for name, _, _ in imports(module) if name and floor(name) > floor(module)] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(ALONE + "/")])
def test_the_protocol_needs_no_other_room(module):
    assert {name.partition("/")[0] for name, _, _ in imports(module)} <= {ALONE, *GROUND}


@pytest.mark.parametrize("module", MODULES)
def test_imports_in_functions_say_what_they_save(module):
    """They are only for modules that verbs rarely need, and a comment at their end says so."""
    assert [line for _, is_inside, line in imports(module) if is_inside and "  # " not in line] == []


def test_no_circle():
    below = {module: {name for name, _, _ in imports(module) if name} for module in MODULES}
    reached = {module: set(names) for module, names in below.items()}
    for _ in MODULES:
        for names in reached.values():
            names.update(*(below[name] for name in set(names)))
    assert [module for module, names in reached.items() if module in names] == []


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_drawn(room):
    assert f"zfsvol/{room}" in (ROOT / "docs" / "architecture.md").read_text()

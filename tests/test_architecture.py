"""The shape of the package: abstract or final, arrows downwards, an import that does
nothing, and public names that are documented."""

import ast
import collections
import dataclasses
import graphlib
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
import types

import equinox as eqx
import pytest

import eqsym


_ROOT = pathlib.Path(__file__).parent.parent
_PACKAGE = _ROOT / "eqsym"
_SOURCES = {
    ".".join(("eqsym", *path.relative_to(_PACKAGE).with_suffix("").parts)): path
    for path in sorted(_PACKAGE.rglob("*.py"))
}

# A package imports only from packages above its own line; files in one have no circle.
_LEVELS = (
    ("_core",),
    ("_storage", "_crystal"),
    ("_group", "_mean_field"),
    ("_wavefunction",),
    ("_symmetrizer", "_hamiltonian"),
    ("_training",),
    ("_estimator",),
    ("_run",),
    ("_plot",),
    ("checkpoint", "plot"),
    ("__init__",),
)


def _trees():
    return {name: ast.parse(path.read_text()) for name, path in _SOURCES.items()}


def _classes():
    """All Equinox modules of the package."""
    found = []
    for info in pkgutil.walk_packages(eqsym.__path__, "eqsym."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, eqx.Module):
                if value.__module__ == info.name:
                    found.append(value)
    assert len(found) > 40
    return found


def _methods(trees):
    """Names of the functions in the body of each class, by module and class."""
    return {
        (name, node.name): {
            item.name for item in node.body if isinstance(item, ast.FunctionDef)
        }
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def _is_abstract(cls):
    return cls.__name__.lstrip("_").startswith("Abstract")


def test_every_module_is_abstract_or_final():
    classes = _classes()
    for cls in classes:
        for base in cls.__mro__[1:]:
            if base in classes:
                assert _is_abstract(base), f"{cls} subclasses {base}"
        if inspect.isabstract(cls):
            assert _is_abstract(cls), f"{cls} has abstract methods"


def test_only_abstract_methods_are_overridden():
    classes, methods = _classes(), _methods(_trees())
    for cls in classes:
        for base in cls.__mro__[1:]:
            if base not in classes:
                continue
            own = methods[cls.__module__, cls.__name__]
            shared = own & methods[base.__module__, base.__name__]
            concrete = shared - base.__abstractmethods__
            assert not concrete, f"{cls} overrides {concrete} of {base}"


def test_fields_and_init_live_in_one_class():
    methods = _methods(_trees())
    for cls in _classes():
        if _is_abstract(cls):
            assert not dataclasses.fields(cls), f"{cls} has fields"
            assert "__init__" not in methods[cls.__module__, cls.__name__], cls


def _imported(path, tree):
    """What a file imports from the package: modules, as paths relative to it."""
    folder = path.relative_to(_PACKAGE).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            assert not any(n.split(".")[0] == "eqsym" for n in names), (path, names)
        if isinstance(node, ast.ImportFrom):
            if node.level == 0:
                assert (node.module or "").split(".")[0] != "eqsym", path
                continue
            base = folder[: len(folder) - node.level + 1]
            if node.module is None:
                for alias in node.names:
                    yield (*base, alias.name)
            else:
                yield (*base, *node.module.split("."))


def test_imports_go_downwards():
    """From other packages only what these offer, from files of the same one without
    circles. Nobody but the public name of figures needs figures."""
    level = {name: i for i, names in enumerate(_LEVELS) for name in names}
    trees, seen, inside = _trees(), set(), {}
    for name, path in _SOURCES.items():
        unit, *rest = path.relative_to(_PACKAGE).with_suffix("").parts
        assert unit in level, f"{path} has no level in the table"
        seen.add(unit)
        for target, *file in _imported(path, trees[name]):
            if target == unit:
                inside.setdefault((unit, *rest), []).append((target, *file))
                continue
            assert level[target] < level[unit], f"{path} imports {target}"
            assert not file, f"{path} reaches into {target}"
            assert target != "_plot" or unit == "plot", path
    assert seen == set(level)
    # Raises if there is a circle.
    list(graphlib.TopologicalSorter(inside).static_order())


def test_packages_are_rooms():
    """Few files outside of them, and none so long that it holds two ideas. A function
    that a package offers does not hide a file of it."""
    assert len(list(_PACKAGE.glob("*.py"))) <= 3
    # The hook that checks types adds its own name.
    names = {name for name in vars(eqsym) if name[0] != "_"} - {"jaxtyping"}
    # The last ten are of networks.
    assert len(names) <= 110
    for name, path in _SOURCES.items():
        assert len(path.read_text().splitlines()) <= 540, name
        if path.name == "__init__.py" and path.parent != _PACKAGE:
            package = importlib.import_module(f"eqsym.{path.parent.name}")
            for file in path.parent.glob("[!_]*.py"):
                found = getattr(package, file.stem, None)
                assert found is None or inspect.ismodule(found), file


def test_names_of_classes_are_unique():
    """Files that eqsym writes name a class by nothing else."""
    found = collections.defaultdict(list)
    for name, tree in _trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(name)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_source_habits():
    for name, tree in _trees().items():
        # Called `plain` and `averaged` here.
        assert not re.search(r"\b(OG|PA)\b", _SOURCES[name].read_text()), name
        # Products have their precision from one place.
        if name != "eqsym._core.math":
            assert ".HIGHEST" not in _SOURCES[name].read_text(), name
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                # It turns annotations into text, which the jaxtyping hook cannot check.
                assert node.module != "__future__", name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("super", "hasattr"), (name, node.lineno)


_IMPORT = """
import sys
import jax
before = dict(jax.config.values)
import eqsym
after = dict(jax.config.values)
assert before == after, {k: v for k, v in after.items() if before.get(k) != v}
heavy = {"pyscf", "matplotlib", "ase", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""


def test_import_does_nothing(tmp_path):
    # Without any device to be had, an array made at import would raise.
    environment = {**os.environ, "JAX_PLATFORMS": "nowhere"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _IMPORT],
        env=environment | {"PYTHONPATH": str(_ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def _public():
    """Public names, as one writes them after `eqsym.`."""
    found = {}
    for name, value in vars(eqsym).items():
        if name in ("checkpoint", "plot"):
            for inner in value.__all__:
                found[f"{name}.{inner}"] = getattr(value, inner)
        elif not name.startswith("_") and not isinstance(value, types.ModuleType):
            found[name] = value
    return found


def _documented():
    pages = sorted((_ROOT / "docs" / "api").glob("*.md"))
    text = "\n".join(page.read_text() for page in pages)
    return re.findall(r"^::: eqsym\.(\S+)$", text, flags=re.MULTILINE)


def test_every_public_name_is_documented_once():
    documented = _documented()
    assert sorted(documented) == sorted(_public())


@pytest.mark.parametrize("name", sorted(_public()))
def test_every_public_name_has_a_docstring(name):
    value = _public()[name]
    written = value.__doc__
    # Not the one that dataclasses make up.
    assert written and not written.startswith(f"{name}("), name
    if inspect.isclass(value) and issubclass(value, eqx.Module):
        for attribute, member in vars(value).items():
            if attribute.startswith("_") or dataclasses.is_dataclass(member):
                continue
            if callable(member) or isinstance(member, (property, classmethod)):
                assert inspect.getdoc(getattr(value, attribute)), (name, attribute)

"""Names of classes and functions in files, which outlast moves inside a package."""

import inspect
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import equinox as eqx


_LIBRARY = "eqsym"


def name_of(value: Any) -> str:
    """The package of a class or function and its name, as in `eqsym.Crystal`, without
    the modules between, so that old files can be read after code was moved. No two
    classes of eqsym have the same name.

    What a user writes has only its name: its module may be moved too, and is called
    `__main__` in a script that is run, and otherwise if it is imported."""
    if not in_library(value):
        return value.__qualname__
    return f"{_package(value)}.{value.__qualname__}"


def class_of(name: str, path: str) -> type:
    """The class of eqsym with such a name, wherever in eqsym it is.

    A file shall not choose what runs: only Equinox modules and named tuples are found,
    no functions, and nothing is imported.

    **Raises:** `ValueError` for anything else, naming its `path` in the file.
    """
    package, _, attribute = name.partition(".")
    if package != _LIBRARY:
        raise ValueError(
            f"`{path}` is a `{name}`, which is not of eqsym and cannot be made from a "
            "file."
        )
    found = None
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] == _LIBRARY:
            value = vars(module).get(attribute)
            if isinstance(value, (type, FunctionType)) and name_of(value) == name:
                found = value
    if found is None:
        raise ValueError(
            f"`{path}` is a `{name}`, which this version of eqsym does not have."
        )
    if isinstance(found, type) and not inspect.isabstract(found):
        if is_named_tuple(found) or issubclass(found, eqx.Module):
            return found
    raise ValueError(f"`{path}` must be a module of eqsym, got `{name}`.")


def is_named_tuple(value: Any) -> bool:
    """Whether this is a class of named tuples."""
    is_tuple = isinstance(value, type) and issubclass(value, tuple)
    return is_tuple and getattr(value, "_fields", None) is not None


def is_constant(function: FunctionType) -> bool:
    """Whether a function is of a library and no closure, so that its name says all."""
    return in_library(function) and "<" not in function.__qualname__


def in_library(value: FunctionType | type) -> bool:
    """Whether a function or class belongs to eqsym, an installed library or Python's
    own."""
    if value.__module__ == "__main__":
        # The script that runs, or a prompt.
        return False
    if _package(value) == _LIBRARY:
        return True
    if isinstance(value, FunctionType):
        file = value.__code__.co_filename
    else:
        file = getattr(sys.modules.get(value.__module__), "__file__", None)
        if file is None:
            # Of Python itself.
            return True
    parents = Path(file).resolve().parents
    return any(folder in parents for folder in _library_folders())


def _package(value: Any) -> str:
    return str(value.__module__).split(".")[0]


@cache
def _library_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(Path(sysconfig.get_paths()[name]).resolve() for name in names)

"""Trees of modules as JSON: to be compared, and built again without running any code
but that of this library."""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import math
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


Json: TypeAlias = Any
Value: TypeAlias = str | int | float
Flat: TypeAlias = dict[str, Value]

_LIBRARY = "eqsym"
_CRYSTAL = "eqsym.Crystal"
# Paths of settings that change memory and rounding but not what is computed: fields,
# and arguments of `functools.partial`.
_FREE = (".chunk", "['chunk']")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of random keys."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def encode(tree: Any) -> Json:
    """A description of a tree in JSON: classes, fields and static data in full, arrays
    by type and shape. Functions by name, by what they hold, and by a digest of their
    code where it is not that of a library; other objects by name."""
    return _encode(tree, ())


def decode(node: Json, arrays: Mapping[str, np.ndarray], path: str = "") -> Any:
    """The tree that a description is of.

    **Arguments:**

    - `node`: of `encode`.
    - `arrays`: values by their paths as in `jax.tree_util.keystr`.
    - `path`: of the node.

    **Raises:** `ValueError` for what is not of this library (classes of users,
    functions), or of another version of it.
    """
    if isinstance(node, list):
        return tuple(decode(x, arrays, f"{path}[{i}]") for i, x in enumerate(node))
    if not isinstance(node, dict):
        return node
    match node:
        case {"list": items}:
            return [decode(x, arrays, f"{path}[{i}]") for i, x in enumerate(items)]
        case {"dict": items}:
            return {k: decode(x, arrays, f"{path}[{k!r}]") for k, x in items}
        case {"float": text}:
            return float(text)
        case {"complex": [real, imag]}:
            return complex(real, imag)
        case {"array": _} | {"key": _}:
            return _array(node, arrays, path)
        case {"partial": function, "args": args, "keywords": keywords}:
            return functools.partial(
                decode(function, arrays, f"{path}.func"),
                *decode(args, arrays, f"{path}.args"),
                **decode(keywords, arrays, f"{path}.keywords"),
            )
        case {"name": name}:
            return _class(name, path)
        case {"class": name, "fields": fields}:
            return _module(name, fields, arrays, path)
    raise ValueError(
        f"`{path}` is a {next(iter(node.values()))}, which cannot be made from a file."
    )


def flatten(node: Json, path: str) -> Flat:
    """A text or number for every field of a description, by its path."""
    return dict(_flat(node, path))


def differences(saved: Flat, here: Flat) -> list[str]:
    """A line for every field in which two descriptions differ. Numbers that are no
    integers are the same up to rounding, which differs between machines; every `chunk`
    is free; and code can only be compared where the versions of Python agree."""
    lines = []
    for name in sorted(saved.keys() | here.keys()):
        if name.endswith(_FREE):
            continue
        one, other = saved.get(name, "nothing"), here.get(name, "nothing")
        if name.endswith("(code)") and isinstance(one, str) and isinstance(other, str):
            if one.split()[0] != other.split()[0] and "nothing" not in (one, other):
                continue
        if not _same(one, other):
            lines.append(f"{name}: saved {one}, here {other}")
    return lines


def compare(saved: Json, here: Any, path: str) -> list[str]:
    """The lines of `differences` between a stored description and a tree that is here.
    Crystals are compared as [`eqsym.Crystal.matches`][] does."""
    node = json.loads(dumps(encode(here)))
    return differences(flatten(_matched(saved, node), path), flatten(node, path))


def opaque(node: Json, path: str) -> list[str]:
    """Paths of the fields that cannot be compared but for their names."""
    found = []
    if isinstance(node, list):
        for i, value in enumerate(node):
            found += opaque(value, f"{path}[{i}]")
    elif isinstance(node, dict):
        if "object" in node:
            found.append(path)
        for key, value in node.items():
            if key in ("fields", "holds"):
                for name, inner in value.items():
                    found += opaque(inner, f"{path}.{name}")
            elif key == "dict":
                for name, inner in value:
                    found += opaque(inner, f"{path}[{name!r}]")
            elif key in ("list", "partial", "args", "keywords"):
                found += opaque(value, path if key == "list" else f"{path}.{key}")
    return found


def dumps(value: Json) -> str:
    """JSON that every reader understands."""
    return json.dumps(value, allow_nan=False)


def pretty(value: Json, indent: str = "") -> str:
    """JSON that people understand too: what is short on one line."""
    text = json.dumps(value, allow_nan=False)
    if len(text) + len(indent) <= 80 or not isinstance(value, (dict, list)):
        return text
    inner = indent + "  "
    if isinstance(value, list):
        parts = [pretty(item, inner) for item in value]
    else:
        parts = [f"{json.dumps(k)}: {pretty(v, inner)}" for k, v in value.items()]
    body = f",\n{inner}".join(parts)
    first, last = text[0], text[-1]
    return f"{first}\n{inner}{body}\n{indent}{last}"


def _matched(saved: Json, here: Json) -> Json:
    """What is saved, but with the crystals that are here in the places of those that
    are the same."""
    if isinstance(saved, dict) and isinstance(here, dict):
        if saved.get("class") == here.get("class") == _CRYSTAL:
            try:
                same = decode(saved, {}).matches(decode(here, {}))
            except ValueError:
                # Of another version; the fields tell.
                same = False
            return here if same else saved
        return {key: _matched(value, here.get(key)) for key, value in saved.items()}
    if isinstance(saved, list) and isinstance(here, list) and len(saved) == len(here):
        pairs = zip(saved, here, strict=True)
        return [_matched(one, other) for one, other in pairs]
    return saved


def _same(one: Value, other: Value) -> bool:
    if not (isinstance(one, float) or isinstance(other, float)):
        return one == other
    if isinstance(one, str) or isinstance(other, str):
        return False
    return math.isclose(one, other, rel_tol=1e-7, abs_tol=1e-10)


def _encode(value: Any, within: tuple[int, ...]) -> Json:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.bool_, int, np.integer)):
        return value.item() if isinstance(value, np.generic) else int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else {"float": str(number)}
    if isinstance(value, (complex, np.complexfloating)):
        return {"complex": [_encode(value.real, ()), _encode(value.imag, ())]}
    if is_key(value):
        return {"key": f"{jax.random.key_impl(value)}{list(value.shape)}"}
    if eqx.is_array(value):
        kind = {"numpy": True} if isinstance(value, np.ndarray) else {}
        return {"array": f"{value.dtype}{list(value.shape)}", **kind}
    if id(value) in within:
        return {"object": "itself"}
    within = (*within, id(value))
    if isinstance(value, tuple) and type(value) is tuple:
        return [_encode(item, within) for item in value]
    if isinstance(value, list):
        return {"list": [_encode(item, within) for item in value]}
    if isinstance(value, dict):
        items = [[key, _encode(item, within)] for key, item in value.items()]
        if all(isinstance(key, (str, int)) for key, _ in items):
            return {"dict": items}
    return _encode_object(value, within)


def _encode_object(value: Any, within: tuple[int, ...]) -> Json:
    if isinstance(value, type):
        return {"name": _name(value)}
    fields = None
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
    elif dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
    if fields is not None:
        inner = {name: _encode(getattr(value, name), within) for name in fields}
        return {"class": _name(type(value)), "fields": inner}
    if isinstance(value, functools.partial):
        return {
            "partial": _encode(value.func, within),
            "args": [_encode(item, within) for item in value.args],
            "keywords": _encode(dict(value.keywords), within),
        }
    if callable(value):
        function = inspect.unwrap(value)
        if isinstance(function, FunctionType):
            return _encode_function(function, within)
    text = repr(value)
    # Not of objects whose text is their place in memory.
    return {"object": _name(type(value)) if " at 0x" in text else text}


def _encode_function(function: FunctionType, within: tuple[int, ...]) -> Json:
    name = _name(function)
    if name.startswith(f"{_LIBRARY}.") and _resolves(name, function):
        return {"name": name}
    within = (*within, id(function))
    names, code = function.__code__.co_freevars, function.__code__
    holds = {
        name: _encode(cell.cell_contents, within)
        for name, cell in zip(names, function.__closure__ or (), strict=True)
        if _is_filled(cell)
    }
    for name, value in _defaults(function).items():
        holds[name] = _encode(value, within)
    if _in_library(code):
        return {"function": _name(function), "holds": holds}
    for name in sorted(_global_names(code) & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, (bool, int, float, complex, str, tuple, FunctionType)):
            holds.setdefault(name, _encode(value, within))
    digest = hashlib.sha256(_code_text(code).encode()).hexdigest()[:16]
    return {
        # Without the module: `__main__` is another name of a file.
        "function": function.__qualname__,
        "code": f"{_PYTHON} {digest}",
        "holds": holds,
    }


def _defaults(function: FunctionType) -> dict[str, Any]:
    found = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return found


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _global_names(code: CodeType) -> set[str]:
    return {name for inner in _codes(code) for name in inner.co_names}


def _code_text(code: CodeType) -> str:
    def constant(value: Any) -> str:
        if isinstance(value, frozenset):
            return repr(sorted(map(repr, value)))
        return "" if isinstance(value, CodeType) else repr(value)

    return "\n".join(
        f"{inner.co_code.hex()} {inner.co_names} {inner.co_varnames} "
        f"{[constant(value) for value in inner.co_consts]}"
        for inner in _codes(code)
    )


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {Path(sysconfig.get_paths()[name]).resolve() for name in names}
    return (*folders, Path(__file__).resolve().parent)


def _in_library(code: CodeType) -> bool:
    parents = Path(code.co_filename).resolve().parents
    return any(folder in parents for folder in _library_folders())


def _name(value: Any) -> str:
    """The public name of what is in this library, else where it is defined."""
    module, name = value.__module__, value.__qualname__
    if module.split(".")[0] == _LIBRARY and _resolves(f"{_LIBRARY}.{name}", value):
        return f"{_LIBRARY}.{name}"
    return f"{module}.{name}"


def _resolves(name: str, value: Any) -> bool:
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(module), attribute, None) is value


def _class(name: str, path: str) -> type[eqx.Module]:
    module, _, attribute = name.rpartition(".")
    if module.split(".")[0] != _LIBRARY:
        raise ValueError(
            f"`{path}` is a `{name}`, which is not of eqsym and cannot be made from a "
            "file."
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise ValueError(
            f"`{path}` is a `{name}`, which this version of eqsym does not have."
        ) from None
    # No functions: a file shall not choose what is called.
    if not (isinstance(found, type) and issubclass(found, eqx.Module)):
        raise ValueError(f"`{path}` must be a module of eqsym, got `{name}`.")
    return found


def _array(node: dict, arrays: Mapping[str, np.ndarray], path: str) -> Any:
    if path not in arrays:
        raise ValueError(f"The values of the array `{path}` are not stored.")
    value = arrays[path]
    if "key" in node:
        return jax.random.wrap_key_data(
            jnp.asarray(value), impl=node["key"].partition("[")[0]
        )
    value = typed(value, node["array"].partition("[")[0])
    if "numpy" in node:
        return value
    made = jnp.asarray(value)
    if made.dtype != value.dtype:
        raise ValueError(
            f"`{path}` is stored in double precision ({value.dtype}), which JAX does "
            'not use here. Call `jax.config.update("jax_enable_x64", True)` before.'
        )
    return made


def _module(name: str, fields: dict[str, Json], arrays: Mapping, path: str) -> Any:
    cls = _class(name, path)
    names = {field.name for field in dataclasses.fields(cls)}
    if names != fields.keys():
        raise ValueError(
            f"`{path}` is a `{name}` of another version of eqsym: it has the fields "
            f"{sorted(fields)}, here {sorted(names)}."
        )
    # As unflattening a PyTree does: the values have been through `__init__` already.
    made = object.__new__(cls)
    for field, value in fields.items():
        object.__setattr__(made, field, decode(value, arrays, f"{path}.{field}"))
    return made


def _flat(node: Json, path: str) -> Iterator[tuple[str, Value]]:
    if isinstance(node, list):
        if not node:
            yield path, "()"
        for i, value in enumerate(node):
            yield from _flat(value, f"{path}[{i}]")
    elif isinstance(node, dict):
        yield from _flat_object(node, path)
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield path, node
    else:
        yield path, repr(node)


def _flat_object(node: dict, path: str) -> Iterator[tuple[str, Value]]:
    match node:
        case {"list": items}:
            yield path, f"list of {len(items)}"
            yield from _flat(items, path)
        case {"dict": items}:
            yield path, f"dict of {len(items)}"
            for key, value in items:
                yield from _flat(value, f"{path}[{key!r}]")
        case {"class": name, "fields": fields}:
            yield path, name
            for field, value in fields.items():
                yield from _flat(value, f"{path}.{field}")
        case {"function": name, "holds": holds}:
            yield path, name
            if "code" in node:
                yield f"{path}(code)", node["code"]
            for held, value in holds.items():
                yield from _flat(value, f"{path}.{held}")
        case {"partial": function, "args": args, "keywords": keywords}:
            yield path, "functools.partial"
            yield from _flat(function, f"{path}.func")
            yield from _flat(args, f"{path}.args")
            yield from _flat(keywords, f"{path}.keywords")
        case _:
            yield path, str(next(iter(node.values())))


def typed(value: np.ndarray, dtype: Any) -> np.ndarray:
    """An array read from a file, with its type, which numpy does not know where it is
    one of JAX, such as bfloat16."""
    return value.view(jnp.dtype(dtype)) if value.dtype.kind == "V" else value


def arrays_of(tree: PyTree) -> dict[str, Any]:
    """All arrays of a tree by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}

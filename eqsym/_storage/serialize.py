"""Trees of modules described in JSON, and built again with classes of eqsym alone."""

import contextlib
import dataclasses
import functools
import inspect
import json
import math
from collections.abc import Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .names import class_of, in_library, is_constant, is_named_tuple, name_of


Json: TypeAlias = Any

# The most entries of an array in a function whose values are described.
_FEW = 1000
_NOT_COMPARED = "not compared"


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of random keys."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def encode(tree: Any) -> Json:
    """A description of a tree in JSON, to compare the tree or to build it again.

    Modules, named tuples and plain data are described in full, arrays by type and
    shape. A function is described by its name and the data in its closure, defaults and
    attributes, an object of any other class by its attributes and its text, unless that
    is a place in memory: with the values of small arrays, but not by their code, which
    changes with every correction of a docstring and every version of Python."""
    return _encode(tree, (), False)


def decode(node: Json, arrays: Mapping[str, np.ndarray], path: str = "") -> Any:
    """The tree that a description is of.

    **Arguments:**

    - `node`: of `encode`.
    - `arrays`: values by their paths as in `jax.tree_util.keystr`.
    - `path`: of the node.

    **Raises:** `ValueError` for functions, for classes that are not of this library,
    and for those of another version of it.
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
            return class_of(name, path)
        case {"class": name, "fields": fields}:
            return _made(name, fields, arrays, path)
    raise ValueError(
        f"`{path}` is a {next(iter(node.values()))}, which cannot be made from a file."
    )


def is_known(tree: Any) -> bool:
    """Whether a tree can be made from its description: it has no classes or functions
    that are not of eqsym."""
    shapes = arrays_of(tree).items()
    try:
        decode(encode(tree), {name: np.zeros(x.shape, x.dtype) for name, x in shapes})
    except (TypeError, ValueError):
        return False
    return True


def uncompared(node: Json, path: str) -> list[str]:
    """Paths in a description of the user's functions and objects, with their names, of
    objects of which only the class is known, and of large arrays that these hold. They
    may differ although they compare equal."""
    found, inside = [], {}
    if isinstance(node, list):
        inside = {f"{path}[{i}]": value for i, value in enumerate(node)}
    elif isinstance(node, dict):
        if node.get("contents") == _NOT_COMPARED:
            found.append(path)
        if node.get("code") == _NOT_COMPARED:
            name = node.get("function") or node["object"]
            found.append(f"{path} (the code of {name})")
        for key, value in node.items():
            if key in ("fields", "holds"):
                inside |= {f"{path}.{name}": inner for name, inner in value.items()}
            elif key == "dict":
                inside |= {f"{path}[{name!r}]": inner for name, inner in value}
            elif key in ("list", "partial", "args", "keywords"):
                inside[path if key == "list" else f"{path}.{key}"] = value
    for place, value in inside.items():
        found += uncompared(value, place)
    return found


def dumps(value: Json) -> str:
    """JSON that every reader understands."""
    return json.dumps(value, allow_nan=False)


def pretty(value: Json, indent: str = "") -> str:
    """JSON that people understand too: short values on one line."""
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


def _encode(value: Any, within: tuple[int, ...], held: bool) -> Json:
    """The description of a value; `held` by a function or an object, in which the
    numbers in an array of moderate size are settings."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.bool_, int, np.integer)):
        return value.item() if isinstance(value, np.generic) else int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else {"float": str(number)}
    if isinstance(value, (complex, np.complexfloating)):
        return {"complex": [_encode(x, (), False) for x in (value.real, value.imag)]}
    if eqx.is_array(value):
        return _encode_array(value, held)
    if id(value) in within:
        return {"object": "itself"}
    within = (*within, id(value))
    if isinstance(value, tuple) and type(value) is tuple:
        return [_encode(item, within, held) for item in value]
    if isinstance(value, list):
        return {"list": [_encode(item, within, held) for item in value]}
    if isinstance(value, dict):
        if not all(isinstance(key, (str, int)) for key in value):
            # As JSON has no other keys.
            value = {repr(key): item for key, item in value.items()}
            return {"object": "dict", "holds": _encode_all(value, within)}
        return {"dict": [[k, _encode(item, within, held)] for k, item in value.items()]}
    if isinstance(value, (set, frozenset)):
        # Their order is another one in every process.
        items = {str(i): x for i, x in enumerate(sorted(value, key=repr))}
        return {"object": type(value).__name__, "holds": _encode_all(items, within)}
    return _encode_object(value, within, held)


def _encode_array(value: Any, held: bool) -> Json:
    if is_key(value):
        found = {"key": f"{jax.random.key_impl(value)}{list(value.shape)}"}
    else:
        kind = {"numpy": True} if isinstance(value, np.ndarray) else {}
        found = {"array": f"{value.dtype}{list(value.shape)}", **kind}
    if not held:
        return found
    local = isinstance(value, np.ndarray) or value.is_fully_addressable
    if value.size > _FEW or not local:
        return found | {"contents": _NOT_COMPARED}
    numbers = jax.random.key_data(value) if is_key(value) else value
    values = np.ravel(numbers).tolist()
    return found | {"values": [_encode(x, (), False) for x in values]}


def _encode_all(values: dict[str, Any], within: tuple[int, ...]) -> dict[str, Json]:
    return {name: _encode(value, within, True) for name, value in values.items()}


def _encode_object(value: Any, within: tuple[int, ...], held: bool) -> Json:
    if isinstance(value, type):
        return {"name": name_of(value)}
    if isinstance(value, ModuleType):
        return {"object": value.__name__}
    fields = None
    if is_named_tuple(type(value)):
        fields = value._fields
    elif dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
    if fields is not None:
        inner = {name: _encode(getattr(value, name), within, held) for name in fields}
        return {"class": name_of(type(value)), "fields": inner}
    if isinstance(value, functools.partial):
        return {
            "partial": _encode(value.func, within, held),
            "args": [_encode(item, within, held) for item in value.args],
            "keywords": _encode(dict(value.keywords), within, held),
        }
    if callable(value):
        around, function = _unwrapped(value)
        if isinstance(function, FunctionType):
            return _encode_function(function, around, within)
    return _encode_other(value, within)


def _encode_other(value: Any, within: tuple[int, ...]) -> Json:
    """An object about which nothing is known but that it is one of Python."""
    cls, text = type(value), repr(value)
    known, opaque = in_library(cls), " at 0x" in text
    found = {"object": text}
    if opaque:
        found = {"object": name_of(cls)}
    held = _attributes(value) if opaque or not known else {}
    if known and (opaque and not held or "..." in text):
        found["contents"] = _NOT_COMPARED
    if not known:
        found["code"] = _NOT_COMPARED
    return found | ({"holds": _encode_all(held, within)} if held else {})


def _encode_function(
    function: FunctionType, held: dict[str, Any], within: tuple[int, ...]
) -> Json:
    within = (*within, id(function))
    if not is_constant(function):
        held = held | _held(function)
    elif not held:
        return {"name": name_of(function)}
    found = {"function": name_of(function), "holds": _encode_all(held, within)}
    return found if in_library(function) else found | {"code": _NOT_COMPARED}


def _unwrapped(value: Any) -> tuple[dict[str, Any], Any]:
    """The function that a callable calls in the end, and the data that the user's own
    methods and decorators around it hold."""
    held = {}
    while True:
        if isinstance(value, MethodType):
            held["self"], value = value.__self__, value.__func__
        elif (inner := getattr(value, "__wrapped__", None)) is None:
            return held, value
        else:
            function = isinstance(value, FunctionType)
            if not in_library(value if function else type(value)):
                own = _held(value) if function else _attributes(value)
                held[f"wrapper{len(held)}"] = own
            value = inner


def _held(function: FunctionType) -> dict[str, Any]:
    return _attributes(function) | _closure(function) | _defaults(function)


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, without those that it computes when it is asked."""
    names = list(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        slots = [slots] if isinstance(slots, str) else slots
        # As Python changes the names of what is private to a class.
        private = f"_{cls.__name__.lstrip('_')}"
        names += [private + n if n.startswith("__") else n for n in slots]
    names = [name for name in names if not name.startswith("__")]
    found = {}
    for name in names:
        cached = inspect.getattr_static(type(value), name, None)
        if isinstance(cached, functools.cached_property):
            continue
        # Raised by a slot that is not filled.
        with contextlib.suppress(AttributeError):
            found[name] = getattr(value, name)
    return found


def _closure(function: FunctionType) -> dict[str, Any]:
    found = {}
    names, cells = function.__code__.co_freevars, function.__closure__ or ()
    for name, cell in zip(names, cells, strict=True):
        # Raised by one that is not filled yet.
        with contextlib.suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def _defaults(function: FunctionType) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(
            function, follow_wrapped=False
        ).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


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


def _made(name: str, fields: dict[str, Json], arrays: Mapping, path: str) -> Any:
    cls = class_of(name, path)
    is_tuple = is_named_tuple(cls)
    names = cls._fields if is_tuple else [f.name for f in dataclasses.fields(cls)]
    if set(names) != fields.keys():
        raise ValueError(
            f"`{path}` is a `{name}` of another version of eqsym: it has the fields "
            f"{sorted(fields)}, here {sorted(names)}."
        )
    values = {n: decode(fields[n], arrays, f"{path}.{n}") for n in names}
    if is_tuple:
        return tuple.__new__(cls, values.values())
    # As unflattening a PyTree does: the values have been through `__init__` already.
    made = object.__new__(cls)
    for field, value in values.items():
        object.__setattr__(made, field, value)
    return made


def typed(value: np.ndarray, dtype: Any) -> np.ndarray:
    """An array read from a file, with its type, which numpy does not know if it is one
    of JAX, such as bfloat16."""
    return value.view(jnp.dtype(dtype)) if value.dtype.kind == "V" else value


def arrays_of(tree: PyTree) -> dict[str, Any]:
    """All arrays of a tree by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}

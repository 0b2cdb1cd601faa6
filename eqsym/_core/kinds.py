"""Arguments checked against their annotations, with what to type instead."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Sized
from numbers import Integral, Real
from typing import Annotated, Any, TypeAlias, TypeVar

import jax
import numpy as np
from jaxtyping import AbstractArray

from .types import check_kind, Key, random_key, whole_number


_T = TypeVar("_T", bound=Callable)

# Real numbers in an array or in lists, or one number.
Numbers: TypeAlias = Annotated[Any, "numbers"]

_LISTS = (Sequence, Collection)
_NUMBERS = (int, np.integer, float, bool)

# What it must be, by the name of the class: most are in packages further down.
_WANTED = {
    "AbstractFeatures": "features, such as `eqs.TriFeatures()`",
    "AbstractHamiltonian": "a Hamiltonian, such as `eqs.Hamiltonian(crystal)`",
    "AbstractKinetic": "a kinetic energy, such as `eqs.ForwardLaplacian()`",
    "AbstractProjection": (
        "a projection, such as `eqs.GroupAverage(group)` or `eqs.IrrepProjection`"
    ),
    "AbstractRandomSymmetrizer": "a symmetrizer, such as `eqs.GroupAverage(group)`",
    "AbstractSampler": "a sampler, such as `eqs.Metropolis()`",
    "AbstractSmoothing": "a smooth step, such as `eqs.SmoothStep()`",
    "AbstractSymmetrizer": "a symmetrizer, such as `eqs.GroupAverage(group)`",
    "AbstractWavefunction": (
        "a wave function, such as `eqs.SolidNet(crystal, occupation, key=key)`"
    ),
    "Crystal": "a crystal, such as `eqs.Crystal.from_ase(path)`",
    "Density": "a density, such as `eqs.Density(crystal, (16, 16, 16))`",
    "Evaluation": (
        "what `eqs.evaluate` returns, or `plain` or `averaged` of `eqs.post_hoc`"
    ),
    "FundamentalDomain": "a domain, such as `eqs.FundamentalDomain.of(group)`",
    "GradientTransformation": "a transformation of optax, such as `optax.adam(1e-3)`",
    "Irrep": "one of `eqs.irreps(group)`",
    "MeanField": "a mean field, such as `eqs.MeanField.solve(crystal)`",
    "Mesh": "a mesh of devices, such as `eqs.device_mesh()`",
    "Metropolis": "`eqs.Metropolis(...)`",
    "Occupation": "an occupation, such as `mean_field.occupation`",
    "PathLike": "a path",
    "Sectors": "the result of `eqs.sectors`",
    "SpaceGroup": "a group, such as `eqs.SpaceGroup.of(crystal)`",
    "SphericalQuadrature": "a quadrature, such as `eqs.SphericalQuadrature(26)`",
    "TranslationScan": "a scan, such as `eqs.translation_scan(...)`",
    "VMCState": "a state of training, such as `vmc.init(...)` returns",
    "bool": "`True` or `False`",
    "float": "a number",
    "int": "an integer",
    "integer": "an integer",
    "str": "a string",
}
# Of arguments whose annotation says less than their name.
_NAMED = {
    "electrons": (
        "one configuration, an array of shape (electrons, 3), such as "
        "`result.walkers[0]`"
    ),
    "evaluations": "a list of evaluations, which `eqs.evaluate` returns",
    "form": "a function, such as `eqs.Symmetrized`",
    "history": (
        "the history of a run, `result.history` or `eqs.load_run(path).history`"
    ),
    "cart_kpoints": "two arrays of k-points, such as `occupation.cart_kpoints`",
    "folder": 'a path, such as `"runs/diamond/checkpoints"`',
    "observed": "results by title, such as `eqs.observe` returns",
    "path": 'a path, such as `"runs/diamond"`',
    "rows": 'evaluations by name, such as `{"plain": eqs.evaluate(...)}`',
    "scans": 'scans by title, such as `{"plain": eqs.translation_scan(...)}`',
    "species": 'a list of element symbols, such as `["Li", "H"]`',
    "widths": "a list of the two widths of each layer, such as `[(64, 16), (64, 16)]`",
}
# What to type in place of what, by the names of their classes.
_WRAP = {
    "SpaceGroup": "Wrap it in `eqs.GroupAverage`.",
    "Crystal": "Type `eqs.GroupAverage(eqs.SpaceGroup.of(crystal))`.",
}
_WRAP_ANY = {**_WRAP, "FundamentalDomain": "Wrap it in `eqs.Canonicalization`."}
_REMEDIES = {
    "AbstractHamiltonian": {"Crystal": "Make one of it: `eqs.Hamiltonian(crystal)`."},
    "AbstractProjection": _WRAP,
    "AbstractRandomSymmetrizer": _WRAP_ANY,
    "AbstractSymmetrizer": {
        **_WRAP_ANY,
        "AbstractRandomSymmetrizer": "Draw one: `symmetrizer.draw(key)`.",
    },
    "AbstractWavefunction": {"MeanField": "Wrap it in `eqs.HartreeFock`."},
    "FundamentalDomain": {
        "SpaceGroup": "Find one: `eqs.FundamentalDomain.of(group)`.",
        "Crystal": "Type `eqs.FundamentalDomain.of(eqs.SpaceGroup.of(crystal))`.",
    },
    "GradientTransformation": {
        "AbstractOptimizer": "It must be of optax, and without `eqs.Optax`."
    },
    "MeanField": {"Crystal": "Solve one: `eqs.MeanField.solve(crystal)`."},
    "SpaceGroup": {"Crystal": "Find one: `eqs.SpaceGroup.of(crystal)`."},
}
# What to call in place of a constructor that takes more than users have.
_SIMPLER = {
    "FundamentalDomain.__init__": "`eqs.FundamentalDomain.of(group)` finds a point.",
    "IrrepProjection.__init__": "It takes a group and one of `eqs.irreps(group)`.",
    "MeanField.__init__": "`eqs.MeanField.solve(crystal)` solves one.",
    "SpaceGroup.__init__": "`eqs.SpaceGroup.of(crystal)` finds the operations.",
}


def checked(function: _T, but: tuple[str, ...] = ()) -> _T:
    """Checks arguments against their annotations, before something is done with them
    and fails somewhere inside. What is annotated as `Any` or as a type that is not
    known here is left to the function.

    Of a function, a method, or a module whose `__init__` is made from its fields.

    **Raises:** when called, `ValueError` in one line, as `check_kind`.
    """
    if isinstance(function, type):
        cls: Any = function
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        cls.__init__ = _checked(cls.__init__, fields)
        return cls
    signature = inspect.signature(function)
    kinds = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.annotation is not parameter.empty
        and name not in but
    }
    return typing.cast(_T, _checked(function, kinds))


def checked_but(*names: str) -> Callable[[_T], _T]:
    """The same, but for arguments that the function checks with words of its own."""

    def decorated(function: _T) -> _T:
        return checked(function, names)

    return decorated


def _checked(function: Callable, kinds: dict[str, Any]) -> Callable:
    signature = inspect.signature(function)
    names = inspect.unwrap(function).__globals__

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            # Too many or too few: Python says it well, if there is no simpler way.
            simpler = _SIMPLER.get(function.__qualname__)
            if simpler is None:
                return function(*args, **kwargs)
            raise TypeError(f"{error}. {simpler}") from None
        for name, kind in kinds.items():
            # The class of the method itself: it is not there before the first call.
            if isinstance(kind, str):
                kinds[name] = names.get(kind, Any)
        given = {name: given[name] for name in kinds if name in given}
        for name, value in given.items():
            if not _fits(kinds[name], value):
                _refuse(name, kinds[name], value, given, kinds)
        return function(*args, **kwargs)

    return call


def _members(kind: Any) -> tuple[Any, ...]:
    """Of a union, or the one kind."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def _fits(kind: Any, value: Any) -> bool:
    return any(_fits_one(member, value) for member in _members(kind))


def _fits_one(kind: Any, value: Any) -> bool:
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is Key:
        return _is_key(value)
    if kind is Any:
        return True
    if kind is Numbers:
        return _is_numbers(value)
    if _has_axes(kind):
        return _is_array(kind, value)
    origin = typing.get_origin(kind)
    if origin is Callable:
        return callable(value)
    inside = _inside(kind, value)
    if inside is not None:
        return all(_fits(one, part) for one, part in inside.values())
    if origin in (*_LISTS, Mapping, dict, tuple):
        return False
    if not isinstance(kind, type) or kind.__module__ == "jaxtyping":
        return True
    if kind in _NUMBERS:
        return _is_number(kind, value)
    # A class has what its instances have, by name.
    protocol = getattr(kind, "_is_protocol", False)
    return isinstance(value, kind) and not (protocol and isinstance(value, type))


def _inside(kind: Any, value: Any) -> dict[str, tuple[Any, Any]] | None:
    """Kinds and values of what a container holds, by the ends of their names."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Mapping, dict):
        if isinstance(value, Mapping):
            return {f"[{key!r}]": (args[1], part) for key, part in value.items()}
    elif origin in (*_LISTS, tuple) and _is_list(value):
        parts = list(value)
        if origin in _LISTS or args[-1] is Ellipsis:
            args = args[:1] * len(parts)
        if len(parts) == len(args):
            pairs = zip(args, parts, strict=True)
            return {f"[{i}]": pair for i, pair in enumerate(pairs)}
    return None


def _is_list(value: Any) -> bool:
    if isinstance(value, (np.ndarray, jax.Array)):
        return value.ndim > 0
    sized = isinstance(value, Iterable) and isinstance(value, Sized)
    return sized and not isinstance(value, (str, bytes, Mapping))


def _is_key(value: Any) -> bool:
    try:
        random_key(value)
    except ValueError:
        return False
    return True


def _is_array(kind: Any, value: Any) -> bool:
    """Lists are arrays for what is computed by numpy."""
    if kind.array_type is np.ndarray and _is_list(value):
        return True
    if not isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return False
    axes = kind.dim_str.split()
    return any(a[0] in "*." for a in axes) or len(axes) == np.ndim(value)


def _is_numbers(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "iuf"
    except (TypeError, ValueError):
        return False


def _is_number(kind: type, value: Any) -> bool:
    if isinstance(value, (np.ndarray, jax.Array)):
        letters = {bool: "b", float: "iuf"}.get(kind, "iu")
        # Keys have another type.
        plain = value.ndim == 0 and isinstance(value.dtype, np.dtype)
        return plain and value.dtype.kind in letters
    if isinstance(value, (bool, np.bool_)) or kind is bool:
        return kind is bool and isinstance(value, (bool, np.bool_))
    return isinstance(value, Real if kind is float else Integral)


def _refuse(
    name: str, kind: Any, value: Any, given: dict[str, Any], kinds: dict[str, Any]
) -> None:
    """Raises the error for a value that does not fit."""
    members = [one for one in _members(kind) if one is not types.NoneType]
    if Key in members:
        random_key(value)
    if set(members) <= {int, np.integer}:
        whole_number(name, value)
    for one in members:
        for end, (part, inner) in (_inside(one, value) or {}).items():
            if not _fits(part, inner) and not _alone(one, value):
                # Numbers are not told one by one.
                single = isinstance(part, type) and part not in _NUMBERS
                _refuse(f"{name}{end}" if single else name, part, inner, {}, {})
    classes = tuple(
        one for one in members if isinstance(one, type) and not isinstance(value, one)
    )
    wanted = _NAMED.get(name) or _wanted_any(kind)
    sentence = _advice(name, kind, value, given, kinds)
    check_kind(name, value, classes, wanted, {object: sentence} if sentence else None)


def _wanted(kind: Any) -> str:
    if kind is Numbers:
        return "numbers in an array or in lists"
    if _has_axes(kind):
        return f"an array of shape ({', '.join(kind.dim_str.split())})"
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Callable:
        return "a function"
    if origin in (Mapping, dict):
        return f"a dictionary whose values are each {_wanted_any(args[1])}"
    if origin is tuple and args[-1] is not Ellipsis:
        return f"{len(args)} values, each {_wanted_any(args[0])}"
    if origin in (*_LISTS, tuple):
        return f"a list whose elements are each {_wanted_any(args[0])}"
    name = getattr(kind, "__name__", str(kind))
    return _WANTED.get(name, f"an instance of `{name}`")


def _wanted_any(kind: Any) -> str:
    members = [one for one in _members(kind) if one is not types.NoneType]
    if float in members:
        members = [one for one in members if one not in (int, np.integer)]
    found = [*dict.fromkeys(map(_wanted, members))]
    several = any(mark in one for one in found for mark in (",", "each"))
    return (", or " if several else " or ").join(found)


def _alone(kind: Any, value: Any) -> bool:
    """Whether it is one of those that a container has to hold."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Mapping, dict):
        return args[1] is not Any and _fits(args[1], value)
    several = origin in _LISTS or origin is tuple and args[-1] is Ellipsis
    return several and args[0] is not Any and _fits(args[0], value)


def _advice(
    name: str, kind: Any, value: Any, given: dict[str, Any], kinds: dict[str, Any]
) -> str | None:
    for other, another in given.items():
        if other != name and _fits(kind, another) and _fits(kinds[other], value):
            if not _fits(kinds[other], another):
                return f"`{name}` and `{other}` are exchanged."
    if isinstance(value, (np.ndarray, jax.Array)):
        axes = [len(one.dim_str.split()) for one in _members(kind) if _has_axes(one)]
        if value.ndim - 1 in axes:
            return "For several at once use `jax.vmap`."
    for one in _members(kind):
        names = {base.__name__ for base in (*_bases(value), object)}
        for base, sentence in _REMEDIES.get(getattr(one, "__name__", ""), {}).items():
            if base in names:
                return sentence
        if _alone(one, value):
            named = typing.get_origin(one) in (Mapping, dict)
            way = 'Give it a name: `{"name": ...}`.'
            return way if named else f"Put it in a list: `{name}=[...]`."
    for attribute in ("trained", name):
        inner = getattr(value, attribute, None)
        if inner is not None and not isinstance(value, type) and _fits(kind, inner):
            return f"Give its `{attribute}`."
    return None


def _has_axes(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, AbstractArray)


def _bases(value: Any) -> tuple[type, ...]:
    return (value if isinstance(value, type) else type(value)).__mro__

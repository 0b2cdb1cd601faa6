"""Differences between a stored description and a tree, field by field."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from .serialize import decode, dumps, encode, Json


Value: TypeAlias = str | int | float
Flat: TypeAlias = dict[str, Value]

_CRYSTAL = "eqsym.Crystal"
# How the paths of settings end that change memory and rounding, and nothing else:
# fields, and arguments of `functools.partial`.
_FREE = (".chunk", "['chunk']", ".operation_chunk", "['operation_chunk']")
_NOTHING = "nothing"
# Types of numbers in descriptions of arrays, such as `float32[2,3]`.
_BITS = re.compile(r"^b?(float|complex|u?int)\d+(\[)")
_SHOWN = 12


class Difference(NamedTuple):
    """A field whose value was another one when it was saved."""

    field: str
    saved: Value
    here: Value

    def __str__(self) -> str:
        return f"{self.field}: saved {self.saved}, here {self.here}"


def compare(saved: Json, here: Any, path: str) -> list[Difference]:
    """The fields in which a stored description differs from the tree that is here.
    Crystals are compared as [`eqsym.Crystal.matches`][] does."""
    node = json.loads(dumps(encode(here)))
    return differences(flatten(_matched(saved, node), path), flatten(node, path))


def listed(found: Sequence[Difference]) -> str:
    """A line for each of the first differences, and how many more there are."""
    shown = "".join(f"\n  {difference}" for difference in found[:_SHOWN])
    more = len(found) - _SHOWN
    return shown + (f"\n  and {more} more" if more > 0 else "")


def in_precision(found: Sequence[Difference]) -> str:
    """What to do if trees differ in the precision of their arrays and in nothing else,
    in sentences after a space; or nothing."""
    kinds = [tuple(map(_any_precision, (one.saved, one.here))) for one in found]
    if not found or any(saved != here for saved, here in kinds):
        return ""
    on = jnp.result_type(float) == np.float64
    now, then = ("on", "off") if on else ("off", "on")
    return (
        f" Double precision is {now} here: if it was {then} before, begin with "
        f'`jax.config.update("jax_enable_x64", {not on})`. A network keeps the '
        "precision in which it was made."
    )


def _any_precision(value: Value) -> Value:
    """The description of an array without the number of its bits."""
    return _BITS.sub(r"\1\2", value) if isinstance(value, str) else value


def flatten(node: Json, path: str) -> Flat:
    """A text or number for every field of a description, by its path."""
    return dict(_flat(node, path))


def differences(saved: Flat, here: Flat) -> list[Difference]:
    """The fields in which two descriptions differ; one for a part that only one of
    them has. Real numbers are the same up to rounding, which differs between machines,
    and every `chunk` is free."""
    found = [
        Difference(name, saved[name], here[name])
        for name in saved.keys() & here.keys()
        if not (name.endswith(_FREE) or _same(saved[name], here[name]))
    ]
    found += [Difference(n, value, _NOTHING) for n, value in _parts(saved, here)]
    found += [Difference(n, _NOTHING, value) for n, value in _parts(here, saved)]
    return sorted(found)


def _parts(of: Flat, without: Flat) -> Iterator[tuple[str, Value]]:
    """The parts of a description that another does not have, each in a word."""
    known = {prefix for name in without for prefix in _prefixes(name)}
    parts: dict[str, list[str]] = {}
    for name in of.keys() - without.keys():
        if not name.endswith(_FREE):
            first = next(p for p in _prefixes(name) if p not in known)
            parts.setdefault(first, []).append(name)
    for part, names in parts.items():
        value = of.get(part, "")
        if len(names) > 1:
            fields = dumps({name: of[name] for name in sorted(names)})
            digest = hashlib.sha256(fields.encode()).hexdigest()[:8]
            value = f"{value} ({len(names)} values, {digest})".strip()
        yield part, value


def _prefixes(name: str) -> list[str]:
    """The paths of all that a field is in, from the outside, and its own."""
    ends = [match.start() for match in re.finditer(r"(?<=.)[.\[]", name)]
    return [name[:end] for end in ends] + [name]


def _same(one: Value, other: Value) -> bool:
    if not (isinstance(one, float) or isinstance(other, float)):
        return one == other
    if isinstance(one, str) or isinstance(other, str):
        return False
    return math.isclose(one, other, rel_tol=1e-7, abs_tol=1e-10)


def _matched(saved: Json, here: Json) -> Json:
    """The saved description, in which crystals that match those here are replaced by
    them."""
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


def _flat(node: Json, path: str) -> Iterator[tuple[str, Value]]:
    if isinstance(node, list):
        yield path, f"tuple of {len(node)}"
        yield from _flat_items(node, path)
    elif isinstance(node, dict):
        yield from _flat_object(node, path)
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield path, node
    else:
        yield path, repr(node)


def _flat_items(items: list, path: str) -> Iterator[tuple[str, Value]]:
    for i, value in enumerate(items):
        yield from _flat(value, f"{path}[{i}]")


def _flat_object(node: dict, path: str) -> Iterator[tuple[str, Value]]:
    match node:
        case {"list": items}:
            yield path, f"list of {len(items)}"
            yield from _flat_items(items, path)
        case {"dict": items}:
            yield path, f"dict of {len(items)}"
            for key, value in items:
                yield from _flat(value, f"{path}[{key!r}]")
        case {"class": name, "fields": fields}:
            yield path, name
            for field, value in fields.items():
                yield from _flat(value, f"{path}.{field}")
        case {"function": name, "holds": holds} | {"object": name, "holds": holds}:
            yield path, name
            for held, value in holds.items():
                yield from _flat(value, f"{path}.{held}")
        case {"partial": function, "args": args, "keywords": keywords}:
            yield path, "functools.partial"
            yield from _flat(function, f"{path}.func")
            yield from _flat(args, f"{path}.args")
            yield from _flat(keywords, f"{path}.keywords")
        case {"array": kind, "values": values} | {"key": kind, "values": values}:
            yield path, kind
            yield from _flat_items(values, path)
        case _:
            yield path, str(next(iter(node.values())))

"""Crystals, and how two of them differ, in words."""

from typing import Any

import numpy as np
from jaxtyping import Float

from .._core import as_fraction, formula
from .modulo import SAME
from .nearest import from_nearest


def described(crystal: Any) -> str:
    """The facts by which a crystal is known, on one line."""
    up, down = crystal.electrons
    facts = [formula(crystal.species), f"{up + down} electrons"]
    if up - down not in (0, 1):
        facts.append(f"{up} up and {down} down")
    if crystal.charge:
        facts.append(f"charge {crystal.charge}")
    if crystal.pseudopotential:
        facts.append(_potentials(crystal))
    sizes = np.diagonal(crystal.matrix)
    if np.any(crystal.matrix != np.diag(sizes)):
        facts.append(f"supercell {crystal.matrix.tolist()}")
    elif crystal.cells > 1:
        facts.append(f"supercell {'x'.join(map(str, sizes))}")
    if np.any(crystal.twist):
        facts.append(f"twist ({', '.join(map(as_fraction, crystal.twist.tolist()))})")
    if crystal.vacuum:
        facts.append(f"vacuum {crystal.vacuum}")
    return ", ".join(facts)


def _potentials(crystal: Any) -> str:
    """One name, or one for each element."""
    found = crystal.pseudopotential
    names = {symbol: found[symbol].name or "own" for symbol in found}
    if len(names) == len(set(crystal.species)) and len(set(names.values())) == 1:
        return f"pseudopotential {next(iter(names.values()))}"
    listed = ", ".join(f"{symbol}: {name}" for symbol, name in names.items())
    return f"pseudopotential {listed}"


def difference(one: Any, other: Any, *, electrons: bool) -> str | None:
    """The differences of two crystals and their sizes, as part of a sentence."""
    # In other lattices all nuclei have other positions.
    found = _lattices(one, other)
    if one.species != other.species:
        found += _species(one, other)
    elif not found:
        found += _positions(one, other)
    if one.species == other.species:
        found += _cores(one, other)
    found += _supercells(one, other)
    if electrons and one.electrons != other.electrons:
        found.append(
            f"`electrons` (up, down) are {one.electrons} and {other.electrons}"
        )
    return ", ".join(found) or None


def _lattices(one: Any, other: Any) -> list[str]:
    gaps = np.linalg.norm(one.lattice.vectors - other.lattice.vectors, axis=1)
    return _farthest(gaps, "vector {} of `lattice` differs", [0, 1, 2])


def _farthest(gaps: Float[np.ndarray, " n"], text: str, names: list[Any]) -> list[str]:
    """The largest of some distances, in Bohr, if it is larger than rounding."""
    worst = int(np.argmax(gaps))
    if gaps[worst] <= SAME:
        return []
    others = int(np.sum(gaps > SAME)) - 1
    more = f" ({others} more by no more than that)" if others else ""
    return [f"{text.format(names[worst])} by {gaps[worst]:.2g} Bohr{more}"]


def _species(one: Any, other: Any) -> list[str]:
    counts = len(one.species), len(other.species)
    if counts[0] != counts[1]:
        return [f"`species` are {counts[0]} and {counts[1]} nuclei"]
    pairs = enumerate(zip(one.species, other.species, strict=True))
    i, (first, second) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return [f"`species` of nucleus {i} are {first} and {second}"]


def _cores(one: Any, other: Any) -> list[str]:
    """Terms that differ, and not only the names that they were given by."""
    for symbol in dict.fromkeys(one.species):
        pair = [crystal.pseudopotential.get(symbol) for crystal in (one, other)]
        terms = [None if p is None else (p.core, sorted(p.terms)) for p in pair]
        if terms[0] != terms[1]:
            names = ["None" if p is None else p.name or "its own" for p in pair]
            also = " of other terms" if names[0] == names[1] else ""
            return [f"`pseudopotential` of {symbol} is {names[0]} and {names[1]}{also}"]
    return []


def _positions(one: Any, other: Any) -> list[str]:
    apart = from_nearest(one.lattice, other.cart_positions - one.cart_positions)
    gaps = np.linalg.norm(apart, axis=1)
    names = [f"{i} ({symbol})" for i, symbol in enumerate(one.species)]
    return _farthest(gaps, "`cart_positions` of nucleus {} differ", names)


def _supercells(one: Any, other: Any) -> list[str]:
    if not np.array_equal(one.matrix, other.matrix):
        matrices = one.matrix.tolist(), other.matrix.tolist()
        return [f"`supercell` is {matrices[0]} and {matrices[1]}"]
    change = other.twist - one.twist
    gap = float(np.max(np.abs(change - np.round(change))))
    if gap <= SAME:
        return []
    twists = one.twist.tolist(), other.twist.tolist()
    return [f"`twist` differs by {gap:.2g}: {twists[0]} and {twists[1]}"]

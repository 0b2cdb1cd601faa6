"""Effective core potentials, which stand for nuclei with their core electrons."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import numpy as np
from jaxtyping import Int

from .._core import (
    AbstractFixed,
    AbstractSummarized,
    checked,
    Integer,
    whole_number,
)
from .arguments import atomic_number


# A row of a potential: angular momentum, power n, exponent, coefficient.
Term: TypeAlias = tuple[int, int, float, float]
# That PySCF has places for, from 0.
_POWERS = 7


class EffectiveCorePotential(AbstractFixed, AbstractSummarized):
    r"""What stands for a nucleus with its core electrons, in Hartree:

    $$V(r) = V_\mathrm{loc}(r) + \sum_l V_l(r) \sum_m |lm\rangle\langle lm|, \quad
    V(r) = \sum_t c_t\, r^{n_t - 2} e^{-a_t r^2}$$

    beside the Coulomb potential of the charge that is left. Of
    [`eqsym.Crystal.pseudopotential`][], and may be given to another crystal.
    """

    element: str = eqx.field(static=True)
    core: int = eqx.field(static=True)
    terms: tuple[Term, ...] = eqx.field(static=True)
    name: str | None = eqx.field(static=True)

    @checked
    def __init__(
        self,
        element: str,
        core: Integer,
        terms: Sequence[Sequence[Integer | float]],
        name: str | None = None,
    ):
        """**Arguments:**

        - `element`: its symbol.
        - `core`: electrons that it stands for.
        - `terms`: rows $(l, n, a, c)$, with l = -1 for the local part, a in inverse
            square Bohr.
        - `name`: the name in PySCF's library; `None` if it was given as text, or by a
            cell with terms of its own.

        **Raises:** `ValueError` for an unknown element, not fewer core electrons than
        its nuclear charge, and terms that are not such rows or have no end.
        """
        try:
            nuclear = atomic_number(element)
        except ValueError:
            raise ValueError(
                f"`element` must be an element symbol such as 'Li', got {element!r}."
            ) from None
        self.element = element
        self.core = whole_number("core", core)
        self.terms = tuple(_term(row, element) for row in terms)
        self.name = name
        # Texts come to this as well, so that the message says of which argument.
        if not 0 <= self.core < nuclear:
            raise ValueError(
                f"`pseudopotential` of {element} stands for {self.core} electrons "
                f"(`core`), expected fewer than the nuclear charge {nuclear}."
            )

    def _summary(self) -> str:
        momenta = sorted({l for l, *_ in self.terms if l >= 0})
        name = "of its own" if self.name is None else self.name
        channels = f", l = {', '.join(map(str, momenta))}" if momenta else ""
        return f"{self.element}, {name}, {self.core} core electrons{channels}"

    def as_pyscf(self) -> list:
        """The same in the format of PySCF, for `cell.ecp`."""
        rows = 1 + max(n for _, n, _, _ in self.terms) if self.terms else 1
        blocks = []
        for l in sorted({-1, *(l for l, *_ in self.terms)}):
            powers: list[list] = [[] for _ in range(max(rows, _POWERS))]
            for momentum, n, exponent, coefficient in self.terms:
                if momentum == l:
                    powers[n].append([exponent, coefficient])
            blocks.append([l, powers])
        return [self.core, blocks]


def given_potentials(
    given: Any, species: Sequence[str]
) -> tuple[EffectiveCorePotential, ...]:
    """The potentials of the elements that have one, in the order of `species`.

    **Raises:** `ValueError` that names the argument, for an element without such a
    potential, one that is not in the crystal, and text that is not a potential.
    """
    elements = list(dict.fromkeys(species))
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        given = dict.fromkeys(elements, given)
    unknown = [str(symbol) for symbol in given if symbol not in elements]
    missing = [symbol for symbol in elements if symbol not in given]
    if unknown or missing:
        raise ValueError(
            "`pseudopotential` must name one for each of the elements "
            f"{elements}, or None for all electrons, got {list(map(str, given))}."
        )
    found = [_potential(given[symbol], symbol) for symbol in elements]
    return tuple(one for one in found if one is not None)


def cores_of(
    potentials: Sequence[EffectiveCorePotential], species: Sequence[str]
) -> Int[np.ndarray, " nuclei"]:
    """Core electrons of each nucleus."""
    cores = {one.element: one.core for one in potentials}
    return np.array([cores.get(symbol, 0) for symbol in species], dtype=int)


def known_name(name: Any, element: str, terms: Any) -> str | None:
    """A name of PySCF's library, if it has these terms."""
    if not isinstance(name, str) or "\n" in name or not terms:
        return None
    try:
        known = _parsed(name, element, False)
    except ValueError:
        return None
    return _plain(name) if list(known) == list(terms) else None


def given_again(crystal: Any) -> dict[str, EffectiveCorePotential | None] | None:
    """The argument `pseudopotential` of a crystal of the same elements."""
    found = crystal.pseudopotential
    return {s: found.get(s) for s in crystal.species} if found else None


def from_pyscf_terms(
    element: str, given: Sequence[Any], name: str | None
) -> EffectiveCorePotential:
    """From the format of PySCF, `[core, [[l, [[(a, c), ..] for each n]], ..]]`.
    Spin-orbit terms, a third number, are left out, as in PySCF without spinors."""
    core, blocks = given
    terms = [
        (int(l), n, float(row[0]), float(row[1]))
        for l, powers in blocks
        for n, rows in enumerate(powers)
        for row in rows
        if float(row[1]) != 0
    ]
    return EffectiveCorePotential(element, int(core), tuple(terms), name)


def _potential(given: Any, element: str) -> EffectiveCorePotential | None:
    if given is None:
        return None
    if isinstance(given, EffectiveCorePotential):
        if given.element != element:
            raise ValueError(
                f"`pseudopotential` of {element} is one of {given.element}: {given!r}."
            )
        return given
    if not isinstance(given, str):
        raise ValueError(
            "`pseudopotential` must be the name of an effective core potential that "
            "PySCF knows, such as 'ccecp', its text in NWChem's format, or None, got "
            f"{given!r} for {element}."
        )
    plain = _plain(given)
    if plain.startswith("gth"):
        raise ValueError(separable(f"`pseudopotential` {given!r} of {element}"))
    is_text = "\n" in given.strip()
    name = None if is_text else plain
    return from_pyscf_terms(element, _parsed(given, element, is_text), name)


def _term(row: Sequence[Integer | float], element: str) -> Term:
    numbers = [float(number) for number in row]
    whole = [int(number) for number in numbers[:2] if number.is_integer()]
    if len(numbers) != 4 or len(whole) != 2 or whole[0] < -1 or whole[1] < 0:
        raise ValueError(
            f"`pseudopotential` of {element}: `terms` must be rows of an angular "
            "momentum, or -1, a power, an exponent and a coefficient, got "
            f"{tuple(numbers)}."
        )
    exponent, coefficient = numbers[2:]
    if not (0 < exponent < math.inf and math.isfinite(coefficient)):
        raise ValueError(
            f"`pseudopotential` of {element}: exponents in `terms` must be positive, "
            "in inverse square Bohr, else it has no end, and all numbers finite, got "
            f"{tuple(numbers)}."
        )
    return whole[0], whole[1], exponent, coefficient


def separable(what: str) -> str:
    """Why a GTH pseudopotential is refused, and what to use."""
    return (
        f"{what} is a separable one of Goedecker, Teter and Hutter. On a many-electron "
        "function it acts by integrals over all of space around each nucleus, and not "
        "over a sphere as here; it was also made for density functionals. Use an "
        "effective core potential for correlated electrons, such as "
        "`pseudopotential='ccecp'`."
    )


def _plain(name: str) -> str:
    """A name as PySCF compares it."""
    return name.strip().lower().translate(str.maketrans("", "", "-_ "))


def _parsed(given: str, element: str, is_text: bool) -> Sequence[Any]:
    from pyscf.gto import basis
    from pyscf.lib.exceptions import BasisNotFoundError

    if is_text:
        # PySCF evaluates what it cannot read as a number.
        _check_text(given, element)
    found: Any = None
    try:
        with warnings.catch_warnings():
            # That another package may know it.
            warnings.simplefilter("ignore")
            if is_text:
                found = basis.parse_ecp(given, element)
            elif _plain(given) in basis.ALIAS:
                found = basis.load_ecp(given, element)
    except (
        BasisNotFoundError,
        RuntimeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
    ):
        found = None
    if found:
        return found
    if is_text:
        raise ValueError(
            f"`pseudopotential` of {element} must be a potential in NWChem's format, "
            f"with a line '{element} nelec ...', got {_shown(given)}."
        )
    raise ValueError(
        f"`pseudopotential` {given!r}: PySCF has no effective core potential of that "
        f"name for {element}. Name another one, such as 'ccecp', or one for each "
        "element in a dictionary: there text in NWChem's format and None, for all "
        "electrons, are taken too."
    )


def _check_text(text: str, element: str) -> None:
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words or words[0][0].isalpha():
            continue
        try:
            # It would count a negative one from the end of those that it knows.
            known = int(words[0]) in range(_POWERS)
            numbers = [float(word.upper().replace("D", "E")) for word in words[1:]]
        except ValueError:
            known, numbers = False, []
        if not known or len(numbers) not in (2, 3):
            raise ValueError(
                f"`pseudopotential` of {element}: a line must have a power, from 0 to "
                f"{_POWERS - 1}, an exponent and a coefficient, got {line.strip()!r}."
            )


def _shown(text: str) -> str:
    first = text.strip().splitlines()[0]
    return repr(first if len(first) < 60 else first[:57] + "...")

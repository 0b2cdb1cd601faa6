"""Which Gaussian basis an element gets, and whether it fits its pseudopotential."""

import warnings
from typing import Any

from .._crystal import Crystal, EffectiveCorePotential


_ALL_ELECTRON = "cc-pvdz"


def plain(value: Any) -> Any:
    """Names of bases as PySCF compares them."""
    if isinstance(value, dict):
        return {element: plain(name) for element, name in value.items()}
    if isinstance(value, str):
        return value.lower().translate(str.maketrans("", "", "-_ "))
    return value


def basis_of(
    crystal: Crystal, given: str | dict[str, str] | None
) -> tuple[tuple[str, str], ...]:
    """The name of the basis of each element.

    **Raises:** `ValueError` if one is missing, or was made for another number of core
    electrons than the pseudopotential of its element stands for.
    """
    elements = sorted(set(crystal.species))
    if given is None:
        return tuple((element, _default(crystal, element)) for element in elements)
    named = given if isinstance(given, dict) else dict.fromkeys(elements, given)
    # PySCF would silently leave atoms that are not named without functions.
    if not all(isinstance(named.get(element), str) for element in elements):
        raise ValueError(
            f"`basis` must be the name of a Gaussian basis that PySCF knows for "
            f"{elements}, or a dictionary with a name for each of them, got {given!r}."
        )
    for element in elements:
        _check_core(crystal, element, named[element])
    return tuple((element, named[element]) for element in elements)


def _default(crystal: Crystal, element: str) -> str:
    found = _fitting(crystal, element)
    if found is None:
        potential = crystal.pseudopotential[element]
        raise ValueError(
            "`basis` must be given: PySCF has none that belongs to the pseudopotential "
            f"of {element}, {potential!r}. {_name_one(potential)}"
        )
    return found


def _fitting(crystal: Crystal, element: str) -> str | None:
    """The basis that belongs to the pseudopotential, if PySCF has one."""
    potential = crystal.pseudopotential.get(element)
    if potential is None:
        return _ALL_ELECTRON
    # Of a potential without a name nothing is known.
    if potential.name is None:
        return None
    names = (f"{potential.name}{end}" for end in (f"-{_ALL_ELECTRON}", "-vdz", ""))
    return next((name for name in names if _has_functions(name, element)), None)


def _name_one(potential: EffectiveCorePotential) -> str:
    return (
        f"Name one for each element, for {potential.element} one that was made for "
        f"{potential.core} core electrons, as 'ccecp-cc-pvdz' was for 'ccecp'."
    )


def _has_functions(name: str, element: str) -> bool:
    from pyscf.gto import basis

    if plain(name) not in basis.ALIAS:
        return False
    try:
        return bool(basis.load(name, element))
    except Exception:
        # Of many kinds, as there are many formats.
        return False


def _check_core(crystal: Crystal, element: str, name: str) -> None:
    made_for = _core_of_basis(name, element)
    potential = crystal.pseudopotential.get(element)
    core = 0 if potential is None else potential.core
    if made_for is None or made_for == core:
        return
    stands = (
        f"all electrons of {element} are treated"
        if potential is None
        else f"the pseudopotential of {element} stands for {core}"
    )
    fitting = _fitting(crystal, element)
    advice = (
        f"Leave `basis` out for one that fits, {fitting!r}."
        if potential is None or fitting is not None
        else _name_one(potential)
    )
    raise ValueError(
        f"`basis` {name!r} of {element} was made for {made_for} core electrons, but "
        f"{stands}. {advice}"
    )


def _core_of_basis(name: str, element: str) -> int | None:
    """For how many core electrons a basis was made, by the potential that PySCF has
    beside it: 0 if there is none. `None` for one that PySCF does not have at all."""
    from pyscf.gto import basis

    short = plain(name)
    if short not in basis.ALIAS and short not in basis.GTH_ALIAS:
        return None
    if short in basis.GTH_ALIAS:
        return _core_of_gth(element)
    # `ccecp-cc-pvdz` belongs to `ccecp`, `ccecp-he-aug-cc-pvtz` to `ccecp-he`,
    # `bfd-vdz` to `bfd`, and `aug-cc-pvdz-pp` to `cc-pvdz-pp`.
    families = [key for key in basis.ALIAS if key.startswith(("ccecp", "bfd"))]
    families = sorted(filter(short.startswith, families), key=len, reverse=True)
    for family in (short, short.removeprefix("aug"), *families):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found: Any = basis.load_ecp(family, element)
            except Exception:
                continue
        if found:
            return int(found[0])
    return 0


def _core_of_gth(element: str) -> int | None:
    from pyscf.data.elements import charge
    from pyscf.pbc.gto import pseudo

    try:
        found: Any = pseudo.load("gth-pade", element)
    except Exception:
        return None
    return charge(element) - sum(found[0])

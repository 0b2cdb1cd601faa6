"""Which Gaussian basis an element gets, and whether it fits its pseudopotential."""

import warnings
from typing import Any

from .._crystal import Crystal


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
    potential = crystal.pseudopotential.get(element)
    if potential is None:
        return _ALL_ELECTRON
    # Of a potential without a name nothing is known.
    for name in (
        ()
        if potential.name is None
        else (
            f"{potential.name}-{_ALL_ELECTRON}",
            potential.name,
        )
    ):
        if _has_functions(name, element):
            return name
    raise ValueError(
        f"`basis` must be given: PySCF has none that belongs to the pseudopotential "
        f"of {element}, {potential!r}. Name one for each element that was made for "
        f"{potential.core} core electrons, such as 'ccecp-cc-pvdz' for 'ccecp'."
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
    raise ValueError(
        f"`basis` {name!r} of {element} was made for {made_for} core electrons, but "
        f"{stands}. Leave `basis` out for one that fits, "
        f"{_default(crystal, element)!r}."
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
    # `ccecp-cc-pvdz` belongs to `ccecp`, `ccecp-he-aug-cc-pvtz` to `ccecp-he`.
    families = sorted((key for key in basis.ALIAS if key.startswith("ccecp")), key=len)
    for family in (short, *families[::-1]):
        if not short.startswith(family):
            continue
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

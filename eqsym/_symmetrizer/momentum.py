"""Translations of a wave function, and whether a group can act on it."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float, Inexact, Int

from .._crystal import Crystal
from .._group import character_table, pure_translations, SpaceGroup
from .._wavefunction import AbstractWavefunction


# Phases that differ by less are the same.
_PHASE = 1e-5


def keeps_momentum(group: SpaceGroup, momentum: Float[np.ndarray, "3"]) -> bool:
    """Whether all operations take a momentum, in inverse Bohr, to itself modulo
    primitive reciprocal vectors."""
    change = momentum @ group.cart_rotations - momentum
    phases = _phases(change @ group.crystal.lattice.vectors.T)
    return bool(np.all(np.abs(phases - 1) < _PHASE))


def lacks_translations(group: SpaceGroup) -> bool:
    """Whether it is a group modulo the supercell without all primitive translations
    inside: weights of images need not have the translations of the crystal then."""
    return group.modulo_supercell and len(_translations(group)[0]) < group.crystal.cells


def check_projection(
    wavefunction: AbstractWavefunction,
    group: SpaceGroup,
    characters: Inexact[np.ndarray, " ops"] | None,
) -> None:
    """Raises if the operations do not act on the wave function as the group that
    they are, or its projection onto the irrep is zero everywhere; see
    [`eqsym.Symmetrized`][]. The crystals must be the same.

    **Arguments:**

    - `wavefunction`: the wave function f.
    - `group`: the group.
    - `characters`: of the irrep; `None` for sums that do not project; these are not
        checked.
    """
    if characters is None:
        return
    crystal, momentum = wavefunction.crystal, wavefunction.crystal_momentum
    products = _products(group)
    phases = _translation_phases(wavefunction, products.translations)
    if np.any(bad := np.isnan(phases)):
        raise ValueError(
            f"`symmetrizer`: {_product(group, products, bad)}, which is not a vector "
            "of the supercell, and `wavefunction` does not tell its phase under such a "
            "translation: its `crystal_momentum` is None. Use the group of "
            "`SpaceGroup.with_translations`, which is closed modulo vectors of the "
            "supercell, or a wave function with a crystal momentum."
        )
    if np.any(bad := np.abs(phases - 1) > _PHASE):
        phase = np.angle(phases[bad][0]) / np.pi
        raise ValueError(
            f"`symmetrizer`: {_product(group, products, bad)}, a translation that "
            f"multiplies `wavefunction` by exp({phase:.4g} i pi), "
            f"{_momentum(crystal, momentum)}. So the operations do not multiply on it "
            "as they do in the group, and a sum over them projects onto nothing. Use a "
            "wave function of another total crystal momentum (0, say) or twist, fewer "
            "operations (`SpaceGroup.point_part` has some that fix a point, and "
            "multiply without translations), or, for a translation that is not a "
            "vector of the supercell, `IrrepProjection` with the group of "
            "`SpaceGroup.with_translations`."
        )
    where, translations = _translations(group)
    phases = _translation_phases(wavefunction, translations)
    known = ~np.isnan(phases)
    if not np.all(known):
        return
    if abs(np.mean(characters[where] * np.conj(phases))) > _PHASE:
        return
    fitting = [
        irrep.label
        for irrep in character_table(group).irreps
        if abs(np.mean(irrep.characters[where] * np.conj(phases))) > _PHASE
    ]
    worst = int(np.argmax(np.abs(phases - 1)))
    raise ValueError(
        "`symmetrizer`: the symmetrized wave function would be zero everywhere. The "
        f"group contains translations such as {translations[worst].tolist()} (in "
        "primitive lattice vectors), under which `wavefunction`, "
        f"{_momentum(crystal, momentum)}, behaves unlike the representation asked for. "
        "Use a group modulo primitive translations, as of `SpaceGroup.of`, or "
        f"`IrrepProjection` onto one of {', '.join(fitting)}."
    )


def check_orbitals(
    group: SpaceGroup,
    characters: Inexact[np.ndarray, " ops"],
    kpoints: Float[np.ndarray, "orbitals 3"],
) -> None:
    """Raises if the operations do not act on Bloch orbitals as the group that they
    are, or projections of these onto the irrep are zero.

    **Arguments:**

    - `group`: the group.
    - `characters`: of the irrep.
    - `kpoints`: of the orbitals, in inverse Bohr.
    """
    lattice, products = group.crystal.lattice, _products(group)
    where, inside = _translations(group)
    for k in kpoints:
        name = f"orbitals at the k-point {_in_reciprocal_vectors(group.crystal, k)}"
        phases = _phases(-products.translations @ lattice.vectors @ k)
        if np.any(bad := np.abs(phases - 1) > _PHASE):
            raise ValueError(
                f"`symmetrizer`: {_product(group, products, bad)}, a translation that "
                f"multiplies {name} by exp({np.angle(phases[bad][0]) / np.pi:.4g} i "
                "pi). So averages of these orbitals do not have the symmetry of the "
                "group. Average the wave function instead, with `GroupAverage` alone, "
                "or take fewer operations."
            )
        phases = _phases(-inside @ lattice.vectors @ k)
        if abs(np.mean(characters[where] * np.conj(phases))) < _PHASE:
            raise ValueError(
                "`symmetrizer`: the group contains lattice translations, over which "
                f"the averages of {name} are zero. Use a group modulo primitive "
                "translations, as of `SpaceGroup.of`."
            )


class _TranslationProducts(NamedTuple):
    """The translations by which products of operations differ from operations,
    `g_i g_j = g_k t`, each once: integer multiples of the primitive vectors, with i, j
    of one such product."""

    translations: Int[np.ndarray, "products 3"]
    factors: Int[np.ndarray, "products 2"]


@functools.lru_cache(maxsize=64)
def _products(group: SpaceGroup) -> _TranslationProducts:
    table = group.multiplication_table
    inverses = np.round(np.linalg.inv(group.frac_rotations)).astype(int)
    # Before the operation instead of after it: that is where the momentum is known.
    first = np.einsum("ijkl,ijl->ijk", inverses[table], group.product_translations)
    found, where = np.unique(first.reshape(-1, 3), axis=0, return_index=True)
    return _TranslationProducts(found, np.stack(np.divmod(where, len(table)), axis=1))


def _translations(
    group: SpaceGroup,
) -> tuple[Int[np.ndarray, " some"], Int[np.ndarray, "some 3"]]:
    """The operations that are translations by primitive lattice vectors, and these as
    integers."""
    shifts = group.frac_translations
    integer = np.round(shifts)
    near = np.linalg.norm(
        group.crystal.lattice.to_cartesian(shifts - integer), axis=1
    ) < (group.tolerance)
    where = np.flatnonzero(pure_translations(group.frac_rotations) & near)
    return where, integer[where].astype(int)


def _translation_phases(
    wavefunction: AbstractWavefunction, translations: Int[np.ndarray, "some 3"]
) -> Complex[np.ndarray, " some"]:
    """`U_t f / f` for translations of all electrons by multiples of the primitive
    vectors; nan if that is not known."""
    crystal, momentum = wavefunction.crystal, wavefunction.crystal_momentum
    if momentum is not None:
        return _phases(-translations @ crystal.lattice.vectors @ momentum)
    inside = translations @ np.linalg.inv(crystal.matrix)
    angles = -2 * np.pi * sum(crystal.electrons) * np.round(inside) @ crystal.twist
    is_inside = np.all(np.abs(inside - np.round(inside)) < 1e-6, axis=1)
    return np.where(is_inside, _phases(angles), np.nan)


def _phases(angles: Float[np.ndarray, "*batch"]) -> Complex[np.ndarray, "*batch"]:
    return np.exp(1j * angles)


def _product(
    group: SpaceGroup,
    products: _TranslationProducts,
    bad: Bool[np.ndarray, " products"],
) -> str:
    worst = int(np.flatnonzero(bad)[0])
    i, j = products.factors[worst]
    k = group.multiplication_table[i, j]
    return (
        f"the product of the operations {i} and {j} is operation {k} after the "
        f"translation {products.translations[worst].tolist()} (in primitive lattice "
        "vectors)"
    )


def _momentum(crystal: Crystal, momentum: Float[np.ndarray, "3"] | None) -> str:
    if momentum is None:
        return f"whose twist is {crystal.twist.tolist()}"
    return f"whose crystal momentum is {_in_reciprocal_vectors(crystal, momentum)}"


def _in_reciprocal_vectors(crystal: Crystal, momentum: Float[np.ndarray, "3"]) -> str:
    frac = momentum @ crystal.lattice.vectors.T / (2 * np.pi)
    frac = np.round(frac - np.round(frac), 6) + 0
    return f"{frac.tolist()} (in primitive reciprocal vectors)"

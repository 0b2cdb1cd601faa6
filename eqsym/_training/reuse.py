"""A trained network as the start for another crystal."""

from collections import Counter
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Int

from .._core import checked, Electrons, full_precision, Key, precise_matmul, random_key
from .._crystal import Crystal, is_whole
from .._mean_field import has_real_orbitals, MeanField
from .._wavefunction import (
    AbstractBlochNetwork,
    AbstractFactor,
    AbstractWavefunction,
    BlochOrbitals,
    check_derived,
    compact_lattice,
    initial_walkers,
    Linear,
    Orbitals,
    shortest_kpoints,
    without_factor,
)


# Configurations for phases of orbitals.
_SAMPLES = 64
# Differences of k-points, in inverse Bohr.
_SAME = 1e-6


@checked
def transfer(
    wavefunction: AbstractWavefunction,
    crystal: Crystal,
    mean_field: MeanField,
    *,
    key: Key,
) -> AbstractWavefunction:
    """A trained network as the start for another supercell, twist or lattice constant:
    a far better one than a fit to a mean field, since features of electrons and of
    their pairs do not know how many of them there are.

    Kept are

    - all settings, also that a network is complex if it need not be;
    - all parameters outside of [`eqsym.BlochOrbitals`][]: of a [`eqsym.SolidNet`][] or
        [`eqsym.AttentionNet`][] the layers, of a [`eqsym.Jastrow`][] the ranges;
    - of the orbitals, coefficients and envelopes. An orbital of the new crystal gets
        those of the old orbital that is as far up among the orbitals of its spin at the
        nearest k-point, modulo reciprocal vectors, and Bloch phases of its own. One
        for which there is none starts anew. If the new function is real, an orbital is
        multiplied by the phase with which most of it is left in its real part.

    A fit of the new orbitals to the mean field would make them forget more than it
    helps, so the mean field only tells which k-points are occupied. Train the network
    without pretraining.

    Gerard, Scherbela, Sutterud, Foulkes, Grohs, arXiv 2405.07599 (2024), transfer
    networks between supercells, twists and geometries, with orbitals made from a mean
    field.

    **Arguments:**

    - `wavefunction`: a trained [`eqsym.AbstractBlochNetwork`][], or a
        [`eqsym.Jastrow`][] with one inside.
    - `crystal`: the new one, with the nuclei of the primitive cell in the same order.
    - `mean_field`: of the new crystal.
    - `key`: seeds orbitals that start anew.

    **Returns:**

    The network for the new crystal.

    **Raises:** `ValueError` for a wave function that is not such a network or has a
    single electron, for a crystal with other nuclei, for a mean field of another one,
    if only one of the crystals has electrons of both spins, and if the network is too
    narrow for the new one.
    """
    check_derived(wavefunction)
    network = without_factor(wavefunction)
    if not isinstance(network, AbstractBlochNetwork):
        raise ValueError(
            "`wavefunction` must be a network with Bloch orbitals, such as `SolidNet` "
            "(an `AbstractBlochNetwork`), which are made anew, got the wave function "
            f"`{type(network).__name__}`."
        )
    _check_crystals(network.crystal, crystal, mean_field)
    first, place = jax.random.split(random_key(key))
    old = network.bloch
    # Complex although it need not be: then so is the new one.
    kpoints = old.occupation.cart_kpoints
    chosen = not old.real and has_real_orbitals(network.crystal, kpoints)
    new = BlochOrbitals(
        crystal,
        mean_field.occupation,
        width=old.width,
        determinants=old.determinants,
        full_determinant=old.full_determinant,
        features=old.features,
        real=False if chosen else None,
        key=first,
    )
    sets, sources = [], [_sources(new, old, spin) for spin in (0, 1)]
    for spin, (fresh, source) in enumerate(zip(new.orbital_sets, sources, strict=True)):
        trained = old.orbital_sets[spin]
        if fresh is not None and trained is not None:
            if fresh.imaginary_part is None and trained.imaginary_part is not None:
                zero = np.zeros_like(source.before)
                loose = ~source.at_zero
                trained = _turned(network, trained, spin, zero, loose, place)
            fresh = _filled(fresh, trained, source)
        sets.append(fresh)
    resized = _resized(network, sum(network.crystal.electrons), sum(crystal.electrons))
    moved = _with_sets(eqx.tree_at(lambda f: f.bloch, resized, new), sets)
    if moved.real:
        for spin, (orbitals, source) in enumerate(zip(sets, sources, strict=True)):
            if orbitals is not None and orbitals.imaginary_part is not None:
                k = moved.bloch.columns(spin).kpoints
                loose = ~source.keeps_real_part(k)
                sets[spin] = _turned(moved, orbitals, spin, k, loose, place)
        moved = _with_sets(moved, sets)
    return _inside(wavefunction, moved)


def _check_crystals(old: Crystal, new: Crystal, mean_field: MeanField) -> None:
    if old.species != new.species or old.pseudopotential != new.pseudopotential:
        raise ValueError(
            "`crystal` must have the nuclei of the network's one in its primitive "
            f"cell, {_nuclei(old)}, got {_nuclei(new)}."
        )
    different = new.difference(mean_field.crystal)
    if different is not None:
        raise ValueError(
            "`mean_field` must belong to `crystal`, but has another one: between them "
            f"{different}."
        )
    if [n > 0 for n in old.electrons] != [n > 0 for n in new.electrons]:
        raise ValueError(
            "`crystal` must have electrons of the same spins as the network's one, "
            f"{old.electrons}, got {new.electrons}."
        )
    if sum(old.electrons) < 2:
        raise ValueError(
            "`wavefunction` must be a network of more than one electron: one alone has "
            "learned nothing about pairs."
        )


def _nuclei(crystal: Crystal) -> str:
    potentials = ", ".join(map(repr, crystal.pseudopotential.values()))
    return " ".join(crystal.species) + (f" ({potentials})" if potentials else "")


def _resized(network: Any, old: int, new: int) -> Any:
    """With layers for another number of electrons: their weights do not know it."""
    rows = {1: 1, old: new, old**2: new**2}

    def is_linear(node: Any) -> bool:
        return isinstance(node, Linear)

    def resize(node: Any) -> Any:
        if not is_linear(node):
            return node
        # Those of the orbitals are made anew.
        return node.with_rows(rows.get(node.rows, node.rows))

    return jax.tree.map(resize, network, is_leaf=is_linear)


def _inside(wavefunction: AbstractWavefunction, network: AbstractWavefunction) -> Any:
    """The network in place of the old one, with the same factor."""
    if not isinstance(wavefunction, AbstractFactor):
        return network
    inner = _inside(wavefunction.wavefunction, network)
    return eqx.tree_at(lambda f: f.wavefunction, wavefunction, inner)


def _with_sets(network: Any, sets: list[Orbitals | None]) -> Any:
    return eqx.tree_at(
        lambda f: f.bloch.orbital_sets,
        network,
        tuple(sets),
        is_leaf=lambda node: node is None,
    )


def _turned(
    network: AbstractBlochNetwork,
    orbitals: Orbitals,
    spin: int,
    kpoints: Float[np.ndarray, "orbitals 3"],
    loose: Bool[np.ndarray, " orbitals"],
    key: Key,
) -> Orbitals:
    r"""Complex orbitals that will be replaced by their real parts, such as those with
    the Bloch phase of a k-point at the boundary, some of them times the phase with
    which these have the largest norm, $e^{-i \theta}$ with
    $2 \theta = \arg \int \phi^2$: or they may be zero at the nuclei that they surround.
    """
    crystal = network.crystal
    rows = slice(None, crystal.electrons[0])
    if spin == 1:
        rows = slice(crystal.electrons[0], None)

    @full_precision()
    def squares(electrons: Electrons) -> Inexact[Array, "determinants orbitals"]:
        near = network.bloch.near(electrons)
        h = network.last_features(electrons, near)
        angles = precise_matmul(electrons[rows], jnp.asarray(kpoints.T, h.dtype))
        found = orbitals(h[rows], near.distance[rows], angles, False, None)
        return jnp.sum(found**2, axis=1)

    walkers = initial_walkers(crystal, _SAMPLES, key=key)
    total = jnp.sum(jax.jit(jax.vmap(squares))(walkers), axis=0)
    angles = jnp.where(loose[None], jnp.angle(total) / 2, 0)
    cos, sin = (f(angles).reshape(-1, 1) for f in (jnp.cos, jnp.sin))
    parts = lambda f: (f.real_part.weight, f.imaginary_part.weight)
    re, im = parts(orbitals)
    cos, sin = cos.astype(re.dtype), sin.astype(re.dtype)
    return eqx.tree_at(parts, orbitals, (cos * re + sin * im, cos * im - sin * re))


class _Sources(NamedTuple):
    """Where the orbitals of the new matrix come from.

    - `numbers`: of the old orbitals, or -1.
    - `conjugate`: whether they are conjugated first.
    - `kpoints`: of what they are then, in inverse Bohr.
    - `before`: the k-points of all old orbitals, in inverse Bohr.
    - `real`: whether the real parts of these are what was trained.
    """

    numbers: Int[np.ndarray, " orbitals"]
    conjugate: Bool[np.ndarray, " orbitals"]
    kpoints: Float[np.ndarray, "orbitals 3"]
    before: Float[np.ndarray, "old 3"]
    real: bool

    def keeps_real_part(
        self, kpoints: Float[np.ndarray, "orbitals 3"]
    ) -> Bool[np.ndarray, " orbitals"]:
        """Whether the real parts are right at the new k-points."""
        return self.real & _alike(kpoints, self.kpoints)

    @property
    def at_zero(self) -> Bool[np.ndarray, " old"]:
        """Of which old orbitals only the real coefficients were trained."""
        return self.real & _alike(self.before, np.zeros(3))


def _alike(
    some: Float[np.ndarray, "kpoints 3"], others: Float[np.ndarray, "*kpoints 3"]
) -> Bool[np.ndarray, " kpoints"]:
    return np.all(np.abs(some - others) < _SAME, axis=1)


def _sources(new: BlochOrbitals, old: BlochOrbitals, spin: int) -> _Sources:
    here, there = new.columns(spin), old.columns(spin)
    lattice = compact_lattice(new.crystal.lattice)
    # In units of the reciprocal vectors, which may be of different lengths.
    k, before = (
        one.kpoints @ compact_lattice(crystal.lattice).vectors.T / (2 * np.pi)
        for one, crystal in ((here, new.crystal), (there, old.crystal))
    )
    # Of a real function, one orbital stands for two at k and -k.
    count = len(before)
    parts = np.arange(0) if there.parts is None else there.parts
    pairs = parts[parts >= count] - count
    numbers = np.concatenate([np.arange(count), pairs])
    conjugate = np.arange(len(numbers)) >= count
    spins = there.spins[numbers]
    places = np.where(conjugate[:, None], -1, 1) * before[numbers]
    steps = ((k[:, None] - places[None]) @ lattice.reciprocal).reshape(-1, 3)
    lengths = np.linalg.norm(shortest_kpoints(lattice, steps), axis=1)
    distances = np.round(lengths.reshape(len(k), len(places)), 6)
    found, used = [], Counter()
    for k_spin, row, place in zip(here.spins, distances, k, strict=True):
        own = np.flatnonzero(spins == k_spin)
        nearest = own[row[own] == np.min(row[own])]
        # Of several that are as near, those at one k-point.
        nearest = nearest[is_whole(places[nearest] - places[nearest[0]])]
        level = used[k_spin, *np.round(place, 6)]
        used[k_spin, *np.round(place, 6)] += 1
        found.append(nearest[level] if level < len(nearest) else -1)
    chosen = np.array(found, int)
    return _Sources(
        np.where(chosen < 0, -1, numbers[chosen]),
        conjugate[chosen],
        places[chosen] @ lattice.reciprocal,
        before @ lattice.reciprocal,
        old.real,
    )


def _filled(fresh: Orbitals, trained: Orbitals, source: _Sources) -> Orbitals:
    known = np.flatnonzero(source.numbers >= 0)

    def taken(new: Array, old: Array, signs: int | np.ndarray = 1) -> Array:
        # Determinant, orbital, and what belongs to it.
        rows = old.reshape(fresh.determinants, -1, old.shape[1])
        rows = rows[:, source.numbers[known]] * jnp.asarray(signs, old.dtype)
        whole = new.reshape(fresh.determinants, -1, new.shape[1])
        return whole.at[:, known].set(rows).reshape(new.shape)

    def arrays(orbitals: Orbitals) -> list[Any]:
        return [orbitals.real_part.weight, orbitals.weights, orbitals.exponents]

    made = [taken(*pair) for pair in zip(arrays(fresh), arrays(trained), strict=True)]
    filled = eqx.tree_at(arrays, fresh, made)
    if fresh.imaginary_part is None:
        return filled
    imaginary = jnp.zeros_like(trained.real_part.weight)
    if trained.imaginary_part is not None:
        imaginary = trained.imaginary_part.weight
    # What has no part in a real function at k = 0 was not trained.
    used = ~source.at_zero[source.numbers[known]]
    signs = np.where(source.conjugate[known], -1, 1) * used
    weight = taken(fresh.imaginary_part.weight, imaginary, signs[None, :, None])
    return eqx.tree_at(lambda f: f.imaginary_part.weight, filled, weight)

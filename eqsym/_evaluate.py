"""Energies of wave functions, sampled directly or on the orbits of a group."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Int
from tqdm import tqdm

from ._ansatz import AbstractWavefunction
from ._estimate import Estimate, Evaluation, jackknife, table
from ._group import SpaceGroup
from ._hamiltonian import AbstractHamiltonian, LocalEnergy
from ._math import chunked_vmap
from ._momentum import check_projection
from ._sampler import AbstractSampler, Metropolis
from ._symmetrize import AbstractSymmetrizer, symmetry_ratio
from ._types import Electrons, Key, LogPsi, Walkers


def evaluate(
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    *,
    walkers: Walkers,
    key: Key,
    steps: int = 100,
    burn_in: int = 20,
    sampler: AbstractSampler | None = None,
    symmetrizer: AbstractSymmetrizer | None = None,
    chunk: int | None = None,
    progress: bool | None = None,
) -> Evaluation:
    r"""Samples $|\psi|^2$ and averages the local energy.

    Works for every wave function, a symmetrized one included, at the price of one
    amplitude and one local energy of it per move and sample. For a function averaged
    after training, [`eqsym.post_hoc`][] is far cheaper.

    **Arguments:**

    - `wavefunction`: the wave function.
    - `hamiltonian`: of the same crystal.
    - `walkers`: where the chains start, in Bohr, (walkers, electrons, 3). Every walker
        is an independent chain; error bars come from their scatter.
    - `key`: seeds the chains.
    - `steps`: samples of every walker.
    - `burn_in`: sampler steps before the first sample.
    - `sampler`: [`eqsym.Metropolis`][] with 20 moves by default.
    - `symmetrizer`: the projector P of the symmetry measure Var[Pf/f], if wanted.
    - `chunk`: walkers evaluated at a time, all by default.
    - `progress`: whether to show a progress bar; by default on terminals only.

    **Returns:**

    Energies per primitive cell with error bars, [`eqsym.Evaluation`][].

    **Raises:** `ValueError` for less than one step or two walkers, walkers of the wrong
    shape, or a Hamiltonian or group of another crystal; `FloatingPointError` where
    the local energy of a walker is never finite.
    """

    def sample(
        electrons: Electrons, key: Key, reference: LocalEnergy
    ) -> Inexact[Array, " moments"]:
        del key
        energy = _excess(hamiltonian.local_energy(wavefunction, electrons), reference)
        square = jnp.abs(energy.total) ** 2
        if symmetrizer is None:
            ratio = jnp.ones_like(energy.kinetic)
        else:
            ratio = symmetry_ratio(wavefunction, symmetrizer, electrons)
        return _stack(
            energy.kinetic, energy.potential, square, ratio, jnp.abs(ratio) ** 2
        )

    moments, reference, counts = _sampled(
        sample,
        wavefunction,
        hamiltonian,
        walkers,
        key=key,
        steps=steps,
        burn_in=burn_in,
        sampler=sampler,
        chunk=chunk,
        progress=progress,
    )

    cells = wavefunction.crystal.cells

    def results(means: np.ndarray) -> np.ndarray:
        kinetic, potential, square, ratio, ratio_square = np.moveaxis(means, -1, 0)
        variance = square.real - np.abs(kinetic + potential) ** 2
        kinetic, potential = (
            kinetic + reference.kinetic,
            potential + reference.potential,
        )
        symmetry = ratio_square.real - np.abs(ratio) ** 2
        return np.stack(
            [*_per_cell(kinetic, potential, variance, cells), symmetry], axis=-1
        )

    *parts, symmetry = jackknife(moments, results)
    measured = None if symmetrizer is None else symmetry
    return _evaluation(parts, measured, counts, steps)


class PostHoc(eqx.Module):
    """A trained wave function f before and after averaging over a group, from the same
    walkers.

    - `plain`: f as trained ("OG").
    - `averaged`: P f ("PA").
    - `difference`: energy of `averaged` minus energy of `plain`, in Hartree per
        primitive cell, with the error of the paired difference, much smaller than
        either energy's.
    - `weight`: $|Pf|^2 / |f|^2$, the share of f that is symmetric.
    """

    plain: Evaluation
    averaged: Evaluation
    difference: Estimate
    weight: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Numbers only, for JSON."""
        return {
            "plain": self.plain.to_dict(),
            "averaged": self.averaged.to_dict(),
            "difference": vars(self.difference),
            "weight": vars(self.weight),
        }

    def __str__(self) -> str:
        return (
            f"{table({'OG': self.plain, 'PA': self.averaged})}\n"
            f"PA - OG = {self.difference} Ha per cell, from the same "
            f"{self.plain.samples} samples\n"
            f"symmetric weight |Pf|^2/|f|^2 = {self.weight}"
        )


def post_hoc(
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    group: SpaceGroup,
    *,
    walkers: Walkers,
    key: Key,
    steps: int = 100,
    burn_in: int = 20,
    images: int = 4,
    sampler: AbstractSampler | None = None,
    chunk: int | None = None,
    progress: bool | None = None,
) -> PostHoc:
    r"""What averaging over a group after training does, from walkers of the plain
    wave function.

    A walker x of $|f|^2$ moved to a random point of its orbit has density proportional
    to $p = |G|^{-1} \sum_g |f(g^{-1}x)|^2$, which is the same all over the orbit. With
    $F = (Pf)(x)$, and because H commutes with the projector P,

    $$E_{PA} = \frac{E[\overline{F} \, (H f)(y) / p]}{E[|F|^2 / p]}, \quad
    E_{OG} = E[|f(y)|^2 E_L(y) / p]$$

    for images y drawn from the orbit: |G| amplitudes per walker and one local energy
    per image, without a new Markov chain. All weights are bounded. Images are drawn
    half uniformly, half by $|f|^2$, and reweighted, which serves both rows.

    The local-energy variance of $Pf$ comes from products of different images. As P is
    a projector, Var[Pf/f] is $w (1 - w)$ with the weight $w = |Pf|^2/|f|^2$.

    **Arguments:**

    - `wavefunction`: the trained wave function f.
    - `hamiltonian`: of the same crystal.
    - `group`: the group to average over.
    - `walkers`: where the chains start, in Bohr, (walkers, electrons, 3): the walkers
        that training left.
    - `key`: seeds the chains and the images.
    - `steps`, `burn_in`, `sampler`, `progress`: as for [`eqsym.evaluate`][].
    - `images`: images per sample whose local energy is evaluated, at least 2; with the
        order of the group or more, every image once.
    - `chunk`: walkers evaluated at a time, all by default.

    **Returns:**

    Both rows and their difference, [`eqsym.PostHoc`][].

    **Raises:** as [`eqsym.evaluate`][] does, and `ValueError` for fewer than 2 images
    and where the average is no projection of f, see [`eqsym.Symmetrized`][].
    """
    group.check_crystal(wavefunction.crystal)
    check_projection(wavefunction, group, np.ones(group.order))
    if images < 2:
        raise ValueError(
            f"`images` must be at least 2, because the variance needs pairs of images, "
            f"got {images}."
        )
    draw = _every_image if images >= group.order else _draw_images

    def sample(
        electrons: Electrons, key: Key, reference: LocalEnergy
    ) -> Inexact[Array, " moments"]:
        orbit = group.apply_inverse(electrons)
        f, density = _normalised(jax.vmap(wavefunction)(orbit))
        average = jnp.mean(f)
        chosen, weights = draw(jnp.abs(f) ** 2, images, key)
        energies = jax.vmap(
            lambda operation: hamiltonian.local_energy(wavefunction, orbit[operation])
        )(chosen)
        excess = _excess(energies, reference)
        amplitudes, weights = f[chosen], weights.astype(f.dtype)
        kinetic, potential = excess.kinetic, excess.potential.astype(f.dtype)

        def mean(values: Inexact[Array, " images"]) -> Inexact[Array, ""]:
            return jnp.mean(weights * values)

        # (H - reference) f, whose average over the orbit is that of H P f.
        applied = weights * amplitudes * excess.total
        if images < group.order:
            square = _mean_over_pairs(applied)
        else:
            square = jnp.abs(jnp.mean(applied)) ** 2
        bra = jnp.conj(average)
        densities = amplitudes * jnp.conj(amplitudes)
        values = _stack(
            mean(densities * kinetic),
            mean(densities * potential),
            mean(densities * excess.total * jnp.conj(excess.total)),
            bra * mean(amplitudes * kinetic),
            bra * mean(amplitudes * potential),
            square,
            bra * average,
        )
        return values / density.astype(values.dtype)

    moments, reference, counts = _sampled(
        sample,
        wavefunction,
        hamiltonian,
        walkers,
        key=key,
        steps=steps,
        burn_in=burn_in,
        sampler=sampler,
        chunk=chunk,
        progress=progress,
    )

    cells = wavefunction.crystal.cells

    def results(means: np.ndarray) -> np.ndarray:
        t, v, square, pt, pv, p_square, weight = np.moveaxis(means, -1, 0)
        weight = weight.real
        pt, pv, p_square = pt / weight, pv / weight, p_square.real / weight
        variance = square.real - np.abs(t + v) ** 2
        p_variance = p_square - np.abs(pt + pv) ** 2
        t, pt = t + reference.kinetic, pt + reference.kinetic
        v, pv = v + reference.potential, pv + reference.potential
        plain = _per_cell(t, v, variance, cells)
        averaged = _per_cell(pt, pv, p_variance, cells)
        others = weight * (1 - weight), averaged[0] - plain[0], weight
        return np.stack([*plain, *averaged, *others], axis=-1)

    found = jackknife(moments, results)
    return PostHoc(
        plain=_evaluation(found[:5], found[10], counts, steps),
        averaged=_evaluation(found[5:10], Estimate(0.0, 0.0), counts, steps),
        difference=found[11],
        weight=found[12],
    )


def _per_cell(
    kinetic: np.ndarray, potential: np.ndarray, variance: np.ndarray, cells: int
) -> list[np.ndarray]:
    """Energy, variance, kinetic, potential and imaginary part per primitive cell."""
    energy = (kinetic + potential) / cells
    parts = [np.real(kinetic) / cells, np.real(potential) / cells]
    return [np.real(energy), variance / cells**2, *parts, np.imag(energy)]


def _evaluation(
    parts: list[Estimate],
    symmetry: Estimate | None,
    counts: Int[np.ndarray, " walkers"],
    steps: int,
) -> Evaluation:
    """From estimates in the order of `_per_cell`, and the samples of each walker that
    were finite out of `steps`."""
    energy, variance, kinetic, potential, imaginary = parts
    return Evaluation(
        energy=energy,
        variance=variance,
        kinetic=kinetic,
        potential=potential,
        imaginary=imaginary,
        symmetry=symmetry,
        samples=int(counts.sum()),
        invalid=steps * len(counts) - int(counts.sum()),
    )


def _normalised(
    amplitudes: LogPsi,
) -> tuple[Inexact[Array, " images"], Float[Array, ""]]:
    """Amplitudes over their largest, and their mean square."""
    largest = jnp.max(amplitudes.log)
    size = jnp.exp(amplitudes.log - largest)
    return amplitudes.sign * size.astype(amplitudes.sign.dtype), jnp.mean(size**2)


def _draw_images(
    densities: Float[Array, " order"], images: int, key: Key
) -> tuple[Int[Array, " images"], Float[Array, " images"]]:
    """Independent draws, and weights that make a weighted mean over them the mean over
    all images."""
    order = densities.shape[0]
    probabilities = 0.5 / order + 0.5 * densities / jnp.sum(densities)
    chosen = jax.random.choice(key, order, (images,), p=probabilities)
    return chosen, 1 / (order * probabilities[chosen])


def _every_image(
    densities: Float[Array, " order"], images: int, key: Key
) -> tuple[Int[Array, " order"], Float[Array, " order"]]:
    del images, key
    return jnp.arange(densities.shape[0]), jnp.ones_like(densities)


def _mean_over_pairs(values: Inexact[Array, " images"]) -> Float[Array, ""]:
    """The mean of `conj(v_i) v_j` over i != j: |mean|^2 without the bias of i = j."""
    n = values.shape[0]
    return (jnp.abs(jnp.sum(values)) ** 2 - jnp.sum(jnp.abs(values) ** 2)) / (
        n * (n - 1)
    )


def _stack(*values: Inexact[Array, ""]) -> Inexact[Array, " moments"]:
    dtype = next((v.dtype for v in values if jnp.iscomplexobj(v)), values[0].dtype)
    return jnp.stack([v.astype(dtype) for v in values])


class _Samples(NamedTuple):
    """Means over the chain of every walker, (walkers, moments); the reference energies,
    those of the walkers after the burn-in; samples of every walker that were finite."""

    moments: Complex[np.ndarray, "walkers moments"]
    reference: LocalEnergy
    counts: Int[np.ndarray, " walkers"]


def _excess(energy: LocalEnergy, reference: LocalEnergy) -> LocalEnergy:
    """Energies over a fixed reference: what fluctuates, without what does not."""
    return LocalEnergy(
        energy.kinetic - reference.kinetic.astype(energy.kinetic.dtype),
        energy.potential - reference.potential,
    )


def _sampled(
    sample: Callable[[Electrons, Key, LocalEnergy], Inexact[Array, " moments"]],
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    walkers: Walkers,
    *,
    key: Key,
    steps: int,
    burn_in: int,
    sampler: AbstractSampler | None,
    chunk: int | None,
    progress: bool | None,
) -> "_Samples":
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}.")
    if wavefunction.crystal != hamiltonian.crystal:
        raise ValueError(
            "`wavefunction` and `hamiltonian` must have the same crystal, got "
            f"{wavefunction.crystal} and {hamiltonian.crystal}."
        )
    sampler = Metropolis() if sampler is None else sampler
    chain, draws = jax.random.split(key)
    state = sampler.init(wavefunction, walkers, key=chain)
    advance = eqx.filter_jit(sampler.step)

    @eqx.filter_jit
    def typical(walkers):
        found = chunked_vmap(
            lambda electrons: hamiltonian.local_energy(wavefunction, electrons),
            walkers,
            chunk,
        )
        return LocalEnergy(jnp.mean(found.kinetic.real), jnp.mean(found.potential))

    @eqx.filter_jit
    def measure(walkers, key, reference):
        keys = jax.random.split(key, walkers.shape[0])
        return chunked_vmap(
            lambda pair: sample(pair[0], pair[1], reference), (walkers, keys), chunk
        )

    counts = np.zeros(len(walkers), int)
    total = np.zeros((), np.complex128)
    bar = tqdm(
        desc="Evaluating",
        total=burn_in + steps,
        disable=None if progress is None else not progress,
    )
    with bar:
        for _ in range(burn_in):
            state = advance(wavefunction, state)
            bar.update()
        reference = typical(state.walkers)
        for i in range(steps):
            state = advance(wavefunction, state)
            values = np.asarray(
                measure(state.walkers, jax.random.fold_in(draws, i), reference)
            )
            valid = np.all(np.isfinite(values), axis=1)
            counts += valid
            total = total + np.where(valid[:, None], values, 0)
            bar.update()
    if not np.all(counts):
        raise FloatingPointError(
            f"The local energy of {int(np.sum(counts == 0))} of {len(counts)} walkers "
            "was not finite at any step of the evaluation."
        )
    reference = jax.tree.map(np.float64, reference)
    return _Samples(total / counts[:, None], reference, counts)

"""Energies of the symmetric parts of a wave function, from walkers of itself."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from ._ansatz import AbstractWavefunction
from ._chains import evaluation, excess, per_cell, sampled, stack
from ._estimate import Estimate, Evaluation, jackknife, table
from ._group import SpaceGroup
from ._hamiltonian import AbstractHamiltonian, LocalEnergy
from ._irreps import character_table
from ._momentum import check_projection
from ._sampler import AbstractSampler
from ._types import Electrons, Key, LogPsi, Walkers


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
        above = excess(energies, reference)
        amplitudes, weights = f[chosen], weights.astype(f.dtype)
        kinetic, potential = above.kinetic, above.potential.astype(f.dtype)

        def mean(values: Inexact[Array, " images"]) -> Inexact[Array, ""]:
            return jnp.mean(weights * values)

        # (H - reference) f, whose average over the orbit is that of H P f.
        applied = weights * amplitudes * above.total
        if images < group.order:
            square = _mean_over_pairs(applied)
        else:
            square = jnp.abs(jnp.mean(applied)) ** 2
        bra = jnp.conj(average)
        densities = amplitudes * jnp.conj(amplitudes)
        values = stack(
            mean(densities * kinetic),
            mean(densities * potential),
            mean(densities * above.total * jnp.conj(above.total)),
            bra * mean(amplitudes * kinetic),
            bra * mean(amplitudes * potential),
            square,
            bra * average,
        )
        return values / density.astype(values.dtype)

    moments, reference, counts = sampled(
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
        plain = per_cell(t, v, variance, cells)
        averaged = per_cell(pt, pv, p_variance, cells)
        others = weight * (1 - weight), averaged[0] - plain[0], weight
        return np.stack([*plain, *averaged, *others], axis=-1)

    found = jackknife(moments, results)
    return PostHoc(
        plain=evaluation(found[:5], found[10], counts, steps),
        averaged=evaluation(found[5:10], Estimate(0.0, 0.0), counts, steps),
        difference=found[11],
        weight=found[12],
    )


class Sector(eqx.Module):
    r"""The part $P_\rho f$ of a wave function f that belongs to one irreducible
    representation.

    - `label`, `dimension`: of the irrep.
    - `weight`: its share $|P_\rho f|^2 / |f|^2$; the shares add up to 1.
    - `energy`: in Hartree per primitive cell; `None` where the weight is not positive
        by three standard errors.
    - `difference`: that energy minus the one of f, with the error of the paired
        difference.
    """

    label: str
    dimension: int
    weight: Estimate
    energy: Estimate | None
    difference: Estimate | None


class Sectors(eqx.Module):
    """A wave function taken apart by the irreps of a group, of [`eqsym.sectors`][].

    - `sectors`: one for each irrep, in the order of [`eqsym.irreps`][].
    - `energy`: of the whole wave function.
    - `samples`: number of configurations.
    - `invalid`: those left out, because an energy was not finite.
    """

    sectors: tuple[Sector, ...]
    energy: Estimate
    samples: int
    invalid: int

    def __getitem__(self, label: str) -> Sector:
        for sector in self.sectors:
            if sector.label == label:
                return sector
        names = ", ".join(sector.label for sector in self.sectors)
        raise KeyError(f"{label!r} is none of the sectors {names}.")

    def to_dict(self) -> dict[str, Any]:
        """Numbers only, for JSON."""
        rows = {
            sector.label: {
                name: vars(value) if isinstance(value, Estimate) else value
                for name, value in vars(sector).items()
                if name != "label"
            }
            for sector in self.sectors
        }
        return {
            "sectors": rows,
            "energy": vars(self.energy),
            "samples": self.samples,
            "invalid": self.invalid,
        }

    def __str__(self) -> str:
        head = ["", "d", "weight", "energy [Ha]", "minus OG [Ha]"]
        lines = [head, ["OG", "", "1", str(self.energy), ""]]
        for sector in self.sectors:
            values = (sector.weight, sector.energy, sector.difference)
            shown = ["-" if value is None else str(value) for value in values]
            lines.append([sector.label, str(sector.dimension), *shown])
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        return "\n".join(
            "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True))
            for line in lines
        )


# Standard errors by which a weight must be positive for its sector to have an energy.
_PRESENT = 3


def sectors(
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
) -> Sectors:
    r"""Weights and energies of the parts of a wave function in all irreducible
    representations of a group, in one pass over walkers of the wave function itself.

    As [`eqsym.post_hoc`][], which is about the trivial representation: with the
    projection $f_\rho = P_\rho f$, $p = |G|^{-1} \sum_g |f(g^{-1}x)|^2$ and images y
    of the walkers,

    $$\frac{|f_\rho|^2}{|f|^2} = E[|f_\rho(y)|^2 / p], \quad
    E_\rho = \frac{E[\overline{f_\rho(y)} (H f)(y) / p]}{E[|f_\rho(y)|^2 / p]} .$$

    The |G| amplitudes of an orbit give all projections at all of its points. The energy
    of a sector is an upper bound on the lowest level of that symmetry.

    **Arguments:** as for [`eqsym.post_hoc`][]; one image is enough here.

    **Returns:**

    A weight and, where there is one, an energy for each irrep, [`eqsym.Sectors`][].

    **Raises:** as [`eqsym.evaluate`][] does, and `ValueError` for less than one image,
    and where the operations do not act on f as a group, see [`eqsym.Symmetrized`][].
    """
    group.check_crystal(wavefunction.crystal)
    table = character_table(group)
    # Something is left of f in one irrep or another: the regular representation.
    regular = np.sum([i.dimension * i.characters for i in table.irreps], axis=0).real
    check_projection(wavefunction, group, regular)
    if images < 1:
        raise ValueError(f"`images` must be at least 1, got {images}.")
    draw = _every_image if images >= group.order else _draw_images
    # projectors[rho, m, n]: what the amplitude at image n adds to f_rho at image m.
    # As y_m = g_m^-1 x, the operation g takes it to the image of g_m g.
    quotients = group.multiplication_table[group.inverses]
    projectors = np.array(
        [
            i.dimension / group.order * i.characters.conj()[quotients]
            for i in table.irreps
        ]
    )

    def sample(
        electrons: Electrons, key: Key, reference: LocalEnergy
    ) -> Inexact[Array, " moments"]:
        orbit = group.apply_inverse(electrons)
        f, density = _normalised(jax.vmap(wavefunction)(orbit))
        if np.iscomplexobj(projectors):
            f = f.astype(np.result_type(f.dtype, np.complex64))
        parts = jnp.asarray(projectors, f.dtype) @ f
        chosen, weights = draw(jnp.abs(f) ** 2, images, key)
        energies = jax.vmap(
            lambda operation: hamiltonian.local_energy(wavefunction, orbit[operation])
        )(chosen)
        above = excess(energies, reference).total.astype(f.dtype)
        applied = weights.astype(f.dtype) * f[chosen] * above
        numerators = jnp.mean(jnp.conj(parts[:, chosen]) * applied[None], axis=1)
        shares = jnp.mean(jnp.abs(parts) ** 2, axis=1).astype(f.dtype)
        plain = jnp.mean(jnp.conj(f[chosen]) * applied)
        values = jnp.concatenate([plain[None], numerators, shares])
        return values / density.astype(values.dtype)

    moments, reference, counts = sampled(
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

    cells, count = wavefunction.crystal.cells, len(table.irreps)
    zero = float(reference.kinetic + reference.potential) / cells

    def results(means: np.ndarray) -> np.ndarray:
        plain, numerators, shares = np.split(np.real(means), [1, 1 + count], axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            energies = numerators / shares / cells
        plain = plain / cells
        return np.concatenate(
            [plain + zero, shares, energies + zero, energies - plain], axis=-1
        )

    energy, *found = jackknife(moments, results)
    shares, energies, differences = (found[i * count :][:count] for i in range(3))
    parts = []
    for irrep, share, *rest in zip(
        table.irreps, shares, energies, differences, strict=True
    ):
        present = share.mean > _PRESENT * share.error and share.mean > 1e-12
        values = rest if present else [None, None]
        parts.append(Sector(irrep.label, irrep.dimension, share, *values))
    invalid = steps * len(counts) - int(counts.sum())
    return Sectors(tuple(parts), energy, int(counts.sum()), invalid)


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

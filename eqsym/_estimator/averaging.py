"""Energies of the symmetric parts of a wave function, from walkers of itself."""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from .._core import Integer
from .._group import SpaceGroup
from .._hamiltonian import AbstractHamiltonian
from .._symmetrizer import check_projection
from .._wavefunction import AbstractWavefunction
from .arguments import check_kinds
from .chains import Chains
from .energies import evaluation, Parts, per_cell, Quantities, sampled
from .estimate import Estimate, is_present, jackknife
from .orbit import AbstractOrbitEstimate, OrbitSample, OrbitSampler
from .results import columns, Evaluation
from .tables import AbstractResult, Column, Table, with_unit


class PostHoc(AbstractResult):
    """A trained wave function f before and after averaging over a group, from the same
    walkers. It prints as a table, with the rows `plain` and `averaged`.

    - `plain`: f as trained.
    - `averaged`: P f; `None` if `weight` is not positive by three standard errors: then
        P f is zero as far as these samples can tell.
    - `difference`: energy of `averaged` minus energy of `plain`, in Hartree per
        primitive cell. Its error is the error of the paired difference, much smaller
        than that of either energy. `None` if there is no `averaged`.
    - `weight`: $|Pf|^2 / |f|^2$, the share of f that is symmetric.
    """

    plain: Evaluation
    averaged: Evaluation | None
    difference: Estimate | None
    weight: Estimate

    def _table(self) -> Table:
        if self.difference is None:
            difference = (
                "averaged - plain = -: the average is zero as far as "
                f"{self.plain.samples} samples can tell"
            )
        else:
            difference = (
                f"averaged - plain = {self.difference} Ha per cell, from the same "
                f"{self.plain.samples} samples"
            )
        found = (
            *columns([self.plain, self.averaged]),
            Column("difference", None, ["", self.difference], True),
            Column("weight", None, [1.0, self.weight], True),
        )
        weight = f"symmetric weight |Pf|^2/|f|^2 = {self.weight}"
        return Table(("plain", "averaged"), found, (difference, weight))

    def _summary(self) -> str:
        averaged = None if self.averaged is None else self.averaged.energy
        return (
            f"plain={self.plain.energy} Ha, averaged={with_unit(averaged)}, "
            f"averaged - plain={with_unit(self.difference)}, weight={self.weight}"
        )


class _PostHocMoments(NamedTuple):
    """Energies of f and of P f in excess of the reference, their squares, that of P f
    `None` without pairs of local energies, and the share |P f|^2 / |f|^2."""

    plain: Parts
    square: Any
    projected: Parts
    projected_square: Any
    share: Any


class _PostHocNumbers(NamedTuple):
    """The numbers of [`eqsym.PostHoc`][]."""

    plain: Quantities
    averaged: Quantities
    difference: Any
    weight: Any


class _PostHocSample(AbstractOrbitEstimate):
    orbit: OrbitSampler

    @property
    def names(self) -> tuple[str, ...]:
        return "energy", "potential", "symmetry"

    def moments(self, orbit: OrbitSample) -> _PostHocMoments:
        (projected,), (share,) = orbit.projected, orbit.shares
        # (H - reference) f, which averaged over the orbit is (H - reference) P f.
        above = orbit.above.total
        projected_square = None
        if orbit.pairs is not None:
            projected_square = jnp.conj(above) @ orbit.pairs.astype(above.dtype) @ above
        return _PostHocMoments(
            plain=jax.tree.map(lambda x: orbit.plain @ x, orbit.above),
            square=jnp.sum(orbit.weights * jnp.abs(above) ** 2),
            projected=jax.tree.map(lambda x: projected @ x, orbit.above),
            projected_square=projected_square,
            share=share,
        )

    def compared(
        self, moments: _PostHocMoments
    ) -> list[Inexact[np.ndarray, " walkers"]]:
        return [moments.plain.total, moments.plain.potential, moments.share]


def post_hoc(
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    group: SpaceGroup,
    chains: Chains,
    *,
    orbit_points: Integer | None = 8,
    local_energies: Integer = 2,
    path: str | os.PathLike | None = None,
) -> PostHoc:
    r"""Says what a trained wave function gains when it is averaged over a group, from
    walkers of the plain wave function.

    A walker x of $|f|^2$ moved to a random point of its orbit has density proportional
    to $p = |G|^{-1} \sum_g |f(g^{-1}x)|^2$, which is the same all over the orbit. With
    $F = (Pf)(x)$, and because H commutes with the projector P,

    $$E_{Pf} = \frac{E[\overline{F} \, (H f)(y) / p]}{E[|F|^2 / p]}, \quad
    E_f = E[|f(y)|^2 E_L(y) / p]$$

    for points y drawn from the orbit: |G| amplitudes per walker and one local energy
    per point, without a new Markov chain. From a random part of the orbit, of
    `orbit_points` points, F and p are replaced by sums over this part, without a bias.
    All weights are bounded. See [the orbit estimator](../orbit-estimator.md).

    As P is a projector, Var[Pf/f] is $w (1 - w)$ with the weight $w = |Pf|^2/|f|^2$.

    **Arguments:**

    - `wavefunction`: the trained wave function f.
    - `hamiltonian`: of the same crystal.
    - `group`: the group to average over.
    - `chains`: how to sample $|f|^2$, [`eqsym.Chains`][].
    - `orbit_points`: k, points of the orbit of a sample whose amplitude is evaluated,
        at least `local_energies` of them; the order of the group, all, for `None`. Few
        are enough for a function that is nearly symmetric.
    - `local_energies`: K, how many of these get a local energy. The variance of the
        local energy of $Pf$ comes from pairs: with one local energy it is `None`,
        unless the group has one operation.
    - `path`: as for [`eqsym.evaluate`][].

    The defaults were the fastest, or nearly so, for the energies of LiH and graphene:
    [Performance](../performance.md#averaging-after-training).

    **Returns:**

    The energies before and after, and their difference, [`eqsym.PostHoc`][]. There is
    none after if nothing of f is symmetric; [`eqsym.sectors`][] says which symmetry f
    has.

    **Raises:** as [`eqsym.evaluate`][] does, and `ValueError` for fewer than two
    orbit points or one local energy, and if the average is not a projection of f, see
    [`eqsym.Symmetrized`][].
    """
    check_kinds(
        wavefunction=wavefunction,
        hamiltonian=hamiltonian,
        group=group,
        chains=chains,
        path=path,
    )
    group.check_crystal(wavefunction.crystal)
    trivial = np.ones((1, group.order))
    check_projection(wavefunction, group, trivial[0])
    sample = _PostHocSample(
        OrbitSampler(
            wavefunction,
            hamiltonian,
            group,
            trivial,
            orbit_points=orbit_points,
            local_energies=local_energies,
        )
    )
    samples = sampled("post_hoc", sample, wavefunction, hamiltonian, chains, path)
    rest: Any = dict(reference=samples.reference, cells=wavefunction.crystal.cells)

    def results(means: _PostHocMoments) -> _PostHocNumbers:
        weight = np.real(means.share)
        square = means.projected_square
        plain = per_cell(means.plain, means.square, weight * (1 - weight), **rest)
        # Of an average that is zero nothing is reported.
        with np.errstate(divide="ignore", invalid="ignore"):
            averaged = per_cell(
                Parts(*(x / weight for x in means.projected)),
                None if square is None else square / weight,
                np.zeros_like(weight),
                **rest,
            )
        return _PostHocNumbers(plain, averaged, averaged.energy - plain.energy, weight)

    found: _PostHocNumbers = jackknife(samples.means, results, samples.origin)
    plain = evaluation(found.plain, samples)
    if not is_present(found.weight):
        return PostHoc(plain, None, None, found.weight)
    averaged = evaluation(found.averaged, samples)
    return PostHoc(plain, averaged, found.difference, found.weight)

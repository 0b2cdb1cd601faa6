"""From the local energies of a batch: weights of the walkers, the residual that an
optimizer fits, and the statistics of the step."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Int

from .._core import AbstractModule
from .._hamiltonian import LocalEnergy
from .sampler import AbstractSamplerState
from .strategy import Coupling


class Statistics(AbstractModule):
    """Shows how training goes: numbers of one step, one column of `history.csv` each.

    Energies are in Hartree per primitive cell. They are NaN if no walker had a finite
    energy and a finite weight; all but the variance also if the weight of a projection
    in training, as sampled, is not positive.

    - `energy`: mean local energy, real part. In [`eqsym.ProjectedTraining`][] the
        objective, a mean of two energies.
    - `variance`: variance of the local energy per primitive cell, in Hartree squared.
    - `imaginary_energy`: imaginary part of the mean whose real part is `energy`.
    - `kinetic`, `potential`, `pseudopotential`: the parts of `energy`, see
        [`eqsym.LocalEnergy`][].
    - `acceptance`: accepted share of the moves, without exchanges and hops.
    - `exchange_acceptance`: accepted share of the exchanges of a spin-up and a
        spin-down electron, 0 if there were none.
    - `hop_acceptance`: accepted share of the hops of an electron between nuclei, 0 if
        there were none.
    - `clipped_share`: share of the walkers whose local energy was clipped in the
        gradient.
    - `effective_share`: $(\\sum w)^2 / (n \\sum w^2)$ with the importance weights w of
        the n walkers: the share of walkers that would tell as much if all weighed the
        same. 1 without weights.
    - `invalid_energies`: number of walkers with a local energy or an importance weight
        that is not finite; of images, if the strategy trains on images. They are left
        out of all means and of the gradient.
    - `dropped_terms`: images with non-zero weight that a bound on their number left
        out, over all walkers.
    - `replaced_walkers`: number of walkers that the sampler replaced because their
        amplitude was not finite.
    - `solver_retries`: how often the optimizer had to solve its equations again with
        more damping, because the Gram matrix was singular to rounding.
    - `rejected_update`: 1 if parameters and optimizer stayed as they were, because the
        new parameters were not finite, no walker had a finite energy and weight, or the
        weight of the projection was not positive. Else 0.
    """

    energy: Float[Array, ""]
    variance: Float[Array, ""]
    imaginary_energy: Float[Array, ""]
    kinetic: Float[Array, ""]
    potential: Float[Array, ""]
    pseudopotential: Float[Array, ""]
    acceptance: Float[Array, ""]
    exchange_acceptance: Float[Array, ""]
    hop_acceptance: Float[Array, ""]
    clipped_share: Float[Array, ""]
    effective_share: Float[Array, ""]
    invalid_energies: Int[Array, ""]
    dropped_terms: Int[Array, ""]
    replaced_walkers: Int[Array, ""]
    solver_retries: Int[Array, ""]
    rejected_update: Int[Array, ""]


def valid_walkers(
    energies: Inexact[Array, " walkers"], weights: Float[Array, " walkers"] | None
) -> Bool[Array, " walkers"]:
    finite = jnp.isfinite(energies)
    return finite if weights is None else finite & jnp.isfinite(weights)


def shares_of(
    energies: Inexact[Array, " walkers"], weights: Float[Array, " walkers"] | None
) -> Float[Array, " walkers"]:
    """Shares of the walkers, 0 without a finite energy; they add up to 1."""
    valid = valid_walkers(energies, weights)
    shares = valid.astype(energies.real.dtype)
    if weights is not None:
        shares = jnp.where(valid, weights.astype(shares.dtype), 0.0)
    total = jnp.sum(shares)
    return shares / jnp.where(total > 0, total, 1.0)


def normalized(
    coupling: Coupling | None, shares: Float[Array, " walkers"]
) -> Coupling | None:
    """With matrices that add up to 1, 0 for walkers without a share. Not finite if the
    weight of the projection, as sampled, is not positive: then no update is."""
    if coupling is None:
        return None
    matrices = coupling.matrices
    present = (shares > 0).reshape(matrices.shape[:2])
    both = present[:, :, None] & present[:, None]
    matrices = jnp.where(both, matrices, jnp.zeros_like(matrices))
    total = jnp.sum(matrices.real)
    scale = 1 / jnp.where(total > 0, total, jnp.nan)
    return Coupling(matrices * scale.astype(matrices.dtype), coupling.share)


def residual_of(
    energies: Inexact[Array, " walkers"],
    shares: Float[Array, " walkers"],
    clip: float,
    coupling: Coupling | None = None,
) -> tuple[Inexact[Array, " walkers"], Float[Array, ""]]:
    """Clipped and centered energies times the square root of the walkers' shares, and
    the share that was clipped. Walkers without a finite energy get 0. `coupling` is
    normalized."""
    limited, clipped = _limited(energies, shares, clip)
    root = jnp.sqrt(shares).astype(limited.dtype)
    centered = jnp.where(shares > 0, limited - _mean(limited, shares), 0.0) * root
    if coupling is None:
        return centered, clipped
    matrices, share = coupling.matrices.astype(limited.dtype), coupling.share
    blocks = limited.reshape(matrices.shape[0], 1, matrices.shape[2])
    mean = jnp.sum(matrices * blocks)
    coupled = jnp.sum(matrices * (blocks - mean), axis=2).reshape(-1)
    coupled /= jnp.where(shares > 0, root, 1.0)
    return share * centered + (1 - share) * coupled, clipped


def _limited(
    energies: Inexact[Array, " walkers"],
    shares: Float[Array, " walkers"],
    clip: float,
) -> tuple[Inexact[Array, " walkers"], Float[Array, ""]]:
    """Energies above their median, clipped, 0 for the ones that are not finite, and
    the share that was clipped."""
    if jnp.iscomplexobj(energies):
        real, clipped = _limited(energies.real, shares, clip)
        imaginary, _ = _limited(energies.imag, shares, clip)
        return jax.lax.complex(real, imaginary), clipped
    valid = jnp.isfinite(energies)
    center = jnp.nanmedian(jnp.where(valid, energies, jnp.nan))
    deviation = jnp.where(valid, energies - center, 0.0)
    bound = clip * _mean(jnp.abs(deviation), shares)
    outside = (jnp.abs(deviation) > bound).astype(shares.dtype)
    return jnp.clip(deviation, -bound, bound), _mean(outside, shares)


def _mean(values: Array, shares: Inexact[Array, " walkers"]) -> Array:
    present = jnp.where(shares != 0, values, jnp.zeros_like(values))
    dtype = np.promote_types(values.dtype, shares.dtype)
    return jnp.sum(shares.astype(dtype) * present.astype(dtype))


def statistics_of(
    energies: LocalEnergy,
    shares: Float[Array, " walkers"],
    coupling: Coupling | None,
    cells: int,
    *,
    sampler: AbstractSamplerState,
    clipped_share: Float[Array, ""],
    invalid_energies: Int[Array, ""],
    dropped_terms: Int[Array, ""],
    solver_retries: Int[Array, ""],
    rejected_update: Int[Array, ""],
) -> Statistics:
    total = energies.total / cells
    center = _mean(total, shares).real.astype(total.dtype)
    # Factors of the energies in the objective.
    parts = shares
    if coupling is not None:
        coupled = jnp.sum(coupling.matrices, axis=1).reshape(-1)
        plain = coupling.share * shares
        parts = plain.astype(coupled.dtype) + (1 - coupling.share) * coupled
    energy = _mean(total, parts)
    square = jnp.sum(shares**2) * len(shares)

    def mean(value: Float[Array, ""]) -> Float[Array, ""]:
        """Without walkers there is no mean."""
        return jnp.where(square > 0, value, jnp.nan)

    return Statistics(
        energy=mean(energy.real),
        variance=mean(_mean(jnp.abs(total - center) ** 2, shares)),
        imaginary_energy=mean(energy.imag),
        kinetic=mean(_mean(energies.kinetic / cells, parts).real),
        potential=mean(_mean(energies.potential / cells, parts).real),
        pseudopotential=mean(_mean(energies.pseudopotential / cells, parts).real),
        acceptance=sampler.acceptance,
        exchange_acceptance=sampler.exchange_acceptance,
        hop_acceptance=sampler.hop_acceptance,
        clipped_share=clipped_share,
        effective_share=jnp.where(square > 0, 1 / jnp.maximum(square, 1.0), 0.0),
        invalid_energies=invalid_energies,
        dropped_terms=dropped_terms,
        replaced_walkers=sampler.replaced_walkers,
        solver_retries=solver_retries,
        rejected_update=rejected_update,
    )

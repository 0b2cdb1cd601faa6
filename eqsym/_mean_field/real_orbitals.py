"""Real orbitals that span the same space as Bloch orbitals found by a solver."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Inexact

from .._crystal import Crystal
from .gaussians import Gaussians
from .pairs import conjugates


# How far conjugate orbitals may be from the space of the orbitals found.
_CONJUGATE = 1e-5


def conjugate_orbitals(
    crystal: Crystal,
    overlaps: Iterable[tuple[np.ndarray, np.ndarray]],
    kpoints: Float[np.ndarray, "orbitals 3"],
    complex_mo: np.ndarray,
) -> np.ndarray | None:
    """Coefficients of orbitals that span the same spaces, conjugate at k and -k, and
    real at k that are their own negatives; `None` if there are none.

    The Bloch sums of the basis functions at -k are conjugates of those at k.

    **Arguments:**

    - `crystal`: the crystal.
    - `overlaps`: k-points, each with the overlap matrix of the basis there.
    - `kpoints`, `complex_mo`: of the orbitals of one spin; (functions, orbitals).
    """
    partner = conjugates(crystal, kpoints)
    assert partner is not None
    here = np.arange(len(kpoints))
    result = np.array(complex_mo)
    if np.all(partner == here):
        result = np.zeros(complex_mo.shape)
    for k, overlap in overlaps:
        columns = np.flatnonzero(np.all(kpoints == k, axis=1))
        if len(columns) == 0:
            continue
        mo = complex_mo[:, columns]
        if partner[columns[0]] == columns[0]:
            one = _realified(overlap, mo)
            if one is None:
                return None
            result[:, columns] = one
        elif partner[columns[0]] < columns[0]:
            one = result[:, partner[columns]].conj()
            cosines = np.linalg.svd(one.conj().T @ overlap @ mo)[1]
            if np.min(cosines) < 1 - _CONJUGATE**2:
                return None
            result[:, columns] = one
    return result


def _realified(
    overlap: Inexact[np.ndarray, "functions functions"],
    mo: Inexact[np.ndarray, "functions orbitals"],
) -> Float[np.ndarray, "functions orbitals"] | None:
    """Real orbitals at one k that span the same space, or `None`."""
    # With S = X X^T, columns of X^T C are orthonormal.
    factor = np.linalg.cholesky(np.real(overlap))
    parts = factor.T @ np.concatenate([np.real(mo), np.imag(mo)], axis=1)
    basis, weight, _ = np.linalg.svd(parts)
    n = mo.shape[1]
    if len(weight) > n and weight[n] > _CONJUGATE:
        return None
    # Of the real bases of the span, the one nearest the orbitals found, so that core
    # and valence stay apart: each orbital made real by its own phase.
    phase = np.exp(-0.5j * np.angle(np.sum((factor.T @ mo) ** 2, axis=0)))
    u, _, v = np.linalg.svd(basis[:, :n].T @ factor.T @ (mo * phase).real)
    return np.linalg.solve(factor.T, basis[:, :n] @ (u @ v))


def real_parts(
    crystal: Crystal, kpoints: Float[np.ndarray, "orbitals 3"], gaussians: Gaussians
) -> Gaussians:
    """Real and imaginary parts of conjugate orbitals, as `MeanField.orbitals` has
    them."""
    partner = conjugates(crystal, kpoints)
    assert partner is not None
    here, weights = np.arange(len(partner)), gaussians.weights
    real, imag = np.real(weights), -np.imag(weights)
    paired = np.sqrt(2) * np.where(here < partner, real, imag)
    return dataclasses.replace(
        gaussians, weights=np.where(partner == here, real, paired)
    )

"""Real orbitals from Bloch orbitals at k and -k."""

import numpy as np
from jaxtyping import Float, Int

from .._crystal import Crystal, is_whole


def conjugates(
    crystal: Crystal, kpoints: Float[np.ndarray, "orbitals 3"]
) -> Int[np.ndarray, " orbitals"] | None:
    r"""For every orbital of one spin the one at the negative of its k-point: the first
    at k belongs to the first at -k, and so on; an orbital belongs to itself if k is its
    own negative modulo reciprocal vectors. `None` if some are left over.

    The complex orbital $\phi$ of the earlier of two and its conjugate span the same
    space as Re and Im of $\phi$, which real wave functions have in the two columns. So
    they need the *same* $\phi$: a translation t turns the two by the angle $k \cdot t$,
    and no determinant notices.

    **Arguments:**

    - `crystal`: the crystal.
    - `kpoints`: of the orbitals, in inverse Bohr.
    """
    frac = kpoints @ crystal.lattice.vectors.T / (2 * np.pi)
    same = is_whole(frac[:, None] - frac)
    before = np.sum(np.triu(same, 1), axis=0)
    opposite = is_whole(frac[:, None] + frac) & (before[:, None] == before)
    here, partner = np.nonzero(opposite)
    return partner if len(here) == len(kpoints) else None


def has_real_orbitals(
    crystal: Crystal, cart_kpoints: tuple[np.ndarray, np.ndarray]
) -> bool:
    """Whether the Hamiltonian is real, and the orbitals of each spin come in pairs of
    conjugates."""
    invariant = is_whole(2 * crystal.twist)
    return bool(invariant) and all(
        conjugates(crystal, k) is not None for k in cart_kpoints
    )


def check_real(crystal: Crystal, cart_kpoints: tuple[np.ndarray, np.ndarray]) -> None:
    """**Raises:** `ValueError` that says what to do, if a real wave function is asked
    for and there is none."""
    if not is_whole(2 * crystal.twist):
        raise ValueError(
            f"`real` must be False or None at the twist {crystal.twist.tolist()}, "
            "which is not its own negative modulo reciprocal vectors of the supercell, "
            "so that the wave function is complex. Make the crystal with a `twist` of "
            "zeros and halves for a real one."
        )
    for spin, k in zip(("up", "down"), cart_kpoints, strict=True):
        if conjugates(crystal, k) is None:
            frac = np.round(k @ crystal.lattice.vectors.T / (2 * np.pi), 6) + 0
            raise ValueError(
                "`real` must be False or None: the occupied k-points of spin "
                f"{spin}, {frac.tolist()} in reciprocal vectors, do not come in pairs "
                "k and -k, because the shell is open. Choose another supercell, spin "
                "or twist: `eqs.closed_shell_twists` lists twists with a closed shell."
            )

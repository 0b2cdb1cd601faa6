"""Instabilities of Hartree-Fock determinants: rotations that lower the energy."""

import dataclasses
import logging
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
from jaxtyping import Complex, Float, Int


_logger = logging.getLogger("eqsym")

# Curvatures (Hartree) above this belong to a minimum, or to a direction along which the
# energy is constant, to the accuracy of the integrals.
_NEGATIVE = -1e-4
# Bound on the memory for integrals between orbitals, in numbers of 16 bytes.
_LARGEST = 1e8
# How many rotations to name for one change of crystal momentum.
_NAMED = 3


@dataclasses.dataclass
class Determinant:
    """Orbitals of one or two spins; with one, both spins occupy the same orbitals."""

    frac_kpoints: np.ndarray  # (k, 3)
    levels: np.ndarray  # (spins, k, orbitals)
    coefficients: np.ndarray  # (spins, k, functions, orbitals)
    occupied: np.ndarray  # (spins, k, orbitals), of bool


@dataclasses.dataclass
class Instability:
    """Rotations of occupied into empty orbitals that lower the energy."""

    curvature: float  # Hartree, the lowest
    # Crystal momentum that they add, in fractions of reciprocal vectors.
    frac_shift: np.ndarray  # (3,)
    # Whether they are opposite in the two spins, which then occupy different orbitals.
    opposite: bool
    # The lowest few, spin by spin and k by k, if they keep crystal momentum.
    rotations: list[list[list[np.ndarray]]]  # (empty, occupied)


def too_large(found: Determinant, auxiliary: int) -> bool:
    """Whether `instabilities` would need more memory than is reasonable."""
    spins, k, orbitals = found.levels.shape
    pairs = max(int(np.sum(c) * np.sum(~c)) for c in found.occupied)
    return (
        spins * k**2 * auxiliary * orbitals**2 > _LARGEST
        or (2 * spins * pairs / k) ** 2 > _LARGEST
    )


def instabilities(
    found: Determinant,
    integrals: Callable[[int, int], Complex[np.ndarray, "auxiliary _ _"]],
    image: float,
) -> list[Instability]:
    r"""The instabilities of a determinant: at most one for each change of crystal
    momentum, and in restricted determinants for equal and for opposite rotations of the
    spins.

    For a rotation $\sum X_{ai} a^\dagger_a a_i$ of occupied orbitals i into empty ones
    a the energy changes by $X^\dagger A X + \mathrm{Re}\, X^\dagger B X^*$ with

    $$A_{ai,bj} = (\epsilon_a - \epsilon_i)\delta_{ab}\delta_{ij} + J (ai|jb) - (ab|ji),
    \qquad B_{ai,bj} = J (ai|bj) - (aj|bi)$$

    (Seeger and Pople, J. Chem. Phys. 66, 3045, 1977); J = 2 for equal and 0 for
    opposite rotations of restricted orbitals, 1 in and between the spins of
    unrestricted orbitals, without exchange between the spins. With crystal momentum, X
    that adds q is coupled to X that adds -q: the matrix is
    $(A_q, B; B^\dagger, A_{-q}^*)$.

    **Arguments:**

    - `found`: the determinant.
    - `integrals`: a function of two k-points that gives the density-fitting integrals
        $(L|\mu\nu)$ between basis functions there.
    - `image`: the energy of exchange of an electron with its own images. The levels of
        the occupied orbitals contain it, the exchange of (ab|ji) does not.
    """
    spins = len(found.levels)
    shifted = _shift_table(found.frac_kpoints)
    fitted = [_transformed(c, integrals) for c in found.coefficients]
    result = []
    for shift, q in enumerate(shifted):
        back = int(np.flatnonzero(shifted[:, q[0]] == 0)[0])
        if back < shift:
            continue  # The same by complex conjugation.
        there = _Rotations(found, fitted, q)
        away = _Rotations(found, fitted, shifted[back])
        exchange, direct = _second_variation(there, away, image)
        for opposite in (False, True) if spins == 1 else (False,):
            factor = 1.0 if spins == 2 else 0.0 if opposite else 2.0
            matrix = exchange + factor * direct
            # Cheaper than the lowest eigenvalue, for the many that are stable.
            try:
                np.linalg.cholesky(matrix - _NEGATIVE * np.eye(len(matrix)))
                continue
            except np.linalg.LinAlgError:
                pass
            value, vectors = _lowest(matrix, there.count if shift == 0 else 0)
            if value < _NEGATIVE:
                result.append(
                    Instability(
                        value,
                        found.frac_kpoints[q[0]] - found.frac_kpoints[0],
                        opposite,
                        [there.split(x) for x in vectors] if shift == 0 else [],
                    )
                )
    return result


def warn_of_instabilities(
    found: list[Instability] | None, unrestricted: bool, moments: bool, atoms: int
) -> None:
    """One warning for each kind of rotation, with the most negative curvature."""
    if found is None:
        _logger.warning(
            "Mean field: too many orbitals to check whether the determinant is a "
            "minimum of the energy; another determinant can be lower."
        )
    for opposite in (True, False):
        of_kind = [i for i in found or () if i.opposite == opposite]
        if not of_kind:
            continue
        lowest = min(of_kind, key=lambda i: i.curvature)
        same_cell = not np.any(lowest.frac_shift)
        missed = unrestricted and any(i.rotations for i in of_kind)
        if opposite:
            what = "an unrestricted determinant, with different orbitals for the spins,"
        else:
            what = "another determinant near the one found, which is a saddle point,"
        advice = []
        if opposite and not unrestricted:
            advice.append("`unrestricted=True`")
        if not same_cell:
            shift = np.round(lowest.frac_shift, 4).tolist()
            advice.append(
                "a primitive cell several times as large (and a smaller supercell), "
                f"because crystal momentum changes by {shift} reciprocal vectors"
            )
        solve = " and ".join(advice)
        if not advice:
            solve = "another supercell, spin or twist"
        if missed and atoms > 1:
            other = "other `moments`" if moments else "`moments`"
            solve = f"{other}, of alternating signs on the atoms, or else {solve}"
        _logger.warning(
            "Mean field: %s has a lower energy (curvature %.1e Ha)%s. Solve with %s.",
            what,
            lowest.curvature,
            ", which rotating the orbitals did not reach" if missed else "",
            solve,
        )


def _shift_table(frac: Float[np.ndarray, "k 3"]) -> Int[np.ndarray, "k k"]:
    """`[q, k]`: the k-point that is k-point k plus the difference of q and the first,
    modulo reciprocal vectors."""
    target = frac[:, None] - frac[0] + frac[None]
    difference = target[:, :, None] - frac
    distance = np.abs(difference - np.round(difference)).sum(axis=-1)
    return np.argmin(distance, axis=-1)


def _transformed(
    coefficients: np.ndarray, integrals: Callable[[int, int], np.ndarray]
) -> dict[tuple[int, int], np.ndarray]:
    """Density-fitting integrals between orbitals, for every two k-points."""
    count = len(coefficients)
    return {
        (k, m): coefficients[k].conj().T @ integrals(k, m) @ coefficients[m]
        for k in range(count)
        for m in range(count)
    }


class _Rotations:
    """All rotations that add one crystal momentum: X[a at k + q, i at k], in blocks of
    one spin and one k."""

    def __init__(self, found: Determinant, fitted: Sequence[dict], q: np.ndarray):
        self.cells = len(q)
        self.blocks = []
        start = 0
        for spin, occupied in enumerate(found.occupied):
            for k, kq in enumerate(q):
                o, v = np.flatnonzero(occupied[k]), np.flatnonzero(~occupied[kq])
                stop = start + len(o) * len(v)
                self.blocks.append((spin, k, int(kq), o, v, slice(start, stop)))
                start = stop
        self.count = start
        self.fitted = fitted
        levels = found.levels
        self.gaps = np.concatenate(
            [
                np.subtract.outer(levels[s, kq, v], levels[s, k, o]).ravel()
                for s, k, kq, o, v, _ in self.blocks
            ]
        )

    def pieces(self, spin: int, k: int, m: int, rows: np.ndarray, columns: np.ndarray):
        return self.fitted[spin][k, m][:, rows[:, None], columns]

    def densities(self, emptied: bool) -> Complex[np.ndarray, "auxiliary rotations"]:
        """(L|ai), or (L|ia)."""
        found = []
        for s, k, kq, o, v, _ in self.blocks:
            if emptied:
                piece = self.pieces(s, k, kq, o, v).swapaxes(1, 2)
            else:
                piece = self.pieces(s, kq, k, v, o)
            found.append(piece.reshape(len(piece), len(o) * len(v)))
        return np.concatenate(found, axis=1)

    def split(self, vector: np.ndarray) -> list[list[np.ndarray]]:
        result = [[], []]
        for spin, _, _, o, v, place in self.blocks:
            result[spin].append(vector[place].reshape(len(v), len(o)))
        return result[: len(self.fitted)]


def _second_variation(
    there: _Rotations, away: _Rotations, image: float
) -> tuple[Complex[np.ndarray, "both both"], Complex[np.ndarray, "both both"]]:
    """The matrix (A_q, B; B+, A_-q*) for J = 0, and the term that J multiplies."""
    n = there.count
    density = np.concatenate([there.densities(False), away.densities(True)], axis=1)
    matrix = np.zeros((n + away.count, n + away.count), dtype=np.complex128)
    matrix[:n, :n] = _direct(there)
    matrix[n:, n:] = _direct(away).conj()
    crossed = matrix[:n, n:]
    for s, k, kq, i, a, rows in there.blocks:
        for t, m, mq, j, b, columns in away.blocks:
            if s == t:
                left = there.pieces(s, kq, m, a, j)
                right = there.pieces(s, k, mq, i, b).conj()
                exchange = np.einsum("Laj,Lib->aibj", left, right, optimize=True)
                crossed[rows, columns] = exchange.reshape(crossed[rows, columns].shape)
    matrix[n:, :n] = crossed.conj().T
    gaps = np.diag(np.concatenate([there.gaps, away.gaps]) - image)
    return gaps - matrix / there.cells, density.T @ density.conj() / there.cells


def _direct(rotations: _Rotations) -> Complex[np.ndarray, "rotations rotations"]:
    matrix = np.zeros((rotations.count, rotations.count), dtype=np.complex128)
    for s, k, kq, i, a, rows in rotations.blocks:
        for t, m, mq, j, b, columns in rotations.blocks:
            if s == t:
                left = rotations.pieces(s, kq, mq, a, b)
                right = rotations.pieces(s, k, m, i, j).conj()
                exchange = np.einsum("Lab,Lij->aibj", left, right, optimize=True)
                matrix[rows, columns] = exchange.reshape(matrix[rows, columns].shape)
    return matrix


def _lowest(matrix: np.ndarray, count: int) -> tuple[float, list[np.ndarray]]:
    """The lowest eigenvalue; and of the lowest few that are negative, the first `count`
    components of the vectors (u, v), as rotations X = u + v*. Real rotations come first
    if there are any."""
    if count and np.max(np.abs(np.imag(matrix))) < 1e-6:
        real = np.real(matrix[:count, :count] + matrix[:count, count:])
        values, vectors = _lowest_few(real)
        if values[0] < _NEGATIVE:
            return float(values[0]), list(vectors.T[values < _NEGATIVE])
    values, vectors = _lowest_few(matrix)
    rotations = []
    for vector in vectors.T[values < _NEGATIVE]:
        u, v = vector[:count], vector[count:][:count].conj()
        rotation = u + v if np.linalg.norm(u + v) > 0.1 else 1j * (u - v)
        rotations.append(rotation / max(float(np.linalg.norm(rotation)), 1e-12))
    return float(values[0]), rotations


def _lowest_few(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    last = min(_NAMED, len(matrix)) - 1
    return scipy.linalg.eigh(matrix, subset_by_index=[0, last])

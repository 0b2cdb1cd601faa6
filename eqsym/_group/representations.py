"""Irreducible representations of groups of symmetry operations."""

import functools
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Complex, Inexact, Int

from .._core import AbstractFixed, aligned
from .space_group import SpaceGroup


# Sums of squares, multiplicities and products of characters are integers. Errors of
# their computed values are some 1e-12; this far off means a failure.
_INTEGER = 1e-6
_LETTERS = {2: "E", 3: "T", 4: "G", 5: "H", 6: "I"}
# Schoenflies symbols by determinant and trace, in the order in which characters decide
# about labels.
_TYPES = {
    (1, 3): "E",
    (1, 2): "C6",
    (1, 1): "C4",
    (1, 0): "C3",
    (1, -1): "C2",
    (-1, -3): "i",
    (-1, -2): "S3",
    (-1, -1): "S4",
    (-1, 0): "S6",
    (-1, 1): "m",
}


class Irrep(AbstractFixed):
    r"""An irreducible unitary representation $D$ of a group of operations, one of
    [`eqsym.irreps`][].

    Static, hashable and compared by value, like the group.

    **Labels** are those of Mulliken as far as characters determine them. A letter for
    the dimension: A and B (1), E (2), T, G, H, I (3 to 6) and D8\_ and so on above. Of
    one-dimensional ones, A has character 1 for all rotations about the main axis and B
    has not; where there are three axes of order two and no other, A has character 1 for
    all of them; in cubic groups there is only A. Complex
    conjugates of one another are 1E and 2E, with the letter of the dimension of both
    together, 1E first where the first complex character has a positive imaginary
    part. Suffixes: g and u for even and odd under inversion; without inversion, ' and
    '' for even and odd under a mirror perpendicular to a main axis of odd order. Where
    a translation in the group is not 1, a star takes their place. Where two would be
    named alike they are numbered, by falling characters: the mean over all rotations of
    order 6, then 4, 3 and 2, then improper ones; among equals, such as B1 and B2 of
    mmm, by the characters of the operations in the order of the group.
    """

    group: SpaceGroup
    label: str = eqx.field(static=True)
    _characters: tuple[complex, ...] = eqx.field(static=True)

    @property
    def dimension(self) -> int:
        """The dimension d."""
        return round(self._characters[self.group.identity].real)

    @property
    def characters(self) -> Inexact[np.ndarray, " ops"]:
        r"""The characters $\chi(g) = \mathrm{tr}\, D(g)$ of the operations of the group
        in their order; real numbers where all are."""
        values = np.array(self._characters)
        return values if np.any(np.imag(values)) else np.real(values)

    @property
    def indicator(self) -> int:
        r"""The Frobenius-Schur indicator $|G|^{-1} \sum_g \chi(g^2)$: 1 where the
        matrices can be chosen real, -1 where only the characters are real, 0 where the
        characters are not."""
        squares = np.diagonal(_products(self.group).table)
        return round(np.mean(self.characters[squares]).real)

    @property
    def matrices(self) -> Inexact[np.ndarray, "ops d d"]:
        """The unitary matrices D(g); real and orthogonal where `indicator` is 1.

        They are determined up to a change of basis. The basis chosen here is the same
        each time, on every machine.
        """
        return _matrices(self).copy()


class CharacterTable(AbstractFixed):
    """The characters of all irreducible representations of a group, of
    [`eqsym.character_table`][]. `print` shows it, `table["T1u"]` is a row.

    - `irreps`: the rows, [`eqsym.Irrep`][].
    """

    irreps: tuple[Irrep, ...]

    @property
    def group(self) -> SpaceGroup:
        """The group."""
        return self.irreps[0].group

    @property
    def classes(self) -> tuple[tuple[int, ...], ...]:
        """The conjugacy classes, in the order of the columns, as the numbers of their
        operations. The identity comes first."""
        first, class_of = _classes(self.group)
        return tuple(
            tuple(np.flatnonzero(class_of == i).tolist()) for i in range(len(first))
        )

    @property
    def class_labels(self) -> tuple[str, ...]:
        """The number and the Schoenflies symbol of the operations of each class, such
        as `"8 C3"`; m are mirrors and glides, t are translations."""
        symbols = _symbols(self.group)
        return tuple(f"{len(some)} {symbols[some[0]]}" for some in self.classes)

    @property
    def values(self) -> Inexact[np.ndarray, "irreps classes"]:
        """The characters, one row for each irrep and one column for each class."""
        columns = [some[0] for some in self.classes]
        return np.array([irrep.characters[columns] for irrep in self.irreps])

    def __getitem__(self, label: str) -> Irrep:
        for irrep in self.irreps:
            if irrep.label == label:
                return irrep
        names = ", ".join(irrep.label for irrep in self.irreps)
        raise ValueError(
            f"`irrep` {label!r} is none of the group's, which are {names}. "
            "`eqsym.character_table` shows their characters."
        )

    def __str__(self) -> str:
        head = ["", *self.class_labels]
        rows = [
            [irrep.label, *(_shown(complex(value)) for value in values)]
            for irrep, values in zip(self.irreps, self.values, strict=True)
        ]
        return aligned([head, *rows])


def character_table(group: SpaceGroup) -> CharacterTable:
    """The character table of a group of operations.

    Found by diagonalizing a random element of the center of the group algebra, whose
    eigenvectors are the characters, and made exact by rounding the multiplicities of
    the eigenvalues of every D(g): J. D. Dixon, Numer. Math. 10, 446 (1967). 384
    operations take less than a second, and are found only once.

    **Arguments:**

    - `group`: the group, as its multiplication table gives it: modulo the lattice
        translations up to which it is closed.

    **Returns:**

    The table, [`eqsym.CharacterTable`][].
    """
    return _character_table(group)


def irreps(group: SpaceGroup) -> tuple[Irrep, ...]:
    """All irreducible representations of a group, the trivial one first: the rows of
    [`eqsym.character_table`][].

    **Arguments:**

    - `group`: as for [`eqsym.character_table`][].
    """
    return _character_table(group).irreps


@functools.lru_cache(maxsize=64)
def _character_table(group: SpaceGroup) -> CharacterTable:
    first, class_of = _classes(group)
    values = _characters(group)
    labels = _labels(group, values, class_of)
    rows = [
        Irrep(group, label, tuple(complex(x) for x in row[class_of]))
        for label, row in zip(labels, values, strict=True)
    ]
    return CharacterTable(tuple(rows))


class _Products(NamedTuple):
    table: Int[np.ndarray, "ops ops"]
    inverses: Int[np.ndarray, " ops"]


@functools.lru_cache(maxsize=64)
def _products(group: SpaceGroup) -> _Products:
    return _Products(group.multiplication_table, group.inverses)


@functools.lru_cache(maxsize=64)
def _classes(
    group: SpaceGroup,
) -> tuple[Int[np.ndarray, " classes"], Int[np.ndarray, " ops"]]:
    """One operation of each conjugacy class, and the class of each operation; the class
    of the identity first, then by the number of the first operation."""
    classes = group.conjugacy_classes
    # The class of the identity to the front.
    front = classes[group.identity]
    classes = np.where(classes == front, 0, classes + (classes < front))
    return np.unique(classes, return_index=True)[1], classes


def _characters(group: SpaceGroup) -> Complex[np.ndarray, "irreps classes"]:
    first, class_of = _classes(group)
    table, inverses = _products(group)
    count, order = len(first), group.order
    sizes = np.bincount(class_of)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = rng.normal(size=count) + 1j * rng.normal(size=count)
        # Hermitian: the weight of an inverse is the complex conjugate.
        weights = weights + np.conj(weights[class_of[inverses[first]]])
        # Convolution with a class function: (a f)(x) = sum_y a(y) f(y^-1 x).
        matrix = np.zeros((count, count), dtype=complex)
        for row, x in enumerate(first):
            np.add.at(matrix[row], class_of[table[inverses, x]], weights[class_of])
        scale = np.sqrt(sizes)
        vectors = np.linalg.eigh(scale[:, None] * matrix / scale)[1].T
        values = vectors * np.sqrt(order / sizes)
        values = values * np.exp(-1j * np.angle(values[:, :1]))
        found = _exact(table, class_of, first, values)
        if found is not None and _orthogonal(found, sizes):
            return found
    raise AssertionError("no character table found")


def _exact(
    table: Int[np.ndarray, "ops ops"],
    class_of: Int[np.ndarray, " ops"],
    first: Int[np.ndarray, " classes"],
    values: Complex[np.ndarray, "irreps classes"],
) -> Complex[np.ndarray, "irreps classes"] | None:
    """The characters near `values`: sums of roots of unity with integer multiplicities,
    or None where these are not near integers."""
    exact = np.empty_like(values)
    for column, x in enumerate(first):
        powers = [first[0]]
        while (power := table[powers[-1], x]) != first[0]:
            powers.append(power)
        m = len(powers)
        # D(x) has the eigenvalue exp(2 pi i l / m) as often as this.
        often = np.fft.fft(values[:, class_of[powers]], axis=1) / m
        if np.max(np.abs(often - np.round(often.real))) > _INTEGER:
            return None
        roots = np.exp(2j * np.pi * np.arange(m) / m)
        exact[:, column] = np.round(often.real) @ roots
    # Adding 0 turns -0 into 0.
    return np.round(exact, 14) + 0


def _orthogonal(
    values: Complex[np.ndarray, "irreps classes"], sizes: Int[np.ndarray, " classes"]
) -> bool:
    gram = (values * sizes) @ np.conj(values.T) / np.sum(sizes)
    return bool(np.max(np.abs(gram - np.eye(len(values)))) < _INTEGER)


def _symbols(group: SpaceGroup) -> list[str]:
    rotations = group.frac_rotations
    determinants = np.round(np.linalg.det(rotations)).astype(int)
    traces = np.trace(rotations, axis1=1, axis2=2)
    symbols = [_TYPES[d, t] for d, t in zip(determinants, traces, strict=True)]
    symbols = ["t" if symbol == "E" else symbol for symbol in symbols]
    symbols[group.identity] = "E"
    return symbols


def _labels(
    group: SpaceGroup,
    values: Complex[np.ndarray, "irreps classes"],
    class_of: Int[np.ndarray, " ops"],
) -> list[str]:
    """Sorts the rows of `values` in place, and names them."""
    characters = values[:, class_of]
    symbols = np.array(_symbols(group))
    dimensions = np.round(np.real(values[:, 0])).astype(int)
    suffixes = _suffixes(group, symbols, characters, dimensions)
    main = _main_rotations(group, symbols)
    real, imag = np.real(characters), np.imag(characters)
    is_complex = np.any(np.abs(imag) > _INTEGER, axis=1)

    def letter(i: int) -> str:
        size = dimensions[i] * (2 if is_complex[i] else 1)
        if size == 1:
            return "A" if np.all(real[i, main] > 0) else "B"
        return _LETTERS.get(size, f"D{size}_")

    def rank(i: int) -> tuple:
        # Of a pair of complex conjugates, both have the real parts first.
        present = [s for s in ("t", *_TYPES.values()) if np.any(symbols == s)]
        means = [np.mean(real[i, symbols == s]) for s in present]
        fall = np.round(-np.concatenate([means, real[i], imag[i]]), 6) + 0
        return (suffixes[i] == "*", suffixes[i], dimensions[i], letters[i], tuple(fall))

    letters = [letter(i) for i in range(len(values))]
    order = sorted(range(len(values)), key=rank)
    names: list[str] = []
    for i in order:
        like = [
            j for j in order if (letters[j], suffixes[j]) == (letters[i], suffixes[i])
        ]
        singles = [j for j in like if not is_complex[j]]
        pairs = [j for j in like if is_complex[j]]
        position = (
            singles.index(i) if i in singles else len(singles) + pairs.index(i) // 2
        )
        several = len(singles) + len(pairs) // 2 > 1
        prefix = "" if i in singles else "12"[pairs.index(i) % 2]
        number = str(position + 1) if several else ""
        names.append(f"{prefix}{letters[i]}{number}{suffixes[i]}")
    values[:] = values[order]
    return names


def _suffixes(
    group: SpaceGroup,
    symbols: np.ndarray,
    characters: Complex[np.ndarray, "irreps ops"],
    dimensions: Int[np.ndarray, " irreps"],
) -> list[str]:
    inversions = symbols == "i"
    if np.any(inversions):
        signs, names = inversions, ("g", "u")
    else:
        signs, names = _horizontal_mirrors(group, symbols), ("'", "''")
    ratios = np.real(characters) / dimensions[:, None]
    still = np.all(ratios[:, symbols == "t"] > 1 - _INTEGER, axis=1)
    if not np.any(signs):
        return ["" if s else "*" for s in still]
    return [
        names[0 if row[signs][0] > 0 else 1] if s else "*"
        for s, row in zip(still, ratios, strict=True)
    ]


def _axes(group: SpaceGroup, which: Bool[np.ndarray, " ops"]) -> np.ndarray:
    """Directions of the axes of some operations, up to sign, as unit vectors."""
    axes: list[np.ndarray] = []
    for rotation in group.cart_rotations[which]:
        proper = rotation * np.sign(np.linalg.det(rotation))
        axis = np.linalg.svd(proper - np.eye(3))[2][-1]
        if all(abs(abs(axis @ other) - 1) > 1e-3 for other in axes):
            axes.append(axis)
    return np.array(axes)


def _main_rotations(group: SpaceGroup, symbols: np.ndarray) -> Bool[np.ndarray, " ops"]:
    """Whose characters tell A from B; none in cubic groups."""
    for symbol in ("C6", "C4", "S4", "C3", "C2"):
        which = symbols == symbol
        if np.any(which):
            if len(_axes(group, symbols == "C3")) > 1:
                break
            return which
    return np.zeros(len(symbols), dtype=bool)


def _horizontal_mirrors(
    group: SpaceGroup, symbols: np.ndarray
) -> Bool[np.ndarray, " ops"]:
    """Mirrors perpendicular to a main axis of odd order."""
    mirrors = symbols == "m"
    even = np.isin(symbols, ["C4", "C6", "S4"])
    three = _axes(group, symbols == "C3")
    if not np.any(mirrors) or np.any(even) or len(three) > 1:
        return np.zeros(len(symbols), dtype=bool)
    if len(three) == 0:
        # With a single mirror plane, its normal is the axis; mm2 has two.
        single = len(_axes(group, mirrors)) == 1 and not np.any(symbols == "C2")
        return mirrors if single else np.zeros(len(symbols), dtype=bool)
    # A mirror is 1 - 2 n n^T.
    along = three[0] @ np.swapaxes(group.cart_rotations, 1, 2)
    return mirrors & (np.linalg.norm(along + three[0], axis=1) < 1e-3)


@functools.lru_cache(maxsize=64)
def _matrices(irrep: Irrep) -> Inexact[np.ndarray, "ops d d"]:
    """From functions on the group, where g takes f(x) to f(g^-1 x): the projector onto
    all copies of the irrep, times a random operator that commutes with all g, has the
    copies as eigenspaces."""
    group, d = irrep.group, irrep.dimension
    table, inverses = _products(group)
    quotient = table[inverses]
    rng = np.random.default_rng(0)
    weights: np.ndarray = rng.normal(size=group.order)
    if irrep.indicator != 1:
        weights = weights + 1j * rng.normal(size=group.order)
    weights = weights + np.conj(weights[inverses])
    # Positive, so that the copies are above what is projected out.
    weights[group.identity] += np.sum(np.abs(weights))
    projector = d / group.order * irrep.characters[quotient]
    matrix = projector @ weights[quotient]
    copy = np.linalg.eigh((matrix + np.conj(matrix.T)) / 2)[1][:, -d:]
    basis = _canonical(copy)
    moved = basis[quotient]
    return np.einsum("xi,gxj->gij", np.conj(basis), moved, optimize=True)


def _canonical(
    vectors: Inexact[np.ndarray, "n d"],
) -> Inexact[np.ndarray, "n d"]:
    """The orthonormal basis of a space that does not depend on that in `vectors`: the
    projections of the first unit vectors that are independent, made orthonormal."""
    n, d = vectors.shape
    basis = np.zeros((n, 0), dtype=vectors.dtype)
    for i in range(n):
        new = vectors @ np.conj(vectors[i])
        new = new - basis @ (np.conj(basis.T) @ new)
        # At least a tenth of the mean square that a unit vector has in the space.
        if (length := np.linalg.norm(new)) > np.sqrt(0.1 * d / n):
            basis = np.concatenate([basis, new[:, None] / length], axis=1)
        if basis.shape[1] == d:
            return basis
    return vectors


def _shown(value: complex) -> str:
    """With up to three decimals, such as -0.5+0.866i."""

    def number(x: float) -> str:
        return f"{x:.3f}".rstrip("0").rstrip(".")

    if not value.imag:
        return number(value.real)
    real = number(value.real) if value.real else ""
    imag = number(abs(value.imag)) if abs(value.imag) != 1 else ""
    sign = "-" if value.imag < 0 else "+" if real else ""
    return f"{real}{sign}{imag}i"

"""Irreducible representations of groups of symmetry operations."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Complex, Inexact, Int

from .._core import AbstractFixed, AbstractSummarized, checked, html_table, in_blocks
from .mulliken import class_heads, INTEGER, labeled
from .names import caption
from .space_group import SpaceGroup


# Labels of irreps on one line.
_SHOWN = 12


class Irrep(AbstractFixed, AbstractSummarized):
    r"""An irreducible unitary representation $D$ of a group of operations, one of
    [`eqsym.irreps`][]: a wave function is projected onto it by
    [`eqsym.IrrepProjection`][].

    Static, hashable and compared by value, like the group.

    **Labels** follow Mulliken as far as characters determine them. A letter gives the
    dimension: A and B (1), E (2), T, G, H, I (3 to 6) and D8\_ and so on above. Of
    one-dimensional irreps, A has character 1 for all rotations about the main axis and
    B does not; if there are three axes of order two and no other, A has character 1 for
    all of them; in cubic groups there is only A. Complex conjugates of one another are
    1E and 2E, with the letter of the dimension of both together; 1E is the one whose
    first complex character has a positive imaginary part. Suffixes: g and u for even
    and odd under inversion; without inversion, ' and '' for even and odd under a mirror
    perpendicular to a main axis of odd order. If a translation in the group is not 1, a
    star takes their place. Irreps with the same name are numbered, by falling
    characters: the mean over all rotations of order 6, then 4, 3 and 2, then improper
    operations; among equals, such as B1 and B2 of mmm, by the characters of the
    operations in the order of the group.
    """

    group: SpaceGroup
    label: str = eqx.field(static=True)
    _characters: tuple[complex, ...] = eqx.field(static=True)

    def _summary(self) -> str:
        return f"{self.label}, dimension {self.dimension}, {self.group.symbol}"

    @property
    def dimension(self) -> int:
        """The dimension d."""
        return round(self._characters[self.group.identity].real)

    @property
    def characters(self) -> Inexact[np.ndarray, " ops"]:
        r"""The characters $\chi(g) = \mathrm{tr}\, D(g)$ of the operations of the group
        in their order; real numbers if all are."""
        values = np.array(self._characters)
        return values if np.any(np.imag(values)) else np.real(values)

    @property
    def indicator(self) -> int:
        r"""The Frobenius-Schur indicator $|G|^{-1} \sum_g \chi(g^2)$: 1 if the
        matrices can be chosen real, -1 if only the characters are real, 0 if the
        characters are complex."""
        squares = np.diagonal(_products(self.group).table)
        return round(np.mean(self.characters[squares]).real)

    @property
    def matrices(self) -> Inexact[np.ndarray, "ops d d"]:
        """The unitary matrices D(g); real and orthogonal if `indicator` is 1.

        They are determined up to a change of basis. The basis chosen here is the same
        each time, on every machine.
        """
        return _matrices(self).copy()


class CharacterTable(AbstractFixed, AbstractSummarized):
    """The characters of all irreducible representations of a group; see
    `character_table`."""

    irreps: tuple[Irrep, ...]

    def _summary(self) -> str:
        labels = [irrep.label for irrep in self.irreps]
        shown = [*labels[:_SHOWN], "..."] if len(labels) > _SHOWN else labels
        return f"{self.group.symbol}, {len(labels)} irreps: {' '.join(shown)}"

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
        """The number and the Schoenflies symbol of the operations of each class, and
        the axis and the translation of one of them, such as `"8 C3 [111]"` or
        `"6 C4 [001] | 1/2 0 0"`; m are mirrors and glides, t are translations. Axes and
        translations are written as in [`eqsym.SpaceGroup.names`][]. A sign, as in
        `"4 C3+ [111]"`, tells a class from another one of the inverse operations."""
        heads = class_heads(self.group, self.classes)
        parts = [(count, axis, shift and f"| {shift}") for count, axis, shift in heads]
        return tuple(" ".join(filter(None, some)) for some in parts)

    @property
    def values(self) -> Inexact[np.ndarray, "irreps classes"]:
        """The characters, one row for each irrep and one column for each class."""
        columns = [some[0] for some in self.classes]
        return np.array([irrep.characters[columns] for irrep in self.irreps])

    def __len__(self) -> int:
        return len(self.irreps)

    def __iter__(self) -> Iterator[Irrep]:
        return iter(self.irreps)

    def __contains__(self, label: str | Irrep) -> bool:
        return any(label in (irrep, irrep.label) for irrep in self.irreps)

    def __getitem__(self, label: str) -> Irrep:
        for irrep in self.irreps:
            if irrep.label == label:
                return irrep
        names = ", ".join(irrep.label for irrep in self.irreps)
        raise ValueError(
            f"`irrep` must be one of the group's, {names}, got {label!r}. "
            "`eqsym.character_table` shows their characters."
        )

    def __str__(self) -> str:
        heads = class_heads(self.group, self.classes)
        rows = [["", *row] for row in zip(*heads, strict=True) if any(row)]
        return "\n\n".join([in_blocks([*rows, *self._rows()]), self._caption(heads)])

    def _repr_html_(self) -> str:
        heads = class_heads(self.group, self.classes)
        rows = [["", *("\n".join(filter(None, head)) for head in heads)]]
        caption = f"{self.group.symbol}. {self._caption(heads)}"
        return html_table([*rows, *self._rows()], caption)

    def _rows(self) -> list[list[str]]:
        return [
            [irrep.label, *(_shown(complex(value)) for value in values)]
            for irrep, values in zip(self.irreps, self.values, strict=True)
        ]

    def _caption(self, heads: Sequence[tuple[str, str, str]]) -> str:
        shifted = any(shift for *_, shift in heads)
        return caption(self.group._operations(), shifted)


@checked
def character_table(group: SpaceGroup) -> CharacterTable:
    """The character table of a group of operations: `print`, or a notebook, shows
    which irreducible representations there are to project onto.

    Found by diagonalizing a random element of the center of the group algebra, whose
    eigenvectors are the characters, and made exact by rounding the multiplicities of
    the eigenvalues of every D(g): J. D. Dixon, Numer. Math. 10, 446 (1967). A group of
    384 operations takes less than a second, once in a process.

    **Arguments:**

    - `group`: the group, as its multiplication table gives it: modulo the lattice
        translations up to which it is closed.

    **Returns:**

    The table; `table["T1u"]` is one of its rows, an [`eqsym.Irrep`][], and
    `for irrep in table` goes through all of them.

    - `irreps`: all rows, the trivial one first.
    - `classes`: the conjugacy classes, in the order of the columns, as the numbers of
        their operations. The identity comes first.
    - `class_labels`: number and Schoenflies symbol of the operations of each class,
        with the axis and translation of one of them, such as `"8 C3 [111]"` or
        `"3 m [100] | 1/2 0 0"`; m are mirrors and glides, t are translations. A sign
        tells a class from another one of the inverse operations.
    - `values`: the characters, one row for each irrep and one column for each class;
        real numbers if all are.
    - `group`: the group.

    **Raises:** `ValueError` for arguments of the wrong kind.
    """
    return _character_table(group)


@checked
def irreps(group: SpaceGroup) -> tuple[Irrep, ...]:
    """All irreducible representations of a group, the trivial one first: the rows of
    [`eqsym.character_table`][].

    **Arguments:**

    - `group`: as for [`eqsym.character_table`][].

    **Raises:** `ValueError` for arguments of the wrong kind.
    """
    return _character_table(group).irreps


@functools.lru_cache(maxsize=64)
def _character_table(group: SpaceGroup) -> CharacterTable:
    first, class_of = _classes(group)
    values = _characters(group)
    rows = [
        Irrep(group, label, tuple(complex(x) for x in row[class_of]))
        for label, row in labeled(group, values, class_of)
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
    of the identity first, then in the order of their first operations."""
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
    or None if these are not near integers."""
    exact = np.empty_like(values)
    for column, x in enumerate(first):
        powers = [first[0]]
        while (power := table[powers[-1], x]) != first[0]:
            powers.append(power)
        m = len(powers)
        # D(x) has the eigenvalue exp(2 pi i l / m) as often as this.
        often = np.fft.fft(values[:, class_of[powers]], axis=1) / m
        if np.max(np.abs(often - np.round(often.real))) > INTEGER:
            return None
        roots = np.exp(2j * np.pi * np.arange(m) / m)
        exact[:, column] = np.round(often.real) @ roots
    # Adding 0 turns -0 into 0.
    return np.round(exact, 14) + 0


def _orthogonal(
    values: Complex[np.ndarray, "irreps classes"], sizes: Int[np.ndarray, " classes"]
) -> bool:
    gram = (values * sizes) @ np.conj(values.T) / np.sum(sizes)
    return bool(np.max(np.abs(gram - np.eye(len(values)))) < INTEGER)


@functools.lru_cache(maxsize=64)
def _matrices(irrep: Irrep) -> Inexact[np.ndarray, "ops d d"]:
    """In functions on the group, of which g takes f(x) to f(g^-1 x): the projector onto
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
    # Positive, so that the copies are above all that is projected out.
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
    """An orthonormal basis that depends on the space spanned by `vectors` only: the
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

"""Labels of operations after Schoenflies, and of irreducible representations after
Mulliken."""

import numpy as np
from jaxtyping import Bool, Complex, Int

from .names import operation_names
from .operations import seen_from_fixed_point
from .space_group import SpaceGroup


# Sums of squares, multiplicities and products of characters are integers. Errors of
# their computed values are some 1e-12; this far off means a failure.
INTEGER = 1e-6
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


def schoenflies(group: SpaceGroup) -> list[str]:
    """The symbol of each operation."""
    rotations = group.frac_rotations
    determinants = np.round(np.linalg.det(rotations)).astype(int)
    traces = np.trace(rotations, axis1=1, axis2=2)
    symbols = [_TYPES[d, t] for d, t in zip(determinants, traces, strict=True)]
    symbols = ["t" if symbol == "E" else symbol for symbol in symbols]
    symbols[group.identity] = "E"
    return symbols


def class_heads(
    group: SpaceGroup, classes: tuple[tuple[int, ...], ...]
) -> list[tuple[str, str, str]]:
    """The heads of the columns of a character table: number and symbol of the
    operations of each class, with a sign if the inverse operations are another class;
    axis and translation of one of them."""
    symbols, names = (
        schoenflies(group),
        operation_names(seen_from_fixed_point(group._operations())),
    )
    inverse, heads = group.inverses, []
    for some in classes:
        i = min(some, key=lambda i: (names[i].shift != "", _unusual(names[i].axis)))
        # With its inverse in the class, an operation has both senses.
        sign = "" if inverse[i] in some else names[i].sense
        if symbols[i].startswith("S"):
            # A rotation and an inversion: a reflection and half a turn more.
            sign = {"+": "-", "-": "+", "": ""}[sign]
        heads.append((f"{len(some)} {symbols[i]}{sign}", names[i].axis, names[i].shift))
    return heads


def _unusual(axis: str) -> tuple[int, ...]:
    """Axes sorted as one would name them: [100] before [010], [110] and [-100]."""
    digits = [int(c) for c in axis if c.isdigit()]
    return (axis.count("-"), sum(digits), *(-digit for digit in digits))


def labeled(
    group: SpaceGroup,
    values: Complex[np.ndarray, "irreps classes"],
    class_of: Int[np.ndarray, " ops"],
) -> list[tuple[str, Complex[np.ndarray, " classes"]]]:
    """The rows of a character table with their labels, in the order of these."""
    characters = values[:, class_of]
    symbols = np.array(schoenflies(group))
    dimensions = np.round(np.real(values[:, 0])).astype(int)
    suffixes = _suffixes(group, symbols, characters, dimensions)
    main = _main_rotations(group, symbols)
    real, imag = np.real(characters), np.imag(characters)
    is_complex = np.any(np.abs(imag) > INTEGER, axis=1)

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
    return list(zip(names, values[order], strict=True))


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
    still = np.all(ratios[:, symbols == "t"] > 1 - INTEGER, axis=1)
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
    """The rotations whose characters tell A from B; none in cubic groups."""
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

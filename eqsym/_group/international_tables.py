"""Operations and symbols of groups, from the tables of spglib."""

import functools
from typing import Any

import numpy as np
import spglib
from jaxtyping import Int

from .._core import Integer, whole_number
from .._crystal import Crystal, into_cell, is_whole, Lattice, quiet
from .operations import Operations, Rotations, Translations
from .vacuum import keeps_plane


# Settings in the tables of spglib: Hall numbers 1 to 530 of space groups, and -1 to
# -116 of layer groups.
_SPACE_SETTINGS = 530
_LAYER_SETTINGS = 116
_SPACE_GROUPS = 230
# Minus the Hall number of the first setting of each of the 80 layer groups; spglib
# tells the number of a layer group for crystals only, not for settings.
_LAYER_GROUPS = (
    *(1, 2, 3, 4, 5, 8, 9, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 35),
    *(37, 38, 39, 40, 42, 43, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62, 64, 65, 67, 68),
    *(70, 72, 74, 76, 77, 79, 80, 81, 82, 83, 84, 85, 87, 88, 89, 90, 91, 92, 93, 94),
    *(95, 96, 98, 99, *range(101, 117)),
)
# The plane groups in the order of the International Tables, with the layer groups that
# do the same to x and y and nothing to z.
_PLANE_GROUPS = {
    "p1": 1,
    "p2": 3,
    "pm": 11,
    "pg": 12,
    "cm": 13,
    "p2mm": 23,
    "p2mg": 24,
    "p2gg": 25,
    "c2mm": 26,
    "p4": 49,
    "p4mm": 55,
    "p4gm": 56,
    "p3": 65,
    "p3m1": 69,
    "p31m": 70,
    "p6": 73,
    "p6mm": 77,
}
# Some places without symmetry of their own, to tell a layer group by.
_GENERIC = np.array([[0.137, 0.291, 0.071], [0.411, 0.059, 0.113], [0.23, 0.53, 0.029]])


def tabulated_operations(
    hall_number: Integer, axes: Any, frac_origin: Any
) -> tuple[Rotations, Translations, tuple[int, ...]]:
    """Rotations and translations from the tables, in fractions of the lattice vectors
    of the crystal, and the aperiodic direction of a layer group. Arguments as for
    `SpaceGroup.from_hall_number`.

    **Raises:** `ValueError` if there is no such setting, or `axes` do not fit it.
    """
    hall_number = whole_number("hall_number", hall_number)
    if not (
        1 <= hall_number <= _SPACE_SETTINGS or 1 <= -hall_number <= _LAYER_SETTINGS
    ):
        raise ValueError(
            f"`hall_number` must be 1 to {_SPACE_SETTINGS} for a space group or -1 to "
            f"-{_LAYER_SETTINGS} for a layer group, got {hall_number}. For the number "
            "of a group in the International Tables use `SpaceGroup.from_number`, "
            "`SpaceGroup.layer_group` or `SpaceGroup.plane_group`."
        )
    origin = np.asarray(frac_origin, dtype=np.float64)
    if origin.shape != (3,) or not np.all(np.isfinite(origin)):
        raise ValueError(
            f"`frac_origin` must be three finite numbers, got {frac_origin}."
        )
    matrix = _conventional(axes)
    found = quiet(spglib.get_symmetry_from_database, hall_number)
    # Row fractions y of the conventional vectors are y M of the lattice vectors.
    turned = matrix.T @ found["rotations"] @ np.linalg.inv(matrix.T)
    rotations = np.round(turned).astype(int)
    if not np.all(is_whole(turned)):
        raise ValueError(
            "`axes` must be conventional vectors that make rotations integer in terms "
            "of the lattice vectors of the crystal, but the rotations of Hall number "
            f"{hall_number} are not with axes {matrix.tolist()}. Check that the "
            "lattice of the crystal has the centering of the group."
        )
    translations = found["translations"] @ matrix + origin - rotations @ origin
    vacuum = ()
    if hall_number < 0:
        vacuum = tuple(int(i) for i in np.flatnonzero(~matrix[:2].any(axis=0)))
        if len(vacuum) != 1:
            raise ValueError(
                "`axes` of a layer group must have first and second vectors made of "
                "the same two lattice vectors of the crystal; the third one is the "
                f"aperiodic direction. Got {matrix.tolist()}."
            )
    return rotations, into_cell(translations), vacuum


def space_group_setting(number: Integer) -> int:
    """Hall number of the first setting of a space group.

    **Raises:** `ValueError` if there is no such group.
    """
    number = whole_number("number", number)
    if not 1 <= number <= _SPACE_GROUPS:
        raise ValueError(
            f"`number` must be the number of a space group, 1 to {_SPACE_GROUPS}, got "
            f"{number}."
        )
    return _first_settings()[number]


def layer_group_setting(number: Integer) -> int:
    """Hall number, negative, of the first setting of a layer group.

    **Raises:** `ValueError` if there is no such group.
    """
    number = whole_number("number", number)
    if not 1 <= number <= len(_LAYER_GROUPS):
        raise ValueError(
            "`number` must be the number of a layer group, 1 to "
            f"{len(_LAYER_GROUPS)}, got {number}."
        )
    return -_LAYER_GROUPS[number - 1]


def plane_group_setting(group: Integer | str) -> int:
    """Hall number, negative, of the layer group that is a plane group.

    **Raises:** `ValueError` if there is no such group.
    """
    names = list(_PLANE_GROUPS)
    if isinstance(group, str) and group in names:
        return layer_group_setting(_PLANE_GROUPS[group])
    if not isinstance(group, str):
        group = whole_number("group", group)
        if 1 <= group <= len(names):
            return layer_group_setting(_PLANE_GROUPS[names[group - 1]])
    raise ValueError(
        f"`group` must be a plane group, 1 to {len(names)} or one of "
        f"{', '.join(names)}, got {group!r}."
    )


def group_symbol(
    crystal: Crystal, operations: Operations, vacuum: tuple[int, ...]
) -> str | None:
    """International symbol of operations together with the lattice modulo which they
    are taken: of a space group, or with one direction of vacuum of a layer group."""
    matrix = np.array(operations.matrix)
    inverse = np.linalg.inv(matrix.T)
    turned = inverse @ np.array(operations.rotations) @ matrix.T
    arguments = (
        Lattice(matrix @ crystal.lattice.vectors),
        np.round(turned).astype(int),
        np.array(operations.translations) @ inverse.T,
    )
    # Vacuum has the direction of a vector of the supercell unless that is tilted.
    if len(vacuum) == 1 and np.all(keeps_plane(matrix.T[None], vacuum)):
        return _layer_group_symbol(*arguments, *vacuum, operations.tolerance)
    return _space_group_symbol(*arguments, operations.tolerance)


def _space_group_symbol(
    lattice: Lattice, rotations: Rotations, translations: Translations, symprec: float
) -> str | None:
    """International symbol of the group of these operations and the lattice."""
    try:
        found = quiet(
            spglib.get_spacegroup_type_from_symmetry,
            rotations,
            translations,
            lattice.vectors,
            symprec=symprec,
        )
    except spglib.error.SpglibError:
        return None
    return None if found is None else found.international_short


def _layer_group_symbol(
    lattice: Lattice,
    rotations: Rotations,
    translations: Translations,
    direction: int,
    symprec: float,
) -> str | None:
    """International symbol of the layer group of operations that keep a layer in place,
    or of a plane group if they do not exchange its two sides.

    spglib knows layer groups of crystals only, so here is one that has these operations
    and no others: the orbits of a few generic points.
    """
    # The layer has no third lattice vector; a normal one does not matter.
    vectors = lattice.vectors
    first, second = (vectors[i] for i in range(3) if i != direction)
    normal = np.cross(first, second)
    vectors[direction] = normal * lattice.volume / (normal @ normal)
    columns = vectors.T
    change = np.linalg.inv(columns) @ lattice.vectors.T
    rotations = np.round(change @ rotations @ np.linalg.inv(change)).astype(int)
    translations = translations @ change.T
    sides = rotations[:, direction, direction]
    if np.any(sides < 0):
        # The origin in the middle of the layer.
        middle = np.zeros(3)
        middle[direction] = translations[np.argmin(sides), direction] / 2
        translations = translations + rotations @ middle - middle
    height = translations[:, direction]
    away = np.abs(height - np.round(height)) * lattice.heights[direction]
    if not np.all(keeps_plane(rotations, (direction,)) & (away < symprec)):
        return None
    translations[:, direction] = 0.0
    images = [rotations @ point + translations for point in _GENERIC]
    kinds = np.repeat(np.arange(len(images)) + 1, len(rotations))
    cell = (vectors.tolist(), np.concatenate(images).tolist(), kinds.tolist())
    try:
        found = quiet(spglib.get_symmetry_layerdataset, cell, direction, symprec)
    except spglib.error.SpglibError:
        return None
    if found is None or len(found.rotations) != len(rotations):
        return None
    plane = {number: name for name, number in _PLANE_GROUPS.items()}
    if np.all(sides > 0):
        return plane[found.number]
    return found.international


@functools.cache
def _first_settings() -> dict[int, int]:
    settings = {}
    for hall_number in range(1, _SPACE_SETTINGS + 1):
        found = quiet(spglib.get_spacegroup_type, hall_number)
        settings.setdefault(found.number, hall_number)
    return settings


def _conventional(axes: Any) -> Int[np.ndarray, "3 3"]:
    given = np.eye(3) if axes is None else np.asarray(axes, dtype=np.float64)
    if (
        given.shape != (3, 3)
        or not np.array_equal(given, np.round(given))
        or round(np.linalg.det(given)) == 0
    ):
        raise ValueError(
            "`axes` must be three independent rows of three integers, conventional "
            "vectors in terms of the lattice vectors of the crystal, got "
            f"{given.tolist()}."
        )
    return given.astype(int)

"""The settings of a mean field: checked, stored with it, and compared."""

import math
import operator
from collections.abc import Iterator, Sequence

import equinox as eqx
import numpy as np

from .._core import AbstractFixed
from .._crystal import Crystal
from .bases import basis_of, plain


NAMES = ("basis", "exp_to_discard", "unrestricted", "moments", "smearing")


class Settings(AbstractFixed):
    """The arguments of [`eqsym.MeanField.solve`][] that determine its result."""

    _basis: tuple[tuple[str, str], ...] = eqx.field(static=True)
    exp_to_discard: float | None = eqx.field(static=True)
    unrestricted: bool = eqx.field(static=True)
    moments: tuple[float, ...] | None = eqx.field(static=True)
    smearing: float | None = eqx.field(static=True)

    def __init__(
        self,
        crystal: Crystal,
        basis: str | dict[str, str] | None,
        exp_to_discard: float | None,
        unrestricted: bool,
        moments: Sequence[float | int] | None,
        smearing: float | None,
    ):
        """Arguments and errors as documented for `MeanField.solve`."""
        self._basis = basis_of(crystal, basis)
        if exp_to_discard is not None:
            exp_to_discard = float(exp_to_discard)
            if not (math.isfinite(exp_to_discard) and exp_to_discard >= 0):
                raise ValueError(
                    "`exp_to_discard` must be a finite exponent, at least 0, or None "
                    f"to keep all primitive Gaussians, got {exp_to_discard}."
                )
        self.exp_to_discard = exp_to_discard
        up, down = crystal.electrons
        self.unrestricted = bool(unrestricted) or up != down
        self.moments = _moments(crystal, self.unrestricted, moments)
        if smearing is not None:
            smearing = float(smearing)
            if not (math.isfinite(smearing) and smearing > 0):
                raise ValueError(
                    "`smearing` must be a positive width in Hartree, such as 0.01, or "
                    f"None for whole electrons, got {smearing}."
                )
        self.smearing = smearing

    @property
    def basis(self) -> str | dict[str, str]:
        """One name, or one for each element if they differ."""
        by_element = dict(self._basis)
        names = set(by_element.values())
        return names.pop() if len(names) == 1 else by_element

    def differences(self, other: "Settings") -> Iterator[str]:
        """Each setting that differs, with its values here and in the other one."""
        for name in NAMES:
            here, there = getattr(self, name), getattr(other, name)
            if plain(here) != plain(there):
                yield f"`{name}` {here!r}, asked for {there!r}"


def _moments(
    crystal: Crystal, unrestricted: bool, given: Sequence[float | int] | None
) -> tuple[float, ...] | None:
    if given is None:
        return None
    if not unrestricted:
        raise ValueError(
            "`moments` need an unrestricted mean field: in a restricted one both spins "
            "occupy the same orbitals. Add `unrestricted=True`."
        )
    moments = np.asarray(given, dtype=np.float64)
    charges = crystal.charges
    if moments.shape != charges.shape:
        raise ValueError(
            "`moments` must be one number for each of the "
            f"{len(charges)} atoms of the primitive cell, {list(crystal.species)}, got "
            f"shape {moments.shape}. An order with a longer period needs a larger "
            "primitive cell."
        )
    if not np.all(np.abs(moments) <= charges):
        raise ValueError(
            "`moments` must be finite and at most as large as the charges of nuclei "
            f"and cores, {charges.tolist()}, got {moments.tolist()}."
        )
    total = crystal.cells * float(np.sum(moments))
    spin = operator.sub(*crystal.electrons)
    # They are a guess: off by one electron, or by half of the polarization.
    if abs(total - spin) > max(1.0, crystal.cells * float(np.sum(np.abs(moments))) / 2):
        raise ValueError(
            f"`moments` {moments.tolist()} add up to {total:g} in the supercell of "
            f"{crystal.cells} cells, but the `spin` of the crystal is {spin}. Make the "
            "crystal with that `spin`, or let moments cancel."
        )
    return tuple(moments.tolist())

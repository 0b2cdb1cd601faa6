"""Arguments of estimators: what they must be, and what to type instead."""

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from .._core import check_kind
from .._crystal import Crystal
from .._group import SpaceGroup
from .._hamiltonian import AbstractHamiltonian
from .._symmetrizer import AbstractRandomSymmetrizer, AbstractSymmetrizer
from .._training import VMC, VMCState
from .._wavefunction import AbstractWavefunction, NOT_DERIVED
from .chains import Chains
from .observables import AbstractObservable


_OTHER_WAY = (
    "Wave function and Hamiltonian are exchanged: the wave function comes first."
)
_GROUP_FIRST = "Group and chains are exchanged: the group comes first."

# The kind of an argument: its class, what it must be, and for some wrong kinds what to
# do.
Kind: TypeAlias = tuple[type | tuple[type, ...], str, dict[type, str]]

# By the name of the argument.
_KINDS: dict[str, Kind] = {
    "wavefunction": (
        AbstractWavefunction,
        "a wave function, such as `result.trained` of a run",
        {AbstractHamiltonian: _OTHER_WAY, **NOT_DERIVED},
    ),
    "hamiltonian": (
        AbstractHamiltonian,
        "a Hamiltonian, such as `eqs.Hamiltonian(crystal)`",
        {
            AbstractWavefunction: _OTHER_WAY,
            Crystal: "Make one of it: `eqs.Hamiltonian(crystal)`.",
        },
    ),
    "group": (
        SpaceGroup,
        "a group, such as `eqs.SpaceGroup.of(crystal)`",
        {
            Chains: _GROUP_FIRST,
            AbstractRandomSymmetrizer: "Give the group that it was made from.",
            Crystal: "Find one: `eqs.SpaceGroup.of(crystal)`.",
        },
    ),
    "chains": (
        Chains,
        "how to sample, such as `eqs.Chains(result.walkers, key=key)` or "
        "`eqs.Chains(256, key=key)`",
        {SpaceGroup: _GROUP_FIRST},
    ),
    "symmetrizer": (
        AbstractSymmetrizer,
        "a symmetrizer, such as `eqs.GroupAverage(group)`",
        {SpaceGroup: "Wrap it in `eqs.GroupAverage`."},
    ),
    "vmc": (
        VMC,
        "what takes training steps, `eqs.VMC(hamiltonian, sampler, optimizer)`",
        {},
    ),
    "path": ((str, os.PathLike), "the path of a folder", {}),
    "state": (VMCState, "a state of training, such as `result.state`", {}),
}
# These may be left out.
_OPTIONAL = ("symmetrizer", "path")


def check_kinds(
    *,
    optional: tuple[str, ...] = _OPTIONAL,
    others: Mapping[str, Kind] | None = None,
    **given: Any,
) -> None:
    """Every estimator calls this first.

    **Arguments:**

    - `optional`: names of arguments that may be `None`.
    - `others`: kinds of further arguments, or with other advice, by name.
    - `given`: arguments by name.

    **Raises:** `ValueError`, in one line, for arguments of the wrong kind.
    """
    kinds = {**_KINDS, **(others or {})}
    for name, value in given.items():
        if value is not None or name not in optional:
            check_kind(name, value, *kinds[name])


def named_observables(observables: Any) -> dict[str, AbstractObservable]:
    """Observables by name; a single one has the name of its class.

    **Raises:** `ValueError`, in one line, for anything else, and for none.
    """
    if isinstance(observables, AbstractObservable):
        return {type(observables).__name__: observables}
    check_kind(
        "observables",
        observables,
        Mapping,
        "an observable, or several by name, such as "
        '`{"density": eqs.Density(crystal, (16, 16, 16))}`',
    )
    if not observables:
        raise ValueError("`observables` must be at least one, got none.")
    for name, one in observables.items():
        check_kind(
            f"observables[{name!r}]",
            one,
            AbstractObservable,
            "an observable, such as `eqs.Density(crystal, (16, 16, 16))`",
        )
    return dict(observables)

"""Arguments of a run: what they must be, and what to type instead."""

import inspect
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from .._core import check_kind, Key, Walkers
from .._estimator import check_kinds
from .._mean_field import MeanField
from .._storage import compare, encode, in_precision, listed
from .._training import Pretraining, VMC, VMCState
from .._wavefunction import AbstractWavefunction, first_walkers, NOT_DERIVED
from .result import RunResult


# May be left out; some are not known to estimators, or with other advice.
_OPTIONAL = ("wavefunction", "pretraining", "state")
_OTHERS: dict[str, tuple[type, str, dict[type, str]]] = {
    "wavefunction": (
        AbstractWavefunction,
        "a wave function, such as `eqs.SolidNet(crystal, occupation, key=key)`",
        {RunResult: "Give its `wavefunction`.", **NOT_DERIVED},
    ),
    "pretraining": (
        Pretraining,
        "`eqs.Pretraining(mean_field, steps=300)`",
        {MeanField: "Wrap it in `eqs.Pretraining(mean_field, steps=300)`."},
    ),
}


def check_run_kinds(
    vmc: VMC,
    wavefunction: AbstractWavefunction | None,
    pretraining: Pretraining | None,
    state: VMCState | None,
) -> None:
    """**Raises:** `ValueError` for arguments of the wrong kind."""
    check_kinds(
        optional=_OPTIONAL,
        others=_OTHERS,
        vmc=vmc,
        wavefunction=wavefunction,
        pretraining=pretraining,
        state=state,
    )


def check_callable(
    name: str, value: Any, example: str, arguments: Sequence[str]
) -> None:
    """**Raises:** `ValueError` unless it is `None`, or a function that can be called
    with these arguments, as far as Python can tell.

    **Arguments:**

    - `name`: of the argument.
    - `value`: what was given.
    - `example`: of a function, for the message.
    - `arguments`: what it will be called with, by name.
    """
    if value is None:
        return
    if not callable(value):
        check_kind(name, value, (), f"a function, such as {example}")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        # Some that are not written in Python do not tell.
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ValueError(
            f"`{name}` is called with ({', '.join(arguments)}), such as {example}, got "
            f"a function of {signature}: {error}."
        ) from None


def starting_point(
    wavefunction: AbstractWavefunction | None,
    walkers: Any,
    pretraining: Pretraining | None,
    state: VMCState | None,
    key: Key,
) -> tuple[AbstractWavefunction, Walkers, int]:
    """The wave function and walkers that a run starts from, and the step.

    **Raises:** `ValueError` unless there is either a wave function with walkers, or a
    state.
    """
    given = dict(wavefunction=wavefunction, walkers=walkers, pretraining=pretraining)
    if state is not None:
        found = [f"`{name}`" for name, value in given.items() if value is not None]
        if found:
            raise ValueError(
                "`state` has a trained wave function and walkers of its own: leave out "
                f"{' and '.join(found)}."
            )
        return state.wavefunction, state.sampler.walkers, int(state.step)
    missing = "wavefunction" if wavefunction is None else "walkers"
    if wavefunction is None or walkers is None:
        raise ValueError(
            f"`{missing}` is missing: `eqs.run(vmc, wavefunction, walkers=256, ...)`, "
            "or to go on from a state, `eqs.run(vmc, state=state, ...)`. A loaded run "
            "has no state (`None`): to go on with it, call `eqs.run` as it was called, "
            "with its `path`; or start a second one, `eqs.run(vmc, "
            "loaded.wavefunction, walkers=loaded.walkers, ...)`."
        )
    return wavefunction, first_walkers(walkers, wavefunction.crystal, key=key), 0


def check_state(state: VMCState, like: VMCState) -> None:
    """**Raises:** `ValueError` if the run cannot go on from a state.

    **Arguments:**

    - `state`: the one that was given.
    - `like`: one of the structure that it must have.
    """
    for name in ("sampler", "optimizer", "strategy"):
        one, other = getattr(state, name), getattr(like, name)
        if _outline(one) == _outline(other):
            continue
        found = compare(encode(one), other, f"state.{name}")
        if precision := in_precision(found):
            raise ValueError(
                f"`state` is of a run in another precision.{precision} These fields "
                f"differ:{listed(found)}"
            )
        raise ValueError(
            f"`state` does not belong to the {name} of this run: its `{name}` is "
            f"{_named(one)}, and {_named(other)} of another structure is needed. "
            + (
                "`vmc.adopt(state, key=key)` takes over a state of another strategy."
                if name == "strategy"
                else f"Use the {name} that it was made with; or start anew from "
                "`wavefunction=state.wavefunction` and "
                "`walkers=state.sampler.walkers`."
            )
        )


def _outline(tree: PyTree) -> Any:
    arrays = eqx.filter(tree, eqx.is_array)
    leaves = [(x.shape, x.dtype) for x in jax.tree.leaves(arrays)]
    return jax.tree.structure(arrays), leaves


def _named(value: Any) -> str:
    return f"a `{type(value).__name__}`"

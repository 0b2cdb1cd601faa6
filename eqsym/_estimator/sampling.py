"""The loop over samples that all estimators share: burn-in, sums, whether the chains
have mixed, and a folder from which to go on."""

import abc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Shaped

from .._core import (
    chunked_vmap,
    interruptible,
    Interrupts,
    Key,
    mesh_of,
    on_host,
    on_mesh,
    progress_bar,
    Walkers,
)
from .._training import AbstractSampler, AbstractSamplerState, REPLACED
from .._wavefunction import AbstractWavefunction, amplitude, first_walkers
from .chain_mixing import drifts, Mixing, mixing, Record
from .chains import Chains
from .folder import estimate_folder, EstimateFolder


_logger = logging.getLogger("eqsym")

# The longest burn-in, in multiples of what was asked for.
_LONGEST = 10
# Folded into the key for first walkers, unlike anything that samplers draw.
_PLACES = 2**31
# Samples after which an estimate gives up if too little of it is finite.
_PATIENCE = 10


class Sample(NamedTuple):
    """The terms of one step in the sums, and numbers of every walker, by which to tell
    whether the chains have mixed."""

    sums: PyTree[np.ndarray]
    values: Float[np.ndarray, "walkers quantities"]


class AbstractEstimator(eqx.Module):
    """Chooses the sums over the samples of all walkers."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the quantities in `Sample.values`: "energy", "potential" or both, and then
        "symmetry", if it is evaluated."""

    @abc.abstractmethod
    def zero(self, walkers: Walkers) -> PyTree[Array]:
        """Zeros in place of the reference: of numbers that the first samples fix."""

    @abc.abstractmethod
    def reference(self, found: PyTree[np.ndarray]) -> PyTree[Array]:
        """The reference, a tree like `zero`, from what `measure` found with zeros. So
        nothing else has to be compiled for it."""

    @abc.abstractmethod
    def measure(
        self, walkers: Walkers, step: int, reference: PyTree[Array]
    ) -> PyTree[Array]:
        """Computes on devices all that is wanted of the walkers of one step."""

    @abc.abstractmethod
    def sample(self, found: PyTree[np.ndarray], reference: PyTree[Array]) -> Sample:
        """From the numbers that `measure` found, on the host."""

    @abc.abstractmethod
    def missing(self, sums: PyTree[np.ndarray]) -> str | None:
        """A message if too little is finite for an estimate."""


class _Bound(NamedTuple):
    """Methods of an estimator."""

    zero: Callable[[Walkers], PyTree]
    reference: Callable[[PyTree], PyTree]
    measure: Callable[[Walkers, int, PyTree], PyTree]
    sample: Callable[[PyTree, PyTree], Sample]


class _State(NamedTuple):
    """All that an estimate needs to go on as if it had never stopped.

    Steps of burn-in that were taken and that are due, and samples taken; walkers that
    were replaced in burn-in and later; the record of log|psi| in burn-in, of samples
    afterwards. Reference and sums are `None` before the first sample.
    """

    sampler: AbstractSamplerState
    burned: Int[np.ndarray, ""]
    due: Int[np.ndarray, ""]
    taken: Int[np.ndarray, ""]
    replaced: Int[np.ndarray, "2"]
    record: Record
    reference: PyTree[Array] | None
    sums: PyTree[np.ndarray] | None

    @property
    def number(self) -> int:
        """Steps of the sampler so far."""
        return int(self.burned + self.taken)


class Sums(NamedTuple):
    """Sums over all samples, the numbers that the first ones fixed, and whether the
    chains have mixed."""

    sums: Any
    reference: Any
    mixing: Mixing


class _Settings(eqx.Module):
    """Everything on which the numbers of an estimate depend."""

    estimate: AbstractEstimator
    wavefunction: AbstractWavefunction
    sampler: AbstractSampler
    walkers: Walkers
    key: Key
    burn_in: int


def accumulate(
    name: str,
    estimator: AbstractEstimator,
    wavefunction: AbstractWavefunction,
    chains: Chains,
    path: str | os.PathLike | None,
) -> Sums:
    """Sums over chains of |psi|^2, after a burn-in.

    They are added up as they come: memory does not grow with the number of samples.

    **Arguments:**

    - `name`: of the function that was called, for messages.
    - `estimator`: chooses the sums.
    - `wavefunction`: to be sampled.
    - `chains`: how to sample.
    - `path`: the folder in which the sums are kept, if any.

    **Raises:** `ValueError` for walkers of the wrong shape, and for a folder with
    something else in it; `FloatingPointError` if too little is
    finite; `OSError` for a folder that cannot be written, or is in use.
    """
    sampler = chains.sampler
    place = jax.random.fold_in(chains.key, _PLACES)
    walkers = first_walkers(chains.walkers, wavefunction.crystal, key=place)
    state = _State(
        sampler=sampler.init(wavefunction, walkers, key=chains.key),
        burned=np.asarray(0),
        due=np.asarray(chains.burn_in),
        taken=np.asarray(0),
        replaced=np.zeros(2, int),
        record=Record.empty(len(walkers), len(estimator.names)),
        reference=None,
        sums=None,
    )
    settings = _Settings(
        estimator, wavefunction, sampler, walkers, chains.key, chains.burn_in
    )
    kept = None if path is None else Path(path)
    with (
        on_mesh(mesh_of(walkers)),
        estimate_folder(kept, name, settings, estimator.names) as folder,
        interruptible() as interrupts,
    ):
        state = _restored(folder, estimator, state, chains)
        arguments = name, estimator, wavefunction, state, chains
        state = _sampled(*arguments, folder, interrupts)
    _report_replaced(name, state.replaced)
    found = mixing(state.record, estimator.names, int(state.burned))
    _report_mixing(name, found, chains)
    return Sums(state.sums, state.reference, found)


def _restored(
    folder: EstimateFolder, estimator: AbstractEstimator, state: _State, chains: Chains
) -> _State:
    """The state in a folder, or the one at the start."""
    if folder.samples is None:
        return state
    if folder.samples > chains.steps:
        raise ValueError(
            f"`steps` must be at least the {folder.samples} samples that `path` has "
            f"already, got {chains.steps}. Ask for as many, or use another folder."
        )
    if folder.samples > 0:
        # Only their shapes matter.
        walkers = state.sampler.walkers
        reference = estimator.zero(walkers)
        found = eqx.filter_eval_shape(estimator.measure, walkers, 0, reference)
        sums = estimator.sample(_zeros(found), reference).sums
        state = state._replace(reference=reference, sums=sums)
    state = folder.restore(state)
    return state._replace(reference=_uncommitted(state.reference))


def _uncommitted(tree: PyTree[Array] | None) -> PyTree[Array] | None:
    """Arrays that may be used together with any others, on whatever devices these are.
    As arrays of numpy, they would be copied at every step."""
    return jax.tree.map(lambda leaf: jnp.asarray(on_host(leaf)), tree)


def _zeros(shapes: PyTree) -> PyTree[np.ndarray]:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def _sampled(
    name: str,
    estimator: AbstractEstimator,
    wavefunction: AbstractWavefunction,
    state: _State,
    chains: Chains,
    folder: EstimateFolder,
    interrupts: Interrupts,
) -> _State:
    if state.taken >= chains.steps:
        return state
    count, burning = int(state.due) + chains.steps, bool(state.burned < state.due)
    compiled = "moves" if burning else "moves and estimators"
    # Bound once: Equinox looks through the whole module whenever a method is asked for.
    bound = _Bound(
        estimator.zero, estimator.reference, estimator.measure, estimator.sample
    )
    missing = estimator.missing
    sound = True
    try:
        with progress_bar(
            name, count, chains.progress, initial=state.number, compiled=compiled
        ) as bar:
            while state.taken < chains.steps:
                if state.burned < state.due:
                    state = _burned(name, wavefunction, state, chains)
                    bar.extend(int(state.due) + chains.steps)
                else:
                    if burning:
                        bar.compiling("the estimators")
                        burning = False
                    state = _measured(
                        bound, wavefunction, chains.sampler, state, folder
                    )
                    _check(missing, state, last=int(state.taken) == chains.steps)
                    bar.say("")
                folder.save_if_due(state)
                bar.update()
                interrupts.check()
    except BaseException as error:
        # Of several processes one that ends for another reason than these is alone, and
        # none can save alone.
        shared = interrupts.ending or isinstance(error, FloatingPointError)
        sound = shared or jax.process_count() == 1
        raise
    finally:
        if sound:
            folder.save(state)
    return state


def _burned(
    name: str,
    wavefunction: AbstractWavefunction,
    state: _State,
    chains: Chains,
) -> _State:
    """One step of burn-in. At its end, if log|psi| still drifts, more of it is due."""
    moved = _advanced(chains.sampler, wavefunction, state.sampler)
    log = on_host(_log_psi(wavefunction, moved.walkers, chains.chunk))
    # Of the quantities in the record the first one stands in for it.
    values = np.full((len(log), state.record.rows.shape[-1]), np.nan)
    values[:, 0] = log
    record, burned, due = state.record.add(values), state.burned + 1, state.due
    if burned == due:
        # From one step nothing can be told.
        drifting = burned > 1 and drifts(record.chains(0))
        longest = _LONGEST * chains.burn_in
        if drifting and burned < longest:
            due = due + chains.burn_in
            _logger.info(
                "%s, burn-in: after %d steps log|psi| of the walkers still drifts, %d "
                "more steps are taken.",
                name,
                burned,
                chains.burn_in,
            )
        else:
            if drifting:
                _logger.warning(
                    "%s, burn-in: log|psi| of the walkers still drifts after %d steps, "
                    "%d times `burn_in`, when it is given up: the samples are not those"
                    " of |psi|^2. Start from other walkers, of a training run or of "
                    "`initial_walkers`, or make `burn_in` longer.",
                    name,
                    burned,
                    _LONGEST,
                )
            elif burned > chains.burn_in:
                _logger.info(
                    "%s: the burn-in took %d steps instead of %d.",
                    name,
                    burned,
                    chains.burn_in,
                )
            record = Record.empty(*record.rows.shape[1:])
    return _State(
        sampler=moved,
        burned=np.asarray(burned),
        due=np.asarray(due),
        taken=state.taken,
        replaced=state.replaced + [int(moved.replaced_walkers), 0],
        record=record,
        reference=None,
        sums=None,
    )


def _measured(
    estimator: _Bound,
    wavefunction: AbstractWavefunction,
    sampler: AbstractSampler,
    state: _State,
    folder: EstimateFolder,
) -> _State:
    """One step more, and its samples."""
    moved = _advanced(sampler, wavefunction, state.sampler)
    reference = state.reference
    taken = int(state.taken)
    if reference is None:
        reference = zero = estimator.zero(moved.walkers)
        if jax.tree.leaves(zero):
            found = estimator.measure(moved.walkers, taken, zero)
            found = estimator.reference(jax.tree.map(on_host, found))
            reference = jax.tree.map(lambda x, y: x.astype(y.dtype), found, zero)
    found = estimator.measure(moved.walkers, taken, reference)
    found = jax.tree.map(on_host, found)
    sample = estimator.sample(found, reference)
    replaced = int(moved.replaced_walkers)
    taken = taken + 1
    folder.append(taken, sample.values, float(moved.acceptance), replaced)
    sums = sample.sums
    if state.sums is not None:
        sums = jax.tree.map(np.add, state.sums, sums)
    return _State(
        sampler=moved,
        burned=state.burned,
        due=state.due,
        taken=np.asarray(taken),
        replaced=state.replaced + [0, replaced],
        record=state.record.add(sample.values),
        reference=reference,
        sums=sums,
    )


# Compiled once for all calls of one kind: what they are called with are arguments.
@eqx.filter_jit
def _advanced(
    sampler: AbstractSampler,
    wavefunction: AbstractWavefunction,
    state: AbstractSamplerState,
) -> AbstractSamplerState:
    return sampler.step(wavefunction, state)


@eqx.filter_jit
def _log_psi(
    wavefunction: AbstractWavefunction, walkers: Walkers, chunk: int | None
) -> Float[Array, " walkers"]:
    return chunked_vmap(lambda x: amplitude(wavefunction, x).log, walkers, chunk)


def _check(
    missing: Callable[[PyTree], str | None], state: _State, *, last: bool
) -> None:
    if not last and state.taken < _PATIENCE:
        return
    found = missing(state.sums)
    if found is not None:
        raise FloatingPointError(f"{found} at any of {int(state.taken)} steps.")


def _report_replaced(name: str, replaced: Shaped[np.ndarray, "2"]) -> None:
    for number, where, meaning in zip(
        replaced,
        ("burn-in", "sampling"),
        ("", " These are not independent, and error bars too small."),
        strict=True,
    ):
        if number > 0:
            _logger.warning(
                "%s, %s: %s%s Look for an amplitude that is not finite.",
                name,
                where,
                REPLACED.format(number),
                meaning,
            )


def _report_mixing(name: str, found: Mixing, chains: Chains) -> None:
    if found.beyond:
        beyond = [
            f"{value:.2f} for the {what} (at most {bound:.2f} if they have)"
            for what, (value, bound) in found.beyond.items()
        ]
        _logger.warning(
            "%s: the chains have not mixed in %d steps. Split R-hat is %s: walkers "
            "keep to parts of space of their own, or chains are too short to tell. "
            "Then the means depend on where the walkers started, and the error bars "
            "do not show it. Take more `steps`, or more moves per step (`sampler`), or "
            "moves that exchange electrons and hop between atoms, or start from other "
            "walkers.",
            name,
            chains.steps,
            " and ".join(beyond),
        )
    if found.drifts:
        _logger.warning(
            "%s: the walkers were not in equilibrium. From the first half of the "
            "samples to the second the mean over all walkers changed by %.1f of its "
            "standard errors. Make `burn_in` longer, or start from other walkers.",
            name,
            abs(found.drift),
        )

"""Observables of a wave function and of its average over a group, with error bars."""

import abc
import functools
import logging
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, PyTree, Shaped

from .._core import (
    AbstractSummarized,
    chunked_sum,
    chunked_vmap,
    data_frame,
    Electrons,
    normalized,
    Walkers,
)
from .._group import SpaceGroup
from .._hamiltonian import Ewald
from .._symmetrizer import check_projection
from .._wavefunction import AbstractWavefunction, amplitude
from .arguments import check_kinds, named_observables
from .chain_mixing import Mixing
from .chains import Chains
from .estimate import Estimate, estimate_from, is_present, origin_of
from .observables import AbstractObservable
from .sampling import AbstractEstimator, accumulate, Sample


if TYPE_CHECKING:
    from pandas import DataFrame

_logger = logging.getLogger("eqsym")

# Error bars from so many blocks are themselves uncertain by an eighth.
_BLOCKS = 32
# In Hartree, of the potential energies by which chains are compared.
_PRECISION = 1e-3
# Kinds of weights; without an average there is the first one alone.
_WALKERS, _MIXTURE, _AVERAGED = range(3)


class Observed(AbstractSummarized):
    """An array of means and one of their errors; [`eqsym.observe`][] describes the
    fields."""

    mean: Inexact[np.ndarray, "..."]
    error: Inexact[np.ndarray, "..."]
    samples: int
    invalid_samples: int
    mixing: Mixing | None = None

    def to_frame(self) -> "DataFrame":
        """A data frame of pandas with the columns `mean` and `error`, and one row for
        each element, in the order of `mean.ravel()`.

        **Raises:** `ImportError` if pandas is not installed: eqsym does without.
        """
        return data_frame({"mean": self.mean.ravel(), "error": self.error.ravel()})

    def _summary(self) -> str:
        if self.mean.size == 1 and not np.iscomplexobj(self.mean):
            found = str(Estimate(self.mean.item(), self.error.item()))
        else:
            found = f"shape {self.mean.shape}"
        return f"{found}, {self.samples} samples"


class PostHocObserved(AbstractSummarized):
    """Observables before and after averaging over a group;
    [`eqsym.observe_post_hoc`][] describes the fields."""

    plain: dict[str, Observed]
    mixture: dict[str, Observed]
    averaged: dict[str, Observed] | None
    difference: dict[str, Observed] | None
    weight: Estimate

    def _summary(self) -> str:
        rows = ["plain", "mixture"]
        if self.averaged is not None:
            rows += ["averaged", "difference"]
        return f"{', '.join(rows)} of {', '.join(self.plain)}; weight={self.weight}"


def observe(
    wavefunction: AbstractWavefunction,
    observables: AbstractObservable | Mapping[str, AbstractObservable],
    chains: Chains,
    *,
    group: SpaceGroup | None = None,
    path: str | os.PathLike | None = None,
) -> dict[str, Observed]:
    r"""Samples $|\psi|^2$ and averages observables.

    Works for every wave function, a symmetrized one included. For a function averaged
    after training, [`eqsym.observe_post_hoc`][] is far cheaper.

    Walkers are dealt to 32 blocks, or one each if they are fewer. Error bars come from
    the jackknife over blocks, which takes the autocorrelation of chains into account.
    The memory does not grow with the number of samples: a few arrays of the size of the
    observables for each block.

    **Arguments:**

    - `wavefunction`: the wave function.
    - `observables`: what to observe, by name, for the same crystal. A single one needs
        no name: it gets that of its class, such as `found["Density"]`.
    - `chains`: how to sample, [`eqsym.Chains`][].
    - `group`: if given, observables are averaged over the images of every sample: they
        become as symmetric as the group. If $|\psi|^2$ has this symmetry, this only
        lowers the noise; else they become observables of the mixture of all images of
        the wave function.
    - `path`: a folder, if given, in which the sums are kept, and go on after they were
        stopped; see [Runs that survive](../runs.md#estimates-that-survive).

    **Returns:**

    For every name an array of means, with the fields

    - `mean`: of the shape of the observable.
    - `error`: the standard errors, of the same shape. If the mean is complex, so is its
        error, with the errors of real and imaginary part, so that the modulus is the
        error in the complex plane. Errors of different elements are correlated.
    - `samples`: number of configurations.
    - `invalid_samples`: configurations left out because an amplitude was not finite;
        more than a few spoil the estimates: the mean is then one over the places with a
        finite amplitude, and no error bar shows the difference.
    - `mixing`: whether the chains have mixed, as in [`eqsym.Evaluation`][], by the
        potential energy. If they have not, a warning says so.

    **Raises:** `ValueError` for walkers of the wrong shape, no observables, observables
    or a group of another crystal, and a `path` with something else in it; `OSError` for
    a `path` that cannot be written or is in use; `FloatingPointError` if in more than
    half of the blocks no amplitude is finite in the first 10 steps, or less than two
    have one.
    """
    check_kinds(
        optional=("group", "path"),
        wavefunction=wavefunction,
        chains=chains,
        group=group,
        path=path,
    )
    observables = named_observables(observables)
    if group is not None:
        group.check_crystal(wavefunction.crystal)
    sums, mixing = _sampled(
        "observe", _Plain(group), wavefunction, observables, chains, path
    )
    return {
        name: _jackknife(_of_kind(_WALKERS, name, one, sums), sums, mixing)
        for name, one in observables.items()
    }


def observe_post_hoc(
    wavefunction: AbstractWavefunction,
    observables: AbstractObservable | Mapping[str, AbstractObservable],
    group: SpaceGroup,
    chains: Chains,
    *,
    path: str | os.PathLike | None = None,
) -> PostHocObserved:
    r"""Observables of a trained wave function before and after averaging it over a
    group, from walkers of the plain wave function.

    A walker x of $|f|^2$ moved to a random point of its orbit has density proportional
    to $p = |G|^{-1} \sum_g |f(g^{-1}x)|^2$, which is the same all over the orbit, as
    $|F|^2$ is for $F = Pf$. A function A of the positions has therefore the mean

    $$\langle A \rangle_{Pf} = \frac{E[w(x) \, |G|^{-1} \sum_g A(g^{-1} x)]}{E[w(x)]} ,
    \quad w = |F|^2 / p$$

    in P f: |G| amplitudes per walker, no new Markov chain, no local energy, and every
    sample counts at all points of its orbit. The weights are between 0 and 1.

    **Arguments:** as for [`eqsym.observe`][], which also says what the error bars are,
    and

    - `wavefunction`: the trained wave function f.
    - `group`: the group to average over.

    **Returns:**

    With fields that are each, by name, as [`eqsym.observe`][] returns them:

    - `plain`: of f as trained.
    - `mixture`: of the mixture of all $U_g f$: of f, then averaged over the group.
    - `averaged`: of P f; `None` if `weight` is not positive by three standard errors:
        then P f is zero as far as these samples can tell.
    - `difference`: `averaged` minus `mixture`, with the error of the paired difference;
        `None` if there is no `averaged`.

    And `weight`, an [`eqsym.Estimate`][]: $|Pf|^2 / |f|^2$, the share of f that is
    symmetric.

    **Raises:** as [`eqsym.observe`][] does, and `ValueError` if the average is not a
    projection of f, see [`eqsym.Symmetrized`][].
    """
    check_kinds(wavefunction=wavefunction, group=group, chains=chains, path=path)
    observables = named_observables(observables)
    group.check_crystal(wavefunction.crystal)
    check_projection(wavefunction, group, np.ones(group.order))
    sums, mixing = _sampled(
        "observe_post_hoc", _PostHoc(group), wavefunction, observables, chains, path
    )

    shares = _replicates(
        sums.weights[:, [_AVERAGED]], sums.weights[:, _MIXTURE], lambda means: means
    )
    weights = _jackknife(shares, sums, mixing)
    origin = origin_of(chains.key)
    weight = estimate_from(origin, weights.mean[0], weights.error[0])

    def weighted(kind: int) -> dict[str, _Replicates]:
        return {
            name: _of_kind(kind, name, one, sums) for name, one in observables.items()
        }

    def estimates(found: dict[str, _Replicates]) -> dict[str, Observed]:
        return {name: _jackknife(one, sums, mixing) for name, one in found.items()}

    mixture = weighted(_MIXTURE)
    averaged = difference = None
    if is_present(weight):
        found = weighted(_AVERAGED)
        gaps = {
            name: jax.tree.map(np.subtract, one, mixture[name])
            for name, one in found.items()
        }
        averaged, difference = estimates(found), estimates(gaps)
    return PostHocObserved(
        plain=estimates(weighted(_WALKERS)),
        mixture=estimates(mixture),
        averaged=averaged,
        difference=difference,
        weight=weight,
    )


class _Spread(NamedTuple):
    """Images of a configuration, and weights of several kinds for each."""

    images: Float[Array, "images electrons 3"]
    weights: Float[Array, "images kinds"]


class _AbstractKinds(eqx.Module):
    """Where a walker counts, and how much."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the numbers by which chains are compared: "potential", and "symmetry" for
        the weight."""

    @abc.abstractmethod
    def weight(
        self, wavefunction: AbstractWavefunction, electrons: Electrons
    ) -> Float[Array, ""]:
        """Of a walker; not finite if the wave function is not."""

    @abc.abstractmethod
    def spread(self, electrons: Electrons, weight: Float[Array, ""]) -> _Spread:
        """The places where a walker of this weight counts."""


class _Plain(_AbstractKinds):
    group: SpaceGroup | None

    @property
    def names(self) -> tuple[str, ...]:
        return ("potential",)

    def weight(
        self, wavefunction: AbstractWavefunction, electrons: Electrons
    ) -> Float[Array, ""]:
        log = amplitude(wavefunction, electrons).log
        return jnp.where(jnp.isfinite(log), 1.0, jnp.nan)

    def spread(self, electrons: Electrons, weight: Float[Array, ""]) -> _Spread:
        group = self.group
        images = electrons[None] if group is None else group.apply_inverse(electrons)
        return _Spread(images, jnp.full((len(images), 1), weight))


class _PostHoc(_AbstractKinds):
    """Kinds of weight: of the walker, of its images alike, of its images in P f."""

    group: SpaceGroup

    @property
    def names(self) -> tuple[str, ...]:
        return "potential", "symmetry"

    def weight(
        self, wavefunction: AbstractWavefunction, electrons: Electrons
    ) -> Float[Array, ""]:
        psi = jax.vmap(functools.partial(amplitude, wavefunction))
        f = normalized(psi(self.group.apply_inverse(electrons)))
        return jnp.abs(jnp.mean(f)) ** 2

    def spread(self, electrons: Electrons, weight: Float[Array, ""]) -> _Spread:
        images = self.group.apply_inverse(electrons)
        one, none = jnp.ones_like(weight), jnp.zeros_like(weight)
        walker = jnp.stack([one, none, none])
        image = jnp.stack([none, one, weight])
        repeated = jnp.broadcast_to(image, (len(images), 3))
        return _Spread(
            jnp.concatenate([electrons[None], images]),
            jnp.concatenate([walker[None], repeated]),
        )


class _Sums(NamedTuple):
    """Block by block: of moments, by the name of the observable, and of weights, both
    for each kind of weight; of valid and of invalid samples."""

    totals: dict[str, Inexact[np.ndarray, "blocks kinds moments"]]
    weights: Float[np.ndarray, "blocks kinds"]
    valid: Float[np.ndarray, " blocks"]
    invalid: Float[np.ndarray, " blocks"]


class _Observables(AbstractEstimator):
    kinds: _AbstractKinds
    wavefunction: AbstractWavefunction
    observables: dict[str, AbstractObservable]
    potential: Ewald
    chunk: int | None

    @property
    def names(self) -> tuple[str, ...]:
        return self.kinds.names

    def zero(self, walkers: Walkers) -> tuple[()]:
        del walkers
        return ()

    def reference(self, found: PyTree[np.ndarray]) -> tuple[()]:
        del found
        return ()

    def measure(self, walkers: Walkers, step: int, reference: tuple[()]) -> PyTree:
        del step, reference
        return _measured(self, walkers)

    def sample(self, found: PyTree[np.ndarray], reference: tuple[()]) -> Sample:
        del reference
        sums, potential, weights = jax.tree.map(_double, found)
        potential = potential / self.wavefunction.crystal.cells
        values = np.stack([potential, weights], axis=1)
        values = np.where(np.isfinite(weights)[:, None], values, np.nan)
        return Sample(_Sums(*sums), values[:, : len(self.names)])

    def missing(self, sums: "_Sums") -> str | None:
        without, count = int(np.sum(sums.valid == 0)), len(sums.valid)
        if count - without >= max(2, count / 2):
            return None
        return f"In {without} of {count} blocks of walkers no amplitude was finite"


def _sampled(
    name: str,
    kinds: _AbstractKinds,
    wavefunction: AbstractWavefunction,
    observables: Mapping[str, AbstractObservable],
    chains: Chains,
    path: str | os.PathLike | None,
) -> tuple[_Sums, Mixing]:
    """Sums over chains of |psi|^2, and whether these have mixed. Samples whose weight
    is not finite are left out, and blocks without a sample, with a warning."""
    for label, one in observables.items():
        different = wavefunction.crystal.difference(one.crystal)
        if different is not None:
            raise ValueError(
                f"`observables` must have the crystal of `wavefunction`, but {label!r} "
                f"has another one: between them {different}."
            )
    potential = Ewald(wavefunction.crystal, precision=_PRECISION)
    estimator = _Observables(
        kinds, wavefunction, dict(observables), potential, chains.chunk
    )
    found = accumulate(name, estimator, wavefunction, chains, path)
    sums: _Sums = found.sums
    kept = sums.valid > 0
    if np.all(kept):
        return sums, found.mixing
    _logger.warning(
        "%s: in %d of %d blocks of walkers no amplitude was finite in %d steps. They "
        "are left out; the estimates come from the other walkers.",
        name,
        np.sum(~kept),
        len(kept),
        chains.steps,
    )
    lost = np.sum(sums.invalid[~kept])
    sums = jax.tree.map(lambda values: values[kept], sums)
    # Still counted as invalid.
    sums.invalid[0] += lost
    return sums, found.mixing


@eqx.filter_jit
def _measured(estimator: _Observables, walkers: Walkers) -> PyTree:
    """The fields of `_Sums`; potential energies and weights of all walkers."""
    kinds, chunk = estimator.kinds, estimator.chunk
    observables, wavefunction = estimator.observables, estimator.wavefunction

    def block(samples: tuple[Walkers, Array, Bool[Array, " walkers"]]) -> PyTree:
        electrons, weights, inside = samples
        valid = inside & jnp.isfinite(weights)
        # Zero times not a number is not a number.
        electrons = jnp.where(valid[:, None, None], electrons, 0)
        spreads = jax.vmap(kinds.spread)(electrons, jnp.where(valid, weights, 0))
        each = jnp.where(valid[:, None, None], spreads.weights, 0)
        totals = {k: o.total(spreads.images, each) for k, o in observables.items()}
        counts = [jnp.sum(some.astype(int)) for some in (valid, inside & ~valid)]
        return totals, jnp.sum(each, axis=(0, 1)), *counts

    weights = chunked_vmap(lambda x: kinds.weight(wavefunction, x), walkers, chunk)
    weights = weights.astype(walkers.dtype)
    potential = chunked_vmap(estimator.potential, walkers, chunk)
    samples = walkers, weights, jnp.ones(len(walkers), bool)
    dealt = jax.tree.map(lambda x: _dealt(x, min(_BLOCKS, len(walkers))), samples)
    sums = jax.lax.map(lambda some: chunked_sum(block, some, chunk), dealt)
    return sums, potential, weights


def _double(values: Shaped[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
    return values.astype(np.result_type(values.dtype, np.float64))


def _dealt(values: Array, blocks: int) -> Array:
    """The leading axis in two, (blocks, walkers of a block), one walker to each block
    in turn; if they do not come out even, empty places are zeros, which `inside` tells
    from walkers."""
    rounds = -(-len(values) // blocks)
    empty = [(0, rounds * blocks - len(values))] + [(0, 0)] * (values.ndim - 1)
    padded = jnp.pad(values, empty)
    return jnp.swapaxes(padded.reshape(rounds, blocks, *values.shape[1:]), 0, 1)


class _Replicates(NamedTuple):
    """A result from all blocks, and from all but one for each."""

    whole: Inexact[np.ndarray, "..."]
    without: Inexact[np.ndarray, "blocks ..."]


def _replicates(
    totals: Inexact[np.ndarray, "blocks moments"],
    weights: Float[np.ndarray, " blocks"],
    result: Callable[[np.ndarray], np.ndarray],
) -> _Replicates:
    """Of a function of the means, which are sums of moments over sums of weights."""
    total, weight = np.sum(totals, axis=0, keepdims=True), np.sum(weights)
    (whole,) = result(total / weight)
    return _Replicates(whole, result((total - totals) / (weight - weights)[:, None]))


def _of_kind(
    kind: int, name: str, observable: AbstractObservable, sums: _Sums
) -> _Replicates:
    """An observable with one kind of weight."""
    totals, weights = sums.totals[name][:, kind], sums.weights[:, kind]
    return _replicates(totals, weights, observable.result)


def _jackknife(found: _Replicates, sums: _Sums, mixing: Mixing | None) -> Observed:
    """The delete-m jackknife for blocks of unequal size: Busing, Meijer and van der
    Leeden, Stat. Comput. 9, 3 (1999), eqs. 5 and 7."""
    blocks, samples = len(sums.valid), np.sum(sums.valid)
    ratio = (samples / sums.valid).reshape(-1, *[1] * found.whole.ndim)
    mean = blocks * found.whole - np.sum((1 - 1 / ratio) * found.without, axis=0)
    scatter = ratio * found.whole - (ratio - 1) * found.without - mean

    def error(parts: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return np.sqrt(np.mean(parts**2 / (ratio - 1), axis=0))

    if np.iscomplexobj(scatter):
        errors = error(scatter.real) + 1j * error(scatter.imag)
    else:
        errors = error(scatter)
    return Observed(mean, errors, int(samples), int(np.sum(sums.invalid)), mixing)

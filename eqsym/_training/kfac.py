"""KFAC: natural gradients by Kronecker factors of linear layers."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int, PyTree

from .._core import check_chunk, combine, full_precision, Integer, spread
from .._wavefunction import Linear
from .optimizer import (
    AbstractOptimizer,
    AbstractOptimizerState,
    check_number,
    check_positive,
    check_rate,
    InverseDecay,
    scale,
    Schedule,
    scheduled,
)
from .scores import flattened, Scores, summed
from .taps import fill_slots, split_linears, Tap, with_weights


# Parameters outside of linear layers get one exact block up to this number.
_LARGEST_BLOCK = 2048

# Each raises what is added to all factors tenfold.
_TRIES = 8

CENTER = True


class LayerMoments(eqx.Module):
    """Of one linear layer: means over walkers.

    - `inputs`: of $a a^T$ over the rows, each with a 1 at its end.
    - `cotangents`: of $\\sum d d^T$, summed over rows and components.
    - `mean`: of d over the rows, times the square root of their number; one row for
        each component of the amplitude, of which real functions have one.
    """

    inputs: Float[Array, "in in"]
    cotangents: Float[Array, "out out"]
    mean: Float[Array, "2 out"]


class KfacState(AbstractOptimizerState):
    """State of [`eqsym.Kfac`][]: moving averages, and steps taken."""

    layers: tuple[LayerMoments, ...]
    others: Float[Array, "n n"] | Float[Array, " n"]
    count: Int[Array, ""]
    solver_retries: Int[Array, ""]


class Kfac(AbstractOptimizer[KfacState]):
    learning_rate: Schedule
    decay: float
    damping: float
    norm_bound: Schedule
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Schedule = InverseDecay(0.05),  # noqa: B008
        *,
        decay: float = 0.95,
        damping: float = 1e-3,
        norm_bound: Schedule = 1e-3,
        chunk: Integer | None = None,
    ):
        self.learning_rate = learning_rate
        self.decay = decay
        self.damping = damping
        self.norm_bound = norm_bound
        self.chunk = check_chunk(chunk)

    def __check_init__(self):
        check_rate("learning_rate", self.learning_rate)
        check_number("decay", self.decay, "a number, at least 0 and below 1")
        if not 0 <= self.decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {self.decay}.")
        check_positive("damping", self.damping)
        check_rate("norm_bound", self.norm_bound)
        if not callable(self.norm_bound):
            check_positive("norm_bound", self.norm_bound)

    def init(self, parameters: PyTree[Float[Array, "..."]]) -> KfacState:
        layers, others, _ = split_linears(parameters, None, 1)
        if not layers:
            raise ValueError("no layers")
        vector, _ = flattened(others)
        size = vector.size
        shape = (size, size) if size <= _LARGEST_BLOCK else (size,)
        zero = jnp.zeros((), int)
        return KfacState(
            layers=tuple(_no_moments(linear) for linear in layers),
            others=jnp.zeros(shape, vector.dtype),
            count=zero,
            solver_retries=zero,
        )

    @full_precision()
    def step(
        self, scores: Scores, residual: Inexact[Array, " walkers"], state: KfacState
    ) -> tuple[PyTree[Float[Array, "..."]], KfacState]:
        if scores.view is not None:
            raise ValueError("view")
        layers, others, rest = split_linears(scores.parameters, None, 1)
        vector, separated = flattened(others)
        dense = state.others.ndim == 2

        size = vector.size

        def contribution(taps, matrix, rows, shares):
            weighted = shares[:, None, None] * matrix
            return (
                tuple(_layer_moments(tap, shares) for tap in taps),
                _products(weighted.reshape(-1, size), matrix.reshape(-1, size), dense),
                jnp.sum(weighted, axis=0),
                [_gradient(tap, rows) for tap in taps],
                jnp.einsum("wc,wcp->p", rows, matrix),
            )

        found = summed(scores, contribution, residual, self.chunk)
        found = jax.tree.map(spread, found)
        of_layers, second, mean, gradients, gradient = found
        moments = of_layers, second - _products(mean, mean, dense)
        kept = scale(self.decay, (state.layers, state.others))
        added = scale(1 - self.decay, moments)
        moments = jax.tree.map(lambda x, y: x + y.astype(x.dtype), kept, added)
        count = state.count + 1
        means = scale(1 / (1 - jnp.asarray(self.decay) ** count.astype(float)), moments)
        gradients = [
            (g if linear.bias is not None else g[:, :-1]).astype(linear.weight.dtype)
            for g, linear in zip(gradients, layers, strict=True)
        ]
        gradient = gradient.astype(vector.dtype)
        (directions, direction), retries = _solve(
            means, (gradients, gradient), self.damping
        )

        square = sum(
            (jnp.sum(x * y) for x, y in zip(gradients, directions, strict=True)),
            start=jnp.sum(gradient * direction),
        )
        rate = scheduled(self.learning_rate, state.count)
        largest = jnp.sqrt(scheduled(self.norm_bound, state.count))
        norm = jnp.sqrt(jnp.maximum(square, 0))
        bound = largest.astype(norm.dtype) / jnp.maximum(norm, 1e-30)
        factor = -jnp.minimum(rate, bound)
        directions, direction = scale(factor, (directions, direction))
        filled = [
            with_weights(linear, *_apart(x, linear))
            for linear, x in zip(layers, directions, strict=True)
        ]
        update = fill_slots(filled, combine(separated(direction), rest))
        following = KfacState(
            layers=moments[0], others=moments[1], count=count, solver_retries=retries
        )
        return update, following


def _no_moments(linear: Linear) -> LayerMoments:
    (outputs, inputs), dtype = linear.weight.shape, linear.weight.dtype
    return LayerMoments(
        jnp.zeros((inputs + 1, inputs + 1), dtype),
        jnp.zeros((outputs, outputs), dtype),
        jnp.zeros((2, outputs), dtype),
    )


def _with_one(rows: Float[Array, "walkers rows in"]) -> Float[Array, "walkers rows _"]:
    return jnp.pad(rows, [(0, 0), (0, 0), (0, 1)], constant_values=1)


def _layer_moments(tap: Tap, shares: Float[Array, " walkers"]) -> LayerMoments:
    rows, d = _with_one(tap.rows), tap.cotangents
    count = rows.shape[1]
    weighted = shares[:, None, None] * rows
    inputs = jnp.einsum("wri,wrj->ij", weighted, rows) / count
    weighted = shares[:, None, None, None] * d
    cotangents = jnp.einsum("wcro,wcrp->op", weighted, d)
    mean = jnp.sum(weighted, axis=(0, 2)) / count**0.5
    return LayerMoments(inputs, cotangents, _two(mean))


def _products(x: Float[Array, "m n"], y: Float[Array, "m n"], dense: bool):
    return x.T @ y if dense else jnp.sum(x * y, axis=0)


def _two(mean: Float[Array, "components n"]) -> Float[Array, "2 n"]:
    return jnp.pad(mean, [(0, 2 - len(mean)), (0, 0)])


def _gradient(tap: Tap, rows: Float[Array, "walkers components"]):
    out = jnp.einsum("wc,wcro->wro", rows, tap.cotangents)
    return jnp.einsum("wro,wri->oi", out, _with_one(tap.rows))


def _apart(x, linear: Linear):
    return (x, None) if linear.bias is None else (x[:, :-1], x[:, -1])


def _solve(means, gradients, damping):
    (layers, others), (of_layers, of_others) = means, gradients
    matrices = []
    for moments, gradient in zip(layers, of_layers, strict=True):
        width = gradient.shape[1]
        a, g = moments.inputs[:width, :width], moments.cotangents
        size_a, size_g = jnp.trace(a) / len(a), jnp.trace(g) / len(g)
        seen = (size_a > 0) & (size_g > 0)
        pi = jnp.sqrt(jnp.where(seen, size_a, 1) / jnp.where(seen, size_g, 1))
        root = jnp.sqrt(jnp.asarray(damping, a.dtype))
        matrices += [(a, pi * root), (g, root / pi)]
    dense = others.ndim == 2
    if dense:
        matrices.append((others, jnp.asarray(damping, others.dtype)))
    # Sums of products round by less.
    shifts = [shift + jnp.finfo(m.dtype).eps * jnp.trace(m) for m, shift in matrices]

    def fails(carry):
        _, good, tries = carry
        return ~good & (tries <= _TRIES)

    def factorize(carry):
        _, _, tries = carry
        factors, good = [], jnp.asarray(True)
        for (m, _), shift in zip(matrices, shifts, strict=True):
            shift = 10.0 ** tries.astype(shift.dtype) * shift
            eye = jnp.eye(len(m), dtype=m.dtype)
            factor = jax.scipy.linalg.cholesky(m + shift * eye, lower=True)
            factors.append(factor)
            good &= jnp.min(jnp.diagonal(factor), initial=jnp.inf) ** 2 > 0.5 * shift
        return factors, good, tries + 1

    start = (
        [jnp.zeros_like(m) for m, _ in matrices],
        jnp.asarray(False),
        jnp.zeros((), int),
    )
    factors, _, tries = jax.lax.while_loop(fails, factorize, start)

    def solve(factor, x):
        return jax.scipy.linalg.cho_solve((factor, True), x)

    directions = []
    for i, (moments, gradient) in enumerate(zip(layers, of_layers, strict=True)):
        a, g = factors[2 * i : 2 * i + 2]
        width = gradient.shape[1]
        x = solve(g, solve(a, gradient.T).T)
        if CENTER:
            v = moments.inputs[:width, -1]
            u = moments.mean.T
            av, gu = solve(a, v), solve(g, u)
            k = jnp.eye(2, dtype=x.dtype) - (v @ av) * (u.T @ gu)
            # out x in  : U^T M^-1 g = u^T X v
            c = jnp.linalg.solve(k, u.T @ x @ v)
            x = x + jnp.outer(gu @ c, av)
        directions.append(x)
    if dense:
        direction = solve(factors[-1], of_others)
    else:
        positive = jnp.maximum(others, jnp.zeros_like(others))
        direction = of_others / (positive + jnp.asarray(damping, others.dtype))
    return (directions, direction), tries - 1

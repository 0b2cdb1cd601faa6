"""KFAC: natural gradients by Kronecker factors of linear layers."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int, PyTree

from .._core import check_chunk, combine, full_precision, Integer, spread
from .._wavefunction import AbstractWavefunction, Linear
from .optimizer import (
    AbstractOptimizer,
    AbstractOptimizerState,
    check_number,
    check_positive,
    check_rate,
    factorized,
    InverseDecay,
    scale,
    Schedule,
    scheduled,
)
from .scores import flattened, Scores, summed
from .taps import fill_slots, split_linears, Tap, with_weights


# So many parameters outside of linear layers get one exact block: for 2048 of them the
# block takes 16 MB and its factorization 3e9 operations, less than a layer of 256.
_LARGEST_BLOCK = 2048


class LayerMoments(eqx.Module):
    """Of one linear layer, means over walkers.

    - `inputs`: of $a a^T$, also over rows; each a has a 1 at its end.
    - `cotangents`: of $\\sum d d^T$ over rows and components.
    - `mean`: of d, also over rows, times the square root of their number; for each
        component of the amplitude, of which real functions have one.
    """

    inputs: Float[Array, "in in"]
    cotangents: Float[Array, "out out"]
    mean: Float[Array, "2 out"]


class KfacState(AbstractOptimizerState):
    """State of [`eqsym.Kfac`][]: sums of moments with weights that decay, of each layer
    and of the other parameters, and steps taken."""

    layers: tuple[LayerMoments, ...]
    others: Float[Array, "others others"] | Float[Array, " others"]
    count: Int[Array, ""]
    solver_retries: Int[Array, ""]


class Kfac(AbstractOptimizer[KfacState]):
    r"""Natural gradient by Kronecker factors: KFAC, whose cost grows with the number of
    walkers and not with its square. For thousands of walkers; a step of
    [`eqsym.Spring`][] costs more and gained more where both were tried.

    The gradient of one walker by the weights of a linear layer is
    $\sum_i d_i a_i^T$ with its input rows a, a 1 at their ends for the bias, and
    derivatives d by its output rows. If rows are independent of each other and a of d,
    the layer's block of the Fisher matrix $O^T O$ of [`eqsym.Scores`][] is
    $F = A \otimes G - \bar a \bar a^T \otimes \bar d \bar d^T$ with
    $A = \langle a a^T \rangle$ over walkers and rows,
    $G = \sum_i \langle d_i d_i^T \rangle$, and means $\bar a$ over both and $\bar d$
    times the square root of the number of rows. For one row nothing but the
    independence of a and d is assumed. The second term is due to the centering of
    scores: without it the normalization of the wave function, which has no effect,
    would count as a change of it. For a complex wave function G and the second term
    are sums over the derivatives of $\log|\psi|$ and of $\arg\psi$.

    The step is $-\eta \min(1, \sqrt{C / (\eta^2 \phi \cdot g)}) \phi$ with the gradient
    $g = O^T \epsilon$ and $\phi$ from moving averages of all moments:
    $(A + \pi \sqrt\lambda) \otimes (G + \sqrt\lambda / \pi)$ in place of
    $A \otimes G$, $\pi^2 = (\mathrm{tr} A / \dim A) / (\mathrm{tr} G / \dim G)$.
    All parameters outside of linear layers together have the exact block
    $O^T O + \lambda$ if they are at most 2048, otherwise its diagonal. Martens,
    Grosse, ICML 2015, arXiv 1503.05671; rows as in Grosse, Martens, ICML 2016, arXiv
    1602.01407; for wave functions Pfau et al., Phys. Rev. Research 2, 033429 (2020).

    Only linear layers of this library have factors, which its networks are made
    of. The network is trained as it is: a strategy that trains another function made
    of it, as [`eqsym.SymmetrizedTraining`][] does, needs [`eqsym.Spring`][]. The state
    has the fields `layers` and `others`, the moments, `count`, steps taken, and
    `solver_retries`.
    """

    learning_rate: Schedule
    decay: float
    damping: float
    norm_bound: Schedule
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Schedule = InverseDecay(0.1),  # noqa: B008
        *,
        decay: float = 0.95,
        damping: float = 1e-3,
        norm_bound: Schedule = 1e-3,
        chunk: Integer | None = None,
    ):
        """**Arguments:**

        - `learning_rate`: the rate eta, or a function of the step:
            [`eqsym.InverseDecay`][], an optax schedule, or one of your own.
        - `decay`: of moving averages, at least 0 and below 1: the weight of every step,
            relative to the one after it.
        - `damping`: lambda. To every matrix its trace times the resolution of the
            floating-point type is added as well, the size of its rounding. As often as
            a pivot of one of them is still below half of what was added, that is raised
            tenfold for all of them, which is counted in `solver_retries`.
        - `norm_bound`: C, the largest square of a step in the metric, or a function of
            the step.
        - `chunk`: walkers differentiated at a time, all by default. Bounds the memory:
            nothing is kept of a walker.

        **Raises:** `ValueError` for a setting outside its range.
        """
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
        layers, others, _ = _split(parameters)
        vector, _ = flattened(others)
        exact = vector.size <= _LARGEST_BLOCK
        zero = jnp.zeros((), int)
        return KfacState(
            layers=tuple(_no_moments(linear) for linear in layers),
            others=jnp.zeros((vector.size,) * (1 + exact), vector.dtype),
            count=zero,
            solver_retries=zero,
        )

    @full_precision()
    def step(
        self, scores: Scores, residual: Inexact[Array, " walkers"], state: KfacState
    ) -> tuple[PyTree[Float[Array, "..."]], KfacState]:
        check_layers(self, scores.wavefunction, is_bare=scores.view is None)
        layers, others, rest = _split(scores.parameters)
        vector, separated = flattened(others)
        exact = state.others.ndim == 2

        def contribution(taps, matrix, rows, shares):
            weighted = shares[:, None, None] * matrix
            flat = matrix.shape[0] * matrix.shape[1], matrix.shape[2]
            return (
                tuple(_moments(tap, shares) for tap in taps),
                _products(weighted.reshape(flat), matrix.reshape(flat), exact),
                jnp.sum(weighted, axis=0),
                [_gradient(tap, rows) for tap in taps],
                jnp.einsum("wc,wcp->p", rows, matrix),
            )

        found = summed(scores, contribution, residual, self.chunk)
        of_layers, second, mean, by_weights, by_others = jax.tree.map(spread, found)
        moments = jax.tree.map(
            lambda x, y: x + y.astype(x.dtype),
            scale(self.decay, (state.layers, state.others)),
            scale(1 - self.decay, (of_layers, second - _products(mean, mean, exact))),
        )
        count = state.count + 1
        total = 1 - jnp.asarray(self.decay, float) ** count.astype(float)
        averages, dtype = scale(1 / total, moments), residual.real.dtype
        # Without the column of the 1 if there is no bias.
        widths = [
            linear.weight.shape[1] + (linear.bias is not None) for linear in layers
        ]
        of_weights = [g[:, :width] for g, width in zip(by_weights, widths, strict=True)]
        gradients = _stacked(of_weights, dtype), by_others.astype(dtype)
        directions, retries = _directions(
            averages[0], averages[1], gradients, widths, self.damping
        )

        square = sum(map(jnp.vdot, gradients, directions))
        rate, largest = (
            jnp.asarray(scheduled(value, state.count)).astype(dtype)
            for value in (self.learning_rate, self.norm_bound)
        )
        bound = jnp.sqrt(largest / jnp.maximum(square, 1e-30))
        changes, change = scale(-jnp.minimum(rate, bound), directions)
        filled = []
        for linear, x in zip(layers, changes, strict=True):
            outputs, inputs = linear.weight.shape
            x = x[:outputs].astype(linear.weight.dtype)
            bias = None if linear.bias is None else x[:, inputs]
            filled.append(with_weights(linear, x[:, :inputs], bias))
        change = separated(change.astype(vector.dtype))
        update = fill_slots(filled, combine(change, rest))
        following = KfacState(
            layers=moments[0], others=moments[1], count=count, solver_retries=retries
        )
        return update, following


def check_layers(
    optimizer: AbstractOptimizer, wavefunction: AbstractWavefunction, *, is_bare: bool
) -> None:
    """Before minutes of burn-in.

    **Arguments:**

    - `optimizer`: any one; only `Kfac` asks for something.
    - `wavefunction`: whose parameters are trained.
    - `is_bare`: whether it is also the function that is differentiated.

    **Raises:** `ValueError` if there are no layers to take apart.
    """
    if not isinstance(optimizer, Kfac):
        return
    if not is_bare:
        raise ValueError(
            "`optimizer` must not be `Kfac` if another function made of the network is "
            "trained, such as an average over a group: its layers are applied once for "
            "each operation, which Kronecker factors do not describe. Use "
            "`eqs.Spring()`, which differentiates any function; or train the network "
            "itself, `eqs.PlainTraining()`, and average afterwards."
        )
    _split(wavefunction)


def _split(tree: PyTree) -> tuple[list[Linear], PyTree, PyTree]:
    """All linear layers, the other parameters, and the rest, see `split_linears`.

    **Raises:** `ValueError` if there are no layers.
    """
    found = split_linears(tree, None, 1)
    if not found[0]:
        raise ValueError(
            "`wavefunction` must have linear layers that `eqs.Kfac` can take apart, "
            "which are those of `eqs.SolidNet` and `eqs.AttentionNet`, got none in a "
            f"{type(tree).__name__}. "
            "Layers of a wave function inside of another one do not count. Use "
            "`eqs.Spring()`, which differentiates any function."
        )
    return found


def _no_moments(linear: Linear) -> LayerMoments:
    (outputs, inputs), dtype = linear.weight.shape, linear.weight.dtype
    return LayerMoments(
        jnp.zeros((inputs + 1, inputs + 1), dtype),
        jnp.zeros((outputs, outputs), dtype),
        jnp.zeros((2, outputs), dtype),
    )


def _with_one(rows: Float[Array, "walkers rows in"]) -> Float[Array, "walkers rows _"]:
    return jnp.pad(rows, [(0, 0), (0, 0), (0, 1)], constant_values=1)


def _moments(tap: Tap, shares: Float[Array, " walkers"]) -> LayerMoments:
    """What walkers add to the means."""
    rows, cotangents = _with_one(tap.rows), tap.cotangents
    count = rows.shape[1]
    weighted = shares[:, None, None, None] * cotangents
    mean = jnp.sum(weighted, axis=(0, 2)) / count**0.5
    return LayerMoments(
        jnp.einsum("wri,wrj->ij", shares[:, None, None] * rows, rows) / count,
        jnp.einsum("wcro,wcrp->op", weighted, cotangents),
        jnp.pad(mean, [(0, 2 - len(mean)), (0, 0)]),
    )


def _gradient(
    tap: Tap, rows: Float[Array, "walkers components"]
) -> Float[Array, "out in"]:
    """By the weights and, in the last column, the bias."""
    out = jnp.einsum("wc,wcro->wro", rows, tap.cotangents)
    return jnp.einsum("wro,wri->oi", out, _with_one(tap.rows))


def _products(
    x: Float[Array, "rows others"], y: Float[Array, "rows others"], exact: bool
) -> Float[Array, "others others"] | Float[Array, " others"]:
    return x.T @ y if exact else jnp.sum(x * y, axis=0)


def _stacked(arrays: list[Array], dtype: Any) -> Array:
    """Of all layers, filled up with zeros to the size of the largest: so they are
    compiled as one, and accelerators work on all of them at a time."""
    shape = np.max([x.shape for x in arrays], axis=0)

    def filled(x):
        empty = [(0, n - k) for n, k in zip(shape, x.shape, strict=True)]
        return jnp.pad(x.astype(dtype), empty)

    return jnp.stack([filled(x) for x in arrays])


def _directions(
    layers: tuple[LayerMoments, ...],
    others: Float[Array, "others others"] | Float[Array, " others"],
    gradients: tuple[Float[Array, "layers out in"], Float[Array, " others"]],
    widths: list[int],
    damping: float,
) -> tuple[
    tuple[Float[Array, "layers out in"], Float[Array, " others"]], Int[Array, ""]
]:
    """The gradients preconditioned, of layers and of the other parameters; and how
    often the damping was raised."""
    x, last = gradients
    dtype = x.dtype
    pairs = list(zip(layers, widths, strict=True))
    a = _stacked([one.inputs[:width, :width] for one, width in pairs], dtype)
    g = _stacked([one.cotangents for one in layers], dtype)
    heights = [len(one.cotangents) for one in layers]
    size_a, size_g = (
        jnp.trace(m, axis1=1, axis2=2) / jnp.asarray(sizes, dtype)
        for m, sizes in ((a, widths), (g, heights))
    )
    # Some layers may have no effect.
    alive = (size_a > 0) & (size_g > 0)
    pi = jnp.sqrt(jnp.where(alive, size_a, 1) / jnp.where(alive, size_g, 1))
    root = jnp.sqrt(jnp.asarray(damping, dtype))
    matrices, shifts = [a, g], [pi * root, root / pi]
    exact = others.ndim == 2
    if exact:
        matrices.append(others.astype(dtype)[None])
        shifts.append(jnp.asarray(damping, dtype)[None])
    resolved = [
        shift + jnp.finfo(dtype).eps * jnp.trace(matrix, axis1=1, axis2=2)
        for matrix, shift in zip(matrices, shifts, strict=True)
    ]
    factors, retries = factorized(
        matrices,
        lambda tries: [10.0 ** tries.astype(dtype) * x[:, None] for x in resolved],
    )

    @jax.vmap
    def solve(factor, x):
        return jax.scipy.linalg.cho_solve((factor, True), x)

    x = solve(factors[1], jnp.swapaxes(solve(factors[0], jnp.swapaxes(x, 1, 2)), 1, 2))
    # The second term of F, by the formula of Sherman, Morrison and Woodbury.
    v = _stacked([one.inputs[:width, -1:] for one, width in pairs], dtype)
    u = jnp.swapaxes(_stacked([one.mean for one in layers], dtype), 1, 2)
    inputs, cotangents = solve(factors[0], v), solve(factors[1], u)
    # Without rounding all its eigenvalues are positive.
    left = (1 + 100 * jnp.finfo(dtype).eps) * jnp.eye(2, dtype=dtype)[None]
    left -= jnp.einsum("lik,lik->l", v, inputs)[:, None, None] * jnp.einsum(
        "loc,lod->lcd", u, cotangents
    )
    weights = jnp.linalg.solve(left, jnp.einsum("loc,loi,lik->lck", u, x, v))
    x += jnp.einsum("loc,lck,lik->loi", cotangents, weights, inputs)
    if exact:
        last = solve(factors[2], last[None])[0]
    else:
        last = last / (jnp.maximum(others.astype(dtype), 0) + damping)
    return (x, last), retries

"""Taps: derivatives by the weights of linear layers, as factors."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._core import combine, Electrons, full_precision, on_host, partition, Walkers
from .._wavefunction import AbstractFactor, AbstractWavefunction, Linear


_USE_ANOTHER = (
    "Use `equinox.nn.Linear` for layers that are applied more often, or under "
    "`jax.vmap`."
)


class Tap(eqx.Module):
    """Of one linear layer at one configuration: its input rows, and the derivative of
    the amplitude by its output rows."""

    rows: Float[Array, "*walkers rows in"]
    cotangents: Float[Array, "*components rows out"]

    def along(
        self, axis: Float[Array, " in"], with_bias: bool
    ) -> list[Float[Array, "walkers components out"]]:
        """Of all walkers, derivatives by the weights along an axis of the inputs, and
        by the bias."""
        inputs = self.rows @ axis
        found = [jnp.einsum("wcro,wr->wco", self.cotangents, inputs)]
        return [*found, jnp.sum(self.cotangents, axis=2)] if with_bias else found

    def across(self, axis: Float[Array, " in"]) -> Float[Array, "walkers rows in"]:
        """Input rows of all walkers without their part along an axis."""
        return self.rows - (self.rows @ axis)[..., None] * axis[None, None]


@jax.custom_vjp
def _tapped(x, weight, tap):
    del tap
    return x @ weight.T


def _tapped_forward(x, weight, tap):
    del tap
    return x @ weight.T, (x, weight)


def _tapped_backward(residual, cotangent):
    x, weight = residual
    return cotangent @ weight, cotangent.T @ x, Tap(x, cotangent)


_tapped.defvjp(_tapped_forward, _tapped_backward)


class _TappedLinear(eqx.Module):
    """Stands in for a `Linear`: the gradient with respect to `tap` is the tap."""

    linear: Linear
    tap: Tap

    @property
    def weight(self) -> Float[Array, "out in"]:
        """To look at: derivatives by another use of it, or of `bias`, are missed, which
        `check_factors` tells."""
        return self.linear.weight

    @property
    def bias(self) -> Float[Array, " out"] | None:
        return self.linear.bias

    @property
    def rows(self) -> int:
        return self.linear.rows

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "rows out"]:
        expected = self.tap.rows.shape
        if x.shape != expected:
            raise ValueError(
                "A linear layer must be applied to the matrix of one configuration, "
                f"of shape {expected}, got {x.shape}. {_USE_ANOTHER}"
            )
        y = _tapped(x, self.linear.weight.astype(x.dtype), self.tap)
        bias = self.linear.bias
        return y if bias is None else y + bias[None].astype(x.dtype)


def _is_linear(node) -> bool:
    return isinstance(node, Linear)


def tapped(
    wide: list[Linear],
    narrow: PyTree,
    rest: PyTree,
    components: Callable[
        [AbstractWavefunction, Electrons], Float[Array, " components"]
    ],
) -> Callable[[Electrons], tuple[list[Tap], PyTree]]:
    """What `split_linears` found, as a function of one configuration: taps of the
    layers, and the derivatives of the components by the other parameters."""

    def derivatives(electrons: Electrons) -> tuple[list[Tap], PyTree]:
        taps = [empty_tap(linear, electrons.dtype) for linear in wide]

        def amplitude(args):
            taps, narrow = args
            return components(merge(wide, taps, narrow, rest), electrons)

        taps, gradients = jax.jacrev(amplitude)((taps, narrow))
        # `jacrev` repeats the rows for every component of the amplitude.
        return [Tap(tap.rows[0], tap.cotangents) for tap in taps], gradients

    return derivatives


def check_factors(wavefunction: AbstractWavefunction, walkers: Walkers) -> None:
    """Tries whether derivatives by weights can be put together from taps. They cannot
    if a layer is applied twice to a configuration, or under `jax.vmap`. Costs one
    compilation of the derivative, and nothing for a wave function without such layers.

    **Arguments:**

    - `wavefunction`: to differentiate.
    - `walkers`: configurations to try, in Bohr; one is enough.

    **Raises:** `ValueError` with the largest difference.
    """
    if not split_linears(wavefunction, None, 1)[0]:
        return
    found = _factor_errors(wavefunction, on_host(walkers))
    difference, size, eps = (float(on_host(value)) for value in found)
    # Sums of the same products, in another order.
    if difference > 1e3 * eps * size:
        raise ValueError(
            f"`wavefunction` ({type(wavefunction).__name__}) must apply its linear "
            "layers once to each configuration, and use their weights and biases for "
            "nothing else: derivatives by these that are "
            f"put together from factors differ by {difference:.3g} from plain ones, of "
            f"size {size:.3g}. {_USE_ANOTHER}"
        )


@eqx.filter_jit
@full_precision()
def _factor_errors(
    wavefunction: AbstractWavefunction,
    walkers: Float[Array | np.ndarray, "walkers electrons 3"],
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """The largest difference and derivative, and the coarsest of the resolutions."""
    layers, narrow, rest = split_linears(wavefunction, None, 1)

    def one(electrons: Electrons):
        taps = [empty_tap(linear, electrons.dtype) for linear in layers]

        def value(args):
            layers, taps = args
            return merge(layers, taps, narrow, rest)(electrons).log

        return jax.grad(value)((layers, taps))

    plain, taps = jax.vmap(one)(jnp.asarray(walkers))
    pairs: list[tuple[Array, Array]] = []
    for linear, tap in zip(plain, taps, strict=True):
        weight = jnp.einsum("wro,wri->woi", tap.cotangents, tap.rows)
        pairs.append((weight, linear.weight))
        if linear.bias is not None:
            pairs.append((jnp.sum(tap.cotangents, axis=1), linear.bias))
    errors = [jnp.max(jnp.abs(x - y.astype(x.dtype))) for x, y in pairs]
    sizes = [jnp.max(jnp.abs(x)) for x, _ in pairs]
    eps = max(float(jnp.finfo(x.dtype).eps) for pair in pairs for x in pair)
    return jnp.max(jnp.stack(errors)), jnp.max(jnp.stack(sizes)), jnp.asarray(eps)


def split_linears(
    wavefunction: PyTree, walkers: int | None, components: int
) -> tuple[list[Linear], PyTree, PyTree]:
    """The linear layers whose inner products are cheaper from taps than from gradients
    (all of them for `None` walkers), the other parameters, and the rest, a tree with
    `_Slot` in place of the layers. Of a wave function or a tree like its parameters."""
    wide: list[Linear] = []
    # Those that are evaluated once for each configuration.
    outer: list[Any] = [wavefunction]
    while isinstance(outer[-1], AbstractFactor):
        outer.append(outer[-1].wavefunction)

    def cheaper(node: Linear) -> bool:
        if walkers is None:
            return True
        outputs, inputs = node.weight.shape
        rows, weights = walkers * components, outputs * inputs
        by_gradients = rows * weights * (node.rows + rows)
        by_taps = (walkers * node.rows) ** 2 * inputs + (
            rows * node.rows
        ) ** 2 * outputs
        # Half of the blocks are others transposed.
        return by_taps / 2 < by_gradients

    def take(node):
        if not _is_linear(node) or not cheaper(node):
            return node
        wide.append(node)
        return _Slot(len(wide) - 1)

    def is_leaf(node):
        # A wave function inside another one may be evaluated at many images of a
        # configuration: then its layers are not applied once, and are left as they are.
        whole = isinstance(node, AbstractWavefunction)
        inner = whole and all(node is not one for one in outer)
        return inner or _is_linear(node)

    slotted = jax.tree.map(take, wavefunction, is_leaf=is_leaf)
    narrow, rest = partition(slotted)
    return wide, narrow, rest


class _Slot(eqx.Module):
    index: int = eqx.field(static=True)


def merge(
    wide: list[Linear], taps: list[Tap], narrow: PyTree, rest: PyTree
) -> AbstractWavefunction:
    tapped = [_TappedLinear(*pair) for pair in zip(wide, taps, strict=True)]
    return fill_slots(tapped, combine(narrow, rest))


def fill_slots(layers: Sequence[eqx.Module], slotted: PyTree) -> PyTree:
    """The tree with layers in place of its slots."""

    def fill(node):
        return layers[node.index] if isinstance(node, _Slot) else node

    return jax.tree.map(fill, slotted, is_leaf=lambda node: isinstance(node, _Slot))


def with_weights(linear: Linear, weight: Array, bias: Array | None) -> Linear:
    """The layer with others in place of its own."""
    return eqx.tree_at(
        lambda linear: (linear.weight, linear.bias),
        linear,
        (weight, bias),
        is_leaf=lambda node: node is None,
    )


def empty_tap(linear: Linear, dtype) -> Tap:
    outputs, inputs = linear.weight.shape
    return Tap(
        jnp.zeros((linear.rows, inputs), dtype),
        jnp.zeros((linear.rows, outputs), dtype),
    )

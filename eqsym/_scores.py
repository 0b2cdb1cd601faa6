"""The score matrix: derivatives of log psi by the parameters, as a linear operator."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PyTree

from ._ansatz import AbstractWavefunction, Linear
from ._math import chunked_vmap
from ._types import combine, Electrons, partition, Walkers


class _Tap(eqx.Module):
    """What one linear layer saw of one configuration: its input rows, and the
    derivative of the amplitude by its output rows."""

    rows: Float[Array, "*batch rows in"]
    cotangents: Float[Array, "*batch rows out"]


@jax.custom_vjp
def _tapped(x, weight, tap):
    del tap
    return x @ weight.T


def _tapped_forward(x, weight, tap):
    del tap
    return x @ weight.T, (x, weight)


def _tapped_backward(residual, cotangent):
    x, weight = residual
    return cotangent @ weight, jnp.zeros_like(weight), _Tap(x, cotangent)


_tapped.defvjp(_tapped_forward, _tapped_backward)


class _TappedLinear(eqx.Module):
    """Stands in for a `Linear`: the gradient with respect to `tap` is the tap."""

    linear: Linear
    tap: _Tap

    def __call__(self, x: Float[Array, "rows in"]) -> Float[Array, "rows out"]:
        y = _tapped(x, self.linear.weight.astype(x.dtype), self.tap)
        bias = self.linear.bias
        return y if bias is None else y + bias[None].astype(x.dtype)


def _is_linear(node) -> bool:
    return isinstance(node, Linear)


class Scores(eqx.Module):
    r"""The score matrix $O$ of a batch of walkers, without writing it down.

    Row x of $O$ is $\partial_\theta \log\psi(x)$, minus the mean over the walkers,
    divided by the square root of their number. For a complex wave function every walker
    has two real rows, of $\log|\psi|$ and of $\arg\psi$. Residuals have the same
    layout: real of shape (walkers,) for real wave functions, complex for complex ones,
    real part against $\log|\psi|$ and imaginary part against $\arg\psi$, so that
    $\mathrm{Re} \sum_x \overline{O_x} \epsilon_x$ is $O^T \epsilon$.
    """

    wavefunction: AbstractWavefunction
    walkers: Walkers

    @property
    def parameters(self) -> PyTree[Float[Array, "..."]]:
        """The trainable parameters, the space of columns."""
        return partition(self.wavefunction)[0]

    @property
    def is_real(self) -> bool:
        """Whether the wave function is real-valued."""
        return eqx.filter_eval_shape(self.wavefunction, self.walkers[0]).is_real

    def apply(self, direction: PyTree) -> Inexact[Array, " walkers"]:
        """$O v$: one forward-mode pass over the batch.

        **Arguments:**

        - `direction`: a tree like `parameters`.

        **Returns:**

        One number per walker, complex for a complex wave function.
        """
        _, rows = jax.jvp(self._rows, (self.parameters,), (direction,))
        return _from_rows(self._normalise(rows))

    def transpose(self, residual: Inexact[Array, " walkers"]) -> PyTree:
        """$O^T \\epsilon$: one reverse-mode pass over the batch.

        **Arguments:**

        - `residual`: one number per walker.

        **Returns:**

        A tree like `parameters`.
        """
        rows, pullback = jax.vjp(self._rows, self.parameters)
        (gradient,) = pullback(
            self._normalise(_to_rows(residual, rows.shape[1])).astype(rows.dtype)
        )
        return gradient

    def gram(self, chunk: int | None = None) -> Float[Array, "rows rows"]:
        """$O O^T$, the neural tangent kernel of the batch.

        Weights of wide linear layers are never differentiated walker by walker: with
        input rows a and output cotangents d, the gradient of one walker is
        $\\sum_i d_i a_i^T$, so that the inner product of two is
        $\\sum_{ij} (d_i \\cdot d'_j)(a_i \\cdot a'_j)$. The other parameters are, and
        that is what needs memory: walkers x parameters outside of wide layers, and
        walkers x rows x (inputs + outputs) for each of those.

        **Arguments:**

        - `chunk`: walkers differentiated at a time, all by default. Bounds the memory
            for intermediate values.

        **Returns:**

        The symmetric matrix; rows ordered walkers of the real part first, then, for a
        complex wave function, walkers of the imaginary part.
        """
        size = self.walkers.shape[0]
        components = 1 if self.is_real else 2
        wide, narrow, rest = _split_linears(self.wavefunction, size, components)

        def derivatives(electrons: Electrons) -> tuple[list[_Tap], PyTree]:
            taps = [_empty_tap(linear, electrons.dtype) for linear in wide]

            def amplitude(args):
                taps, narrow = args
                return _components(_merge(wide, taps, narrow, rest), electrons)

            return jax.jacrev(amplitude)((taps, narrow))

        taps, scores = chunked_vmap(derivatives, self.walkers, chunk)

        total = jnp.zeros((components, size, components, size), self.walkers.dtype)
        leaves = jax.tree.leaves(scores)
        if leaves:
            matrix = jnp.concatenate(
                [leaf.reshape(size, components, -1) for leaf in leaves], axis=-1
            )
            matrix = jnp.swapaxes(matrix, 0, 1).reshape(components * size, -1)
            total += (matrix @ matrix.T).reshape(total.shape)
        for tap, linear in zip(taps, wide, strict=True):
            total += _tap_gram(tap, linear.bias is not None)
        total = total - jnp.mean(total, axis=1, keepdims=True)
        total = total - jnp.mean(total, axis=3, keepdims=True)
        return total.reshape(components * size, components * size) / size

    def _rows(
        self, parameters: PyTree[Float[Array, "..."]]
    ) -> Float[Array, "walkers components"]:
        wavefunction = combine(parameters, partition(self.wavefunction)[1])
        return jax.vmap(_components, (None, 0))(wavefunction, self.walkers)

    def _normalise(
        self, rows: Float[Array, "walkers components"]
    ) -> Float[Array, "walkers components"]:
        return (rows - jnp.mean(rows, axis=0, keepdims=True)) * rows.shape[0] ** -0.5


def _components(
    wavefunction: AbstractWavefunction, electrons: Electrons
) -> Float[Array, " components"]:
    value = wavefunction(electrons)
    if value.is_real:
        return value.log[None]
    return jnp.stack([value.log, value.phase])


def _to_rows(
    residual: Inexact[Array, " walkers"], components: int
) -> Float[Array, "walkers components"]:
    if components == 1:
        return residual.real[:, None]
    return jnp.stack([residual.real, residual.imag], axis=-1)


def _from_rows(rows: Float[Array, "walkers components"]) -> Inexact[Array, " walkers"]:
    if rows.shape[1] == 1:
        return rows[:, 0]
    return jax.lax.complex(rows[:, 0], rows[:, 1])


def _split_linears(
    wavefunction: AbstractWavefunction, walkers: int, components: int
) -> tuple[list[Linear], PyTree, PyTree]:
    """The linear layers whose inner products are cheaper from taps than from gradients,
    the other parameters, and the rest, a tree with `_Slot` in place of those layers."""
    wide: list[Linear] = []

    def take(node):
        if not _is_linear(node):
            return node
        outputs, inputs = node.weight.shape
        rows, weights = walkers * components, outputs * inputs
        by_gradients = rows * weights * (node.rows + rows)
        by_taps = (walkers * node.rows) ** 2 * inputs + (
            rows * node.rows
        ) ** 2 * outputs
        if by_gradients <= by_taps:
            return node
        wide.append(node)
        return _Slot(len(wide) - 1)

    def is_leaf(node):
        # A wave function inside of another one may be evaluated at many images of a
        # configuration: there a layer is not applied once, and is left as it is.
        inner = isinstance(node, AbstractWavefunction) and node is not wavefunction
        return inner or _is_linear(node)

    slotted = jax.tree.map(take, wavefunction, is_leaf=is_leaf)
    narrow, rest = partition(slotted)
    return wide, narrow, rest


class _Slot(eqx.Module):
    index: int = eqx.field(static=True)


def _merge(
    wide: list[Linear], taps: list[_Tap], narrow: PyTree, rest: PyTree
) -> AbstractWavefunction:
    def fill(node):
        if isinstance(node, _Slot):
            return _TappedLinear(wide[node.index], taps[node.index])
        return node

    return jax.tree.map(
        fill, combine(narrow, rest), is_leaf=lambda node: isinstance(node, _Slot)
    )


def _empty_tap(linear: Linear, dtype) -> _Tap:
    outputs, inputs = linear.weight.shape
    return _Tap(
        jnp.zeros((linear.rows, inputs), dtype),
        jnp.zeros((linear.rows, outputs), dtype),
    )


def _tap_gram(
    tap: _Tap, with_bias: bool
) -> Float[Array, "components walkers components walkers"]:
    # `jacrev` repeats the activations for every component of the amplitude.
    activations = jnp.moveaxis(tap.rows[:, 0], 1, 0)
    cotangents = jnp.transpose(tap.cotangents, (2, 1, 0, 3))
    rows, components, walkers, _ = cotangents.shape
    bias = jnp.asarray(with_bias, activations.dtype)

    def inner(x, y):
        """Rows of one index against all rows, (walkers, rows, walkers)."""
        flat = y.reshape(rows * walkers, -1)
        return (x @ flat.T).reshape(walkers, rows, walkers)

    def add(total, row):
        a, d = row
        weight = inner(a, activations) + bias
        blocks = [
            [
                jnp.sum(weight * inner(d[i], cotangents[:, j]), axis=1)
                for j in range(components)
            ]
            for i in range(components)
        ]
        return total + jnp.array(blocks), None

    # One row index at a time: the memory is walkers x rows x walkers.
    start = jnp.zeros((components, components, walkers, walkers), activations.dtype)
    total, _ = jax.lax.scan(add, start, (activations, cotangents))
    return jnp.swapaxes(total, 1, 2)

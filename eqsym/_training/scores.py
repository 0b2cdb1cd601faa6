"""Scores: derivatives of log psi by the parameters, as a linear operator."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Inexact, PyTree

from .._core import (
    AbstractModule,
    chunked_sum,
    chunked_vmap,
    combine,
    devices_in_use,
    Electrons,
    full_precision,
    Integer,
    on_host,
    OPERATIONS,
    partition,
    spread,
    WALKERS,
    Walkers,
)
from .._wavefunction import AbstractWavefunction, Linear


_USE_ANOTHER = (
    "Use `equinox.nn.Linear` for layers that are applied more often, or under "
    "`jax.vmap`."
)


class _Tap(eqx.Module):
    """Of one linear layer at one configuration: its input rows, and the derivative of
    the amplitude by its output rows."""

    rows: Float[Array, "*walkers rows in"]
    cotangents: Float[Array, "*components rows out"]


@jax.custom_vjp
def _tapped(x, weight, tap):
    del tap
    return x @ weight.T


def _tapped_forward(x, weight, tap):
    del tap
    return x @ weight.T, (x, weight)


def _tapped_backward(residual, cotangent):
    x, weight = residual
    return cotangent @ weight, cotangent.T @ x, _Tap(x, cotangent)


_tapped.defvjp(_tapped_forward, _tapped_backward)


class _TappedLinear(eqx.Module):
    """Stands in for a `Linear`: the gradient with respect to `tap` is the tap."""

    linear: Linear
    tap: _Tap

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


class Scores(AbstractModule):
    r"""Multiplies with the score matrix $O$ of a batch of walkers, which is too large
    to be written down.

    Row x of $O$ is $\sqrt{p_x} \, (\partial_\theta \log\psi(x) - \langle
    \partial_\theta \log\psi \rangle)$ with the walkers' shares $p_x$, one over
    their number or proportional to `weights`, and the mean over these. For a complex
    wave function every walker has two real rows, of $\log|\psi|$ and of $\arg\psi$.
    Residuals have the same layout: real of shape (walkers,) for real wave functions,
    complex for complex ones, real part against $\log|\psi|$ and imaginary part
    against $\arg\psi$, so that $\mathrm{Re} \sum_x \overline{O_x} \epsilon_x$ is
    $O^T \epsilon$.

    - `wavefunction`: its parameters are the columns.
    - `walkers`: configurations in Bohr, (walkers, electrons, 3).
    - `weights`: importance weights of the walkers, at least 0; all 1 by default.
    - `view`: the function of `wavefunction` that is differentiated, itself by default;
        a symmetrized one, for example.
    """

    wavefunction: AbstractWavefunction
    walkers: Walkers
    weights: Float[Array, " walkers"] | None = None
    view: Callable[[AbstractWavefunction], AbstractWavefunction] | None = None

    @property
    def parameters(self) -> PyTree[Float[Array, "..."]]:
        """The trainable parameters, the space of columns."""
        return partition(self.wavefunction)[0]

    @property
    def is_real(self) -> bool:
        """Whether the function that is differentiated is real-valued."""
        psi = self._viewed(self.wavefunction)
        return eqx.filter_eval_shape(psi, self.walkers[0]).is_real

    @full_precision()
    def transpose(
        self, residual: Inexact[Array, " walkers"], chunk: Integer | None = None
    ) -> PyTree:
        """$O^T \\epsilon$: one reverse-mode pass over the batch.

        **Arguments:**

        - `residual`: one number per walker.
        - `chunk`: walkers differentiated at a time, all by default. Bounds the memory.

        **Returns:**

        A tree like `parameters`.
        """
        components = 1 if self.is_real else 2
        rows = _uncentered(_to_rows(residual, components), self._shares())
        parameters, rest = partition(self.wavefunction)

        def contribution(batch):
            walkers, rows = batch

            def values(parameters):
                wavefunction = combine(parameters, rest)
                return jax.vmap(self._components, (None, 0))(wavefunction, walkers)

            found, pullback = jax.vjp(values, parameters)
            return pullback(rows.astype(found.dtype))[0]

        return chunked_sum(contribution, (self.walkers, rows), chunk)

    @full_precision()
    def factored(self, chunk: Integer | None = None) -> "FactoredScores":
        """Differentiates every walker once, for all products with $O$ to come.

        Weights of wide linear layers are never differentiated walker by walker: the
        gradient of one walker is $\\sum_i d_i a_i^T$ with the layer's input rows a and
        output cotangents d, which are kept. The other parameters are differentiated.
        This needs memory: walkers x parameters outside of wide layers (all parameters
        for a `view`), and walkers x rows x (inputs + outputs) for each wide layer.

        **Arguments:**

        - `chunk`: walkers differentiated at a time, all by default. Bounds the memory
            for intermediate values.

        **Returns:**

        The same matrix in factors, with three methods: `apply(direction)` is $O v$, for
        a tree like `parameters`; `transpose(residual)` is $O^T \\epsilon$; and `gram()`
        is $O O^T$, with the rows of the real parts first and then, for a complex wave
        function, the rows of the imaginary parts.
        """
        components = 1 if self.is_real else 2
        size = self.walkers.shape[0]
        if self.view is None:
            wide, narrow, rest = _split_linears(self.wavefunction, size, components)
        else:
            wide, (narrow, rest) = [], partition(self.wavefunction)

        def derivatives(electrons: Electrons) -> tuple[list[_Tap], PyTree]:
            taps = [_empty_tap(linear, electrons.dtype) for linear in wide]

            def amplitude(args):
                taps, narrow = args
                wavefunction = _merge(wide, taps, narrow, rest)
                return self._components(wavefunction, electrons)

            return jax.jacrev(amplitude)((taps, narrow))

        taps, gradients = chunked_vmap(derivatives, self.walkers, chunk)
        # `jacrev` repeats the rows for every component of the amplitude.
        taps = [_Tap(tap.rows[:, 0], tap.cotangents) for tap in taps]
        shares = self._shares()
        # One matrix for all parameters: what has a loop for each of dozens of arrays
        # is compiled for as long as the network itself.
        matrix = _concatenated(gradients, (size, components), shares.dtype)
        return FactoredScores(self.parameters, taps, matrix, shares)

    def _viewed(self, wavefunction: AbstractWavefunction) -> AbstractWavefunction:
        return wavefunction if self.view is None else self.view(wavefunction)

    def _components(
        self, wavefunction: AbstractWavefunction, electrons: Electrons
    ) -> Float[Array, " components"]:
        value = self._viewed(wavefunction)(electrons)
        if value.is_real:
            return value.log[None]
        return jnp.stack([value.log, value.phase])

    def _shares(self) -> Float[Array, " walkers"]:
        size, dtype = self.walkers.shape[0], self.walkers.dtype
        if self.weights is None:
            return jnp.full((size,), 1 / size, dtype)
        return self.weights.astype(dtype) / jnp.sum(self.weights.astype(dtype))


class FactoredScores(eqx.Module):
    """The score matrix of [`eqsym.Scores`][] in factors: cheap to multiply with."""

    parameters: PyTree[Float[Array, "..."]]
    taps: list[_Tap]
    matrix: Float[Array, "walkers components narrow"]
    shares: Float[Array, " walkers"]

    @full_precision()
    def apply(self, direction: PyTree) -> Inexact[Array, " walkers"]:
        """$O v$.

        **Arguments:**

        - `direction`: a tree like `parameters`.

        **Returns:**

        One number per walker, complex for a complex wave function.
        """
        wide, narrow, _ = self._split(direction)
        rows = self.matrix @ flattened(narrow)[0].astype(self.matrix.dtype)
        for tap, linear in zip(self.taps, wide, strict=True):
            rows += jnp.einsum("wcro,wro->wc", tap.cotangents, linear(tap.rows))
        return _from_rows(_centered(rows, self.shares))

    @full_precision()
    def transpose(self, residual: Inexact[Array, " walkers"]) -> PyTree:
        """$O^T \\epsilon$.

        **Arguments:**

        - `residual`: one number per walker.

        **Returns:**

        A tree like `parameters`.
        """
        rows = _uncentered(_to_rows(residual, self._components), self.shares)
        total = jnp.tensordot(rows.astype(self.matrix.dtype), self.matrix, 2)
        wide, narrow, rest = self._split(self.parameters)
        vector, separated = flattened(narrow)
        narrow = separated(total.astype(vector.dtype))
        filled = []
        for tap, linear in zip(self.taps, wide, strict=True):
            out = jnp.einsum("wc,wcro->wro", rows, tap.cotangents)
            weight = jnp.einsum("wro,wri->oi", out, tap.rows)
            bias = None if linear.bias is None else jnp.sum(out, axis=(0, 1))
            filled.append(
                eqx.tree_at(
                    lambda linear: (linear.weight, linear.bias),
                    linear,
                    (weight, bias),
                    is_leaf=lambda node: node is None,
                )
            )
        found = _fill(filled, combine(narrow, rest))
        return jax.tree.map(lambda x, p: x.astype(p.dtype), found, self.parameters)

    @full_precision()
    def gram(self) -> Float[Array, "rows rows"]:
        """$O O^T$, the neural tangent kernel of the batch.

        For a wide layer the inner product of the gradients of two walkers is
        $\\sum_{ij} (d_i \\cdot d'_j)(a_i \\cdot a'_j)$.

        **Returns:**

        The symmetric matrix: first the rows of the real parts, for all walkers, then,
        for a complex wave function, the rows of the imaginary parts.
        """
        size, components = len(self.shares), self._components
        # Pairs of components first.
        total = jnp.zeros((components, components, size, size), self.shares.dtype)
        matrix = self.matrix
        if matrix.size:
            # Every device gets all walkers' derivatives by some of the parameters, as
            # many for each, so that none ever holds the whole matrix.
            empty = -matrix.shape[-1] % devices_in_use()
            matrix = jnp.pad(matrix, [(0, 0), (0, 0), (0, empty)])
            matrix = spread(matrix, WALKERS, None, OPERATIONS)
            matrix = spread(matrix, None, None, (OPERATIONS, WALKERS))
            matrix = jnp.swapaxes(matrix, 0, 1).reshape(components * size, -1)
            found = (matrix @ matrix.T).reshape(components, size, components, size)
            total += jnp.swapaxes(found, 1, 2)
        wide, _, _ = self._split(self.parameters)
        for tap, linear in zip(self.taps, wide, strict=True):
            total = _with_tap_gram(total, tap, linear.bias is not None)
        total, shares = spread(jnp.swapaxes(total, 1, 2)), self.shares
        total -= jnp.einsum("axby,x->aby", total, shares)[:, None]
        total -= jnp.einsum("axby,y->axb", total, shares)[..., None]
        root = jnp.sqrt(shares)
        total = jnp.einsum("axby,x,y->axby", total, root, root)
        return total.reshape(components * size, components * size)

    @property
    def _components(self) -> int:
        return self.matrix.shape[1]

    def _split(self, tree: PyTree) -> tuple[list[Linear], PyTree, PyTree]:
        """As `_split_linears` did, also for a tree like `parameters`."""
        if not self.taps:
            return [], *partition(tree)
        return _split_linears(tree, len(self.shares), self._components)


def flattened(
    tree: PyTree[Float[Array, "..."]],
) -> tuple[Float[Array, " parameters"], Callable[[Array], PyTree]]:
    """All arrays of a tree in one vector, and how to take it apart again. Operations on
    each array are compiled one by one, and there are dozens of arrays."""
    with jax.numpy_dtype_promotion("standard"):
        return ravel_pytree(tree)


def _concatenated(
    tree: PyTree[Float[Array, "walkers components ..."]], batch: tuple[int, int], dtype
) -> Float[Array, "walkers components parameters"]:
    """All arrays of a tree in one, with the leading axes of all of them."""
    leaves = jax.tree.leaves(tree)
    dtype = np.result_type(dtype, *(leaf.dtype for leaf in leaves))
    flat = [leaf.reshape(*batch, -1).astype(dtype) for leaf in leaves]
    return jnp.concatenate([jnp.zeros((*batch, 0), dtype), *flat], axis=-1)


def _centered(
    rows: Float[Array, "walkers components"], shares: Float[Array, " walkers"]
) -> Float[Array, "walkers components"]:
    mean = jnp.sum(shares[:, None] * rows, axis=0, keepdims=True)
    return jnp.sqrt(shares)[:, None] * (rows - mean)


def _uncentered(
    rows: Float[Array, "walkers components"], shares: Float[Array, " walkers"]
) -> Float[Array, "walkers components"]:
    """The transpose of `_centered`."""
    scaled = jnp.sqrt(shares)[:, None].astype(rows.dtype) * rows
    total = jnp.sum(scaled, axis=0, keepdims=True)
    return scaled - shares[:, None].astype(rows.dtype) * total


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


def check_factors(wavefunction: AbstractWavefunction, walkers: Walkers) -> None:
    """Tries whether derivatives by weights can be put together from taps. They cannot
    if a layer is applied twice to a configuration, or under `jax.vmap`. Costs one
    compilation of the derivative, and nothing for a wave function without such layers.

    **Arguments:**

    - `wavefunction`: to differentiate.
    - `walkers`: configurations to try, in Bohr; one is enough.

    **Raises:** `ValueError` with the largest difference.
    """
    if not _split_linears(wavefunction, None, 1)[0]:
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
    layers, narrow, rest = _split_linears(wavefunction, None, 1)

    def one(electrons: Electrons):
        taps = [_empty_tap(linear, electrons.dtype) for linear in layers]

        def value(args):
            layers, taps = args
            return _merge(layers, taps, narrow, rest)(electrons).log

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


def _split_linears(
    wavefunction: PyTree, walkers: int | None, components: int
) -> tuple[list[Linear], PyTree, PyTree]:
    """The linear layers whose inner products are cheaper from taps than from gradients
    (all of them for `None` walkers), the other parameters, and the rest, a tree with
    `_Slot` in place of the layers. Of a wave function or a tree like its parameters."""
    wide: list[Linear] = []

    def cheaper(node: Linear) -> bool:
        if walkers is None:
            return True
        outputs, inputs = node.weight.shape
        rows, weights = walkers * components, outputs * inputs
        by_gradients = rows * weights * (node.rows + rows)
        by_taps = (walkers * node.rows) ** 2 * inputs + (
            rows * node.rows
        ) ** 2 * outputs
        return by_taps < by_gradients

    def take(node):
        if not _is_linear(node) or not cheaper(node):
            return node
        wide.append(node)
        return _Slot(len(wide) - 1)

    def is_leaf(node):
        # A wave function inside another one may be evaluated at many images of a
        # configuration: then its layers are not applied once, and are left as they are.
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
    tapped = [_TappedLinear(*pair) for pair in zip(wide, taps, strict=True)]
    return _fill(tapped, combine(narrow, rest))


def _fill(layers: Sequence[eqx.Module], slotted: PyTree) -> PyTree:
    """The tree with layers in place of its slots."""

    def fill(node):
        return layers[node.index] if isinstance(node, _Slot) else node

    return jax.tree.map(fill, slotted, is_leaf=lambda node: isinstance(node, _Slot))


def _empty_tap(linear: Linear, dtype) -> _Tap:
    outputs, inputs = linear.weight.shape
    return _Tap(
        jnp.zeros((linear.rows, inputs), dtype),
        jnp.zeros((linear.rows, outputs), dtype),
    )


def _with_tap_gram(
    total: Float[Array, "components components walkers walkers"],
    tap: _Tap,
    with_bias: bool,
) -> Float[Array, "components components walkers walkers"]:
    """With the inner products of one layer added."""
    activations = spread(jnp.moveaxis(tap.rows, 1, 0), None, WALKERS)
    cotangents = jnp.transpose(tap.cotangents, (2, 1, 0, 3))
    cotangents = spread(cotangents, None, None, WALKERS)
    components = cotangents.shape[1]
    bias = jnp.asarray(with_bias, activations.dtype)

    def inner(x, y):
        """Rows of one index against all rows, (walkers, rows, walkers)."""
        return jnp.einsum("xi,ryi->xry", x, y)

    def add(total, row):
        # One row of all walkers on every device, all rows of its own walkers.
        a, d = (spread(one) for one in row)
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
    return jax.lax.scan(add, total, (activations, cotangents))[0]

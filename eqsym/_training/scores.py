"""Scores: derivatives of log psi by the parameters, as a linear operator."""

from collections.abc import Callable

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
    OPERATIONS,
    partition,
    spread,
    walker_devices,
    WALKERS,
    Walkers,
)
from .._wavefunction import AbstractWavefunction, Linear
from .taps import fill_slots, split_linears, Tap, tapped, with_weights


# Rows of linear layers in a block of the Gram matrix. Two blocks of numbers for each
# pair should stay in the cache of a core; accelerators need large products.
_BLOCK_ROWS = 512
_BLOCK_ROWS_ACCELERATOR = 4096


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
            wide, narrow, rest = split_linears(self.wavefunction, size, components)
        else:
            wide, (narrow, rest) = [], partition(self.wavefunction)

        derivatives = tapped(wide, narrow, rest, self._components)
        taps, gradients = chunked_vmap(derivatives, self.walkers, chunk)
        shares = self._shares()
        axes = [_mean_axis(tap.rows) for tap in taps]
        along = [
            tap.along(axis, linear.bias is not None)
            for tap, axis, linear in zip(taps, axes, wide, strict=True)
        ]
        # One matrix for all parameters: what has a loop for each of dozens of arrays
        # is compiled for as long as the network itself.
        batch = size, components
        matrix = _concatenated((gradients, along), batch, shares.dtype)
        # Means are subtracted before anything is multiplied: products of scores whose
        # means are large round by more than what is left of them.
        mean = jnp.einsum("w,wcp->cp", shares.astype(matrix.dtype), matrix)
        return FactoredScores(self.parameters, taps, axes, matrix - mean[None], shares)

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
    """The score matrix of [`eqsym.Scores`][] in factors: cheap to multiply with.

    Scores can have means that are hundreds of times as large as what is left without
    them, such as derivatives by the weights of inputs that hardly change. Products of
    the scores would round by the size of the means. Of one wide layer nearly all of the
    mean is in the weights along one axis of its inputs, their mean. So derivatives by
    these weights are written down, together with those by the bias, and the factors
    have the rest.
    """

    parameters: PyTree[Float[Array, "..."]]
    taps: list[Tap]
    # Unit vectors, one for each tap.
    axes: list[Float[Array, "..."]]
    # First the parameters outside of wide layers, then for each wide layer the weights
    # along the axis and the bias. Without the means over the walkers.
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
        along = [
            _with_bias(linear.weight.astype(axis.dtype) @ axis, linear.bias)
            for linear, axis in zip(wide, self.axes, strict=True)
        ]
        vector, _ = flattened((narrow, along))
        rows = self.matrix @ vector.astype(self.matrix.dtype)
        for tap, axis, linear in zip(self.taps, self.axes, wide, strict=True):
            out = tap.across(axis) @ linear.weight.T.astype(axis.dtype)
            rows += jnp.einsum("wcro,wro->wc", tap.cotangents, out)
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
        along = [_with_bias(linear.weight[:, 0], linear.bias) for linear in wide]
        _, separated = flattened((narrow, along))
        narrow, along = separated(total)
        filled = []
        for tap, axis, linear, (weights, *bias) in zip(
            self.taps, self.axes, wide, along, strict=True
        ):
            out = jnp.einsum("wc,wcro->wro", rows, tap.cotangents)
            weight = jnp.einsum("wro,wri->oi", out, tap.across(axis))
            weight += jnp.outer(weights.astype(weight.dtype), axis)
            filled.append(with_weights(linear, weight, bias[0] if bias else None))
        found = fill_slots(filled, combine(narrow, rest))
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
        if self.taps:
            across = (t.across(a) for t, a in zip(self.taps, self.axes, strict=True))
            factors = zip(across, (tap.cotangents for tap in self.taps), strict=True)
            total += _tap_gram([Tap(*pair) for pair in factors])
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
        """As `split_linears` did, also for a tree like `parameters`."""
        if not self.taps:
            return [], *partition(tree)
        return split_linears(tree, len(self.shares), self._components)


def summed(
    scores: Scores,
    contribution: Callable[..., PyTree],
    residual: Inexact[Array, " walkers"],
    chunk: Integer | None,
) -> PyTree:
    """Sums over walkers of what is made of their derivatives, which are not kept: the
    memory is for `chunk` walkers.

    **Arguments:**

    - `scores`: without a view. All linear layers are taken apart, cheaper or not.
    - `contribution`: sums over the walkers that it is given: their taps, derivatives by
        the other parameters, (walkers, components, parameters), multiples of these in
        $O^T \\epsilon$, (walkers, components), and shares.
    - `residual`, `chunk`: as for [`eqsym.Scores.transpose`][].
    """
    wide, narrow, rest = split_linears(scores.wavefunction, None, 1)
    derivatives = tapped(wide, narrow, rest, scores._components)
    components = 1 if scores.is_real else 2
    shares = scores._shares()
    rows = _uncentered(_to_rows(residual, components), shares)

    def part(batch):
        walkers, rows, shares = batch
        taps, gradients = jax.vmap(derivatives)(walkers)
        matrix = _concatenated(gradients, (len(walkers), components), shares.dtype)
        return contribution(taps, matrix, rows.astype(shares.dtype), shares)

    return chunked_sum(part, (scores.walkers, rows, shares), chunk)


def flattened(
    tree: PyTree[Float[Array, "..."]],
) -> tuple[Float[Array, " parameters"], Callable[[Array], PyTree]]:
    """All arrays of a tree in one vector, and how to take it apart again. Operations on
    each array are compiled one by one, and there are dozens of arrays."""
    with jax.numpy_dtype_promotion("standard"):
        return ravel_pytree(tree)


def _mean_axis(rows: Float[Array, "walkers rows in"]) -> Float[Array, " in"]:
    """A unit vector along the mean of all rows, or 0."""
    mean = jnp.mean(rows, axis=(0, 1))
    norm = jnp.sqrt(jnp.sum(mean**2))
    return mean / jnp.where(norm > 0, norm, jnp.ones_like(norm))


def _with_bias(weights: Array, bias: Array | None) -> list[Array]:
    return [weights] if bias is None else [weights, bias]


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


def _tap_gram(
    taps: list[Tap],
) -> Float[Array, "components components walkers walkers"]:
    """The inner products of wide layers, in blocks of walkers against walkers that fit
    the cache. On one device those above the diagonal are the others transposed."""
    size, components = taps[0].cotangents.shape[:2]
    devices = walker_devices()
    local = -(-size // devices)
    rows = _BLOCK_ROWS if jax.default_backend() == "cpu" else _BLOCK_ROWS_ACCELERATOR
    most = max(tap.rows.shape[1] for tap in taps)
    count = -(-local * most // rows)
    width = -(-local // count)

    def blocked(array: Float[Array, "walkers ..."]) -> Array:
        """(blocks, devices, walkers of a block, ...)."""
        rest = [(0, 0)] * (array.ndim - 1)
        array = jnp.pad(array, [(0, devices * local - size), *rest])
        array = array.reshape(devices, local, *array.shape[1:])
        array = jnp.pad(array, [(0, 0), (0, count * width - local), *rest])
        array = array.reshape(devices, count, width, *array.shape[2:])
        return spread(jnp.swapaxes(array, 0, 1), None, WALKERS)

    def add_row(i, total):
        # A block of walkers of each device, for all of them, against blocks of its own.
        everywhere = [
            [spread(x[i]).reshape(devices * width, *x.shape[3:]) for x in factors]
            for factors in blocks
        ]

        def add(j, total):
            found = []
            for (a, d), (inputs, cotangents) in zip(everywhere, blocks, strict=True):
                weight = jnp.einsum("xpi,dyqi->xpdyq", a, inputs[j])
                product = jnp.einsum("xapo,dybqo->xapdybq", d, cotangents[j])
                product *= weight[:, None, :, :, :, None]
                found.append(jnp.sum(product, axis=(2, 6)))
            block = sum(found[1:], found[0])
            total = total.at[i, j].set(block)
            if devices == 1:
                mirrored = jnp.transpose(block, (3, 4, 2, 0, 1))
                total = total.at[j, i].set(mirrored)
            return total

        return jax.lax.fori_loop(0, i + 1 if devices == 1 else count, add, total)

    blocks = [(blocked(tap.rows), blocked(tap.cotangents)) for tap in taps]
    shape = count, count, devices * width, components, devices, width, components
    total = jnp.zeros(shape, taps[0].rows.dtype)
    total = spread(total, None, None, None, None, WALKERS)
    total = jax.lax.fori_loop(0, count, add_row, total)
    total = total.reshape(count, count, devices, width, *shape[3:])
    # Components, and walkers as they were.
    total = jnp.transpose(total, (4, 7, 2, 0, 3, 5, 1, 6))
    total = total.reshape(components, components, devices, count * width, devices, -1)
    total = total[:, :, :, :local, :, :local]
    total = total.reshape(components, components, devices * local, devices * local)
    return total[:, :, :size, :size]

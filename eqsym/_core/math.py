"""Signed log-sum-exp, determinants and norms that stay finite; chunks of walkers."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact, PyTree

from .sharding import walker_devices
from .types import Integer, LogPsi, whole_number


# Matrices up to this size are expanded into minors: for them LAPACK and its batched
# counterparts on accelerators spend most of their time on calls, not on arithmetic.
_EXPAND = 4
# Leading bits of constants that are kept apart, so that sums of small multiples of them
# are exact in single precision.
_LEADING_BITS = 18

# A single-precision product as three of factors with 10 bits (`DotAlgorithmPreset`).
_THREE_PRODUCTS = "TF32_TF32_F32_X3"


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in the precision of their factors, unless the user has set
    `jax_default_matmul_precision`.

    Accelerators round single-precision factors to 10 bits by default: enough to change
    local energies of a network by 0.1 Ha. Products of three such roundings, which GPUs
    can do, are far closer; CPUs refuse them, so there they are left out.
    """
    current = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    refused = current == _THREE_PRODUCTS and jax.default_backend() == "cpu"
    if current is None or refused:
        with jax.default_matmul_precision("highest"):
            yield
    else:
        yield


def precise_matmul(left: Array, right: ArrayLike) -> Array:
    """`left @ right` of coordinates, phases and weights: in the precision of the
    factors, also if the user has chosen another one for networks."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def precise_einsum(subscripts: str, *operands: Array) -> Array:
    """`jnp.einsum` of coordinates, phases and weights, as `precise_matmul`."""
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


def log_sum(terms: LogPsi, weights: Inexact[Array, " terms"] | None = None) -> LogPsi:
    """`sum_m weights_m sign_m exp(log_m)` over the last axis, without overflow.

    Terms that are exactly 0 (`log = -inf`) are allowed; if all are, so is the sum.
    """
    return rescaled(*scaled_sum(terms, weights))


def scaled_sum(
    terms: LogPsi, weights: Inexact[Array, " terms"] | None = None
) -> tuple[Inexact[Array, "*batch"], Float[Array, "*batch"]]:
    """`(value, log)` whose `value * exp(log)` is the sum of `log_sum`. The value is of
    the order of 1 or less, and may be 0; the log is a constant for derivatives."""
    shift = jnp.max(jax.lax.stop_gradient(terms.log), axis=-1)
    # If all are 0 nothing is smaller: other sums are not lost beside this one.
    shift = jnp.where(jnp.isfinite(shift), shift, jnp.finfo(shift.dtype).min)
    size = jnp.exp(terms.log - shift[..., None])
    values = _multiply(terms.sign, size)
    if weights is not None:
        values = _multiply(values, weights)
    return jnp.sum(values, axis=-1), shift


def rescaled(value: Inexact[Array, "*batch"], log: Float[Array, "*batch"]) -> LogPsi:
    """`value * exp(log)` as an amplitude."""
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        # By parts, and by `log` rather than `abs`: no square root to differentiate.
        square = value.real**2 + value.imag**2
        safe = jnp.where(square > 0, square, 1.0)
        magnitude = jnp.where(square > 0, 0.5 * jnp.log(safe), -jnp.inf)
        sign = jnp.where(square > 0, _multiply(value, jax.lax.rsqrt(safe)), 0.0)
        return LogPsi(sign, magnitude + log)
    return LogPsi(jnp.sign(value), jnp.log(jnp.abs(value)) + log)


def sum_of_determinants(
    *factors: Inexact[Array, "determinants _ _"],
) -> LogPsi:
    """`sum_d prod_f det(factors[f][d])`: the amplitude of a sum of (products of)
    Slater determinants. A factor may be 0x0, its determinant is 1.

    Determinants of up to 4x4 are multiplied out, so that amplitudes and derivatives are
    right also if single determinants vanish.
    """
    value, log = None, None
    for matrix in factors:
        det, scale = _scaled_det(matrix)
        value = det if value is None else _multiply(value, det)
        log = scale if log is None else log + scale
    assert value is not None and log is not None
    shift = jnp.max(jax.lax.stop_gradient(log))
    shift = jnp.where(jnp.isfinite(shift), shift, 0.0)
    return rescaled(jnp.sum(_multiply(value, jnp.exp(log - shift))), shift)


def _scaled_det(
    matrix: Inexact[Array, "determinants n n"],
) -> tuple[Inexact[Array, " determinants"], Float[Array, " determinants"]]:
    """`(value, log)` with `det = value * exp(log)`."""
    n = matrix.shape[-1]
    if n > _EXPAND:
        sign, log = jnp.linalg.slogdet(matrix)
        return sign, log
    # Stopped first: forward Laplacians would otherwise differentiate a complex abs.
    size = jnp.abs(jax.lax.stop_gradient(matrix))
    norm = jnp.max(size, axis=(-2, -1), initial=0.0)
    norm = jnp.where(norm > 0, norm, 1.0)
    return _det(_multiply(matrix, 1 / norm[:, None, None])), n * jnp.log(norm)


def _det(m: Inexact[Array, "determinants n n"]) -> Inexact[Array, " determinants"]:
    n = m.shape[-1]
    if n == 0:
        return jnp.ones(m.shape[:1], m.dtype)
    if n == 1:
        return m[:, 0, 0]
    if n == 2:
        return _minor(m, 0, 0, 1)
    if n == 3:
        return (
            m[:, 0, 0] * _minor(m, 1, 1, 2)
            - m[:, 0, 1] * _minor(m, 1, 0, 2)
            + m[:, 0, 2] * _minor(m, 1, 0, 1)
        )
    # Laplace expansion along the first two rows, all twelve minors in one product: as
    # many expressions would be compiled one by one, and so would their derivatives.
    upper_rows = np.zeros((4, 4, 6))
    for k, (i, j) in enumerate(itertools.combinations(range(4), 2)):
        upper_rows[i, j, k], upper_rows[j, i, k] = 1, -1
    # Of the lower rows the other columns, with the sign of the permutation.
    lower_rows = upper_rows[..., ::-1] * [1, -1, 1, 1, -1, 1]
    columns = np.stack([upper_rows, lower_rows]).reshape(2, 16, 6)
    halves = m.reshape(-1, 2, 2, 4)
    products = halves[:, :, 0, :, None] * halves[:, :, 1, None, :]
    minors = precise_einsum(
        "dhp,hpk->dhk", products.reshape(-1, 2, 16), jnp.asarray(columns, m.dtype)
    )
    return jnp.sum(minors[:, 0] * minors[:, 1], axis=-1)


def _minor(
    m: Inexact[Array, "determinants n n"], row: int, i: int, j: int
) -> Inexact[Array, " determinants"]:
    """Rows `row`, `row + 1` and columns `i`, `j`."""
    return m[:, row, i] * m[:, row + 1, j] - m[:, row, j] * m[:, row + 1, i]


def _multiply(
    x: Inexact[Array, "*#batch"], y: Inexact[Array, "*#batch"]
) -> Inexact[Array, "*#batch"]:
    """The product of a real or complex and a real or complex array: explicit, so that
    strict dtype promotion allows it."""
    if jnp.iscomplexobj(x) and not jnp.iscomplexobj(y):
        return x * y.astype(x.dtype)
    if jnp.iscomplexobj(y) and not jnp.iscomplexobj(x):
        return x.astype(y.dtype) * y
    return x * y


def safe_sqrt(square: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Square root with derivative 0 instead of infinity at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def nearest_displacement(
    points: Float[Array, "*#batch 3"],
    origins: Float[ArrayLike, "*#batch 3"],
    vectors: Float[ArrayLike, "2 3 3"],
    inverse: Float[ArrayLike, "3 3"],
    *,
    rest: Float[ArrayLike, "*#batch 3"] | None = None,
) -> Float[Array, "*batch 3"]:
    """`points - (origins + rest)` less a lattice vector, so that fractions of the cell
    are between -1/2 and 1/2, to the precision of the small difference.

    Single precision rounds at the size of the coordinates: an electron below a layer,
    wrapped to the upper end of a cell of 50 Bohr, would see the nuclei 1e-6 Bohr off,
    but one above the layer would not. In graphene that is 1 mHa. Hence `vectors`, and
    `origins` with `rest` if these are constants, in two parts, of `in_two`; and what
    rounding takes from the large difference is added to the small one.
    """
    dtype = points.dtype

    def product(rows, matrix):
        # Term by term: faster than a matrix product of this size, and accelerators
        # round none of its factors.
        shape = (1,) * (rows.ndim - 1) + (3,)
        terms = [rows[..., i : i + 1] * matrix[i].reshape(shape) for i in range(3)]
        return terms[0] + terms[1] + terms[2]

    coarse, fine = jnp.asarray(vectors, dtype)
    start = jnp.asarray(origins, dtype)
    difference = points - start
    # Together the exact difference: D. E. Knuth, The Art of Computer Programming 2
    # (1997), section 4.2.2, theorem B.
    x, y, d = jax.lax.stop_gradient((points, start, difference))
    taken = x - d
    lost = (x - (d + taken)) + (taken - y)
    if rest is not None:
        lost = lost - jnp.asarray(rest, dtype)
    turns = jnp.round(product(d, jnp.asarray(inverse, dtype)))
    return (difference - product(turns, coarse)) + (lost - product(turns, fine))


def in_two(constant: Float[np.ndarray, "*rows 3"]) -> Float[np.ndarray, "2 *rows 3"]:
    """Two parts that add up to it, each exact in single precision: the leading bits, on
    one grid for all numbers, so that small multiples and their sums are exact as well,
    and what they leave."""
    exponent = np.frexp(np.max(np.abs(constant), initial=1.0))[1]
    grid = 2.0 ** (int(exponent) - _LEADING_BITS)
    coarse = np.round(constant / grid) * grid
    fine = (constant - coarse).astype(np.float32).astype(np.float64)
    return np.stack([coarse, fine])


def check_chunk(chunk: Any) -> int | None:
    """A number of walkers at a time, or `None` for all.

    **Raises:** `ValueError` for one that is not an integer, or not positive.
    """
    return None if chunk is None else whole_number("chunk", chunk, 1, of="walker")


def chunked_vmap(
    function: Callable[[PyTree], PyTree], arguments: PyTree, chunk: Integer | None
) -> PyTree:
    """`jax.vmap(function)(arguments)`, at most `chunk` elements of the leading axis at
    a time. All at once for `None`."""
    split = _split(arguments, chunk)
    if split is None:
        return jax.vmap(function)(arguments)
    chunks, rest = split
    mapped = jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]),
        jax.lax.map(jax.vmap(function), chunks),
    )
    if rest is None:
        return mapped
    both = mapped, jax.vmap(function)(rest)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *both)


def chunked_sum(
    function: Callable[[PyTree], PyTree], arguments: PyTree, chunk: Integer | None
) -> PyTree:
    """`function(arguments)` of a function that sums over the leading axis, evaluated
    for at most `chunk` elements at a time, as in `chunked_vmap`."""
    split = _split(arguments, chunk)
    if split is None:
        return function(arguments)

    chunks, rest = split

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    if rest is None:
        one = jax.eval_shape(function, jax.tree.map(lambda x: x[0], chunks))
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)
    else:
        start = function(rest)
    return jax.lax.scan(add, start, chunks)[0]


def _split(
    arguments: PyTree, chunk: Integer | None
) -> tuple[PyTree, PyTree | None] | None:
    """The leading axis in two, (chunks, elements of a chunk), and what is left over, if
    anything; `None` for one chunk. Chunks are somewhat smaller if nothing is left
    over then: what is left over is compiled once more.

    Strided, and multiples of the devices: if the leading axis is spread over these,
    so is every chunk."""
    size = jax.tree.leaves(arguments)[0].shape[0]
    chunk = check_chunk(chunk)
    if chunk is None or chunk >= size:
        return None
    devices = walker_devices()
    devices = 1 if size % devices else devices
    sizes = (n for n in range(chunk, chunk // 2, -1) if n % devices == 0)
    even = (n for n in sizes if size % n == 0)
    chunk = next(even, max(devices, chunk - chunk % devices))
    count = size // chunk
    whole = count * chunk

    def strided(x):
        x = x if whole == size else x[:whole]
        return jnp.swapaxes(x.reshape(chunk, count, *x.shape[1:]), 0, 1)

    rest = None if whole == size else jax.tree.map(lambda x: x[whole:], arguments)
    return jax.tree.map(strided, arguments), rest


def normalized(amplitudes: LogPsi) -> Inexact[Array, " points"]:
    """Amplitudes at several points over their root mean square."""
    size = jnp.exp(amplitudes.log - jnp.max(amplitudes.log))
    size = size / jnp.sqrt(jnp.mean(size**2))
    return amplitudes.sign * size.astype(amplitudes.sign.dtype)

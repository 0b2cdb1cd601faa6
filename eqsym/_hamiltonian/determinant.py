"""Derivatives and Laplacian of determinants."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .derivatives import Differentiated


def log_determinant(
    matrix: Differentiated, rows: Sequence[int]
) -> tuple[Array | Differentiated, Differentiated]:
    r"""Sign and logarithm, as of `jnp.linalg.slogdet`.

    With the trace of $P_c = (\partial_c A) A^{-1}$ the derivative of the logarithm, and
    $\mathrm{tr}(A^{-1} \Delta A) - \sum_c \mathrm{tr}(P_c P_c)$ its Laplacian.

    **Arguments:**

    - `matrix`: with derivatives by all coordinates.
    - `rows`: how many rows belong together. Blocks of rows that come from different
        operations are multiplied one by one, rather than put together first.
    """
    value = matrix.value
    sign, log = jnp.linalg.slogdet(value)
    inverse = jnp.linalg.inv(value)
    ends = np.cumsum(rows)
    blocks = [slice(end - n, end) for end, n in zip(ends, rows, strict=True)]
    products = [
        jnp.einsum("c...ij,...jk->...cik", matrix.slots[..., block, :], inverse)
        for block in blocks
    ]
    gradient = jnp.zeros(matrix.slots.shape[:-2], value.dtype)
    laplacian = jnp.einsum("...ij,...ji->...", matrix.laplacian, inverse)
    for i, (here, one) in enumerate(zip(blocks, products, strict=True)):
        gradient = gradient + jnp.einsum("...cii->c...", one[..., here])
        for j, (there, other) in enumerate(zip(blocks, products, strict=True)):
            if i <= j:
                trace = jnp.einsum(
                    "...cij,...cji->...", one[..., there], other[..., here]
                )
                laplacian = laplacian - (2 - (i == j)) * trace
    if not jnp.iscomplexobj(value):
        return sign, Differentiated(log, gradient, laplacian)
    # The imaginary part belongs to the phase of the sign.
    phase, curvature = gradient.imag, laplacian.imag
    return (
        Differentiated(
            sign,
            1j * sign * phase,
            sign * (1j * curvature - jnp.sum(phase**2, axis=0)),
        ),
        Differentiated(log, gradient.real, laplacian.real),
    )

#!/usr/bin/env bash
# A function of `jax.jit` (jax 0.10.2) returns as soon as its computation is under way, so
# that a training loop can prepare the next step meanwhile. The same function under
# `eqx.filter_jit` (equinox 0.13.8) returns when the computation has come to an end: it
# waits in order to word runtime errors better. A loop that was written to overlap a
# device with the host does not, and nothing in the results shows it.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet equinox==0.13.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$scratch/venv/bin/python" - <<'PYTHON'
import time

import equinox as eqx
import jax
import jax.numpy as jnp


def slow(a):
    return jax.lax.fori_loop(0, 400, lambda i, a: jnp.sin(a @ a), a)


a = jnp.ones((500, 500)) / 500


def shares(function):
    """Of the whole time, how much a call takes: the least and the most of five."""
    jax.block_until_ready(function(a))
    found = []
    for _ in range(5):
        start = time.perf_counter()
        result = function(a)
        returned = time.perf_counter()
        jax.block_until_ready(result)
        found.append((returned - start) / (time.perf_counter() - start))
    return min(found), max(found)


plain, filtered = shares(jax.jit(slow)), shares(eqx.filter_jit(slow))
print("jax.jit", plain, "eqx.filter_jit", filtered)
assert plain[0] < 0.2
assert filtered[0] > 0.8
PYTHON
echo "as described"

#!/usr/bin/env bash
# kfac-jax 0.0.8, the newest release, asks for jax >= 0.4.27 without an upper bound, so
# pip installs it beside jax 0.10.2. There it imports, and `Optimizer.init` works, but the
# first step of the smallest model raises a ValueError, "too many values to unpack
# (expected 2)". It takes the function apart with `get_bind_params`, an internal of JAX,
# which gives one dictionary now in place of a pair. The same script trains with jax
# 0.9.1. So programs that use it hold back JAX.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
cat >"$scratch/step.py" <<'PYTHON'
import jax
import jax.numpy as jnp
import kfac_jax


def loss(weights, batch):
    x, y = batch
    found = jax.nn.tanh(x @ weights["w"] + weights["b"])
    kfac_jax.register_squared_error_loss(found, y)
    return jnp.mean((found - y) ** 2)


optimizer = kfac_jax.Optimizer(
    jax.value_and_grad(loss),
    l2_reg=0.0,
    use_adaptive_learning_rate=False,
    use_adaptive_momentum=False,
    use_adaptive_damping=False,
    num_burnin_steps=0,
)
weights = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
batch = jnp.ones((8, 3)), jnp.zeros((8, 2))
key = jax.random.PRNGKey(0)
state = optimizer.init(weights, key, batch)
try:
    settings = dict(learning_rate=0.1, momentum=0.0, damping=1e-3)
    optimizer.step(weights, state, key, batch=batch, global_step_int=0, **settings)
    print("stepped")
except ValueError as error:
    print(f"ValueError: {str(error).splitlines()[0]}")
PYTHON
for version in 0.9.1 0.10.2; do
    "$scratch/venv/bin/pip" install --quiet kfac-jax==0.0.8 "jax==$version" "jaxlib==$version"
    found=$(JAX_PLATFORMS=cpu "$scratch/venv/bin/python" "$scratch/step.py" | tail -n 1)
    echo "kfac-jax 0.0.8, jax $version: $found"
    case $version in
    0.9.1) [ "$found" = stepped ] ;;
    *) [[ $found == "ValueError: too many values to unpack"* ]] ;;
    esac
done

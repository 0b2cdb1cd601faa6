"""The parts of one training iteration of JaQMC, as `iteration.py` times eqsym's.

    pip install "jax==0.9.1" git+https://github.com/bytedance/jaqmc
    taskset -c 0 python benchmarks/jaqmc_iteration.py --system graphene --walkers 64 \
        --chunk 8

JaQMC wants Python 3.12 and at most jax 0.9.1, so this script runs in an environment of
its own, without eqsym. It builds JaQMC's workflow for solids from its own settings, and
times its own training step. The mean field, which only chooses k-points, is left out.
"""
# pyright: reportMissingImports=false

import argparse
from typing import Any

import jax
import jax.numpy as jnp
from jaqmc.app.solid.workflow import SolidTrainWorkflow
from jaqmc.utils import parallel_jax
from jaqmc.utils.config import ConfigManager
from jaqmc.utils.supercell import get_reciprocal_vectors, get_supercell_kpts
from jaqmc.workflow.base import init_batched_data
from timing import add_settings, report


A_GRAPHENE, VACUUM = 2.4612, 26.4589  # Angstrom

ROCK_SALT = {"module": "rock_salt", "lattice_constant": 4.02, "unit": "angstrom"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "lih": ROCK_SALT,
    "lih-2x2x2": ROCK_SALT | {"supercell": [2, 2, 2]},
    "graphene": {
        "unit": "angstrom",
        "lattice": {
            "a": [A_GRAPHENE, 0, 0],
            "b": [-A_GRAPHENE / 2, A_GRAPHENE * 3**0.5 / 2, 0],
            "c": [0, 0, VACUUM],
        },
        "atoms": [
            {"symbol": "C", "frac_coords": [1 / 3, 2 / 3, 0.5]},
            {"symbol": "C", "frac_coords": [2 / 3, 1 / 3, 0.5]},
        ],
    },
}


def workflow(options: argparse.Namespace) -> SolidTrainWorkflow:
    one, two = (int(width) for width in options.widths.split(","))
    chunks = {"energy": {"kinetic": {"vmap_chunk_size": options.chunk}}}
    settings = {
        "workflow": {"seed": 0, "batch_size": options.walkers},
        "system": SYSTEMS[options.system],
        "wf": {
            "hidden_dims_single": [one] * options.layers,
            "hidden_dims_double": [two] * options.layers,
            "ndets": options.determinants,
        },
        "sampler": {"steps": options.moves},
        "pretrain": {"reference": {"verbose": 0}},
        "estimators": chunks if options.chunk else {},
    }
    if options.optimizer != "kfac":
        settings["train"] = {"optim": {"module": options.optimizer}}
    made = SolidTrainWorkflow(ConfigManager(settings))
    # All bands at the k-points of the supercell, as of a closed shell.
    matrix = jnp.asarray(SYSTEMS[options.system].get("supercell", [1, 1, 1]))
    kpts = get_supercell_kpts(
        jnp.diag(matrix), get_reciprocal_vectors(jnp.asarray(made.wf.primitive_lattice))
    )
    occupied = sum(made.wf.nspins) // 2
    each = jnp.repeat(kpts, occupied // len(kpts), axis=0)
    made.wf.klist = jnp.concatenate([each, each])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--system", choices=SYSTEMS, default="lih")
    add_settings(parser, widths="256,32", layers=4, determinants=16, moves=10)
    parser.add_argument("--optimizer", choices=("kfac", "sr"), default="kfac")
    options = parser.parse_args()

    made = workflow(options)
    stage = made.train_stage
    data = init_batched_data(made.data_init, options.walkers, jax.random.PRNGKey(0))
    state = stage.create_state(jax.random.PRNGKey(1), batched_data=data)
    partition = state.partition()
    keys = jax.device_put(
        jax.random.split(jax.random.PRNGKey(2), 1).flatten(),
        parallel_jax.make_sharding(parallel_jax.DATA_PARTITION),
    )

    def sharded(function, out):
        return parallel_jax.jit_sharded(
            function,
            in_specs=(partition, parallel_jax.DATA_PARTITION),
            out_specs=out,
            check_vma=False,
        )

    shared, walkers = parallel_jax.SHARE_PARTITION, parallel_jax.DATA_PARTITION

    def sampled(state, rngs):
        found = stage.sample_plan.step(
            state.params, state.batched_data, state.sampler_state, rngs
        )
        return found[0].data.electrons

    def estimated(name, key):
        def function(state, rngs):
            found, _ = stage.estimators.estimators[name].evaluate_batch_walkers(
                state.params, state.batched_data, {}, None, rngs
            )
            return found[key]

        return function

    parts = {
        "sampling": (sampled, walkers),
        "kinetic energy": (estimated("kinetic", "energy:kinetic"), walkers),
        "Ewald sums": (estimated("potential", "energy:potential"), walkers),
        "whole iteration": (stage.compute_step, (shared, partition)),
    }
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(
        f"JaQMC, {options.system}: {sum(made.wf.nspins)} electrons, {options.walkers} "
        f"walkers, {options.moves} moves, {options.layers} layers of "
        f"({options.widths}), {options.determinants} determinants, {size} parameters, "
        f"{options.optimizer}, jax {jax.__version__}"
    )
    report(
        (
            (name, sharded(function, out), (state, keys))
            for name, (function, out) in parts.items()
        ),
        options.repeats,
    )


if __name__ == "__main__":
    main()

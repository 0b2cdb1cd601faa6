"""How wide should the layer of smoothed canonicalization be?

    python benchmarks/canonicalization.py

A network for LiH is trained, and canonicalized with several widths and both smoothings.
Its group average is there to compare with.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

import eqsym as eqs


LATTICE_CONSTANT = 4.02  # Angstrom
CHUNK = 16  # operations, and walkers, evaluated at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("runs/canonicalization"))
    parser.add_argument("--steps", type=int, default=500, help="of training")
    parser.add_argument("--pretraining-steps", type=int, default=200)
    parser.add_argument("--walkers", type=int, default=64, help="of evaluations")
    parser.add_argument("--samples", type=int, default=30, help="of every walker")
    options = parser.parse_args()

    crystal = eqs.Crystal.rock_salt("Li", "H", a=LATTICE_CONSTANT, unit="angstrom")
    options.path.mkdir(parents=True, exist_ok=True)
    mean_field = eqs.MeanField.solve(crystal, path=options.path / "mean_field.npz")
    hamiltonian = eqs.Hamiltonian(crystal)
    key = jax.random.key(0)
    result = eqs.run(
        eqs.VMC(
            hamiltonian,
            eqs.Metropolis(10),
            eqs.Spring(),
            chunk=64,
        ),
        eqs.SolidNet(crystal, mean_field.occupation, key=key),
        steps=options.steps,
        walkers=128,
        key=key,
        pretraining=eqs.Pretraining(mean_field, options.pretraining_steps),
        path=options.path / "run",
    )
    wavefunction, walkers = result.wavefunction, result.walkers[: options.walkers]
    group = eqs.SpaceGroup.of(crystal)
    domain = eqs.FundamentalDomain.of(group)
    print(
        eqs.post_hoc(
            wavefunction,
            hamiltonian,
            group,
            eqs.Chains(walkers, key=key, steps=options.samples, chunk=CHUNK),
        )
    )
    print("eps [Bohr]  images  smoothing      energy [Ha]  variance [Ha^2]", flush=True)
    for eps in (
        domain.inradius / 2,
        domain.inradius,
        domain.circumradius / 2,
        domain.circumradius,
    ):
        for smoothing in (eqs.SmoothStep(), eqs.SplineStep()):
            canonical = eqs.Canonicalization(domain, eps, smoothing)
            weights = jax.vmap(canonical.weights)(walkers)
            images = jnp.mean(jnp.sum(jnp.any(weights > 0, axis=1), axis=1))
            found = eqs.evaluate(
                eqs.Symmetrized(wavefunction, canonical, operation_chunk=CHUNK),
                hamiltonian,
                eqs.Chains(
                    walkers, key=key, steps=options.samples, burn_in=10, chunk=CHUNK
                ),
            )
            print(
                f"{eps:10.3f}{float(images):8.1f}  {type(smoothing).__name__:13}"
                f"{str(found.energy):>13}{str(found.variance):>17}",
                flush=True,
            )


if __name__ == "__main__":
    main()

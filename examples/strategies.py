"""Strategies: symmetry in training, at the same price, against averaging afterwards.

    python examples/strategies.py

LiH, as Huang et al. (ICML 2025, arXiv 2502.05318) compare strategies. All start from
the same network, fitted to the mean field. A step evaluates about as many local
energies and gradients of the network with every strategy: those that need several per
walker get fewer walkers.
"""

import argparse
import functools
import json
import time
from pathlib import Path

import jax

import eqsym as eqs


LATTICE_CONSTANT = 4.02  # Angstrom
EVALUATIONS = 256  # of the network's local energy, in a step
SUBSET = 4
IMAGES = 32  # of smoothed canonicalization in training; the rest is dropped
STEPS = 400
PRETRAINING_STEPS = 200
EVALUATION_STEPS = 50
BURN_IN = 20
CHUNK = 64
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("runs/strategies"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--pretraining-steps", type=int, default=PRETRAINING_STEPS)
    parser.add_argument("--evaluation-steps", type=int, default=EVALUATION_STEPS)
    parser.add_argument("--burn-in", type=int, default=BURN_IN)
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS)
    parser.add_argument("--only", nargs="+", help="strategies to train, by name")
    options = parser.parse_args()
    eqs.checkpoint.keep_compiled()

    crystal = eqs.Crystal.rock_salt("Li", "H", a=LATTICE_CONSTANT, unit="angstrom")
    options.path.mkdir(parents=True, exist_ok=True)
    mean_field = eqs.MeanField.solve(crystal, path=options.path / "mean_field.npz")
    group = eqs.SpaceGroup.of(crystal)
    average = eqs.GroupAverage(group)
    domain = eqs.FundamentalDomain.of(group)
    canonical = eqs.Canonicalization(domain)
    averaged = functools.partial(eqs.Symmetrized, operation_chunk=16)

    # Name, strategy, and the symmetrizer of the function that it trains.
    strategies = {
        "plain": (eqs.PlainTraining(), None),
        "augmented": (eqs.AugmentedTraining(group, SUBSET), None),
        "augmented, unweighted": (
            eqs.AugmentedTraining(group, SUBSET, weighted=False),
            None,
        ),
        "group average": (eqs.SymmetrizedTraining(average, averaged), average),
        "random subset": (
            eqs.SymmetrizedTraining(eqs.RandomSubset(group, SUBSET)),
            average,
        ),
        "canonicalized": (
            eqs.SymmetrizedTraining(eqs.Canonicalization(domain, max_terms=IMAGES)),
            canonical,
        ),
        "canonicalized, random": (
            eqs.SymmetrizedTraining(eqs.RandomCanonicalization(domain)),
            canonical,
        ),
    }

    network_key, place, fit, key, evaluation_key = jax.random.split(
        jax.random.key(SEED), 5
    )
    start = eqs.SolidNet(crystal, mean_field.occupation, key=network_key)
    walkers = eqs.initial_walkers(crystal, 256, key=place)
    start, walkers = eqs.Pretraining(mean_field, options.pretraining_steps)(
        start, walkers, key=fit
    )

    sampler = eqs.Metropolis(10)
    hamiltonian = eqs.Hamiltonian(crystal)
    rows, seconds, prices = {}, {}, {}
    for name in options.only or strategies:
        strategy, symmetrizer = strategies[name]
        prices[name] = strategy.cost(sampler.moves)
        count = max(2, options.evaluations // prices[name].local_energies)
        vmc = eqs.VMC(
            hamiltonian,
            sampler,
            eqs.Spring(chunk=CHUNK),
            strategy=strategy,
            chunk=CHUNK,
        )
        begin = time.monotonic()
        result = eqs.run(
            vmc,
            start,
            steps=options.steps,
            walkers=walkers[:count],
            key=key,
            path=options.path / name.replace(", ", "_").replace(" ", "_"),
        )
        seconds[name] = time.monotonic() - begin
        f = result.wavefunction
        settings = dict(key=evaluation_key, burn_in=options.burn_in)
        if symmetrizer is average or symmetrizer is None:
            # The function as trained, and averaged, from the same walkers.
            found = eqs.post_hoc(
                f,
                hamiltonian,
                group,
                eqs.Chains(
                    walkers, steps=options.evaluation_steps, chunk=CHUNK, **settings
                ),
            )
            if symmetrizer is None:
                rows[name] = found.plain
                rows[f"{name}, averaged"] = found.averaged
            else:
                rows[name] = found.averaged
        canonicalized = {name: canonical} if symmetrizer is canonical else {}
        if name == "plain":
            canonicalized["plain, canonicalized"] = canonical
        for row, canonicalization in canonicalized.items():
            rows[row] = eqs.evaluate(
                averaged(f, canonicalization),
                hamiltonian,
                eqs.Chains(
                    walkers[:64], steps=options.evaluation_steps, chunk=16, **settings
                ),
                symmetrizer=average,
            )
        energy = "-" if rows[name] is None else f"{rows[name].energy} Ha"
        print(f"{name}: {energy}, {seconds[name]:.0f} s", flush=True)

    print(f"\nLiH, {options.steps} steps each; energies per primitive cell:")
    print(eqs.table(rows))
    print("\nPer walker and step: amplitudes, local energies, gradients; training [s]")
    for name, price in prices.items():
        print(f"{name:>21}  {tuple(price)}  {seconds[name]:.0f}")
    report = {name: row and row.to_dict() for name, row in rows.items()}
    report["seconds"] = seconds
    (options.path / "strategies.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

"""How many amplitudes an independent local energy costs, for several kinds of moves.

    python benchmarks/sampling.py --system lih
    python benchmarks/sampling.py --system graphene --chunk 16

Hartree-Fock determinants are sampled, or with `--run runs/lih` the trained network of
such a folder. "Widths by distance" are normal moves whose width grows with the
distances d of an electron to the nuclei: it follows the least 1/Z + d, the size of the
innermost shell plus the distance, up to a length that it does not exceed, with the
ratio of Metropolis and Hastings (Hastings, Biometrika 57, 97 (1970)), because the way
back has another width. Printed are integrated autocorrelation times in amplitudes per
walker (with Sokal's window of five of them), of local energies and of their potential
part, and the accepted share of the moves. Energies beyond the 0.1 % and 99.9 %
quantiles are clipped first, since the few walkers close to a nucleus would otherwise
decide.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import eqsym as eqs
from eqsym._core import chunked_vmap
from eqsym._crystal import from_nearest


CRYSTALS = {
    "lih": lambda: eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom"),
    "graphene": lambda: eqs.Crystal.graphene(a=2.4612, vacuum=20.0, unit="angstrom"),
}
Walkers = Float[Array, "walkers electrons 3"]


class Normal(NamedTuple):
    """Normal moves; a width per electron, in units of one that adapts."""

    far: float | None = None

    def __str__(self) -> str:
        if self.far is None:
            return "normal, one width"
        return f"widths by distance, up to {self.far:g}"

    def widths(
        self, crystal: eqs.Crystal, walkers: Walkers
    ) -> Float[Array, "walkers electrons"]:
        if self.far is None:
            return jnp.ones(walkers.shape[:2])
        nuclei = jnp.asarray(crystal.supercell_positions, walkers.dtype)
        charges = jnp.asarray(crystal.supercell_charges, walkers.dtype)
        apart = walkers[:, :, None] - nuclei[None, None]
        apart = jax.vmap(jax.vmap(lambda x: from_nearest(crystal.supercell, x)))(apart)
        lengths = 1 / charges + jnp.linalg.norm(apart, axis=-1)
        length = jnp.min(lengths, axis=-1)
        return length / (1 + length / self.far)


def chain(kind: Normal, psi: eqs.AbstractWavefunction, moves: int) -> Callable:
    """A function of walkers, width and key: the same after some moves, and the accepted
    share."""
    amplitudes = jax.vmap(lambda electrons: psi(electrons).log)

    def move(carry, key):
        walkers, log, width, accepted = carry
        normal, decide = jax.random.split(key)
        before = width * kind.widths(psi.crystal, walkers)
        step = before[..., None] * jax.random.normal(normal, walkers.shape)
        proposal = walkers + step
        after = width * kind.widths(psi.crystal, proposal)
        # The density of the way back over the density of the way there.
        squares = jnp.sum(step**2, axis=-1)
        back = 3 * jnp.log(before / after) - squares * (after**-2 - before**-2) / 2
        new = amplitudes(proposal)
        ratio = 2 * (new - log) + jnp.sum(back, axis=-1)
        accept = ratio > jnp.log(jax.random.uniform(decide, ratio.shape))
        walkers = jnp.where(accept[:, None, None], proposal, walkers)
        log = jnp.where(accept, new, log)
        return (walkers, log, width, accepted + jnp.mean(accept) / moves), None

    @eqx.filter_jit
    def step(walkers, width, key):
        start = walkers, amplitudes(walkers), width, jnp.zeros(())
        (walkers, _, _, accepted), _ = jax.lax.scan(
            move, start, jax.random.split(key, moves)
        )
        return walkers, width * jnp.exp(accepted - 0.5), accepted

    return step


def metropolis(psi: eqs.AbstractWavefunction, moves: int) -> Callable:
    """The same for `eqs.Metropolis` with exchanges and hops."""
    sampler = eqs.Metropolis(moves)

    @eqx.filter_jit
    def step(walkers, width, key):
        state = sampler.init(psi, walkers, key=key)
        state = eqx.tree_at(lambda state: state.width, state, width)
        state = sampler.step(psi, state)
        return state.walkers, state.width, state.acceptance

    return step


def autocorrelation_time(values: Float[np.ndarray, "steps walkers"]) -> float:
    """The integrated one in steps: 1 + 2 times the sum of the correlations."""
    values = np.clip(values, *np.quantile(values, [0.001, 0.999]))
    values, n = values - np.mean(values), len(values)
    time = 1.0
    for lag in range(1, n // 3):
        time += 2 * np.mean(values[lag:] * values[:-lag]) / np.mean(values**2)
        if lag > 5 * time:
            break
    return float(time)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--system", choices=CRYSTALS, default="lih")
    parser.add_argument("--run", help="sample the trained function of this folder")
    parser.add_argument("--walkers", type=int, default=256)
    parser.add_argument("--moves", type=int, default=5, help="between local energies")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--burn-in", type=int, default=100)
    parser.add_argument("--chunk", type=int, default=None)
    options = parser.parse_args()

    key = jax.random.key(0)
    psi: eqs.AbstractWavefunction | None
    if options.run is None:
        psi = eqs.HartreeFock(eqs.MeanField.solve(CRYSTALS[options.system]()))
    else:
        psi = eqs.load_run(options.run).trained
        assert psi is not None
    hamiltonian = eqs.Hamiltonian(psi.crystal)

    @eqx.filter_jit
    def energies(walkers):
        found = chunked_vmap(
            lambda electrons: hamiltonian.local_energy(psi, electrons),
            walkers,
            options.chunk,
        )
        return found.total.real, found.potential

    kinds = [Normal(), Normal(1), Normal(2), Normal(4)]
    chains = {"eqs.Metropolis": metropolis(psi, options.moves)}
    for kind in kinds:
        chains[str(kind)] = chain(kind, psi, options.moves)
    print(f"{'':40}{'local energy':>14}{'potential':>12}{'accepted':>10}")
    for name, step in chains.items():
        walkers = eqs.initial_walkers(psi.crystal, options.walkers, key=key)
        width, found = jnp.asarray(0.3), []
        for i, each in enumerate(
            jax.random.split(key, options.burn_in + options.steps)
        ):
            walkers, width, accepted = step(walkers, width, each)
            if i >= options.burn_in:
                found.append((*map(np.asarray, energies(walkers)), accepted))
        total, potential, accepted = map(np.array, zip(*found, strict=True))
        times = [
            options.moves * autocorrelation_time(values)
            for values in (total, potential)
        ]
        print(
            f"{name:40}{times[0]:>14.1f}{times[1]:>12.1f}{np.mean(accepted):>10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

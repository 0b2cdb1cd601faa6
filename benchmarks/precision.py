"""What does single precision cost?

    taskset -c 1 python benchmarks/precision.py

Local energies, amplitudes and SPRING updates in float32 against float64, of the same
network at the same walkers. A short run of training in float32 for each crystal; then
walkers of |f|^2 and of its average over the space group, |Pf|^2. Numbers of float32 are
exact in float64, so both see the same parameters and positions, and all differences are
from evaluating them.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import eqsym as eqs
from eqsym._core.math import chunked_vmap


class Setting(NamedTuple):
    """A crystal and the length of its training; the network is the default one."""

    crystal: Callable[[], eqs.Crystal]
    pretraining_steps: int
    steps: int
    chunk: int
    operations: int  # of the group average at a time


LIH = functools.partial(eqs.Crystal.rock_salt, "Li", "H", a=4.02, unit="angstrom")
GRAPHENE = functools.partial(
    eqs.Crystal.graphene, a=2.4612, vacuum=50 * 0.529177210903, unit="angstrom"
)
SETTINGS = {
    "lih": Setting(LIH, 300, 100, 64, 8),
    "lih-2x1x1": Setting(functools.partial(LIH, supercell=(2, 1, 1)), 200, 60, 32, 8),
    "graphene": Setting(GRAPHENE, 300, 40, 16, 4),
}
TRAINING_WALKERS = 256
MOVES = 20
DAMPING = 1e-3


def trained(
    setting: Setting, path: Path, steps: int
) -> tuple[eqs.Hamiltonian, eqs.RunResult]:
    """A network after a short training."""
    crystal = setting.crystal()
    path.mkdir(parents=True, exist_ok=True)
    mean_field = eqs.MeanField.solve(crystal, path=path / "mean_field.npz")
    network, key = jax.random.split(jax.random.key(0))
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal),
        eqs.Metropolis(10),
        eqs.Spring(),
        chunk=setting.chunk,
    )
    result = eqs.run(
        vmc,
        eqs.SolidNet(crystal, mean_field.occupation, key=network),
        steps=steps,
        walkers=TRAINING_WALKERS,
        key=key,
        pretraining=eqs.Pretraining(
            mean_field, setting.pretraining_steps, optimizer=optax.adam(3e-3)
        ),
        path=path / "run",
    )
    assert isinstance(vmc.hamiltonian, eqs.Hamiltonian)
    return vmc.hamiltonian, result


def sampled(
    wavefunction: eqs.AbstractWavefunction, walkers: jax.Array, count: int, steps: int
) -> jax.Array:
    """That many walkers of the function, from some of another one."""
    sampler = eqs.Metropolis(MOVES)
    copies = -(-count // len(walkers))
    walkers = jnp.tile(walkers, (copies, 1, 1))[:count]
    state = sampler.init(wavefunction, walkers, key=jax.random.key(1))
    step = eqx.filter_jit(sampler.step)
    for _ in range(steps):
        state = step(wavefunction, state)
    return state.walkers


def evaluated(
    wavefunction: eqs.AbstractWavefunction,
    hamiltonian: eqs.Hamiltonian,
    walkers: jax.Array,
    chunk: int,
) -> dict[str, np.ndarray]:
    """Local energies in Hartree per primitive cell, and log |psi|."""

    def one(electrons):
        found = hamiltonian.local_energy(wavefunction, electrons)
        return found, wavefunction(electrons).log

    energy, log = eqx.filter_jit(lambda x: chunked_vmap(one, x, chunk))(walkers)
    assert log.dtype == energy.potential.dtype == walkers.dtype
    cells = hamiltonian.crystal.cells
    parts = {
        "kinetic energy": energy.kinetic.real / cells,
        "potential energy": energy.potential / cells,
        "local energy": energy.total.real / cells,
        "log psi": log,
    }
    return {name: np.asarray(part, np.float64) for name, part in parts.items()}


def updated(
    wavefunction: eqs.AbstractWavefunction,
    walkers: jax.Array,
    residuals: np.ndarray,
    chunk: int,
) -> list[np.ndarray]:
    """The directions of two steps of SPRING, each with half of the walkers."""
    spring = eqs.Spring(1.0, norm_bound=1e30, damping=DAMPING, chunk=chunk)

    @eqx.filter_jit
    def step(walkers, residual, state):
        return spring.step(eqs.Scores(wavefunction, walkers), residual, state)

    state = spring.init(eqs.partition(wavefunction)[0])
    found = []
    halves = zip(jnp.split(walkers, 2), np.split(residuals, 2), strict=True)
    for half, residual in halves:
        update, state = step(half, jnp.asarray(residual, half.dtype), state)
        flat = [np.ravel(leaf) for leaf in jax.tree.leaves(update)]
        found.append(np.concatenate(flat).astype(np.float64))
    return found


def in_double(tree: Any) -> Any:
    """Parameters, or walkers, with the same values in float64."""
    parameters, rest = eqs.partition(tree)
    return eqs.combine(jax.tree.map(lambda x: x.astype(jnp.float64), parameters), rest)


def residuals(energies: np.ndarray) -> np.ndarray:
    """As training makes them of local energies: clipped, centered, over the root of the
    number."""
    deviation = energies - np.median(energies)
    bound = 5 * np.mean(np.abs(deviation))
    clipped = np.clip(deviation, -bound, bound)
    return (clipped - np.mean(clipped)) / np.sqrt(len(energies) / 2)


def row(name: str, single: np.ndarray, double: np.ndarray) -> str:
    """In thousandths: mHa, or thousandths of log psi, whose mean is only a norm."""
    difference = 1e3 * (single - double)
    mean = np.mean(difference)
    error = np.std(difference, ddof=1) / np.sqrt(len(difference))
    if name == "log psi":
        difference = difference - mean
    return (
        f"| {name} | {mean:+.5f} +- {error:.5f} | "
        f"{np.sqrt(np.mean(difference**2)):.4f} | {np.median(np.abs(difference)):.5f} "
        f"| {np.max(np.abs(difference)):.3f} |"
    )


def off(single: np.ndarray, double: np.ndarray) -> float:
    return float(np.linalg.norm(single - double) / np.linalg.norm(double))


def compare(name: str, options: argparse.Namespace) -> None:
    setting = SETTINGS[name]
    steps = options.steps or setting.steps
    hamiltonian, result = trained(setting, options.path / name, steps)
    f = result.wavefunction
    group = eqs.SpaceGroup.of(hamiltonian.crystal)
    averaged = eqs.Symmetrized(
        f, eqs.GroupAverage(group), operation_chunk=setting.operations
    )
    functions = {"f": (f, options.walkers, setting.chunk)}
    if options.averaged_walkers:
        few = max(1, setting.chunk // setting.operations)
        functions["Pf"] = (averaged, options.averaged_walkers, few)

    print(
        f"\n{name}: {sum(hamiltonian.crystal.electrons)} electrons, {steps} steps of "
        f"training after {setting.pretraining_steps} of pretraining, {group.order} "
        "operations. Errors of float32 in mHa per primitive cell, of log psi in 1e-3"
    )
    print("| | mean | RMS | median | largest |\n|---|---|---|---|---|", flush=True)
    energies = {}
    walkers = result.walkers
    for label, (psi, count, chunk) in functions.items():
        walkers = sampled(psi, walkers, count, options.burn_in)
        single = evaluated(psi, hamiltonian, walkers, chunk)
        with jax.enable_x64(True):
            double = evaluated(in_double(psi), hamiltonian, in_double(walkers), chunk)
        for part in single:
            print(row(f"{label}, {part}", single[part], double[part]), flush=True)
        energies[label] = single["local energy"], double["local energy"], walkers

    single, double, walkers = energies["f"]
    update = functools.partial(updated, chunk=setting.chunk)
    found = update(f, walkers, residuals(double))
    whole = update(f, walkers, residuals(single))
    with jax.enable_x64(True):
        psi, walkers = in_double(f), in_double(walkers)
        exact = update(psi, walkers, residuals(double))
        others = update(psi, walkers[::-1], residuals(double)[::-1])
    print("| update of SPRING | first step | with momentum |\n|---|---|---|")
    for label, other in (
        ("float32, energies of float64", found),
        ("float32 throughout", whole),
        ("float64, other walkers", others),
    ):
        errors = (off(*pair) for pair in zip(other, exact, strict=True))
        print("|", label, *(f"| {error:.2g}" for error in errors), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--systems", nargs="+", choices=SETTINGS, default=list(SETTINGS)
    )
    parser.add_argument("--path", type=Path, default=Path("runs/precision"))
    parser.add_argument("--walkers", type=int, default=1024)
    parser.add_argument("--averaged-walkers", type=int, default=256, help="of Pf")
    parser.add_argument("--burn-in", type=int, default=5, help=f"times {MOVES} moves")
    parser.add_argument("--steps", type=int, help="of training")
    options = parser.parse_args()
    for name in options.systems:
        compare(name, options)


if __name__ == "__main__":
    main()

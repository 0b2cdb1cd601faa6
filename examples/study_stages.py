"""The stages of `study.py`: a mean field and a pretrained network for all strategies;
then, for every strategy, training up to each checkpoint, and the noise and the energies
there; and scans. Every stage leaves a file, and is not run again."""

import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from study_presets import Preset

import eqsym as eqs


SEPARATION = 1.0  # Bohr, between the spins in scans
SEED = 0
OPTIMIZERS = {"spring": eqs.Spring, "kfac": eqs.Kfac}


class Study(NamedTuple):
    """The data that all stages share."""

    preset: Preset
    path: Path
    hamiltonian: eqs.Hamiltonian
    group: eqs.SpaceGroup
    domain: eqs.FundamentalDomain
    network: Any  # that all strategies start from
    walkers: Any
    keys: dict[str, Any]

    @property
    def few(self) -> int:
        """Walkers at a time that have an image for each operation."""
        return max(1, self.preset.chunk // self.group.order)

    def strategies(self) -> dict[str, eqs.AbstractStrategy]:
        group, preset = self.group, self.preset
        canonical = eqs.Canonicalization(self.domain, max_terms=preset.terms)
        found = {
            "OG": eqs.PlainTraining(),
            # As published: without importance weights.
            "DA": eqs.AugmentedTraining(group, preset.subset, weighted=False),
            "GA, subset": eqs.SymmetrizedTraining(
                eqs.RandomSubset(group, preset.subset)
            ),
            "GA": eqs.SymmetrizedTraining(eqs.GroupAverage(group)),
            "SC": eqs.SymmetrizedTraining(canonical),
        }
        return {name: found[name] for name in preset.strategies}


def finished(file: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The results of a stage: read from the file it has left, or computed now."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, json.dumps(compute(), indent=1))
    return json.loads(file.read_text())


def write(file: Path, text: str) -> None:
    """Complete or not at all."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, file)


def prepare(preset: Preset, path: Path, mean_field_file: Path | None) -> Study:
    """Mean field and pretraining."""
    crystal = preset.crystal
    own = path / "mean_field.npz"
    if mean_field_file is not None:
        if not own.exists():
            shutil.copy(mean_field_file, path / "copy.npz")
            os.replace(path / "copy.npz", own)
        elif own.read_bytes() != mean_field_file.read_bytes():
            raise SystemExit(
                f"{path} holds a study with another mean field than "
                f"{mean_field_file}. Name another --path, or delete the folder."
            )
    mean_field = eqs.MeanField.solve(crystal, basis=preset.basis, path=own)
    names = ("network", "place", "fit", "train", "noise", "evaluate")
    split = jax.random.split(jax.random.key(SEED), len(names))
    keys: dict[str, Any] = dict(zip(names, split, strict=True))
    network = eqs.SolidNet(
        crystal,
        mean_field.occupation,
        widths=preset.widths,
        determinants=preset.determinants,
        key=keys["network"],
    )
    count = max(preset.evaluations, preset.walkers)
    start = network, eqs.initial_walkers(crystal, count, key=keys["place"])
    folder = path / "start"
    if eqs.checkpoint.latest(folder) is None:
        pretraining = eqs.Pretraining(mean_field, preset.pretraining_steps)
        start = pretraining(*start, key=keys["fit"])
        eqs.checkpoint.save(folder, 0, start)
    network, walkers = eqs.checkpoint.restore(folder, 0, start)
    group = eqs.SpaceGroup.of(crystal)
    return Study(
        preset,
        path,
        eqs.Hamiltonian(crystal),
        group,
        eqs.FundamentalDomain.of(group),
        network,
        walkers,
        keys,
    )


def train_and_measure(
    study: Study, name: str, strategy: eqs.AbstractStrategy
) -> dict[str, Any]:
    """Trains up to one checkpoint after the other, with noise and energies at each."""
    preset, folder = study.preset, study.path / slug(name)
    price = strategy.cost(preset.moves)
    count = max(2, preset.evaluations // price.local_energies)
    # Walkers at a time: with an average each of them is several evaluations.
    each = price.local_energies if isinstance(strategy, eqs.SymmetrizedTraining) else 1
    chunk = max(1, preset.chunk // each)
    vmc = eqs.VMC(
        study.hamiltonian,
        eqs.Metropolis(preset.moves),
        OPTIMIZERS[preset.optimizer](chunk=chunk),
        strategy=strategy,
        chunk=chunk,
    )

    def trained(step: int) -> eqs.VMCState:
        """Goes on from the last checkpoint."""
        walkers, key = study.walkers[:count], study.keys["train"]
        if step == 0:
            return vmc.init(study.network, walkers, key=key)
        run = {"walkers": walkers, "key": key, "path": folder / "run"}
        result = eqs.run(vmc, study.network, steps=step, **run)
        if result.step != step:
            raise SystemExit(
                f"{folder} is at step {result.step} already, but its file of step "
                f"{step} is gone. Delete the folder to train again."
            )
        assert result.state is not None
        return result.state

    def measured_noise(step: int) -> dict[str, Any]:
        return eqs.gradient_noise(
            vmc,
            trained(step),
            key=jax.random.fold_in(study.keys["noise"], step),
            repeats=preset.repeats,
            burn_in=preset.burn_in,
        ).to_dict()

    def measured_energies(step: int) -> dict[str, Any]:
        last = step == preset.steps
        return evaluate(study, name, trained(step).wavefunction, last)

    noise, energies = {}, {}
    for i in range(preset.checkpoints + 1):
        step = preset.steps * i // preset.checkpoints
        print(f"{name}, step {step}", flush=True)
        stage = functools.partial(measured_noise, step)
        noise[str(step)] = finished(folder / f"noise-{step}.json", stage)
        if step > 0:
            stage = functools.partial(measured_energies, step)
            energies[str(step)] = finished(folder / f"energies-{step}.json", stage)
    if name == "OG":
        stage = lambda: scan(study, trained(preset.steps).wavefunction)
        finished(study.path / "scan.json", stage)
    history = read_history(folder / "run/history.csv")
    return {
        "walkers": count,
        "local_energies": price.local_energies,
        "cost": price._asdict(),
        "seconds_per_step": float(np.median(np.diff(history["seconds"]))),
        "noise": noise,
        "energies": energies,
    }


def evaluate(study: Study, name: str, f: Any, last: bool) -> dict[str, Any]:
    """The function that was trained, and what is made of it after training: rows of the
    table, with the number of operations."""
    preset, group = study.preset, study.group
    canonical = eqs.Canonicalization(study.domain)
    settings = {
        "key": study.keys["evaluate"],
        "steps": preset.evaluation_steps,
        "burn_in": preset.burn_in,
    }
    rows: dict[str, tuple[int, eqs.Evaluation]] = {}
    if name != "SC":
        found = eqs.post_hoc(
            f,
            study.hamiltonian,
            group,
            eqs.Chains(
                study.walkers[: preset.walkers],
                # Two local energies for each.
                chunk=max(1, preset.chunk // 2),
                **settings,
            ),
        )
        if name in ("OG", "DA"):
            rows[name] = 1, found.plain
        averaged = f"PA of {name}" if name in ("OG", "DA") else name
        # No row if the average is zero as far as the samples can tell.
        if found.averaged is not None:
            rows[averaged] = group.order, found.averaged
    if name == "SC" or (name == "OG" and last):
        found = eqs.evaluate(
            eqs.Symmetrized(f, canonical),
            study.hamiltonian,
            eqs.Chains(
                study.walkers[: preset.canonical_walkers], chunk=study.few, **settings
            ),
            symmetrizer=eqs.GroupAverage(group) if last else None,
        )
        orbit = jax.eval_shape(canonical.orbit, study.walkers[0])
        row = "PC of OG" if name == "OG" else name
        rows[row] = orbit.weights.shape[0], found
    return {
        row: {"operations": operations} | found.to_dict()
        for row, (operations, found) in rows.items()
    }


def scan(study: Study, f: Any) -> dict[str, Any]:
    """OG and PA where all electrons of a symmetric configuration are moved at once."""
    preset = study.preset
    electrons = symmetric_configuration(preset)
    averaged = eqs.Symmetrized(f, eqs.GroupAverage(study.group))
    found = {}
    for name, wavefunction, chunk in (
        ("OG", f, preset.chunk),
        ("PA", averaged, study.few),
    ):
        scan = eqs.translation_scan(
            wavefunction,
            electrons,
            preset.sides,
            points=preset.points,
            hamiltonian=study.hamiltonian,
            chunk=chunk,
        )
        found[name] = {key: value.tolist() for key, value in vars(scan).items()}
    return found


def symmetric_configuration(preset: Preset) -> Any:
    """Both spins on the same sites, a little above and below their plane: operations
    that keep the vertical direction permute the electrons of both alike, so that an
    invariant wave function need not vanish."""
    lattice = preset.crystal.supercell
    around = np.array(list(itertools.product(range(-4, 5), repeat=3)))
    places = (np.asarray(preset.sites)[:, None] + around).reshape(-1, 3) @ preset.frame
    frac = lattice.to_fractional(places)
    frac = np.unique(np.round(frac - np.floor(frac + 1e-6), 6), axis=0)
    sites, up = lattice.to_cartesian(frac), np.array([0, 0, SEPARATION / 2])
    return jnp.asarray(np.concatenate([sites + up, sites - up]))


def read_history(file: Path) -> Any:
    return np.genfromtxt(file, delimiter=",", names=True)


def slug(name: str) -> str:
    return name.replace(", ", "_").lower()

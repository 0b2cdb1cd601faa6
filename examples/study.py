"""What a crystal's symmetry is worth, in training and after it: the comparison of Huang
et al. (ICML 2025, arXiv 2502.05318), with its tables and figures.

    python examples/study.py                        # LiH, on a CPU
    python examples/study.py --preset graphene --mean-field graphene.npz   # one GPU

All strategies start from one network, fitted to the mean field, and a step evaluates as
many local energies and gradients of the network with each: those that need several per
walker get fewer walkers. Every stage writes a file when it is finished and is not run
again; Ctrl-C saves, and the same command goes on.
"""

import argparse
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
import study_figures as draw
from PIL import Image

import eqsym as eqs


class Preset(NamedTuple):
    """A crystal, and the size of network and runs."""

    crystal: eqs.Crystal
    # Of the scans: where electrons of one spin are, in fractions of a frame, and the
    # sides of the parallelogram; frame and sides as rows in Bohr.
    sites: Any
    frame: Any
    sides: Any
    widths: tuple[tuple[int, int], ...]
    determinants: int
    strategies: tuple[str, ...]
    evaluations: int  # of the network's local energy, in a step
    subset: int  # operations of a random subset, and copies of augmentation
    images: int  # of smoothed canonicalization in training; others are dropped
    moves: int
    pretraining_steps: int
    steps: int
    checkpoints: int  # at equal distances, where noise and energies are measured
    repeats: int  # batches for the noise
    walkers: int  # of evaluations
    evaluation_steps: int
    canonical_walkers: int  # of evaluations of canonicalized functions
    points: int  # of a scan, along each side
    chunk: int  # evaluations of the network at a time


ALL = ("OG", "DA", "GA, subset", "GA", "SC")
LIH = functools.partial(eqs.Crystal.rock_salt, "Li", "H", a=4.02, unit="angstrom")
LIH_EDGE = 4.02 / 0.529177210903
GRAPHENE = eqs.Crystal.graphene(a=2.4612, vacuum=50 * 0.529177210903, unit="angstrom")
LITHIUM_EDGE = 3.426817894 / 0.529177210903
LARGE: dict[str, Any] = {
    "widths": ((256, 32),) * 3,
    "determinants": 8,
    "evaluations": 1000,
    "subset": 12,
    "images": 24,
    "moves": 20,
    "pretraining_steps": 1000,
    "steps": 10_000,
    "checkpoints": 5,
    "repeats": 50,
    "walkers": 1000,
    "evaluation_steps": 50,
    "canonical_walkers": 200,
    "points": 60,
    "chunk": 500,
}
PRESETS = {
    "lih": Preset(
        crystal=LIH(),
        sites=[[0, 0, 0], [0.5, 0.5, 0.5]],
        frame=LIH().lattice.vectors,
        sides=LIH_EDGE * np.eye(3)[:2],
        widths=((64, 16),) * 3,
        determinants=4,
        strategies=ALL,
        evaluations=256,
        subset=4,
        images=32,
        moves=10,
        pretraining_steps=200,
        steps=400,
        checkpoints=2,
        repeats=20,
        walkers=256,
        evaluation_steps=40,
        canonical_walkers=64,
        points=36,
        chunk=64,
    ),
    "graphene": Preset(
        crystal=GRAPHENE,
        # Both atoms, the three bonds, and the middle of the hexagon.
        sites=np.array([[2, 4], [4, 2], [3, 0], [0, 3], [3, 3], [0, 0]])
        @ np.eye(2, 3)
        / 6,
        frame=GRAPHENE.lattice.vectors,
        sides=GRAPHENE.lattice.vectors[:2],
        strategies=ALL,
        **LARGE,
    ),
    "lih-2x2x2": Preset(
        crystal=LIH(supercell=2),
        sites=[[0, 0, 0], [0.5, 0.5, 0.5]],
        frame=LIH().lattice.vectors,
        sides=LIH_EDGE * np.eye(3)[:2],
        strategies=("OG", "DA", "GA, subset", "SC"),
        **LARGE,
    ),
    # Two cubes along each edge: 16 primitive cells, 48 electrons.
    "lithium-2x2x2": Preset(
        crystal=eqs.Crystal.bcc(
            "Li", a=LITHIUM_EDGE, unit="bohr", supercell=2 * (1 - np.eye(3, dtype=int))
        ),
        sites=[[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
        frame=LITHIUM_EDGE * np.eye(3),
        sides=LITHIUM_EDGE * np.eye(3)[:2],
        strategies=("OG", "DA", "GA, subset", "SC"),
        **LARGE,
    ),
}
OPTIONS = (
    "evaluations pretraining_steps steps checkpoints repeats walkers evaluation_steps "
    "canonical_walkers points"
).split()
BURN_IN = 20
SEPARATION = 1.0  # Bohr, between the spins in scans
SEED = 0


def learning_rate(step):
    """Also the length of the longest step."""
    return 0.1 / (1 + step / 500)


def norm_bound(step):
    return learning_rate(step) ** 2


class Study(NamedTuple):
    """What all stages share."""

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
        canonical = eqs.Canonicalization(self.domain, max_terms=preset.images)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="lih")
    parser.add_argument("--path", type=Path, help="by default runs/study/PRESET")
    parser.add_argument("--mean-field", type=Path, help="computed before, .npz")
    parser.add_argument("--only", nargs="+", choices=ALL, help="strategies to train")
    for option in OPTIONS:
        flag = "--" + option.replace("_", "-")
        parser.add_argument(flag, type=int, help="instead of the preset's")
    options = parser.parse_args()
    given = {option: getattr(options, option) for option in OPTIONS}
    changes: dict[str, Any] = {o: v for o, v in given.items() if v is not None}
    if options.only:
        changes["strategies"] = tuple(options.only)
    preset = PRESETS[options.preset]._replace(**changes)
    path = options.path or Path("runs/study") / options.preset
    path.mkdir(parents=True, exist_ok=True)
    check_settings(path, {"preset": options.preset} | preset_settings(preset))

    study = prepare(preset, path, options.mean_field)
    measured = {}
    for name, strategy in study.strategies().items():
        measured[name] = train_and_measure(study, name, strategy)
    report(study, measured)


def preset_settings(preset: Preset) -> dict[str, Any]:
    """All that results depend on. Other strategies can be added to a study."""
    left_out = {"crystal", "sites", "frame", "sides", "strategies"}
    settings = {k: v for k, v in preset._asdict().items() if k not in left_out}
    constants = {"burn_in": BURN_IN, "separation": SEPARATION, "seed": SEED}
    return json.loads(json.dumps(settings | constants))


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    before = finished(path / "settings.json", lambda: settings)
    changed = [
        f"{name} was {before.get(name)}, now {settings.get(name)}"
        for name in before | settings
        if before.get(name) != settings.get(name)
    ]
    if changed:
        raise SystemExit(
            f"{path} holds a study with other settings: {'; '.join(changed)}. "
            "Name another --path, or delete the folder."
        )


def finished(file: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a stage found: of the file it has left, or of running it now."""
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
    mean_field = eqs.MeanField.solve(crystal, path=own)
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
    images = (
        price.local_energies if isinstance(strategy, eqs.SymmetrizedTraining) else 1
    )
    chunk = max(1, preset.chunk // images)
    vmc = eqs.VMC(
        study.hamiltonian,
        eqs.Metropolis(preset.moves),
        eqs.Spring(learning_rate, norm_bound=norm_bound, chunk=chunk),
        strategy=strategy,
        chunk=chunk,
    )

    def trained(step: int) -> eqs.VMCState:
        """Goes on from the last checkpoint."""
        walkers, key = study.walkers[:count], study.keys["train"]
        if step == 0:
            return vmc.init(study.network, walkers, key=key)
        run = {"walkers": walkers, "key": key, "path": folder / "run"}
        state = eqs.run(vmc, study.network, steps=step, **run).state
        if int(state.step) != step:
            raise SystemExit(
                f"{folder} is at step {int(state.step)} already, but its file of step "
                f"{step} is gone. Delete the folder to train again."
            )
        return state

    def measured_noise(step: int) -> dict[str, Any]:
        return eqs.gradient_noise(
            vmc,
            trained(step),
            key=jax.random.fold_in(study.keys["noise"], step),
            repeats=preset.repeats,
            burn_in=BURN_IN,
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
        "images": price.local_energies,
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
        "burn_in": BURN_IN,
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


def report(study: Study, measured: dict[str, Any]) -> None:
    """The results file, the table and the figures, where they are not there yet."""
    preset, path = study.preset, study.path
    results = {
        "crystal": str(preset.crystal),
        "operations": study.group.order,
        "device": jax.devices()[0].device_kind,
        "settings": json.loads((path / "settings.json").read_text()),
        "strategies": measured,
    }
    text = json.dumps(results, indent=1)
    written = path / "results.json"
    if written.exists() and written.read_text() == text:
        print(f"{path} is finished.")
        return
    table = draw.table(measured, preset.steps)
    write(path / "table.md", table + "\n")
    print(f"\nEnergies per primitive cell after {preset.steps} steps:\n{table}")
    histories = {
        name: read_history(path / slug(name) / "run/history.csv") for name in measured
    }
    figures = {
        "training": draw.training(measured, histories),
        "cost": draw.cost(measured),
        "noise": draw.noise(measured),
        "smoothing": draw.smoothing(),
        "canonicalization": draw.canonicalization(),
        "group": eqs.plot.group(preset.crystal, domain=study.domain),
    }
    if (path / "scan.json").exists():
        scans = {
            name: eqs.TranslationScan(**{k: np.array(v) for k, v in found.items()})
            for name, found in json.loads((path / "scan.json").read_text()).items()
        }
        domain = eqs.FundamentalDomain.of(in_plane(study.group))
        figures["scan"] = eqs.plot.scans(scans, domain=domain, difference=True)
    for name, figure in figures.items():
        # In few colors: small files.
        file = path / f"{name}.png"
        figure.savefig(file, dpi=64 if name == "scan" else 80)
        Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)
    write(written, text)
    print(f"\nWrote {path}")


def in_plane(group: eqs.SpaceGroup) -> eqs.SpaceGroup:
    """The operations that keep the vertical direction, and the origin."""
    kept = np.abs(group.cart_rotations[:, 2, 2] - 1) < 1e-6
    kept &= np.max(np.abs(group.cart_translations), axis=1) < 1e-6
    return group.subgroup(np.flatnonzero(kept))


def read_history(file: Path) -> Any:
    return np.genfromtxt(file, delimiter=",", names=True)


def slug(name: str) -> str:
    return name.replace(", ", "_").lower()


if __name__ == "__main__":
    main()

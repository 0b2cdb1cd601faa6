"""What a crystal's symmetry is worth, in training and after it: the comparison of Huang
et al. (ICML 2025, arXiv 2502.05318), with its tables and figures.

    python examples/study.py                        # LiH, on a CPU
    python examples/study.py --preset graphene --mean-field graphene.npz   # one GPU

All strategies start from one network, fitted to the mean field, and a step evaluates as
many local energies and gradients of the network with each: those that need several per
walker get fewer walkers. Every stage writes a file when it is finished and is not run
again; Ctrl-C saves, and the same command goes on.

`study_presets.py` has the crystals and sizes, `study_stages.py` the stages, and
`study_figures.py` the table and the figures.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import study_figures as draw
from PIL import Image
from study_presets import ALL, Preset, PRESETS
from study_stages import (
    finished,
    OPTIMIZERS,
    prepare,
    read_history,
    SEED,
    SEPARATION,
    slug,
    Study,
    train_and_measure,
    write,
)

import eqsym as eqs


OPTIONS = (
    "determinants evaluations subset terms moves pretraining_steps steps checkpoints "
    "repeats walkers burn_in evaluation_steps canonical_walkers points chunk"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="lih")
    parser.add_argument("--path", type=Path, help="by default runs/study/PRESET")
    parser.add_argument("--mean-field", type=Path, help="computed before, .npz")
    parser.add_argument("--only", nargs="+", choices=ALL, help="strategies to train")
    parser.add_argument("--basis", help="of the mean field, instead of the preset's")
    parser.add_argument(
        "--widths",
        nargs="+",
        type=int,
        metavar="WIDTH",
        help="per electron and per pair, layer by layer, instead of the preset's",
    )
    parser.add_argument("--optimizer", choices=OPTIMIZERS, help="spring by default")
    for option in OPTIONS:
        flag = "--" + option.replace("_", "-")
        parser.add_argument(flag, type=int, help="instead of the preset's")
    options = parser.parse_args()
    eqs.checkpoint.keep_compiled()
    given = {option: getattr(options, option) for option in (*OPTIONS, "basis")}
    changes: dict[str, Any] = {o: v for o, v in given.items() if v is not None}
    if options.widths:
        if len(options.widths) % 2:
            parser.error(f"--widths must be pairs of numbers, got {options.widths}")
        changes["widths"] = np.reshape(options.widths, (-1, 2)).tolist()
    if options.only:
        changes["strategies"] = tuple(options.only)
    if options.optimizer:
        changes["optimizer"] = options.optimizer
    preset = PRESETS[options.preset]._replace(**changes)
    if preset.optimizer == "kfac" and not {"OG", "DA"}.issuperset(preset.strategies):
        parser.error(
            "--optimizer kfac trains the network as it is, which is what OG and DA do: "
            "add --only OG DA"
        )
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
    constants = {"separation": SEPARATION, "seed": SEED}
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


if __name__ == "__main__":
    main()

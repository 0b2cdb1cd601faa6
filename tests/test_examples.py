"""The examples, at toy size, as a user would run them."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import eqsym as eqs
from toys import QUICK


EXAMPLES = Path(__file__).parent.parent / "examples"
# So many steps of pretraining that something of the network is symmetric, and an
# average is not zero as far as a few walkers can tell.
TOY = (
    "--steps 6 --pretraining-steps 40 --walkers 16 --evaluation-steps 2 --path run"
).split()


def _run(folder: Path, name: str, *arguments: str) -> str:
    return _python(folder, name, *TOY, *arguments)


def _environment(folder: Path) -> dict[str, str]:
    """With a folder of its own for what is compiled."""
    named = {"JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"}
    others = {name: value for name, value in os.environ.items() if name not in named}
    return {**others, **QUICK, "XDG_CACHE_HOME": str(folder / "caches")}


def _python(folder: Path, name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_networks(tmp_path):
    names = "SolidNet", "AttentionNet with Jastrow"
    printed = _run(tmp_path, "networks.py", "--only", *names)
    for name in names:
        assert f"{name}: plain " in printed
    assert "nan" not in printed and "SolidNet with" not in printed
    assert "Processor time of the trainings: SolidNet " in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lih.py", "graphene.py"])
def test_example_writes_its_table_and_its_run_folder(tmp_path, name):
    printed = _run(tmp_path, name)
    assert "averaged - plain = " in printed
    for file in ("training.png", "scan.png"):
        assert (tmp_path / "run" / file).read_bytes().startswith(b"\x89PNG")
    history = np.genfromtxt(tmp_path / "run" / "history.csv", delimiter=",", names=True)
    assert list(history["step"]) == list(range(1, 7))
    assert np.all(np.isfinite(history["energy"]))

    if name == "lih.py":
        report = json.loads((tmp_path / "run" / "post_hoc.json").read_text())
        assert report["averaged"]["symmetry"]["mean"] == 0
        # Run again, and further: it goes on where it was, and compiles nothing.
        compiled = _compiled(tmp_path)
        resume = json.loads((tmp_path / "run" / "run.json").read_text())["resume"]
        environment = _environment(tmp_path)
        subprocess.run(f"{resume} --steps 8", shell=True, check=True, env=environment)
        assert len(compiled) > 10 and _compiled(tmp_path) == compiled
        longer = np.genfromtxt(
            tmp_path / "run" / "history.csv", delimiter=",", names=True
        )
        assert list(longer["step"]) == list(range(1, 9))
        assert list(longer["energy"][:6]) == list(history["energy"])


def _compiled(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("caches/eqsym/*-cache")}


STUDY = (
    "--path run --steps 4 --checkpoints 1 --pretraining-steps 40 --repeats 3 "
    "--evaluations 48 --walkers 4 --canonical-walkers 2 --evaluation-steps 1 --points 3"
).split()
FIGURES = set("training cost noise smoothing canonicalization group scan".split())


@pytest.mark.slow
def test_example_draws_densities(tmp_path):
    printed = _run(tmp_path, "density.py", "--spacing", "0.9")
    assert printed.count(": 4.00000 electrons per cell") == 3
    assert (tmp_path / "run" / "density.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "run" / "correlations.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    assert {row[0] for row in rows} == {"g", "g up-down", "S"}
    values = np.array([row[1:] for row in rows], float)
    assert values.shape[1] == 5 and np.all(np.isfinite(values))


@pytest.mark.slow
def test_example_compares_strategies(tmp_path):
    command = (
        "--steps 2 --pretraining-steps 40 --evaluation-steps 1 --burn-in 1".split()
    )
    command += ["--evaluations", "8", "--path", "run", "--only", "augmented"]
    printed = _python(tmp_path, "strategies.py", *command)
    report = json.loads((tmp_path / "run" / "strategies.json").read_text())
    seconds = report.pop("seconds")
    assert list(seconds) == ["augmented"]
    assert list(report) == ["augmented", "augmented, averaged"]
    for name, row in report.items():
        assert name in printed
        assert np.isfinite(row["energy"]["mean"])
    # Averages are symmetric; the network is not.
    assert abs(report["augmented"]["symmetry"]["mean"]) > 1e-6
    assert report["augmented, averaged"]["symmetry"]["mean"] == 0


@pytest.mark.slow
def test_study_goes_on_where_it_was_interrupted(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, str(EXAMPLES / "study.py"), *STUDY, "--only", "OG"]
    environment = _environment(tmp_path)

    def study(*more):
        return subprocess.Popen(
            [*command, *more],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # Ended after the first stage of the training.
    running = study()
    while not (folder / "og" / "noise-0.json").exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    running.communicate()
    assert running.returncode != 0
    assert not (folder / "results.json").exists()
    early = [folder / "mean_field.npz", folder / "og" / "noise-0.json"]
    before = [file.stat().st_mtime_ns for file in early]

    running = study()
    printed, errors = running.communicate()
    assert running.returncode == 0, errors[-4000:]
    assert [file.stat().st_mtime_ns for file in early] == before
    assert "| PC of OG" in printed
    results = json.loads((folder / "results.json").read_text())
    assert list(results["strategies"]) == ["OG"]
    found = results["strategies"]["OG"]
    assert (found["walkers"], found["local_energies"]) == (48, 1)
    assert [(k, v["repeats"]) for k, v in found["noise"].items()] == [
        ("0", 3),
        ("4", 3),
    ]
    rows = found["energies"]["4"]
    operations = {k: v["operations"] for k, v in rows.items()}
    assert operations == {"OG": 1, "PA of OG": 48, "PC of OG": 48}
    assert all(np.isfinite(row["energy"]["mean"]) for row in rows.values())
    # Averages are symmetric, canonicalized functions too; the network is not.
    assert abs(rows["OG"]["symmetry"]["mean"]) > 1e-6
    assert rows["PA of OG"]["symmetry"]["mean"] == 0
    assert abs(rows["PC of OG"]["symmetry"]["mean"]) < 1e-6
    pictures = {file.stem for file in folder.glob("*.png")}
    assert pictures == FIGURES

    # Finished: nothing is done again. Other settings are refused.
    files = {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}
    running = study()
    printed, errors = running.communicate()
    assert running.returncode == 0, errors[-4000:]
    assert "run is finished" in printed
    assert files == {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}
    running = study("--repeats", "4")
    _, errors = running.communicate()
    assert running.returncode != 0
    assert "repeats was 3, now 4" in errors


# The crystals of the paper with a small network, few walkers and few steps.
PAPER = (
    "--path run --basis sto-3g --widths 8 4 --determinants 1 --evaluations 4 "
    "--subset 2 --terms 2 --chunk 48 --moves 2 --pretraining-steps 40 --steps 2 "
    "--checkpoints 1 --repeats 3 --walkers 4 --canonical-walkers 2 --burn-in 1 "
    "--evaluation-steps 1 --points 2"
).split()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, strategies, optimizer",
    [
        ("graphene", ["OG", "DA", "GA, subset", "GA", "SC"], "spring"),
        ("lih-2x2x2", ["OG", "DA", "GA, subset", "SC"], "spring"),
        # One of them, because each is compiled for a minute.
        ("lithium-2x2x2", ["OG"], "kfac"),
    ],
)
def test_study_of_the_crystals_of_the_paper(tmp_path, name, strategies, optimizer):
    presets = runpy.run_path(str(EXAMPLES / "study_presets.py"))["PRESETS"]
    crystal = presets[name].crystal
    file = tmp_path / "solved_before.npz"
    solved = eqs.MeanField.solve(crystal, basis="sto-3g", path=file)
    command = ["--preset", name, "--mean-field", str(file), *PAPER]
    command += ["--optimizer", optimizer, "--only", *strategies]
    printed = _python(tmp_path, "study.py", *command)
    run = json.loads((tmp_path / "run" / "og" / "run" / "run.json").read_text())
    assert optimizer.capitalize() in json.dumps(run)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["operations"] == eqs.SpaceGroup.of(crystal).order
    assert eqs.MeanField.load(tmp_path / "run/mean_field.npz").energy == solved.energy
    assert list(results["strategies"]) == strategies
    rows = {}
    for found in results["strategies"].values():
        assert list(found["noise"]) == ["0", "2"]
        rows |= found["energies"]["2"]
    # The network is not symmetric yet: averages may be zero as far as anyone can tell.
    assert {"OG", "PC of OG", "DA", "SC"} & {"PC of OG", *strategies} <= set(rows)
    for label, row in rows.items():
        assert f"| {label} " in printed
        assert np.isfinite(row["energy"]["mean"]), label
    for label in {"PC of OG", "SC"} & set(rows):
        assert abs(rows[label]["symmetry"]["mean"]) < 1e-5
    pictures = {file.stem for file in (tmp_path / "run").glob("*.png")}
    assert pictures == FIGURES


@pytest.mark.slow
def test_kfac_trains_no_averages(tmp_path):
    with pytest.raises(AssertionError, match="trains the network as it is"):
        _python(tmp_path, "study.py", *STUDY, "--optimizer", "kfac")


def _cif(name, a, c, gamma, group, *atoms):
    """A structure file with two equal edges and two right angles."""
    lines = [f"data_{name}"]
    lines += [f"_cell_length_{edge}" for edge in (f"a {a}", f"b {a}", f"c {c}")]
    angles = "alpha 90", "beta 90", f"gamma {gamma}"
    lines += [f"_cell_angle_{angle}" for angle in angles]
    lines += [f"_symmetry_space_group_name_H-M '{group}'", "loop_"]
    columns = "type_symbol fract_x fract_y fract_z".split()
    lines += [f"_atom_site_{column}" for column in columns]
    return "\n".join([*lines, *atoms, ""])


# Of no use but small: conventional and with its symmetry, rounded, and a layer.
CIFS = {
    "cube": _cif(
        "lithium_hydride", 4.02, 4.02, 90, "F m -3 m", "Li 0 0 0", "H 0.5 0.5 0.5"
    ),
    "packed": _cif(
        "helium",
        2.8,
        4.57,
        120,
        "P 1",
        "He 0.3333 0.6667 0.25",
        "He 0.6667 0.3333 0.75",
    ),
    "layer": _cif(
        "hydrogen",
        2.4,
        12,
        120,
        "P 1",
        "H 0.33333333 0.66666667 0.5",
        "H 0.66666667 0.33333333 0.5",
    ),
}


def _crystal_of(name, supercell=(1,), twist=(0, 0, 0)):
    module = runpy.run_path(str(EXAMPLES / "crystal.py"))
    crystal = module["crystal_of"](str(name), list(supercell), list(twist))
    return crystal, module["described"](crystal)


@pytest.mark.parametrize("name", CIFS)
def test_example_reads_crystals(tmp_path, name):
    file = tmp_path / f"{name}.cif"
    file.write_text(CIFS[name])
    crystal, said = _crystal_of(file)
    formula, order = {
        "cube": ("LiH", 48),
        "packed": ("He2", 24),
        "layer": ("H2", 24),
    }[name]
    assert f"Primitive cell: {formula}, " in said
    assert eqs.SpaceGroup.of(crystal).order == order
    assert f"Electrons: {crystal.electrons[0]} up" in said


def test_example_knows_presets():
    crystal, said = _crystal_of("lithium-hydride", (2,), (0.5, 0.5, 0.5))
    assert crystal.cells == 8 and crystal.electrons == (16, 16)
    assert "90.00" not in said and "60.00, 60.00, 60.00 degrees" in said
    matrix = [1, 1, -1, 1, -1, 1, -1, 1, 1]
    assert _crystal_of("diamond", matrix)[0].matrix.tolist() == [
        [1, 1, -1],
        [1, -1, 1],
        [-1, 1, 1],
    ]


def test_example_takes_pseudopotentials():
    module = runpy.run_path(str(EXAMPLES / "crystal.py"))
    crystal = module["crystal_of"]("silicon", [1], [0, 0, 0], "ccecp")
    assert crystal.electrons == (4, 4)
    assert "charge 0; EffectiveCorePotential(Si, ccecp" in module["described"](crystal)


@pytest.mark.parametrize(
    "name, supercell, said",
    [
        ("diamonds", (1,), "neither a file nor a preset 'diamonds'.*boron-nitride, d"),
        ("missing.cif", (1,), "neither a file nor a preset 'missing.cif'"),
        ("diamond", (1, 2), "one integer, three, or the nine .*, got 2"),
        (__file__, (1,), "cannot read"),
    ],
)
def test_example_says_what_it_does_not_understand(name, supercell, said):
    with pytest.raises(ValueError, match=said):
        _crystal_of(name, supercell)


@pytest.mark.slow
def test_example_solves_valence_electrons(tmp_path):
    atoms = "Na 0 0 0", "Na 0.5 0.5 0.5"
    cif = _cif("sodium", 4.23, 4.23, 90, "P 1", *atoms)
    (tmp_path / "given.cif").write_text(cif)
    small = "--layers 2 --widths 12 4 --determinants 1".split()
    arguments = ["given.cif", "--pseudopotential", "ccecp", "--attention", *small]
    printed = _run(tmp_path, "crystal.py", *arguments)
    assert "Electrons: 1 up, 0 down" in printed and "48 operations" in printed
    history = np.genfromtxt(tmp_path / "run" / "history.csv", delimiter=",", names=True)
    parts = [history[name] for name in ("kinetic", "potential", "pseudopotential")]
    np.testing.assert_allclose(sum(parts), history["energy"], atol=1e-5)
    report = json.loads((tmp_path / "run" / "post_hoc.json").read_text())
    assert report["averaged"]["pseudopotential"]["error"] > 0
    wavefunction = eqs.load_run(tmp_path / "run").wavefunction
    assert isinstance(wavefunction, eqs.Jastrow)
    assert isinstance(wavefunction.wavefunction, eqs.AttentionNet)


@pytest.mark.slow
@pytest.mark.parametrize("name", CIFS)
def test_example_solves_crystals(tmp_path, name):
    (tmp_path / "given.cif").write_text(CIFS[name])
    small = "--layers 2 --widths 12 4 --determinants 1".split()
    arguments = ["given.cif", "--basis", "sto-3g", *small]
    printed = _run(tmp_path, "crystal.py", *arguments)
    assert "primitive()" not in printed
    network = eqs.load_run(tmp_path / "run").wavefunction
    assert [len(layer.own.weight) for layer in network.layers] == [12, 12]
    assert network.layers[0].pair.weight.shape[0] == 4
    assert network.bloch.orbital_sets[0].determinants == 1
    for said in ("Primitive cell: ", "Group: ", "Mean field: ", "averaged - plain = "):
        assert said in printed
    files = "training group sectors".split()
    for file in files:
        assert (tmp_path / "run" / f"{file}.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "run" / "post_hoc.json").read_text())
    assert np.isfinite(report["plain"]["energy"]["mean"])
    sectors = json.loads((tmp_path / "run" / "sectors.json").read_text())["sectors"]
    weights = [sector["weight"]["mean"] for sector in sectors.values()]
    assert abs(sum(weights) - 1) < 1e-4

    if name == "packed":
        assert "nuclei move by up to 0.00031 Bohr" in printed
        # Again, and it computes nothing; further, and it goes on.
        printed = _run(tmp_path, "crystal.py", *arguments)
        assert "Compiling the training step" not in printed
        assert json.loads((tmp_path / "run" / "post_hoc.json").read_text()) == report
        _run(tmp_path, "crystal.py", *arguments, "--steps", "8")
        history = (tmp_path / "run" / "history.csv").read_text().splitlines()
        assert len(history) == 1 + 8

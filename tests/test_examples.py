"""The examples, at toy size, as a user would run them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from toys import QUICK


EXAMPLES = Path(__file__).parent.parent / "examples"
# So many steps of pretraining that something of the network is symmetric, and an
# average is not zero as far as a few walkers can tell.
TOY = (
    "--steps 6 --pretraining-steps 40 --walkers 16 --evaluation-steps 2 --path run"
).split()


def _run(folder: Path, name: str, *arguments: str) -> str:
    return _python(folder, name, *TOY, *arguments)


def _python(folder: Path, name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **QUICK},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lih.py", "graphene.py"])
def test_example_writes_its_table_and_its_run_folder(tmp_path, name):
    printed = _run(tmp_path, name)
    assert "PA - OG" in printed
    for file in ("training.png", "scan.png"):
        assert (tmp_path / "run" / file).read_bytes().startswith(b"\x89PNG")
    history = np.genfromtxt(tmp_path / "run" / "history.csv", delimiter=",", names=True)
    assert list(history["step"]) == list(range(1, 7))
    assert np.all(np.isfinite(history["energy"]))

    if name == "lih.py":
        report = json.loads((tmp_path / "run" / "post_hoc.json").read_text())
        assert report["averaged"]["symmetry"]["mean"] == 0
        # Run again, and further: it goes on where it was.
        resume = json.loads((tmp_path / "run" / "run.json").read_text())["resume"]
        environment = {**os.environ, **QUICK}
        subprocess.run(f"{resume} --steps 8", shell=True, check=True, env=environment)
        longer = np.genfromtxt(
            tmp_path / "run" / "history.csv", delimiter=",", names=True
        )
        assert list(longer["step"]) == list(range(1, 9))
        assert list(longer["energy"][:6]) == list(history["energy"])


STUDY = (
    "--path run --steps 4 --checkpoints 1 --pretraining-steps 40 --repeats 3 "
    "--evaluations 48 --walkers 4 --canonical-walkers 2 --evaluation-steps 1 --points 3"
).split()


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
    command += ["--evaluations", "8", "--path", "run", "--only", "DA"]
    printed = _python(tmp_path, "strategies.py", *command)
    report = json.loads((tmp_path / "run" / "strategies.json").read_text())
    seconds = report.pop("seconds")
    assert list(seconds) == ["DA"]
    assert list(report) == ["DA", "PA of DA"]
    for name, row in report.items():
        assert name in printed
        assert np.isfinite(row["energy"]["mean"])
    # Averages are symmetric; the network is not.
    assert abs(report["DA"]["symmetry"]["mean"]) > 1e-6
    assert report["PA of DA"]["symmetry"]["mean"] == 0


@pytest.mark.slow
def test_study_goes_on_where_it_was_interrupted(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, str(EXAMPLES / "study.py"), *STUDY, "--only", "OG"]
    environment = {
        **os.environ,
        **QUICK,
        # What was compiled before the interruption is not compiled again.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }

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
    assert pictures == set(
        "training cost noise smoothing canonicalization group scan".split()
    )

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

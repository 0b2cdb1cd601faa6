"""The examples, at toy size, as a user would run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


EXAMPLES = Path(__file__).parent.parent / "examples"
TOY = (
    "--steps 6 --pretraining-steps 4 --walkers 16 --evaluation-steps 2 --path run"
).split()


def _run(folder: Path, name: str, *arguments: str) -> str:
    return _python(folder, name, *TOY, *arguments)


def _python(folder: Path, name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
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
        _run(tmp_path, name, "--steps", "8")
        longer = np.genfromtxt(
            tmp_path / "run" / "history.csv", delimiter=",", names=True
        )
        assert list(longer["step"]) == list(range(1, 9))
        assert list(longer["energy"][:6]) == list(history["energy"])


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
    command = "--steps 2 --pretraining-steps 2 --evaluation-steps 1 --burn-in 1".split()
    command += ["--evaluations", "8", "--path", "run", "--only", "OG", "DA"]
    printed = _python(tmp_path, "strategies.py", *command)
    report = json.loads((tmp_path / "run" / "strategies.json").read_text())
    seconds = report.pop("seconds")
    assert list(seconds) == ["OG", "DA"]
    assert list(report) == ["OG", "PA of OG", "PC of OG", "DA", "PA of DA"]
    for name, row in report.items():
        assert name in printed
        assert np.isfinite(row["energy"]["mean"])
    # Averages are symmetric, canonicalized functions too; the network is not.
    assert report["OG"]["symmetry"]["mean"] > 1e-6
    assert report["PA of OG"]["symmetry"]["mean"] == 0
    assert report["PC of OG"]["symmetry"]["mean"] < 1e-6

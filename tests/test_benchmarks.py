"""Benchmarks at toy size, and what becomes of what was measured."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from toys import QUICK


BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def gpu(benchmark):
    return benchmark("gpu")


@pytest.mark.slow
def test_memory_of_supercells(benchmark, monkeypatch, capsys):
    """Compiled from shapes only, up to the first one that does not fit."""
    scaling = benchmark("scaling")
    monkeypatch.setattr(scaling, "LARGE", scaling.Network(((4, 2),), 1))
    monkeypatch.setattr(scaling, "LARGE_WALKERS", 6)
    scaling.largest(((1, 1, 1), (2, 1, 1), (2, 2, 1)), [2], 1e-4)
    found = re.findall(r"(\d+) electrons, real, ([\d.]+)", capsys.readouterr().out)
    assert [electrons for electrons, _ in found] == ["4", "8"]


def test_keeps_what_was_measured_before_a_failure(gpu, tmp_path, capsys):
    clock = gpu.Clock(1.0)

    def failing(row):
        row["seconds"] = 0.25
        raise RuntimeError("Out of memory.\nAnd more.")

    def following(row):
        row["seconds"] = 1.5
        clock.share = lambda: 0.5

    results = gpu.Results(tmp_path)
    gpu.attempt(results, clock, "iteration", [failing, following, following])
    gpu.attempt(results, clock, "training", [following])
    expected = [
        {
            "part": "iteration",
            "seconds": 0.25,
            "failed": "RuntimeError: Out of memory.",
        },
        {"part": "iteration", "seconds": 1.5},
        {"part": "iteration", "left out": "no time"},
        {"part": "training", "seconds": 1.5},
    ]
    assert "And more." in capsys.readouterr().err
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == expected
    # Another call adds to them.
    again = gpu.Results(tmp_path)
    again.add("iteration", {"seconds": 1234.56789})
    tables = (tmp_path / "results.md").read_text()
    assert tables.split("\n\n")[1].splitlines() == [
        "| part | seconds |",
        "|---|---|",
        "| iteration | 1.5 |",
        "| iteration | 1234.57 |",
        "| training | 1.5 |",
    ]
    assert "| iteration | no time |" in tables


@pytest.mark.slow
def test_gpu_at_toy_size(gpu, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--toy", "--path", "run"]
    done = subprocess.run(
        [*command, "--minutes", "30"],
        cwd=tmp_path,
        env={**os.environ, **QUICK, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    rows = {part: [] for part in gpu.ENDS}
    for row in map(json.loads, lines):
        assert "failed" not in row and "left out" not in row
        rows[row["part"]].append(row)
        numbers = [value for value in row.values() if isinstance(value, float)]
        assert np.all(np.isfinite(numbers))
    counts = {part: len(found) for part, found in rows.items()}
    size, precisions = gpu.TOY, len(gpu.PRECISIONS)
    assert counts == {
        "device": 1,
        "mean-field": 1,
        "iteration": len(size.systems),
        "precision": precisions,
        "optimizers": len(size.batches) * len(gpu.OPTIMIZERS),
        "training": 1,
        "post-hoc": len(size.evaluation_steps),
    }
    assert rows["training"][0]["steps"] == size.steps
    # Single precision, with full products.
    full = rows["precision"][0]
    assert 0 < full["median error of the kinetic energy [Ha]"] < 1e-3
    samples = [row["samples"] for row in rows["post-hoc"]]
    walkers = size.systems[0].walkers
    assert samples == [steps * walkers for steps in size.evaluation_steps]


@pytest.mark.slow
def test_networks(benchmark, monkeypatch, tmp_path, capsys):
    """Trains, and draws what it wrote."""
    networks = benchmark("networks")
    monkeypatch.setattr(networks, "WALKERS", 16)
    monkeypatch.setattr(networks, "PRETRAINING_STEPS", 40)
    name = "AttentionNet + Jastrow"

    def call(*arguments):
        line = ["networks.py", "--path", str(tmp_path), *arguments]
        monkeypatch.setattr(sys, "argv", line)
        networks.main()
        return capsys.readouterr().out

    small = "--width 8 --seeds 0 --steps 2 --evaluation-steps 2 --networks"
    call(*small.split(), name)
    (row,) = networks.rows(tmp_path / "energies.csv", "lithium-hydride")
    assert (row["network"], row["steps"]) == (name, "2")
    printed = call("--figure", str(tmp_path / "networks.png"))
    assert f"| {name} | 2 |" in printed
    assert (tmp_path / "networks.png").read_bytes().startswith(b"\x89PNG")

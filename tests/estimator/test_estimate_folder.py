"""Estimates in a folder: stopped anywhere they go on with the same numbers, bit for
bit; another estimate is refused."""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import eqsym as eqs
from eqsym._core import progress as progress_module
from eqsym._estimator import folder as folder_module
from toys import Configured, hydrogen, Lattice, Settings, walkers, waves


_WAVES = dict(a=(0.6, 0.2, -0.3), c=(0.2, 0.0, 0.4))


@functools.cache
def _parts():
    wavefunction = waves(**_WAVES)
    group = eqs.SpaceGroup.of(wavefunction.crystal).generated_by([1])
    return wavefunction, Lattice(wavefunction.crystal), group


def _chains(**changes):
    chains = eqs.Chains(
        walkers(hydrogen(), 8),
        key=jax.random.key(0),
        steps=6,
        burn_in=4,
        sampler=eqs.Metropolis(2, width=1.0),
        progress=False,
    )
    return dataclasses.replace(chains, **changes)


def _evaluate(path=None, **changes):
    wavefunction, hamiltonian, group = _parts()
    found = eqs.evaluate(
        wavefunction,
        hamiltonian,
        _chains(**changes),
        symmetrizer=eqs.GroupAverage(group),
        path=path,
    )
    return found.to_dict()


def _post_hoc(path=None, **changes):
    return eqs.post_hoc(*_parts(), _chains(**changes), path=path).to_dict()


def _sectors(path=None, **changes):
    return eqs.sectors(*_parts(), _chains(**changes), path=path).to_dict()


def _observe(path=None, **changes):
    wavefunction, _, group = _parts()
    observables = {"density": eqs.Density(wavefunction.crystal, (2, 2, 2))}
    observables["z"] = eqs.Polarization(wavefunction.crystal)
    found = eqs.observe_post_hoc(
        wavefunction, observables, group, _chains(**changes), path=path
    )
    return {
        row: {
            name: jax.tree.leaves(value) for name, value in getattr(found, row).items()
        }
        for row in ("plain", "mixture", "averaged", "difference")
    } | {"weight": vars(found.weight)}


_ESTIMATES = {
    "evaluate": _evaluate,
    "post_hoc": _post_hoc,
    "sectors": _sectors,
    "observe": _observe,
}


def _same(found, expected):
    """Bit for bit."""
    found, expected = (jax.tree.flatten(tree) for tree in (found, expected))
    assert found[1] == expected[1]
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(one, other)


@contextlib.contextmanager
def _interrupted(monkeypatch, step):
    """Ctrl-C comes after so many steps of the sampler, a burn-in included."""

    class Bar(progress_module.tqdm):
        def update(self, n=1):
            nonlocal step
            step -= 1
            if step == 0:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(progress_module, "tqdm", Bar)
        yield


@pytest.mark.parametrize("name", _ESTIMATES)
def test_stopped_in_burn_in_and_later(tmp_path, monkeypatch, name):
    """And prolonged, and asked for once more."""
    estimate = _ESTIMATES[name]
    for step in (2, 4, 3):
        with _interrupted(monkeypatch, step):
            estimate(path=tmp_path)
    # 9 of at least 10 steps.
    assert eqs.checkpoint.latest(tmp_path / "checkpoints") == 9
    expected = estimate()
    _same(estimate(path=tmp_path), expected)
    rows = pandas.read_csv(tmp_path / "history.csv")
    assert list(rows["step"]) == [1, 2, 3, 4, 5, 6]
    first = {"observe": "potential", "sectors": "energy"}.get(name, "energy potential")
    assert list(rows.columns) == (
        f"step {first} symmetry samples acceptance replaced seconds".split()
    )
    if name == "evaluate":
        np.testing.assert_allclose(rows["energy"].mean(), expected["energy"]["mean"])
    assert np.all(np.isfinite(rows)) and np.all(rows["samples"] == 8)

    # Finished: nothing is computed.
    with monkeypatch.context() as patch:
        patch.setattr(eqs.Metropolis, "step", None)
        files = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*") if f.is_file()}
        _same(estimate(path=tmp_path), expected)
        for file, written in files.items():
            assert file.stat().st_mtime_ns == written
    _same(estimate(path=tmp_path, steps=9), estimate(steps=9))
    with pytest.raises(ValueError, match="at least the 9 samples"):
        estimate(path=tmp_path)


def test_other_arguments_are_refused(tmp_path):
    _evaluate(path=tmp_path, steps=2)
    others = {
        "walkers": (walkers(hydrogen(), 8, seed=1), ".walkers"),
        "key": (jax.random.key(1), ".key"),
        "burn_in": (5, ".burn_in: saved 4, here 5"),
        "sampler": (eqs.Metropolis(3), ".sampler.moves: saved 2, here 3"),
    }
    for name, (value, expected) in others.items():
        with pytest.raises(ValueError) as error:
            _evaluate(path=tmp_path, **{name: value})
        assert expected in str(error.value)
    with pytest.raises(ValueError, match="eqsym._PostHocSample"):
        _post_hoc(path=tmp_path)
    # Parameters are compared by their values.
    wavefunction, hamiltonian, group = _parts()
    other = eqx.tree_at(lambda f: f.a, wavefunction, jnp.asarray([0.6, 0.2, -0.31]))
    arguments = dict(symmetrizer=eqs.GroupAverage(group), path=tmp_path)
    with pytest.raises(ValueError, match=r"\.wavefunction\.a'\]: saved .*, here "):
        eqs.evaluate(other, hamiltonian, _chains(steps=2), **arguments)
    # Chunks, and whether to show a bar, are free.
    eqs.evaluate(wavefunction, hamiltonian, _chains(steps=2, chunk=4), **arguments)


def test_objects_in_settings_are_compared(tmp_path, caplog):
    """Otherwise numbers of another Hamiltonian would be returned."""

    def energy(depth):
        wavefunction, _, _ = _parts()
        hamiltonian = Configured(wavefunction.crystal, Settings(depth))
        return eqs.evaluate(wavefunction, hamiltonian, _chains(steps=2), path=tmp_path)

    found = energy(0.5)
    assert energy(0.5).energy.mean == found.energy.mean
    assert "hamiltonian.settings (the code of Settings)" in caplog.text
    with pytest.raises(ValueError, match=r"settings.depth: saved 0.5, here 5.0"):
        energy(5.0)


def test_folders_of_anything_else_are_refused(tmp_path):
    eqs.checkpoint.save(tmp_path / "checkpoints", 3, {"walkers": jnp.zeros(3)})
    with pytest.raises(ValueError, match="is not of an estimate, but of a run"):
        _evaluate(path=tmp_path, steps=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="must be a folder that can be written"):
        _evaluate(path=tmp_path / "file", steps=2)


def test_a_full_disk_does_not_stop_an_estimate(tmp_path, full_disk, caplog):
    expected = _evaluate(steps=2)
    full_disk(1000)
    _same(_evaluate(path=tmp_path, steps=2), expected)
    assert "could not be written" in caplog.text


def _long(path):
    """Called in another process."""
    folder_module._SECONDS = 0.02
    with open(path.with_suffix(".json"), "w") as file:
        json.dump(_evaluate(path=path, steps=300), file)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """By SIGKILL, twice, while it writes checkpoints all the time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_estimate_folder"])
    path, starts = tmp_path / "killed", []
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_ENABLE_X64", "1")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        for _ in range(2):
            before = starts[-1] if starts else 0
            process = context.Process(target=_long, args=(path,))
            process.start()
            deadline = time.monotonic() + 120
            while (eqs.checkpoint.latest(path / "checkpoints") or 0) <= before:
                assert process.is_alive() and time.monotonic() < deadline
            time.sleep(rng.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            starts.append(eqs.checkpoint.latest(path / "checkpoints"))
        assert 0 < starts[0] < starts[1] < 300
        for place in (path, tmp_path / "whole"):
            process = context.Process(target=_long, args=(place,))
            process.start()
            process.join(120)
            assert process.exitcode == 0
    found, whole = (
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("killed", "whole")
    )
    assert found == whole
    one, other = (
        pandas.read_csv(place / "history.csv").drop(columns="seconds")
        for place in (path, tmp_path / "whole")
    )
    assert one.equals(other) and len(one) == 300

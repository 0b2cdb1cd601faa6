"""Training processes that are killed, and go on as if nothing had happened."""

import contextlib
import multiprocessing
import os
import signal
import time

import jax
import numpy as np
import pytest

import eqsym as eqs
from eqsym._storage.checkpoints import read_arrays
from toys import hydrogen, Lattice, waves


_STEPS, _EVERY, _KILLS = 200, 2, 24


def _train(path):
    """The same run, whether it is new or resumed. Called in other processes."""
    vmc = eqs.VMC(Lattice(hydrogen()), eqs.Metropolis(2), eqs.Spring(0.1))
    eqs.run(
        vmc,
        waves(c=(0.1, 0.2, 0.3)),
        steps=_STEPS,
        walkers=6,
        key=jax.random.key(5),
        path=path,
        checkpoint_every=_EVERY,
        progress=False,
    )


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Starts functions in processes of their own, with everything imported."""
    environment = {
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_survival"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield context


def _steps(path):
    """Steps in the history so far."""
    file = path / "history.csv"
    return file.read_text().count("\n") - 1 if file.exists() else 0


def _unfinished(path):
    """Checkpoints that are being written or deleted, or were."""
    found = set()
    for place in (path / "checkpoints").glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            found.add((place.name, place.stat().st_mtime_ns))
    return found


def _done(process):
    process.join(300)
    assert process.exitcode == 0


def _history(path):
    """The history as it is in the file, but for the wall time."""
    rows = [line.split(",") for line in (path / "history.csv").read_text().splitlines()]
    assert rows[0][-1] == "seconds"
    return [row[:-1] for row in rows]


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, processes):
    """Killed 24 times, by SIGKILL, in the start and in training, some of them as soon
    as a checkpoint is seen being written: the history and the last state are those of a
    run that never stopped, bit for bit. Two of these are equal, too."""
    wholes = [tmp_path / "whole", tmp_path / "again"]
    for path in wholes:
        process = processes.Process(target=_train, args=(path,))
        process.start()
        _done(process)
    assert _history(wholes[0]) == _history(wholes[1])

    path = tmp_path / "killed"
    rng = np.random.default_rng(0)
    writing, starts, left = 0, [], set()
    for kill in range(_KILLS):
        before = _steps(path)
        process = processes.Process(target=_train, args=(path,))
        process.start()
        if kill % 4 == 0:
            # Anywhere in the start.
            end = time.monotonic() + rng.uniform(0, 2)
            while time.monotonic() < end and _steps(path) <= before:
                time.sleep(1e-3)
        else:
            deadline = time.monotonic() + 120
            # A resumed run first cuts the history back to its checkpoint.
            while _steps(path) <= before and time.monotonic() < deadline:
                assert process.is_alive()
                time.sleep(2e-4)
            if kill % 4 == 1:
                while not _unfinished(path) - left and time.monotonic() < deadline:
                    assert process.is_alive()
            else:
                time.sleep(rng.uniform(0, 0.04))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        checkpoints = path / "checkpoints"
        # What an earlier kill has left does not count.
        unfinished = _unfinished(path)
        writing += bool(unfinished - left)
        left = unfinished
        last = eqs.checkpoint.latest(checkpoints)
        if last is not None:
            newest = max(int(p.name) for p in checkpoints.iterdir() if p.name.isdigit())
            assert last == newest and last <= _steps(path) < _STEPS
            starts.append(last)
    print(f"{_KILLS} kills at checkpoints {starts}, {writing} while writing one")
    assert not any(checkpoints.glob("*.damaged"))
    assert writing >= 3 and len(set(starts)) >= 10

    process = processes.Process(target=_train, args=(path,))
    process.start()
    _done(process)
    assert _history(path) == _history(wholes[0])
    assert len(_history(path)) == _STEPS + 1
    one, other = (read_arrays(p / "checkpoints", _STEPS) for p in (path, wholes[0]))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])

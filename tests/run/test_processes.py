"""Two processes of two devices each: the same numbers as one process with one device,
one set of files, and an end that they agree on."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import eqsym as eqs
from eqsym._storage.history import read_history
from toys import hydrogen, Lattice, waves


_SCRIPT = """
import json, sys
number, port, folder, steps, found = sys.argv[1:]
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, int(number))
import eqsym as eqs
from eqsym._storage import checkpoints as checkpoint_module
from eqsym._run import figure as figure_module
figure_module._FIGURE_SECONDS = 0
from test_processes import crystal, estimates, trained
if number == "0":
    write = checkpoint_module._write

    def full(folder, step, *others):
        if step == 2:
            raise OSError("There is no room.")
        write(folder, step, *others)

    checkpoint_module._write = full
mesh = eqs.device_mesh(operations=2)
assert mesh.shape == {"walkers": 2, "operations": 2}
assert len(mesh.local_devices) == 2
result = trained(folder, int(steps), mesh, figure=eqs.plot.training)
assert not result.walkers.is_fully_addressable
values = [float(value) for value in estimates(result)]
energy = eqs.MeanField.solve(crystal(), basis="sto-3g").energy
try:
    eqs.MeanField.solve(crystal(), basis="nonsense")
except ValueError as error:
    basis = str(error)
try:
    # The first process makes it, and the other one does not see it.
    trained(f"{folder}-{number}", 1, mesh)
except ValueError as error:
    disk = str(error).partition(", got")[0]
with open(found, "w") as file:
    json.dump([values, energy, basis, disk, "matplotlib" in sys.modules], file)
"""


_ENDING = """
import sys
number, port, folder, _, found = sys.argv[1:]
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, int(number))
import eqsym as eqs
from eqsym._core.interrupts import Interrupts
from test_processes import crystal, hamiltonian, trained
from toys import waves
check, calls = Interrupts.check, 0
def counted(self, **kwargs):
    global calls
    calls += 1
    open(f"{found}.{phase}", "w").write(str(calls))
    check(self, **kwargs)
Interrupts.check = counted
mesh = eqs.device_mesh()
walkers = eqs.initial_walkers(crystal(), 8, key=jax.random.key(0))
def evaluate():
    eqs.evaluate(
        waves(crystal()),
        hamiltonian(),
        eqs.Chains(
            eqs.shard_walkers(walkers, mesh), key=jax.random.key(1), steps=10**7
        ),
    )
for phase, work in (
    ("evaluation", evaluate),
    ("burn-in", lambda: trained(folder, 1, mesh, burn_in=10**7)),
    ("end", evaluate),
):
    calls = 0
    try:
        work()
    except KeyboardInterrupt:
        open(f"{found}.{phase}.ended", "w").write(str(calls))
"""


_CALLBACK = """
import json, sys
number, port, folder, _, found = sys.argv[1:]
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, int(number))
import eqsym as eqs
from test_processes import trained

def stop(step, statistics, state):
    if number == "1" and step == 3:
        raise StopIteration

def fail(step, statistics, state):
    if number == "0" and step == 5:
        raise KeyError("mine")

mesh = eqs.device_mesh()
first = trained(folder, 10, mesh, callback=stop)
try:
    trained(folder, 10, mesh, callback=fail)
except Exception as error:
    with open(found, "w") as file:
        json.dump([first.step, type(error).__name__, str(error)], file)
"""


def crystal():
    return hydrogen(supercell=(2, 1, 1))


def hamiltonian():
    return Lattice(crystal())


def trained(folder, steps, mesh=None, **kwargs):
    vmc = eqs.VMC(hamiltonian(), eqs.Metropolis(3), eqs.Spring(), chunk=4)
    return eqs.run(
        vmc,
        waves(crystal(), b=(0.1, 0.2, 0.3)),
        steps=steps,
        walkers=8,
        key=jax.random.key(0),
        mesh=mesh,
        path=folder,
        checkpoint_every=2,
        progress=False,
        **kwargs,
    )


def estimates(result):
    """Energies, and something else that is sampled on the devices of the walkers."""
    group = eqs.SpaceGroup.of(crystal())
    chains = eqs.Chains(result.walkers, key=jax.random.key(1), steps=2)
    wavefunction = result.wavefunction
    averaged = eqs.post_hoc(wavefunction, hamiltonian(), group, chains).averaged
    density = {"density": eqs.Density(crystal(), (2, 1, 1))}
    seen = eqs.observe(wavefunction, density, chains)["density"]
    return averaged.energy.mean, averaged.energy.error, *seen.mean.ravel()


@pytest.fixture
def start():
    """`_start`, and no process outlives the test."""
    started = []

    def kept(*arguments):
        started.extend(both := _start(*arguments))
        return both

    yield kept
    for process, _ in started:
        process.kill()
        process.wait()


def _start(folder, steps, script=_SCRIPT):
    """Both processes, and the files for their results. Their output goes to files too:
    the threads of the collectives print into it."""
    # This file, those that tests share, and the library.
    path = os.pathsep.join(map(str, pathlib.Path(__file__).resolve().parents[:3]))
    environment = {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(2):
        found = folder.parent / f"{folder.name}.{number}.json"
        with open(found.with_suffix(".log"), "w") as log:
            arguments = [number, port, folder, steps, found]
            process = subprocess.Popen(
                [sys.executable, "-c", script, *map(str, arguments)],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )
        started.append((process, found))
    return started


def _wait(started, code=0):
    """Waits for both, and returns their logs."""
    logs = []
    for process, found in started:
        ended = process.wait(300)
        logs.append(found.with_suffix(".log").read_text())
        assert ended == code, logs[-1]
    return logs


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The result of one process with one device."""
    return trained(tmp_path_factory.mktemp("alone"), 6)


def test_training_and_estimates(alone, tmp_path, start):
    started = start(tmp_path / "run", 4)
    logs = _wait(started)
    first, second = (json.loads(found.read_text()) for _, found in started)
    values, energy, error, disk, drawn = first
    assert second == [values, energy, f"On the first process: {error}", disk, False]
    # One line for every step, and one that draws.
    assert drawn and (tmp_path / "run" / "training.png").exists()
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3", "4"]
    assert "nonsense" in error
    assert disk == "`path` must be on a disk that all processes share"
    for log in logs:
        assert "The checkpoint of step 2 could not be written" in log
    at_four = trained(None, 4)
    expected = estimates(at_four)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)
    solved = eqs.MeanField.solve(crystal(), basis="sto-3g").energy
    np.testing.assert_allclose(energy, solved, rtol=1e-9)

    # One process goes on.
    resumed = trained(tmp_path / "run", 6)
    np.testing.assert_allclose(resumed.walkers, alone.walkers, rtol=1e-9)
    for name, column in alone.history.items():
        if name != "seconds":
            np.testing.assert_allclose(
                resumed.history[name], column, rtol=1e-9, atol=1e-12, err_msg=name
            )


def test_one_is_terminated(tmp_path, start):
    """The other one stops at the same step, and all of it is saved."""
    folder = tmp_path / "run"
    started = start(folder, 10**6)
    deadline = time.monotonic() + 240
    history = folder / "history.csv"
    while not history.exists() or history.read_text().count("\n") < 4:
        assert time.monotonic() < deadline and started[0][0].poll() is None
        time.sleep(0.2)
    started[1][0].send_signal(signal.SIGTERM)
    _wait(started, code=128 + signal.SIGTERM)
    steps = read_history(history)["step"]
    assert eqs.checkpoint.latest(folder / "checkpoints") == steps[-1] == len(steps)
    assert eqs.load_run(folder, waves(crystal(), b=(0, 0, 0))).step == len(steps)


def test_callback_on_one_of_them(tmp_path, start):
    """What it raises ends both at the same step, saved together; and the run goes on
    as if nothing had been."""
    folder = tmp_path / "run"
    started = start(folder, 0, _CALLBACK)
    _wait(started)
    found = [json.loads(place.read_text()) for _, place in started]
    assert found[0] == [3, "KeyError", "'mine'"]
    assert found[1][:2] == [3, "RuntimeError"]
    assert found[1][2] == "`callback` raised on another process, after step 5."
    assert eqs.checkpoint.latest(folder / "checkpoints") == 5
    resumed, alone = trained(folder, 6), trained(None, 6)
    np.testing.assert_allclose(resumed.walkers, alone.walkers, rtol=1e-9)


def test_every_loop_ends_together(tmp_path, start):
    """SIGINT to one of them ends estimators and burn-in in both, after the same step,
    and so does SIGTERM, with the exit code that says so."""
    started = start(tmp_path / "run", 0, _ENDING)
    founds = [found for _, found in started]
    for phase, number, which in (
        ("evaluation", signal.SIGINT, 1),
        ("burn-in", signal.SIGINT, 0),
        ("end", signal.SIGTERM, 1),
    ):
        files = [found.with_name(f"{found.name}.{phase}") for found in founds]
        # Both are in the middle of it.
        _until(started, lambda f=files: all(p.exists() and p.read_text() for p in f))
        before = [int(p.read_text() or 0) for p in files]
        _until(started, lambda f=files, b=before: _more(f, b))
        started[which][0].send_signal(number)
        if number == signal.SIGINT:
            ended = [found.with_name(f"{found.name}.{phase}.ended") for found in founds]
            _until(
                started, lambda e=ended: all(p.exists() and p.read_text() for p in e)
            )
            one, other = (p.read_text() for p in ended)
            assert one == other
        if phase == "burn-in":
            place = tmp_path / "run" / "checkpoints" / "burn-in"
            assert eqs.checkpoint.latest(place) == int(one)
    _wait(started, code=128 + signal.SIGTERM)


def _until(started, condition):
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process, _ in started)
        time.sleep(0.1)


def _more(files, before):
    return all(int(p.read_text() or 0) > b for p, b in zip(files, before, strict=True))

"""Faults injected into runs: each is counted and reported, the run goes on if it can,
stops if it cannot, and the last good checkpoint stays."""

import json
import logging
import re
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

import eqsym as eqs
from eqsym._run import (
    figure as figure_module,
    loop as run_module,
    phases as phases_module,
)
from eqsym._run.faults import Faults
from eqsym._run.figure import Figure
from eqsym._storage import history as history_module
from eqsym._storage.history import History
from eqsym._training import optimizer as optimizer_module
from toys import Counting, Cut, hydrogen, Lattice, walkers, waves


_CRYSTAL = hydrogen()
_WALKERS = 6


class Broken(eqs.AbstractHamiltonian):
    """An energy that is not a finite number where the first coordinate is below a
    bound, in Bohr: nowhere, in some places, or everywhere."""

    crystal: eqs.Crystal
    bound: Float[Array, ""]
    value: Float[Array, ""]

    def local_energy(self, wavefunction, electrons, *, key=None):
        found = Lattice(self.crystal).local_energy(wavefunction, electrons)
        bad = electrons[0, 0] < self.bound
        return eqs.LocalEnergy(
            found.kinetic, jnp.where(bad, self.value, found.potential)
        )


def _broken(bound, value):
    return Broken(_CRYSTAL, jnp.asarray(bound), jnp.asarray(value))


class Spoiled(eqs.AbstractOptimizer):
    """Gradient descent whose updates are not finite if the first walker is one with
    an energy above the mean."""

    value: Float[Array, ""]

    def init(self, parameters):
        return Counting()

    def step(self, scores, residual, state):
        scale = jnp.where(residual[0] > 0, self.value, -0.01)
        gradient = scores.transpose(residual)
        return jax.tree.map(lambda x: scale * (x + 1), gradient), Counting()


def _run(path=None, steps=8, *, hamiltonian=None, optimizer=None, **kwargs):
    vmc = eqs.VMC(
        _broken(-1e9, np.nan) if hamiltonian is None else hamiltonian,
        eqs.Metropolis(2),
        eqs.Spring(0.1) if optimizer is None else optimizer,
    )
    settings = dict(walkers=_WALKERS, checkpoint_every=3, burn_in=1) | kwargs
    return eqs.run(
        vmc,
        settings.pop("wavefunction", waves(c=(0.1, 0.2, 0.3))),
        steps=steps,
        key=jax.random.key(5),
        path=path,
        progress=False,
        **settings,
    )


def _same(one, other):
    assert eqx.tree_equal(one.state, other.state)
    for name in one.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(one.history[name], other.history[name])


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.WARNING, logger="eqsym")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Eight steps without a fault, and their folder, with checkpoints of 0, 6 and 8."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return _run(path), path


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_energy_of_some_walkers(messages, value):
    """Left out, counted, reported."""
    found = _run(hamiltonian=_broken(1.0, value)).history
    assert 0 < np.sum(found["invalid_energies"]) < 8 * _WALKERS
    assert np.all(np.isfinite(found["energy"])) and not np.any(found["rejected_update"])
    total = int(np.sum(found["invalid_energies"]))
    first, last = messages()
    step = int(found["step"][np.argmax(found["invalid_energies"] > 0)])
    assert first.startswith(f"Step {step}: ") and "local energies or" in first
    assert f"In all 8 steps: {total} local energies or weights were not" in last


def test_energy_of_all_walkers(tmp_path, messages):
    """The run stops, with what to try; no checkpoint but the first is written."""
    with pytest.raises(FloatingPointError) as caught:
        _run(tmp_path, 40, hamiltonian=_broken(1e9, np.nan))
    message = str(caught.value)
    assert "diverged: since step 1, energies are not finite. The last 20" in message
    assert "The last 20 updates, up to step 20, were rejected" in message
    assert "of this one" not in message
    assert "In 20 of them no walker had a finite local energy and weight." in message
    assert "Try a smaller learning rate" in message
    assert "In all 20 steps: 120 local energies" in messages()[-1]
    history = (tmp_path / "history.csv").read_text().splitlines()
    assert len(history) == 21 and history[-1].startswith("20,nan,nan,nan,nan,nan,")
    assert "20 updates were not finite" in messages()[-1]
    assert eqs.checkpoint.latest(tmp_path / "checkpoints") == 0
    start = eqs.load_run(tmp_path, waves(c=(0.0, 0.0, 0.0)))
    np.testing.assert_array_equal(start.wavefunction.c, [0.1, 0.2, 0.3])


class Idle(eqs.AbstractWavefunction):
    """With a huge parameter of no consequence."""

    inside: eqs.AbstractWavefunction
    idle: Float[Array, ""]

    @property
    def crystal(self):
        return self.inside.crystal

    @property
    def crystal_momentum(self):
        return self.inside.crystal_momentum

    def __call__(self, electrons):
        psi = self.inside(electrons)
        return eqs.LogPsi(psi.sign, psi.log + 0 * self.idle)


@pytest.mark.parametrize("value", [np.nan, 1e308])
def test_parameters_after_an_update(tmp_path, value):
    """Updates after which parameters would not be finite are rejected one by one, also
    if the update itself is finite. Checkpoints are of other steps."""
    found = _run(
        tmp_path,
        12,
        wavefunction=Idle(waves(c=(0.1, 0.2, 0.3)), jnp.asarray(1e308)),
        optimizer=Spoiled(jnp.asarray(value)),
        checkpoint_every=1,
    )
    rejected = found.history["rejected_update"]
    assert 0 < np.sum(rejected) < 12 and not np.any(found.history["invalid_energies"])
    inside = found.wavefunction.inside
    assert all(np.max(np.abs(leaf)) < 10 for leaf in (inside.a, inside.c))
    last_good = int(found.history["step"][rejected == 0][-1])
    assert eqs.checkpoint.latest(tmp_path / "checkpoints") == last_good


@eqx.filter_jit
def _gram(scores):
    return scores.factored().gram()


@pytest.mark.parametrize("places", [1, 2])
def test_singular_gram_matrix(places):
    """Many walkers at one place or two, and hardly any damping: finite updates."""
    rng = np.random.default_rng(0)
    electrons = jnp.asarray(np.repeat(rng.normal(size=(places, 1, 3)), 4 // places, 0))
    scores = eqs.Scores(waves(), electrons, jnp.full(4, 0.25))
    gram = _gram(scores)
    assert np.linalg.matrix_rank(gram) == places - 1 < 4
    spring = eqs.Spring(0.1, damping=1e-300)
    state = spring.init(scores.parameters)
    residual = jnp.asarray([1.0, -1.0, 2.0, -2.0])
    update, _ = eqx.filter_jit(spring.step)(scores, residual, state)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(update))


def _row(**change):
    row = dict.fromkeys(
        (
            "invalid_energies",
            "dropped_terms",
            "replaced_walkers",
            "solver_retries",
            "rejected_update",
        ),
        0,
    )
    return row | dict(acceptance=0.5) | change


@pytest.mark.parametrize(
    ("name", "count", "first", "total"),
    [
        (
            "solver_retries",
            3,
            "A Gram matrix was not positive; its damping was raised 3 times.",
            "A Gram matrix was not positive; its damping was raised 4 times.",
        ),
        (
            "replaced_walkers",
            2,
            "2 walkers without a finite amplitude were replaced by others.",
            "3 walkers without a finite amplitude were replaced by others.",
        ),
        (
            "dropped_terms",
            2,
            "2 images with weight were left out by a bound on their number.",
            "3 images with weight were left out by a bound on their number.",
        ),
    ],
)
def test_faults_are_counted(messages, name, count, first, total):
    faults = Faults()
    for step, seen in enumerate((0, count, 0, 1), start=1):
        faults.see(step, _row(**{name: seen}))
    faults.report()
    assert messages() == [f"Step 2: {first}", f"In all 4 steps: {total}"]


def test_retries_reach_the_history(monkeypatch):
    solve = optimizer_module._solve
    counted = lambda *arguments: (solve(*arguments)[0], jnp.asarray(3))
    monkeypatch.setattr(optimizer_module, "_solve", counted)
    # Another setting, so that nothing compiled before is in use.
    found = _run(steps=2, optimizer=eqs.Spring(0.1, chunk=2))
    assert list(found.history["solver_retries"]) == [3, 3]


def test_the_reason_told_is_the_most_frequent_one():
    faults = Faults()
    good = _row(variance=1.0, energy=1.0)
    projection = _row(rejected_update=1, variance=1.0, energy=np.nan)
    for step in range(1, 20):
        faults.see(step, projection)
    faults.see(20, good)
    assert not faults.rejections(20)
    others = [_row(rejected_update=1, variance=np.nan), good | {"rejected_update": 1}]
    for step, row in enumerate([others[0]] * 5 + [projection] * 13 + others, 21):
        faults.see(step, row)
    message = faults.rejections(40)
    assert "The last 20 updates, up to step 40, were rejected" in message
    assert "In 13 of them the projection had no positive weight" in message


@pytest.mark.parametrize(
    ("burn_in", "replaced", "place"), [(0, [2, 0], "Step 1"), (1, [0, 0], "Burn-in")]
)
def test_replaced_walkers_of_a_run(messages, burn_in, replaced, place):
    places = walkers(_CRYSTAL, _WALKERS).at[:, 0, 0].set(2.0)
    vmc = eqs.VMC(
        Lattice(_CRYSTAL), eqs.Metropolis(1, width=1e-4), eqs.Optax(optax.sgd(1e-3))
    )
    found = eqs.run(
        vmc,
        Cut(waves(c=(0.1, 0.2, 0.3))),
        steps=2,
        walkers=places.at[:2, 0, 0].set(0.5),
        burn_in=burn_in,
        key=jax.random.key(0),
        progress=False,
    )
    assert list(found.history["replaced_walkers"]) == replaced
    assert messages()[0].startswith(f"{place}: 2 walkers without a finite amplitude")


@pytest.mark.parametrize("acceptance", [0.0, 1.0])
def test_acceptance_is_reported_once(messages, acceptance):
    faults = Faults()
    for step in range(1, 20):
        faults.see(step, _row(acceptance=acceptance))
    assert messages() == []
    for step in range(20, 100):
        faults.see(step, _row(acceptance=acceptance))
    (message,) = messages()
    assert message.startswith("Step 20: of the moves of the last 20 steps")
    faults.report()
    assert len(messages()) == 1


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing"])
def test_damaged_checkpoint(tmp_path, whole, messages, how):
    """The run goes on from the one before and ends the same."""
    shutil.copytree(whole[1], tmp_path / "run")
    place = tmp_path / "run" / "checkpoints" / "8"
    arrays = place / "arrays.npz"
    if how == "flipped":
        _flip(arrays)
    else:
        content = arrays.read_bytes()
        arrays.unlink()
        if how == "truncated":
            arrays.write_bytes(content[:-100])
    _same(_run(tmp_path / "run"), whole[0])
    (message,) = messages()
    assert f"The checkpoint {place} is damaged" in message
    names = sorted(p.name for p in place.parent.iterdir())
    assert names == ["0", "6", "8", "8.damaged"]


def test_all_checkpoints_damaged(tmp_path, whole):
    shutil.copytree(whole[1], tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    for step in ("0", "6", "8"):
        _flip(checkpoints / step / "description.json")
    before = (tmp_path / "run" / "history.csv").read_text()
    with pytest.raises(ValueError, match="8 is truncated or damaged") as caught:
        _run(tmp_path / "run")
    assert "checksum of description.json" in str(caught.value)
    assert sorted(p.name for p in checkpoints.iterdir()) == ["0", "6", "8"]
    assert (tmp_path / "run" / "history.csv").read_text() == before


def _on_full_disk(monkeypatch, full_disk, steps):
    """Saving fails at these steps, for a reason of the operating system."""
    save = phases_module.save_checkpoint

    def saving(folder, step, state, settings, **kwargs):
        full_disk(1000 if step in steps else -1)
        try:
            save(folder, step, state, settings, **kwargs)
        finally:
            full_disk(-1)

    monkeypatch.setattr(phases_module, "save_checkpoint", saving)


def test_full_disk(tmp_path, whole, monkeypatch, full_disk, messages):
    """Training goes on, and so do checkpoints when there is room again."""
    with monkeypatch.context() as patch:
        _on_full_disk(patch, full_disk, {3})
        _same(_run(tmp_path), whole[0])
    (message,) = messages()
    assert "step 3 could not be written" in message and "File too large" in message
    assert eqs.checkpoint.latest(tmp_path / "checkpoints") == 8


def test_disk_that_stays_full(tmp_path, whole, monkeypatch, full_disk, messages):
    """The run stops after three tries, and resumes from the checkpoint before."""
    with monkeypatch.context() as patch:
        _on_full_disk(patch, full_disk, set(range(2, 100)))
        with pytest.raises(OSError, match="3 checkpoints in a row") as caught:
            _run(tmp_path, 100, checkpoint_every=1)
    assert "Make room" in str(caught.value)
    assert "last state could not be saved" in messages()[-1]
    checkpoints = tmp_path / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["0", "1"]
    _same(_run(tmp_path), whole[0])


def test_history_on_a_full_disk(tmp_path, monkeypatch, full_disk, messages):
    """Rows wait until there is room; the file is whole then."""
    monkeypatch.setattr(history_module, "_SECONDS", 0.0)
    history = History(tmp_path / "history.csv", ("step", "energy"), steps=0)
    for step in range(1, 21):
        # Room for the first rows only, and in the middle of one of them.
        full_disk(50 if step < 15 else -1)
        history.append({"step": step, "energy": 1 / step})
    (message,) = messages()
    assert "cannot be written" in message and "File too large" in message
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines == ["step,energy", *(f"{s},{1 / s!r}" for s in range(1, 21))]


@pytest.mark.parametrize("cut", [1, 30, 60])
def test_history_cut_in_a_line(tmp_path, whole, cut, messages):
    """As a kill leaves it: nothing is lost, for the steps are run again."""
    shutil.copytree(whole[1], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    path = tmp_path / "run" / "history.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    _same(_run(tmp_path / "run"), whole[0])
    assert messages() == []


@pytest.mark.parametrize("garbage", [b"\x00garbage", b'"', b"\xb7", b"\n"])
def test_damaged_line_of_the_history(tmp_path, whole, messages, garbage):
    """Lost, and said so; everything else is there."""
    shutil.copytree(whole[1], tmp_path / "run")
    path = tmp_path / "run" / "history.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:1] + b"," + garbage + lines[3][3:]
    path.write_bytes(b"".join(lines))
    steps = eqs.load_run(tmp_path / "run", waves(c=(0.0, 0.0, 0.0))).history["step"]
    np.testing.assert_array_equal(steps, [1, 2, 4, 5, 6, 7, 8])
    found = _run(tmp_path / "run")
    np.testing.assert_array_equal(found.history["step"], [1, 2, 4, 5, 6, 7, 8])
    (message,) = messages()
    assert "has 7 of 8 steps" in message


@pytest.mark.parametrize("text", ["", "step,ener"])
def test_empty_history(tmp_path, whole, messages, text):
    """As a power cut may leave it: the run goes on."""
    shutil.copytree(whole[1], tmp_path / "run")
    path = tmp_path / "run" / "history.csv"
    path.write_text(text)
    found = _run(tmp_path / "run", 9)
    np.testing.assert_array_equal(found.history["step"], [9])
    assert messages() == [
        f"The history {path} has 0 of 8 steps: lines were damaged or lost. Parameters "
        "and walkers are not affected."
    ]
    assert len(path.read_text().splitlines()) == 2


def test_history_of_other_columns(tmp_path, monkeypatch):
    """Refused before anything is computed, and left as it is."""
    path = tmp_path / "history.csv"
    path.write_text("step,energy\n1,2.0\n")
    monkeypatch.setattr(run_module, "_burned_in", lambda *arguments: 1 / 0)
    with pytest.raises(ValueError, match="has the columns step,energy, expected"):
        _run(tmp_path)
    assert path.read_text() == "step,energy\n1,2.0\n"


def test_figure(tmp_path, whole, messages, monkeypatch):
    history = History(None, ("step",), steps=0)
    monkeypatch.setattr(History, "columns", lambda self: whole[0].history)
    figure = Figure(tmp_path, eqs.plot.training)
    figure.refresh(history, last=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(figure_module, "_FIGURE_SECONDS", 0.0)
    figure = Figure(tmp_path, eqs.plot.training)
    figure.refresh(history)
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["training.png"]
    # Not again at once, and never a reason to stop.
    before = (tmp_path / "training.png").stat().st_mtime_ns
    figure.refresh(history)
    assert (tmp_path / "training.png").stat().st_mtime_ns == before
    monkeypatch.setattr(figure_module, "_FIGURE_SECONDS", 30.0)
    figure = Figure(tmp_path, lambda history: 1 / 0)
    figure.refresh(history, last=True)
    assert "training.png could not be drawn: division by zero" in messages()


def test_figures_do_not_wait_for_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(figure_module, "_FIGURE_SECONDS", 0.0)
    seen = []
    monkeypatch.setattr(figure_module, "_FIGURE_SHARE", 0.0)

    def draw(history):
        seen.append(len(history["step"]))
        return eqs.plot.training(history)

    _run(tmp_path, 2, checkpoint_every=100, figure=draw)
    assert seen == [1, 2, 2]
    assert (tmp_path / "training.png").exists()


def test_messages_are_logged(tmp_path, caplog, capfd):
    """By the logger `eqsym`, and nothing is printed without a terminal."""
    caplog.set_level(logging.INFO, logger="eqsym")
    _run(tmp_path, 1, pretraining=None)
    found = [r.getMessage() for r in caplog.records if r.name == "eqsym"]
    assert any("Training a Waves with 6 walkers from step 0 to 1" in m for m in found)
    assert [m for m in found if "Compiling" in m] == [
        f"Compiling {what}; this can take minutes."
        for what in ("moves", "the training step")
    ]
    seconds = r"\d+(\.\d)? (s|min)"
    for what in ("moves", "the training step"):
        compiled = [m for m in found if f"Compiled {what} in " in m]
        assert len(compiled) == 1 and re.search(f"in {seconds}\\.$", compiled[0])
    end = rf"Finished: step 1, energy .+ Ha per cell over the last 1, in {seconds}\.$"
    assert re.match(end, found[-1])
    caplog.clear()
    vmc = eqs.VMC(_broken(-1e9, np.nan), eqs.Metropolis(2), eqs.Spring(0.1))
    again = dict(walkers=_WALKERS, key=jax.random.key(5), burn_in=1, path=tmp_path)
    eqs.run(vmc, waves(c=(0.1, 0.2, 0.3)), steps=1, **again)
    assert any("Resuming from the checkpoint" in m for m in caplog.messages)
    assert caplog.messages[-1].startswith("Step 1 of 1 is done already: no step is")
    assert capfd.readouterr() == ("", "")
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [(s["from_step"], s["to_step"]) for s in sessions] == [(0, 1)]


def test_a_second_interrupt_also_says_what_is_saved(tmp_path, monkeypatch, caplog):
    """It comes in the middle of a step, which is lost."""

    def see(self, step, row):
        del self, row
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Faults, "see", see)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, 3)
    assert caplog.messages[-1] == (
        f"The training was interrupted. Saved step 1 in {tmp_path / 'checkpoints'}; "
        "run again to go on."
    )

"""Run folders: what is written there, and runs loaded from nothing else."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import equinox as eqx
import jax
import numpy as np
import optax
import pandas
import pytest

import eqsym as eqs
from eqsym._run import folder as run_folder_module
from eqsym._run.phases import Checkpoints
from eqsym._storage.checkpoints import read_description
from eqsym._storage.folder import locked
from toys import hydrogen, Lattice, seal, waves


_CRYSTAL = hydrogen()
# So large that another one is the same to rounding.
_SEED = 20240101


def _network(seed=0, **kwargs):
    occupation = eqs.Occupation((np.zeros((1, 3)), np.zeros((0, 3))))
    settings = dict(widths=((4, 2),), determinants=2, key=jax.random.key(seed))
    return eqs.SolidNet(_CRYSTAL, occupation, **settings | kwargs)


def _run(path, steps=2, *, rate=0.05, wavefunction=None, strategy=None, **kwargs):
    wavefunction = _network() if wavefunction is None else wavefunction
    hamiltonian = kwargs.pop("hamiltonian", Lattice(wavefunction.crystal))
    vmc = eqs.VMC(
        hamiltonian,
        eqs.Metropolis(2),
        eqs.Spring(rate),
        strategy=strategy,
        chunk=kwargs.pop("chunk", None),
    )
    settings = dict(walkers=4, key=jax.random.key(_SEED), burn_in=1) | kwargs
    return eqs.run(
        vmc, wavefunction, steps=steps, path=path, progress=False, **settings
    )


def _group():
    """The identity and the inversion."""
    return eqs.SpaceGroup(
        _CRYSTAL, [np.eye(3, dtype=int), -np.eye(3, dtype=int)], [[0, 0, 0]] * 2
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps of a network averaged over a group, and their folder."""
    path = tmp_path_factory.mktemp("trained") / "run"
    return _run(
        path, strategy=eqs.SymmetrizedTraining(eqs.GroupAverage(_group()))
    ), path


def _files(path):
    return {p: p.stat().st_mtime_ns for p in path.rglob("*")}


def test_loaded_run(trained):
    result, path = trained
    before = _files(path)
    found = eqs.load_run(path)
    assert _files(path) == before
    assert eqx.tree_equal(found.wavefunction, result.wavefunction)
    np.testing.assert_array_equal(found.walkers, result.walkers)
    assert found.crystal == _CRYSTAL and found.group == _group() and found.step == 2
    assert found.history.keys() == result.history.keys()
    for name, values in result.history.items():
        np.testing.assert_array_equal(found.history[name], values)
    averaged = eqs.Symmetrized(result.wavefunction, eqs.GroupAverage(_group()))
    assert eqx.tree_equal(found.trained, averaged)
    # The same class, with the same content but for the state.
    assert type(found) is type(result) is eqs.RunResult
    assert result.wavefunction is result.state.wavefunction and found.state is None
    assert eqx.tree_equal(result.trained, averaged) and result.group == _group()
    assert (result.step, result.crystal) == (2, _CRYSTAL)
    assert repr(found) == repr(result) and found.energy() == result.energy()
    assert repr(found).endswith(", SymmetrizedTraining, GroupAverage of P-1)")
    # A wave function as any other.
    one, other = (eqx.filter_jit(f) for f in (found.trained, averaged))
    assert one(found.walkers[0]).log == other(found.walkers[0]).log


_SCRIPT = """
import sys, jax
jax.config.update("jax_enable_x64", True)
import eqsym as eqs
run = eqs.load_run(sys.argv[1])
weights = run.wavefunction.layers[0].own.weight
print(run.step, run.group.symbol)
print(*(float(values.sum()).hex() for values in (weights, run.walkers)))
"""


def test_loaded_in_another_process(trained):
    """In which none of the objects, nor this file, exists."""
    result, path = trained
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    step, symbol, *sums = done.stdout.split()
    assert (step, symbol) == ("2", _group().symbol)
    expected = (result.wavefunction.layers[0].own.weight, result.walkers)
    assert sums == [float(values.sum()).hex() for values in expected]


def test_loaded_after_moves_inside_the_package(trained, move):
    """Public and private classes in other files than when the run was written."""
    result, path = trained
    network = result.wavefunction
    move(eqs.SolidNet, eqs.GroupAverage, eqs.SpaceGroup, eqs.Crystal)
    move(type(network.bloch), type(network.layers[0]), type(result.state.sampler))
    found = eqs.load_run(path)
    assert eqx.tree_equal(found.wavefunction, network)
    assert found.group == _group() and type(found.trained) is eqs.Symmetrized
    like = result.state
    again = eqs.checkpoint.restore(path / "checkpoints", 2, like)
    np.testing.assert_array_equal(again.sampler.walkers, result.walkers)
    description = (path / "checkpoints" / "2" / "description.json").read_text()
    assert not re.search(r"eqsym\._\w+\.", description)


def test_run_json(trained):
    result, path = trained
    found = json.loads((path / "run.json").read_text())
    crystal = found["crystal"]
    assert crystal["species"] == ["H"]
    np.testing.assert_array_equal(crystal["lattice_bohr"], _CRYSTAL.lattice.vectors)
    np.testing.assert_array_equal(crystal["supercell"], _CRYSTAL.matrix)
    assert crystal["electrons_up_down"] == [1, 0]
    parameters = jax.tree.leaves(eqs.partition(result.wavefunction)[0])
    assert found["wavefunction"] == {
        "class": "SolidNet",
        "parameters": sum(leaf.size for leaf in parameters),
        "precision": ["float64"],
    }
    assert found["symmetry"] == {
        "stages": [{"from_step": 0, "strategy": "SymmetrizedTraining"}],
        "group": _group().symbol,
        "operations": _group().order,
    }
    settings = found["settings"]
    assert settings["vmc"]["optimizer"]["learning_rate"] == 0.05
    assert settings["vmc"]["sampler"]["moves"] == 2
    assert (settings["walkers"], settings["key"]) == (4, [0, _SEED])
    (session,) = found["sessions"]
    versions = session["versions"]
    assert versions["eqsym"] == eqs.__version__ and versions["jax"] == jax.__version__
    assert session["mesh"] is None
    assert (session["from_step"], session["to_step"]) == (0, 2)
    assert session["devices"] == [str(device) for device in jax.devices()]
    assert not found["not_compared_when_resumed"]
    # Workers of pytest are no scripts that could be called again.
    again = hasattr(sys.modules["__main__"], "__file__")
    command = shlex.join(sys.orig_argv) if again else "with the same arguments"
    assert found["resume"].endswith(command)


@pytest.mark.slow
def test_command_to_evaluate(tmp_path):
    """It runs as it stands."""
    average = eqs.SymmetrizedTraining(eqs.GroupAverage(_group()))
    _run(tmp_path, strategy=average, hamiltonian=eqs.Hamiltonian(_CRYSTAL))
    command = json.loads((tmp_path / "run.json").read_text())["evaluate"]
    name, *arguments = shlex.split(command)
    assert name == "python" and str(tmp_path) in arguments[-1]
    # Fewer samples than by default.
    code = arguments[-1].replace("key=", "steps=2, burn_in=1, key=")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "energy [Ha]" in done.stdout and done.stderr == ""


def _change(tmp_path, path, **kwargs):
    shutil.copytree(path, tmp_path / "run", dirs_exist_ok=True)
    return _run(tmp_path / "run", 3, **kwargs)


def _fast(step):
    return 0.1 / (1 + step)


def _strategy(copies):
    return eqs.AugmentedTraining(_group(), copies)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "run"
    return _run(path, wavefunction=waves(), rate=_fast), path


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(rate=0.2), "vmc.optimizer.learning_rate: saved _fast, here 0.2"),
        (
            dict(rate=lambda step: 0.1 / (2 + step)),
            "settings.vmc.optimizer.learning_rate: saved _fast, here .*<lambda>",
        ),
        (
            dict(key=jax.random.key(_SEED + 1)),
            rf"settings.key\[1\]: saved {_SEED}, here {_SEED + 1}",
        ),
        (dict(burn_in=2), "settings.burn_in: saved 1, here 2"),
        (
            dict(strategy=eqs.AugmentedTraining(eqs.SpaceGroup.of(hydrogen()))),
            "state.strategy: saved eqsym.NoState, here eqsym.DrawnKey",
        ),
        (
            dict(wavefunction=waves(hydrogen(twist=(0.25, 0, 0)))),
            r"crystal._twist\[0\]: saved 0.0, here 0.25",
        ),
    ],
)
def test_other_settings_are_refused(tmp_path, plain, change, line):
    with pytest.raises(ValueError, match=line) as caught:
        _change(tmp_path, plain[1], **dict(wavefunction=waves(), rate=_fast) | change)
    assert "These fields differ" in str(caught.value)
    # Nothing was changed.
    for name in ("run.json", "history.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (plain[1] / name).read_bytes()


def test_what_may_differ(tmp_path, plain, caplog):
    found = _change(
        tmp_path,
        plain[1],
        wavefunction=waves(a=(0.0, 0.0, 0.0)),
        rate=_fast,
        chunk=2,
        checkpoint_every=7,
    )
    assert int(found.state.step) == 3
    sessions = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert [(s["from_step"], s["to_step"]) for s in sessions] == [(0, 2), (2, 3)]
    # The code of the user's function is not compared, which is said once.
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    code = "settings.vmc.optimizer.learning_rate (the code of _fast)"
    assert message.startswith(f"Going on from {tmp_path / 'run' / 'checkpoints' / '2'}")
    assert message.endswith(f"Check that it is the same, for: {code}.")
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["not_compared_when_resumed"] == [code]


def test_run_goes_on_with_changed_settings(tmp_path, plain, caplog):
    """If the user says so. Changes are noted, once, and compared from there on."""
    before = dict(wavefunction=waves(), rate=_fast)
    now = dict(wavefunction=waves(), rate=0.2, burn_in=2)
    with pytest.raises(ValueError, match="go on .* `changed_settings=True` in `run`"):
        _change(tmp_path, plain[1], **now)
    # Nothing to do: nothing to note.
    path = tmp_path / "run"
    _run(path, 2, changed_settings=True, **now)
    assert "changed_settings" not in (path / "run.json").read_text()
    caplog.clear()
    found = _run(path, 3, changed_settings=True, **now)
    assert int(found.state.step) == 3
    (message,) = caplog.messages
    assert message == (
        "The training goes on from step 2 with other settings:"
        "\n  settings.burn_in: saved 1, here 2"
        "\n  settings.vmc.optimizer.learning_rate: saved _fast, here 0.2"
    )
    sessions = json.loads((path / "run.json").read_text())["sessions"]
    note = dict(phase="training", step=2)
    rate = "settings.vmc.optimizer.learning_rate"
    assert "changed_settings" not in sessions[0]
    assert sessions[1]["changed_settings"] == [
        note | dict(field="settings.burn_in", before=1, after=2),
        note | dict(field=rate, before="_fast", after=0.2),
    ]
    _run(path, 4, changed_settings=True, **now)
    sessions = json.loads((path / "run.json").read_text())["sessions"]
    assert "changed_settings" not in sessions[2]
    with pytest.raises(ValueError, match=f"{rate}: saved 0.2, here _fast"):
        _run(path, 5, **before)
    # The same as if the steps had been done one by one.
    other = tmp_path / "other"
    shutil.copytree(plain[1], other)
    _run(other, 3, changed_settings=True, **now)
    assert eqx.tree_equal(_run(other, 4, **now).state, _run(path, 4, **now).state)


@pytest.mark.parametrize(
    "change",
    [
        dict(wavefunction=waves(hydrogen(twist=(0.25, 0, 0)))),
        dict(wavefunction=waves(c=(0.0, 0.0, 0.0))),
    ],
)
def test_another_model_is_refused_in_any_case(tmp_path, plain, change):
    settings = dict(wavefunction=waves(), rate=_fast, changed_settings=True) | change
    with pytest.raises(ValueError, match="is of another model"):
        _change(tmp_path, plain[1], **settings)


def test_changed_settings_before_training(tmp_path, monkeypatch):
    """In burn-in, which is a phase with a checkpoint of its own."""
    settings = dict(wavefunction=waves(), burn_in=3)

    def interrupted(self, state, step, newest=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "keep", interrupted)
        _run(tmp_path, 1, **settings)
    with pytest.raises(ValueError, match="learning_rate: saved 0.05, here 0.1"):
        _run(tmp_path, 1, rate=0.1, **settings)
    _run(tmp_path, 1, rate=0.1, changed_settings=True, **settings)
    (*_, session) = json.loads((tmp_path / "run.json").read_text())["sessions"]
    (note,) = session["changed_settings"]
    assert (note["phase"], note["after"]) == ("burn-in", 0.1)


def test_second_run_in_a_folder(tmp_path, plain):
    """Refused while the first goes on, which is left alone; loading is not."""
    path = tmp_path / "run"
    shutil.copytree(plain[1], path)
    with locked(path):
        before = _files(path)
        with pytest.raises(OSError, match="Another run is going on in the folder"):
            _run(path, 3, wavefunction=waves(), rate=_fast)
        assert _files(path) == before
        eqs.load_run(path, waves())
    assert _run(path, 3, wavefunction=waves(), rate=_fast).state.step == 3


def test_wave_function_of_the_users_own(plain):
    result, path = plain
    with pytest.raises(ValueError, match="`Waves`, which is not of eqsym") as one:
        eqs.load_run(path)
    assert "give `load_run` a `wavefunction`" in str(one.value)
    assert f"written by eqsym {eqs.__version__}" in str(one.value)
    found = eqs.load_run(path, waves(a=(0.0, 0.0, 0.0)))
    assert eqx.tree_equal(found.wavefunction, result.wavefunction)
    assert found.trained is found.wavefunction
    # Not symmetrized: the group of the crystal.
    assert found.group == eqs.SpaceGroup.of(hydrogen())
    with pytest.raises(ValueError, match="saved None, here float64") as other:
        eqs.load_run(path, waves(c=(0.0, 0.0, 0.0)))
    assert ".wavefunction.c" in str(other.value)


def test_settings_that_cannot_be_built(tmp_path, caplog):
    """Symmetry by a function of the user's own, and an optax optimizer. The group can,
    and is not that of the crystal."""

    def form(wavefunction, symmetrizer):
        return eqs.Symmetrized(wavefunction, symmetrizer, 4)

    result = _run(
        tmp_path,
        1,
        wavefunction=waves(),
        strategy=eqs.SymmetrizedTraining(eqs.GroupAverage(_group()), form),
        rate=optax.cosine_decay_schedule(0.1, 10),
    )
    found = eqs.load_run(tmp_path, waves())
    assert eqx.tree_equal(found.wavefunction, result.wavefunction)
    assert found.trained is None
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert repr(found).endswith("SymmetrizedTraining)")
    assert f"`trained` of the run {tmp_path} is `None`" in message
    assert "cannot be made from a file" in message and "form" in message
    assert found.group == _group() != eqs.SpaceGroup.of(_CRYSTAL)


def test_history_opens_in_pandas(plain):
    result, path = plain
    table = pandas.read_csv(path / "history.csv")
    assert list(table.columns) == list(result.history)
    for name, values in result.history.items():
        np.testing.assert_array_equal(table[name], values)
    counts = [
        "step",
        "invalid_energies",
        "dropped_terms",
        "replaced_walkers",
        "solver_retries",
        "rejected_update",
    ]
    assert all(table[name].dtype == np.int64 for name in counts)
    # The same as it is handed over without the file.
    frame = result.to_frame().reset_index()
    pandas.testing.assert_frame_equal(frame, table, check_dtype=False)


def test_functions_in_a_folder_are_not_called(tmp_path, trained, caplog):
    """Whoever can write a description cannot choose what loading it calls."""

    def change(description):
        settings = description["settings"]["fields"]
        strategy = settings["vmc"]["fields"]["strategy"]
        assert strategy["fields"]["form"] == {"name": "eqsym.Symmetrized"}
        strategy["fields"]["form"] = {
            "partial": {"name": "eqsym.checkpoint.save"},
            "args": [str(tmp_path / "victim"), 0],
            "keywords": {"dict": []},
        }

    path = _rewritten(trained[1], tmp_path, change)
    assert eqs.load_run(path).trained is None
    (message,) = caplog.messages
    assert "is `None`" in message and "eqsym.checkpoint.save" in message
    assert not (tmp_path / "victim").exists()


def test_checkpoint_that_is_removed_while_it_is_read(tmp_path, plain, monkeypatch):
    """By a run that goes on, which has written newer ones."""
    path = tmp_path / "run"
    shutil.copytree(plain[1], path)
    newest = path / "checkpoints" / "2"

    def read(folder, step):
        if step == 2 and newest.exists():
            newest.rename(newest.with_name("3"))
        return read_description(folder, step)

    monkeypatch.setattr(run_folder_module, "read_description", read)
    assert eqs.load_run(path, waves()).step == 3
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(FileNotFoundError, match="no whole checkpoint"):
        eqs.load_run(path, waves())


def test_stage_of_a_checkpoint(tmp_path):
    """`trained` is the function that was sampled in the last step; `run.json` has all
    stages, and others are other settings."""
    stages = [(2, eqs.SymmetrizedTraining(eqs.GroupAverage(_group())))]
    for steps, kind in ((2, type(waves())), (3, eqs.Symmetrized)):
        result = _run(tmp_path, steps, wavefunction=waves(), stages=stages)
        found = eqs.load_run(tmp_path, waves())
        assert type(result.trained) is type(found.trained) is kind
        assert result.group == found.group == _group()
    described = json.loads((tmp_path / "run.json").read_text())["symmetry"]
    assert described["stages"] == [
        {"from_step": 0, "strategy": "PlainTraining"},
        {"from_step": 2, "strategy": "SymmetrizedTraining"},
    ]
    more = dict(wavefunction=waves(), stages=[*stages, (4, eqs.PlainTraining())])
    with pytest.raises(ValueError, match=r"settings.stages\[1\]: saved nothing"):
        _run(tmp_path, 5, **more)
    _run(tmp_path, 5, changed_settings=True, **more)
    assert type(eqs.load_run(tmp_path, waves()).trained) is type(waves())


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("..", "which holds runs: run[.]"),
        ("nowhere/at/all", "does not exist"),
        ("run.json", "a part of one: give .*run[.]$"),
        ("checkpoints", "a part of one: give .*run[.]$"),
        ("checkpoints/2", "a part of one: give .*run[.]$"),
        ("notes.txt", "which is a file"),
        ("empty", "no whole checkpoint in checkpoints/"),
    ],
)
def test_not_a_run(tmp_path, trained, inside, said):
    path = trained[1] / inside
    if inside in ("notes.txt", "empty"):
        path = tmp_path / inside
        path.touch() if "." in inside else path.mkdir()
    match = f"`path` must be the folder of a run, got .*{said}"
    with pytest.raises(FileNotFoundError, match=match):
        eqs.load_run(path)


def test_not_the_arguments_of_load_run(tmp_path, trained, unchecked):
    with pytest.raises(ValueError, match="`path` must be a path, such as"):
        eqs.load_run(3)
    with pytest.raises(ValueError, match=r"the class `SolidNet`.*`SolidNet\(\.\.\.\)"):
        eqs.load_run(trained[1], eqs.SolidNet)
    eqs.checkpoint.save(tmp_path / "checkpoints", 1, {"sums": np.ones(2)})
    with pytest.raises(ValueError, match="something else, such as an estimate"):
        eqs.load_run(tmp_path)


def test_not_the_arguments_of_run(plain, unchecked):
    """Said before anything is compiled."""
    none = dict(wavefunction=waves(), rate=_fast)
    for arguments, said in (
        (dict(path=3), "`path` must be a path, such as"),
        (dict(path=None, figure=lambda history: None), "`figure` draws into the run f"),
        (
            dict(path=None, callback=lambda step: None),
            r"with \(step, statistics, state\)",
        ),
        (dict(path=None, figure=lambda: None), r"`figure` is called with \(history\)"),
    ):
        with pytest.raises(ValueError, match=said):
            _run(**none, **arguments)
    vmc = eqs.VMC(Lattice(_CRYSTAL), eqs.Metropolis(2), eqs.Spring(_fast))
    loaded = eqs.load_run(plain[1], waves())
    with pytest.raises(ValueError, match="A loaded run has no state .* its `path`"):
        eqs.run(vmc, state=loaded.state, steps=4, key=jax.random.key(_SEED))


def test_another_precision_and_another_optimizer(tmp_path, plain):
    """Say so, and what to do."""
    single = jax.tree.map(lambda x: x.astype(np.float32), waves())
    with pytest.raises(ValueError, match="is in another precision. Double precis") as e:
        _change(tmp_path, plain[1], wavefunction=single, rate=_fast)
    assert "state.wavefunction.a: saved float64[3], here float32[3]" in str(e.value)
    with pytest.raises(ValueError, match="`wavefunction` is in another precision"):
        eqs.load_run(plain[1], single)
    vmc = eqs.VMC(Lattice(_CRYSTAL), eqs.Metropolis(2), eqs.Optax(optax.sgd(0.1)))
    path = tmp_path / "run"
    given = dict(steps=4, walkers=4, key=jax.random.key(_SEED), changed_settings=True)
    with pytest.raises(ValueError, match="start a second run from this one") as other:
        eqs.run(vmc, waves(), path=path, **given)
    assert f"before = eqs.load_run({str(path)!r})" in str(other.value)


def test_fewer_steps_than_were_taken(tmp_path, plain, caplog):
    shutil.copytree(plain[1], tmp_path / "run")
    again = dict(wavefunction=waves(), rate=_fast)
    assert _run(tmp_path / "run", 1, **again).step == 2
    assert "Step 2 of 1 is done already: no step is taken" in caplog.text
    caplog.clear()
    _run(tmp_path / "run", 2, **again)
    assert "is done already" not in caplog.text


def test_command_to_evaluate_needs_what_the_script_has(plain):
    command = json.loads((plain[1] / "run.json").read_text())["evaluate"]
    assert command.startswith("in Python, with `wavefunction` and `hamiltonian` of the")
    assert f'eqs.load_run("{plain[1]}", wavefunction); ' in command


def test_run_that_ended_before_its_first_checkpoint(tmp_path, plain):
    """`load_run` says so, in which phase, and how to go on."""
    path = tmp_path / "run"
    shutil.copytree(plain[1], path)
    place = path / "checkpoints"
    start = place / "burn-in"
    (place / "2").rename(tmp_path / "2")
    shutil.rmtree(place)
    (path / "history.csv").unlink()
    again = json.loads((path / "run.json").read_text())["resume"]
    with pytest.raises(FileNotFoundError) as caught:
        eqs.load_run(path)
    message = str(caught.value)
    assert "ended before its first checkpoint of training, at its start" in message
    assert message.endswith(f"To go on: {again}")
    start.mkdir(parents=True)
    (tmp_path / "2").rename(start / "2")
    with pytest.raises(FileNotFoundError, match="at step 2 of its burn-in, or has not"):
        eqs.load_run(path)
    # Damage is another matter.
    (start / "2").rename(place / "2.damaged")
    with pytest.raises(FileNotFoundError, match="no whole checkpoint in checkpoints/"):
        eqs.load_run(path)


def _rewritten(path, tmp_path, change):
    """The run with another description in its checkpoint, and checksums to match."""
    shutil.copytree(path, tmp_path / "run")
    place = tmp_path / "run" / "checkpoints" / "2"
    description = json.loads((place / "description.json").read_text())
    change(description)
    (place / "description.json").write_text(json.dumps(description))
    seal(place)
    return tmp_path / "run"


def test_another_version_with_the_same_fields(tmp_path, trained, caplog):
    path = _rewritten(trained[1], tmp_path, lambda d: d.update(eqsym="0.0.7"))
    eqs.load_run(path)
    (message,) = caplog.messages
    assert "was written by eqsym 0.0.7, this is" in message


def test_another_version(tmp_path, trained):
    def change(description):
        description["eqsym"] = "0.0.7"
        fields = description["state"]["fields"]["wavefunction"]["fields"]
        fields["backflow"] = fields.pop("layers")

    path = _rewritten(trained[1], tmp_path, change)
    with pytest.raises(ValueError, match=r"written by eqsym 0.0.7 \(this is") as one:
        eqs.load_run(path)
    assert "another version of eqsym: it has the fields" in str(one.value)
    assert "'backflow'" in str(one.value)
    with pytest.raises(ValueError, match="It was written by eqsym 0.0.7") as other:
        eqs.checkpoint.restore(path / "checkpoints", 2, trained[0].state)
    assert "state.wavefunction.backflow" in str(other.value)

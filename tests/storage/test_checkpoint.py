"""Checkpoints and histories on disk."""

import shutil
import subprocess
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import eqsym as eqs
from eqsym._storage.history import History
from eqsym._storage.serialize import encode
from toys import hydrogen, seal, waves


class State(eqx.Module):
    wavefunction: eqs.AbstractWavefunction
    key: Array
    numbers: dict
    table: np.ndarray
    count: Array
    name: str = eqx.field(static=True)


def _state(seed=0, **change):
    rng = np.random.default_rng(seed)
    values = dict(
        wavefunction=waves(a=rng.normal(size=3)),
        key=jax.random.key(seed),
        numbers={
            "x": (jnp.asarray(rng.normal(size=200), jnp.float32), None),
            "y": jnp.asarray(rng.normal(size=3), jnp.bfloat16),
        },
        table=rng.normal(size=300),
        count=jnp.asarray(seed),
        name="a",
    )
    return State(**(values | change))


def _equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(a) is type(b)
        if eqx.is_array(a) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)


def test_round_trip(tmp_path):
    state = _state(3)
    eqs.checkpoint.save(tmp_path, 7, state)
    like = eqx.tree_at(lambda s: s.table, _state(4), state.table)
    found = eqs.checkpoint.restore(tmp_path, 7, like)
    _equal(found, state)
    one, other = (jax.random.normal(s.key, (3,)) for s in (found, state))
    np.testing.assert_array_equal(one, other)


def test_latest(tmp_path):
    assert eqs.checkpoint.latest(tmp_path / "nowhere") is None
    (tmp_path / "empty").mkdir()
    assert eqs.checkpoint.latest(tmp_path / "empty") is None
    for step in (0, 3, 12):
        eqs.checkpoint.save(tmp_path / "some", step, _state(step))
    assert eqs.checkpoint.latest(tmp_path / "some") == 12
    kept = sorted(p.name for p in (tmp_path / "some").iterdir() if p.name.isdigit())
    assert kept == ["12", "3"]


def test_lower_step_is_refused(tmp_path):
    """Nothing is written or removed. Damaged ones of higher numbers do no harm."""
    for step in (3, 12):
        eqs.checkpoint.save(tmp_path, step, _state(step))
    with pytest.raises(ValueError, match="`step` must be at least 12, .* got 5") as one:
        eqs.checkpoint.save(tmp_path, 5, _state(5))
    assert "remove what is newer than step 5, or save to another" in str(one.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["12", "3"]
    (tmp_path / "12" / "arrays.npz").unlink()
    for step in (5, 6, 7):
        eqs.checkpoint.save(tmp_path, step, _state(step))
        assert eqs.checkpoint.latest(tmp_path) == step
    assert sorted(p.name for p in tmp_path.iterdir()) == ["12", "6", "7"]


def test_kept_checkpoints(tmp_path):
    for step in (0, 1, 2, 3):
        eqs.checkpoint.save(tmp_path, step, _state(step), keep=(1, 9))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "3"]


def test_unfinished_checkpoint_is_none(tmp_path):
    """As a kill while writing leaves it: a folder with a temporary name."""
    eqs.checkpoint.save(tmp_path, 1, _state(1))
    eqs.checkpoint.save(tmp_path, 2, _state(2))
    (tmp_path / "2").rename(tmp_path / "2.tmp")
    assert eqs.checkpoint.latest(tmp_path) == 1
    _equal(eqs.checkpoint.restore(tmp_path, 1, _state(1)), _state(1))


def _copy(path, name):
    shutil.copytree(path / "good", path / name)
    return path / name


def _files(path):
    return [p.relative_to(path) for p in path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("share", [0.5, 0.0, None])
def test_truncated_files(tmp_path, share):
    """Each file cut to half, to nothing, and missing."""
    state = _state(1)
    eqs.checkpoint.save(tmp_path / "good", 5, state)
    files = _files(tmp_path / "good")
    assert len(files) == 3
    for i, name in enumerate(files):
        bad = _copy(tmp_path, f"bad{i}")
        content = (bad / name).read_bytes()
        (bad / name).unlink()
        if share is not None:
            (bad / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="truncated or damaged") as caught:
            eqs.checkpoint.restore(bad, 5, state)
        assert str(bad / "5") in str(caught.value)
        assert eqs.checkpoint.latest(bad) is None


def test_flipped_bits(tmp_path):
    """One bit anywhere is noticed."""
    state = _state(1)
    eqs.checkpoint.save(tmp_path / "good", 4, state)
    eqs.checkpoint.save(tmp_path / "good", 5, state)
    rng = np.random.default_rng(0)
    for name in _files(tmp_path / "good" / "5"):
        path = tmp_path / "good" / "5" / name
        content = path.read_bytes()
        for place in rng.integers(len(content), size=20):
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(flipped))
            assert eqs.checkpoint.latest(tmp_path / "good") == 4, (name, place)
        path.write_bytes(content)
    assert eqs.checkpoint.latest(tmp_path / "good") == 5


def test_killed_while_deleting(tmp_path, monkeypatch):
    """The rest of an old checkpoint is not taken for a damaged one."""
    eqs.checkpoint.save(tmp_path, 1, _state(1))
    eqs.checkpoint.save(tmp_path, 2, _state(2))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        eqs.checkpoint.save(tmp_path, 3, _state(3))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["1.old.tmp", "2", "3"]
    eqs.checkpoint.save(tmp_path, 4, _state(4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]


def test_replaced_checkpoint(tmp_path):
    for seed in (1, 2):
        eqs.checkpoint.save(tmp_path, 5, _state(seed))
    _equal(eqs.checkpoint.restore(tmp_path, 5, _state(2)), _state(2))
    assert [p.name for p in tmp_path.iterdir()] == ["5"]


def test_standard_tools_read_it(tmp_path):
    """numpy without pickle, and sha256sum."""
    state = _state(3)
    eqs.checkpoint.save(tmp_path, 5, state)
    with np.load(tmp_path / "5" / "arrays.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays[".wavefunction.a"], state.wavefunction.a)
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "5", capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_pickles_are_not_read(tmp_path):
    """Not even if the checksums agree."""
    eqs.checkpoint.save(tmp_path, 5, _state(3))
    arrays = tmp_path / "5" / "arrays.npz"
    with np.load(arrays) as file:
        names = list(file)
    foreign = np.array([print], object)
    np.savez(arrays, allow_pickle=True, **dict.fromkeys(names, foreign))
    seal(tmp_path / "5")
    assert eqs.checkpoint.latest(tmp_path) == 5
    with pytest.raises(ValueError, match="allow_pickle=False"):
        eqs.checkpoint.restore(tmp_path, 5, _state(3))


@pytest.mark.parametrize(("size", "length"), [(0, 1), (4000, 1), (6000, 9000)])
def test_full_disk(tmp_path, full_disk, size, length):
    """Arrays or the description do not fit: the checkpoints before are untouched."""
    name = "a" * length
    state = _state(1, name=name)
    eqs.checkpoint.save(tmp_path, 1, state)
    eqs.checkpoint.save(tmp_path, 2, state)
    full_disk(size)
    for step in (2, 3):
        with pytest.raises(OSError, match="File too large"):
            eqs.checkpoint.save(tmp_path, step, _state(2, name=name))
    full_disk(-1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    _equal(eqs.checkpoint.restore(tmp_path, 2, state), state)
    eqs.checkpoint.save(tmp_path, 3, _state(2, name=name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


def test_missing_checkpoint(tmp_path):
    eqs.checkpoint.save(tmp_path, 5, _state(1))
    with pytest.raises(ValueError, match=r"got 4\. There are: 5\.$"):
        eqs.checkpoint.restore(tmp_path, 4, _state(1))
    (tmp_path / "empty").mkdir()
    shutil.copytree(tmp_path / "5", tmp_path / "run" / "checkpoints" / "5")
    for folder, why in (
        ("nowhere", "nowhere, which does not exist."),
        ("empty", "empty, which has none."),
        ("run", "is a run folder: they are in .*/run/checkpoints."),
        ("5", "which is one itself: give .*, and 5 as `step`."),
    ):
        with pytest.raises(ValueError, match=f"`folder` must be a .*{why}$"):
            eqs.checkpoint.restore(tmp_path / folder, 4, _state(1))
        # As `latest` says it.
        with pytest.raises(ValueError, match=f"{why}$"):
            eqs.checkpoint.restore(tmp_path / folder, None, _state(1))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (dict(name="b"), "state.name: saved 'a', here 'b'"),
        (
            dict(count=jnp.zeros(2, int)),
            r"state.count: saved int64\[\], here int64\[2\]",
        ),
        (dict(numbers={"y": 1}), r"state.numbers\['x'\]"),
        (
            dict(wavefunction=waves(hydrogen(twist=(0.5, 0, 0)))),
            "state.wavefunction.crystal._twist",
        ),
    ],
)
def test_another_model(tmp_path, change, field):
    eqs.checkpoint.save(tmp_path, 5, _state(1))
    with pytest.raises(ValueError, match=field) as caught:
        eqs.checkpoint.restore(tmp_path, 5, _state(1, **change))
    assert str(tmp_path / "5") in str(caught.value)
    assert "count" not in str(caught.value) or "count" in change


def test_description_has_no_values():
    assert encode(_state(0)) == encode(
        eqx.tree_at(lambda s: s.key, _state(9), jax.random.key(3))
    )


_COLUMNS = ("step", "energy")


def _history(path, steps):
    return History(path, _COLUMNS, steps=steps)


def test_history_keeps_every_bit(tmp_path):
    values = [-1 / 3, 1e-300, np.nan, np.inf, 7.0]
    for path in (None, tmp_path / "history.csv"):
        history = _history(path, 0)
        for i, value in enumerate(values):
            history.append({"step": i + 1, "energy": value})
        history.write()
        np.testing.assert_array_equal(history.columns()["energy"], values)
    again = _history(tmp_path / "history.csv", 4).columns()
    np.testing.assert_array_equal(again["energy"], values[:4])
    np.testing.assert_array_equal(again["step"], [1, 2, 3, 4])


def test_history_of_nothing():
    assert _history(None, 0).columns()["energy"].shape == (0,)


def test_history_cut_back(tmp_path):
    path = tmp_path / "history.csv"
    history = _history(path, 0)
    for step in (1, 2, 3):
        history.append({"step": step, "energy": step / 2})
    history.cut(1)
    np.testing.assert_array_equal(history.columns()["energy"], [0.5])
    history.append({"step": 2, "energy": 4.0})
    history.write()
    assert path.read_text() == "step,energy\n1,0.5\n2,4.0\n"


def test_history_is_written_in_blocks(tmp_path, monkeypatch):
    """The first row at once, so that a folder that cannot be written shows early."""
    path, now = tmp_path / "history.csv", [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    history, seen = _history(path, 0), []
    for step in range(1, 8):
        now[0] += 0.8
        history.append({"step": step, "energy": 0.5})
        seen.append(path.read_text().count("\n") - 1)
    assert seen == [1, 1, 1, 4, 4, 4, 7]
    # Before a checkpoint, and at the end, it does not wait.
    for step, done in ((8, history.flush), (9, history.write)):
        history.append({"step": step, "energy": 0.5})
        assert path.read_text().count("\n") == step
        done()
        assert path.read_text().count("\n") == step + 1


def test_history_in_memory_keeps_no_text():
    history = _history(None, 0)
    for step in (1, 2, 3):
        history.append({"step": step, "energy": 0.5})
    history.cut(2)
    history.flush()
    assert history.columns()["step"].tolist() == [1, 2]
    assert not history._lines and not history._waiting


@pytest.mark.parametrize("cut", ["3,-0.", "3", "3,-0.25"])
def test_history_with_a_cut_line(tmp_path, cut):
    """Also if the rest of the line looks complete."""
    path = tmp_path / "history.csv"
    path.write_text(f"step,energy\n1,-0.5\n2,-0.25\n{cut}")
    history = _history(path, 10)
    np.testing.assert_array_equal(history.columns()["energy"], [-0.5, -0.25])
    history.append({"step": 3, "energy": -0.125})
    assert path.read_text() == "step,energy\n1,-0.5\n2,-0.25\n3,-0.125\n"


@pytest.mark.parametrize("text", ["step,other\n1,2\n", "\n"])
def test_history_of_something_else(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ValueError, match=r"history.csv has the columns .*energy"):
        _history(tmp_path / "history.csv", 1)

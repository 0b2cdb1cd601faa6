"""Code of the pages about runs and training: a loop of one's own, and callbacks."""

import pathlib
import re
import sys
import types

import numpy as np
import pytest

import eqsym as eqs
from toys import hydrogen, waves


_DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"


def _block(page, start):
    """The code that begins with a line."""
    text = (_DOCS / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if block.startswith(start))
    return found


def test_loop_of_ones_own(tmp_path, monkeypatch, capsys):
    code = _block("api/training.md", "import equinox")
    assert len(code.splitlines()) <= 16
    for number, small in (
        ("256", "4"),
        ("600", "4"),
        ("100", "2"),
        ("range(10)", "[0]"),
    ):
        assert code.count(number) == 1
        code = code.replace(number, small)
    monkeypatch.chdir(tmp_path)
    names = dict(crystal=hydrogen(), wavefunction=waves())
    exec(compile(code, "training.md", "exec"), names)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in printed] == ["2", "4"]
    assert np.all(np.isfinite(np.array(printed, float)))
    again = eqs.checkpoint.restore("runs/loop", 4, names["state"])
    np.testing.assert_array_equal(again.sampler.walkers, names["state"].sampler.walkers)


def _statistics(energy):
    return types.SimpleNamespace(energy=np.float32(energy), variance=np.float32(1))


def test_early_stopping():
    names = dict(np=np)
    exec(_block("runs.md", "energies = []"), names)
    for step in range(1, 1200):
        names["stop_early"](step, _statistics(-step), None)
    with pytest.raises(StopIteration):
        for step in range(1200, 1700):
            names["stop_early"](step, _statistics(-1200 + 1e-3 * step), None)


class _Recorder:
    """In the place of what writes logs."""

    def __init__(self, *args, **kwargs):
        self.seen = []

    def add_scalar(self, *args):
        self.seen.append(args)

    def log(self, *args, **kwargs):
        self.seen.append((args, kwargs))

    init = __init__


@pytest.mark.parametrize("name", ["tensorboardX", "wandb"])
def test_logs(name, monkeypatch):
    recorder = _Recorder()
    module = types.SimpleNamespace(
        SummaryWriter=lambda folder: recorder, init=recorder.init, log=recorder.log
    )
    monkeypatch.setitem(sys.modules, name, module)
    start = {"tensorboardX": "from tensorboardX", "wandb": "import wandb"}[name]
    code, names = _block("runs.md", start), {}
    exec(code, names)
    names["log"](7, _statistics(-2.0), None)
    expected = {
        "tensorboardX": ("energy", -2.0, 7),
        "wandb": (({"energy": -2.0, "variance": 1.0},), {"step": 7}),
    }
    assert recorder.seen == [expected[name]]
    assert len([line for line in code.splitlines() if line]) <= 5

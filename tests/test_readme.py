"""The README and the pages of a newcomer: their code runs, and the test command of the
README is the one that is run."""

import pathlib
import re

import numpy as np
import pytest


_ROOT = pathlib.Path(__file__).parent.parent


def _blocks(page, language):
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, (_ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def _at_toy_size(page, patterns, folder, monkeypatch):
    """What the blocks of a page define, run one after the other as in a notebook."""
    code = "\n".join(_blocks(page, "python"))
    for pattern, small in patterns:
        code, found = re.subn(pattern, small, code)
        assert found, pattern
    monkeypatch.chdir(folder)
    names = {"__name__": "notebook"}
    exec(compile(code, page, "exec"), names)
    return names


def _rows(printed):
    return {line.split()[0] for line in printed.splitlines() if line.strip()}


def test_sample_at_toy_size(tmp_path, monkeypatch, capsys):
    assert len(_blocks("README.md", "python")) == 1
    patterns = (
        (r"\bsteps=\d+", "steps=2"),
        (r"\bwalkers=\d+", "walkers=8, burn_in=2"),
        (r"\bChains\(walkers\b", "Chains(walkers, burn_in=2"),
        (r"\bkey=keys\[0\]", "key=keys[0], widths=((8, 2),), determinants=1"),
        (r"\bchunk=\d+", "chunk=2"),
        (r'\bbasis="[\w-]+"', 'basis="sto-3g"'),
    )
    _at_toy_size("README.md", patterns, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert {"plain", "averaged"} <= _rows(printed)
    assert "nan" not in printed
    assert (tmp_path / "runs" / "readme" / "history.csv").exists()


@pytest.mark.slow
def test_wave_function_of_ones_own(tmp_path, monkeypatch, capsys):
    page = "docs/your-own-wave-function.md"
    patterns = (
        (r"\bsteps=\d+, walkers=\d+", "steps=2, walkers=8, burn_in=2"),
        (r"\bsteps=100\b", "steps=2, burn_in=2"),
        (r"\bchunk=\d+", "chunk=4"),
        (r"\bMeanField.solve\(lih", 'MeanField.solve(lih, basis="sto-3g"'),
        (r"\bPretraining\(mean_field, 200", "Pretraining(mean_field, 4"),
    )
    names = _at_toy_size(page, patterns, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert {"plain", "averaged"} <= _rows(printed)
    assert "nan" not in printed
    assert (tmp_path / "runs" / "slater-jastrow" / "history.csv").exists()
    psi = names["orbitals"](names["result"].walkers[0])
    assert psi.is_real and np.isfinite(psi.log)

    # With another twist it breaks its promises, as the page says.
    said = " ".join(_blocks(page, "text")[0].split()).split(", got ")[0]
    eqs, keys, lattice = names["eqs"], names["keys"], names["crystal"].lattice
    twisted = eqs.Crystal(
        lattice.vectors,
        ["H"],
        cart_positions=[[0, 0, 0]],
        unit="bohr",
        supercell=2,
        twist=(1 / 3, 0, 0),
    )
    function = names["SlaterJastrow"](twisted, key=keys[0])
    with pytest.raises(ValueError, match=re.escape(said)):
        eqs.check_wavefunction(function, key=keys[1])


@pytest.mark.slow
def test_excited_states(tmp_path, monkeypatch, capsys):
    patterns = (
        (r"\bsteps=600, walkers=256", "steps=2, walkers=8, burn_in=2"),
        (r"\bsteps=200\b", "steps=40"),
        (r"\bwidths=\(\(32, 8\),\) \* 2", "widths=((8, 2),), determinants=1"),
        (r"\bkeys\[2\], chunk=64", "keys[2], steps=2, burn_in=2, chunk=4"),
        (r"\bburn_in=100", "steps=2, burn_in=2"),
        (r"\bchunk=64", "chunk=4"),
    )
    names = _at_toy_size("docs/excited-states.md", patterns, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert {"Ag", "Au"} <= _rows(printed)
    assert "nan" not in printed
    found = {name: row.energy.mean for name, row in names["rows"].items()}
    assert set(found) == {"Ag", "Au"} and found["Ag"] != found["Au"]


def test_commands():
    job, tests = (block.strip() for block in _blocks("README.md", "sh")[:2])
    assert "\n" not in job and "\n" not in tests
    script = re.findall(r"python (\S+\.py)", job)
    assert len(script) == 1 and (_ROOT / script[0]).exists()
    assert tests in (_ROOT / ".ci" / "run").read_text().splitlines()


def test_examples_that_are_named_exist():
    pages = [_ROOT / "README.md", *(_ROOT / "docs").glob("*.md")]
    named = {
        name for p in pages for name in re.findall(r"examples/\w+\.py", p.read_text())
    }
    assert len(named) > 5 and all((_ROOT / name).exists() for name in named)

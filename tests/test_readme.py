"""The README: its code runs, and its test command is the one that is run."""

import pathlib
import re


_ROOT = pathlib.Path(__file__).parent.parent
_README = (_ROOT / "README.md").read_text()


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", _README, re.DOTALL | re.MULTILINE)


def test_sample_at_toy_size(tmp_path, monkeypatch, capsys):
    (code,) = _blocks("python")
    for pattern, small in (
        (r"\bsteps=\d+", "steps=2"),
        (r"\bwalkers=\d+", "walkers=8, burn_in=2"),
        (r"\bChains\(walkers\b", "Chains(walkers, burn_in=2"),
        (r"\bkey=keys\[0\]", "key=keys[0], widths=((8, 2),), determinants=1"),
        (r"\bchunk=\d+", "chunk=2"),
        (r'\bbasis="[\w-]+"', 'basis="sto-3g"'),
    ):
        code, found = re.subn(pattern, small, code)
        assert found, pattern
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert {"OG", "PA"} <= {row[0] for row in rows if row}
    assert "nan" not in printed
    assert (tmp_path / "runs" / "readme" / "history.csv").exists()


def test_commands():
    job, tests = (block.strip() for block in _blocks("sh"))
    assert "\n" not in job and "\n" not in tests
    script = re.findall(r"python (\S+\.py)", job)
    assert len(script) == 1 and (_ROOT / script[0]).exists()
    assert tests in (_ROOT / ".ci" / "run").read_text().splitlines()

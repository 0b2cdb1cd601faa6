"""Progress bars and what the log says of compilation: where they appear."""

import io
import sys
import types

import pytest

from eqsym._core import duration, progress_bar


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _shown(monkeypatch, stream, progress):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("Training", 3, progress) as bar:
        for text in ("one", "two", "three"):
            bar.say(text)
            bar.update()
        assert bar.done == (0 if stream.getvalue() == "" else 3)
    return stream.getvalue()


def _kernel(monkeypatch, shell):
    """As if IPython had been loaded, with this shell."""
    module = types.ModuleType("IPython")
    monkeypatch.setattr(module, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", module)


def test_bars_appear_on_terminals(monkeypatch):
    """And in files only if they are asked for."""
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert "Training" in _shown(monkeypatch, _Terminal(), None)
    assert _shown(monkeypatch, _Terminal(), False) == ""
    assert _shown(monkeypatch, io.StringIO(), None) == ""
    assert "3/3" in _shown(monkeypatch, io.StringIO(), True)


def test_bars_appear_in_notebooks(monkeypatch):
    """A kernel is no terminal to Python, but somebody looks on."""
    _kernel(monkeypatch, types.SimpleNamespace(kernel=object()))
    assert "3/3" in _shown(monkeypatch, io.StringIO(), None)
    assert _shown(monkeypatch, io.StringIO(), False) == ""
    # IPython whose output goes to a file, and a module that uses it without a shell.
    for shell in (types.SimpleNamespace(), None):
        _kernel(monkeypatch, shell)
        assert _shown(monkeypatch, io.StringIO(), None) == ""


def test_compilation_is_logged_once(caplog):
    """Also if another part is compiled later."""
    caplog.set_level("INFO", "eqsym")
    with progress_bar("Evaluating", 4, False, compiled="moves") as bar:
        bar.update()
        bar.update()
        bar.compiling("the estimators")
        bar.update()
        bar.update()
    assert caplog.messages == [
        "Compiling moves; this can take minutes.",
        "Compiled moves in 0.0 s.",
        "Compiling the estimators; this can take minutes.",
        "Compiled the estimators in 0.0 s.",
    ]


@pytest.mark.parametrize(
    "seconds, expected", ((0.04, "0.0 s"), (34.4, "34 s"), (3600.0, "60 min"))
)
def test_durations(seconds, expected):
    assert duration(seconds) == expected

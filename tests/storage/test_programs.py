"""Where compiled programs are kept."""

import os
from pathlib import Path

import jax
import pytest

import eqsym as eqs


_DIR = "jax_compilation_cache_dir"
_LEAST = "jax_persistent_cache_min_compile_time_secs"
_SWITCH = "jax_enable_compilation_cache"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """That of JAX, as it is without a cache, and a folder for caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    before = {name: getattr(jax.config, name) for name in (_DIR, _LEAST, _SWITCH)}
    for name, value in ((_DIR, None), (_LEAST, 1.0), (_SWITCH, True)):
        jax.config.update(name, value)
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)


def test_in_the_folder_of_the_user(config, tmp_path, monkeypatch):
    folder = tmp_path / "caches" / "eqsym"
    assert eqs.checkpoint.keep_compiled() == folder and folder.is_dir()
    assert getattr(config, _DIR) == str(folder) and getattr(config, _LEAST) == 0
    # Without the variable, which may be empty too.
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    config.update(_DIR, None)
    assert eqs.checkpoint.keep_compiled() == tmp_path / ".cache" / "eqsym"


def test_in_a_folder_that_was_named(config, tmp_path):
    """As it was set up."""
    config.update(_DIR, str(tmp_path / "mine"))
    assert eqs.checkpoint.keep_compiled() == tmp_path / "mine"
    assert getattr(config, _LEAST) == 1.0 and not os.listdir(tmp_path)


def test_nowhere(config, tmp_path, caplog):
    """If it is switched off, and if the folder cannot be made, which is said."""
    config.update(_SWITCH, False)
    assert eqs.checkpoint.keep_compiled() is None and not os.listdir(tmp_path)
    config.update(_SWITCH, True)
    (tmp_path / "caches").write_text("")
    assert eqs.checkpoint.keep_compiled() is None and getattr(config, _DIR) is None
    (message,) = caplog.messages
    assert message.startswith("What is compiled is not kept: ")

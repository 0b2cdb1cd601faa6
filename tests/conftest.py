"""Test configuration: float64 and strict promotion. Does not import eqsym, so that the
jaxtyping hook sees it first."""

import os
import resource
import signal
import sys
import types

import hypothesis
import jax
import jaxtyping
import pytest

import flags


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    # Before there are workers, which need not find out again.
    quick = flags.quick()
    if config.getoption("markexpr") == "not slow":
        os.environ.setdefault("XLA_FLAGS", quick)
    # Shells start what runs in the background without, and tests interrupt themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)


hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="module", autouse=True)
def forget_compiled():
    """What one file compiled is of no use to the next, and takes gigabytes in all."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def lih():
    """The mean field of lithium hydride: seconds of work, so once for all tests."""
    import eqsym as eqs

    return eqs.MeanField.solve(
        eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom")
    )


@pytest.fixture
def unchecked():
    """Without the type checker of the tests, which would be first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def move(monkeypatch):
    """Moves classes and functions of eqsym to another file of it."""
    name = "eqsym._elsewhere.file"
    file = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, file)

    def moved(*values):
        for value in values:
            home = sys.modules[value.__module__]
            monkeypatch.delattr(home, value.__name__)
            monkeypatch.setattr(value, "__module__", name)
            setattr(file, value.__name__, value)

    return moved


@pytest.fixture
def full_disk():
    """Stands in for a full disk: writing more than so many bytes to a file fails with
    a real error of the operating system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

"""Ctrl-C and SIGTERM: what ends, where, and what is left alone."""

import contextlib
import os
import signal
import sys
import threading

import jax
import pytest

import eqsym as eqs
from eqsym._core.interrupts import interruptible, Interrupts
from toys import hydrogen, Lattice, walkers, waves


_BOTH = (signal.SIGINT, signal.SIGTERM)
_KINDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


def _send(number):
    os.kill(os.getpid(), number)


def _handlers():
    return [signal.getsignal(number) for number in _BOTH]


@pytest.mark.parametrize("number", _BOTH)
def test_ends_between_two_steps(number, caplog):
    """Not where the signal comes; afterwards signals mean what they meant before."""
    before, done = _handlers(), []
    with pytest.raises(_KINDS[number]) as caught, interruptible() as interrupts:
        for step in range(9):
            if step == 3:
                _send(number)
            done.append(step)
            interrupts.check()
    assert done == [0, 1, 2, 3] and interrupts.ending
    assert _handlers() == before
    if number == signal.SIGTERM:
        assert caught.value.code == 128 + signal.SIGTERM
    (message,) = caplog.messages
    assert message.startswith(f"{signal.Signals(number).name}: ending after this step.")


@pytest.mark.parametrize("number", _BOTH)
def test_signal_after_the_last_step(number):
    """Is not lost."""
    with pytest.raises(_KINDS[number]), interruptible():
        _send(number)


def test_second_interrupt_does_not_wait():
    """For a step that does not come to an end. Clusters may send SIGTERM twice."""
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible() as interrupts:
        for _ in range(2):
            _send(signal.SIGTERM)
        _send(signal.SIGINT)
        done.append(1)
        _send(signal.SIGINT)
        done.append(2)
    assert done == [1] and not interrupts.ending


def test_both_signals():
    """SIGTERM says that there is little time."""
    with pytest.raises(SystemExit), interruptible() as interrupts:
        _send(signal.SIGTERM)
        _send(signal.SIGINT)
        interrupts.check()


def test_handlers_of_others_are_left_alone():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *arguments: seen.append(arguments))
    try:
        with interruptible() as interrupts:
            _send(signal.SIGTERM)
            interrupts.check()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(seen) == 1

    def in_a_thread():
        with interruptible() as interrupts:
            interrupts.check()
            seen.append(_handlers())

    thread, before = threading.Thread(target=in_a_thread), _handlers()
    thread.start()
    thread.join()
    assert seen[1] == before


@pytest.mark.parametrize("number", _BOTH)
def test_estimators_end(number, monkeypatch):
    """All of them take their samples by one of two loops."""
    before, check = _handlers(), Interrupts.check
    calls = []

    def counted(self, **kwargs):
        calls.append(kwargs)
        if len(calls) == 3:
            _send(number)
        check(self, **kwargs)

    monkeypatch.setattr(Interrupts, "check", counted)
    crystal = hydrogen()
    chains = eqs.Chains(walkers(crystal, 4), key=jax.random.key(0), steps=10, burn_in=1)
    with pytest.raises(_KINDS[number]):
        eqs.evaluate(waves(), Lattice(crystal), chains)
    assert len(calls) == 3 and _handlers() == before
    calls.clear()
    density = {"density": eqs.Density(crystal, (1, 1, 1))}
    with pytest.raises(_KINDS[number]):
        eqs.observe(waves(), density, chains)
    assert len(calls) == 3 and _handlers() == before


def _interrupted_run(monkeypatch, at, burn_in=3):
    """Eight steps, with Ctrl-C after so many of burn-in and training together."""
    check, left = Interrupts.check, [at]

    def counted(self, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            _send(signal.SIGINT)
        check(self, **kwargs)

    monkeypatch.setattr(Interrupts, "check", counted)
    vmc = eqs.VMC(Lattice(hydrogen()), eqs.Metropolis(2), eqs.Spring(0.1))
    return eqs.run(
        vmc,
        waves(c=(0.1, 0.2, 0.3)),
        steps=8,
        walkers=6,
        burn_in=burn_in,
        key=jax.random.key(5),
        progress=False,
    )


def test_at_a_prompt_what_was_trained_is_returned(monkeypatch, caplog):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(monkeypatch.context())
        found = _interrupted_run(patch, 3 + 5)
    assert int(found.state.step) == 5
    assert list(found.history["step"]) == [1, 2, 3, 4, 5]
    assert "returning what there is after 5 of 8 training steps" in caplog.messages[-1]
    # In burn-in: the walkers so far.
    found = _interrupted_run(monkeypatch, 2)
    assert int(found.state.step) == 0 and len(found.history["step"]) == 0
    assert found.walkers.shape == (6, 1, 3)


def test_in_a_script_it_is_an_interrupt(monkeypatch, caplog):
    """What follows there relies on a finished run."""
    monkeypatch.delattr(sys, "ps1", raising=False)
    with pytest.raises(KeyboardInterrupt):
        _interrupted_run(monkeypatch, 3 + 5)
    assert caplog.messages[-1] == (
        "The training was interrupted at step 5. Nothing is saved without a `path`."
    )

"""Training of lithium hydride by KFAC and by SPRING."""

import jax
import numpy as np
import pytest

import eqsym as eqs


_WALKERS = 128
_STEPS = 240
_LAST = 60


@pytest.mark.slow
def test_reaches_the_energy_that_spring_reaches(lih):
    """Or a lower one: with a difference of zero, and steps that are independent, one
    key in 700 would fail. Both from the same fit to the mean field."""
    network = eqs.SolidNet(
        lih.crystal,
        lih.occupation,
        widths=((16, 4),) * 2,
        determinants=2,
        key=jax.random.key(0),
    )
    places = eqs.initial_walkers(lih.crystal, _WALKERS, key=jax.random.key(1))
    fit = eqs.Pretraining(lih, 60)
    network, places = fit(network, places, key=jax.random.key(2))
    first, last, errors = [], [], []
    for optimizer in (eqs.Spring(), eqs.Kfac()):
        vmc = eqs.VMC(eqs.Hamiltonian(lih.crystal), eqs.Metropolis(5), optimizer)
        result = eqs.run(
            vmc,
            network,
            steps=_STEPS,
            walkers=places,
            key=jax.random.key(3),
            burn_in=10,
            progress=False,
        )
        energies = result.history["energy"]
        assert not np.any(result.history["rejected_update"])
        first.append(np.mean(energies[:10]))
        last.append(np.mean(energies[-_LAST:]))
        errors.append(np.std(energies[-_LAST:]) / _LAST**0.5)
    spring, kfac = last
    assert kfac < spring + 3 * np.hypot(*errors)
    assert kfac < first[1] - 20 * errors[1]

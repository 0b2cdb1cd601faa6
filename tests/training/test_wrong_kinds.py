"""Arguments of the wrong kind, as people type them: one line that says what to type
instead."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs
from toys import hydrogen, Lattice, walkers, Waves, waves


_CRYSTAL = hydrogen()
_GROUP = eqs.SpaceGroup.of(_CRYSTAL)
_AVERAGE = eqs.GroupAverage(_GROUP)
_HAMILTONIAN = Lattice(_CRYSTAL)


def _vmc(hamiltonian=_HAMILTONIAN, sampler=None, optimizer=None, **kwargs):
    sampler = eqs.Metropolis(2) if sampler is None else sampler
    return eqs.VMC(hamiltonian, sampler, optimizer or eqs.Spring(), **kwargs)


def _run(vmc=None, wavefunction=None, **kwargs):
    settings = dict(steps=1, walkers=2, key=jax.random.key(0), progress=False)
    wavefunction = waves() if wavefunction is None else wavefunction
    return eqs.run(vmc or _vmc(), wavefunction, **settings | kwargs)


class _Logarithm(Waves):
    """Without a sign."""

    def __call__(self, electrons):
        return jnp.sum(electrons)


def _network():
    gamma = eqs.Occupation((np.zeros((1, 3)), np.zeros((0, 3))))
    return eqs.SolidNet(_CRYSTAL, gamma, key=jax.random.key(0))


_MADE = {
    "optax": (
        lambda: _vmc(optimizer=optax.adam(1e-3)),
        "`optimizer` must be an optimizer.*Wrap it in `eqs.Optax`",
    ),
    "function of optax": (
        lambda: _vmc(optimizer=optax.adam),
        r"Call it and wrap it, as in `eqs.Optax\(optax.adam\(1e-3\)\)`",
    ),
    "branch of a schedule": (
        lambda: eqs.Spring(lambda step: 0.1 if step < 10 else 0.01),
        "`learning_rate` must be a number or a function of the step.*`jnp.where` in pla"
        "ce of `if`.*raises TracerBoolConversionError",
    ),
    "schedule that was not made": (
        lambda: eqs.Spring(optax.cosine_decay_schedule),
        "`learning_rate` must be .* raises TypeError: .* argument: 'decay_steps'",
    ),
    "schedule of arrays": (
        lambda: eqs.Spring(0.1, norm_bound=lambda step: jnp.ones(2)),
        r"`norm_bound` must be .* returns float64 of shape \(2,\)",
    ),
    "schedule of text": (lambda: eqs.Spring(lambda step: "0.1"), "raises TypeError"),
    "negative schedule": (
        lambda: eqs.Spring(lambda step: -0.1),
        "`learning_rate` must not be negative, got -0.1",
    ),
    "operations by hand": (
        lambda: eqs.SpaceGroup(_CRYSTAL),
        r"`eqs.SpaceGroup.of\(crystal\)` finds the operations",
    ),
    "mean field by hand": (
        lambda: eqs.MeanField(_CRYSTAL),
        r"`eqs.MeanField.solve\(crystal\)` solves one",
    ),
    "electrons": (
        lambda: _network()(jnp.ones((3, 3))),
        r"`electrons` must be one configuration, of shape \(1, 3\), such as "
        r"`result.walkers\[0\]`, got shape \(3, 3\)",
    ),
    "class": (
        lambda: _vmc(optimizer=eqs.Spring),
        r"got the class `Spring`. Make an instance of it: `Spring\(...\)`",
    ),
    "exchanged": (
        lambda: _vmc(sampler=eqs.Spring(), optimizer=eqs.Metropolis()),
        "`sampler` must be .* `Spring`. Sampler and optimizer are exchanged",
    ),
    "crystal": (
        lambda: _vmc(_CRYSTAL),
        r"`hamiltonian` must be .* Make one of it: `eqs.Hamiltonian\(crystal\)`",
    ),
    "wave function": (lambda: _vmc(waves()), "comes later, in `eqs.run`"),
    "symmetrizer": (
        lambda: _vmc(strategy=_AVERAGE),
        "`strategy` must be a strategy.*Wrap it in `eqs.SymmetrizedTraining`",
    ),
    "group": (
        lambda: _vmc(strategy=_GROUP),
        r"type `eqs.SymmetrizedTraining\(eqs.GroupAverage\(group\)\)`; to average",
    ),
    "strategy": (lambda: _vmc(strategy=eqs.PlainTraining), "the class `PlainTraining`"),
    "clip": (lambda: _vmc(clip="5"), "`clip` must be a positive number, got '5'"),
    "symmetrized group": (
        lambda: eqs.SymmetrizedTraining(_GROUP),
        "`symmetrizer` must be .* Wrap it in `eqs.GroupAverage`",
    ),
    "projected group": (
        lambda: eqs.ProjectedTraining(_GROUP),
        "`projection` must be .* Wrap it in `eqs.GroupAverage`",
    ),
    "augmented average": (
        lambda: eqs.AugmentedTraining(_AVERAGE),
        "`group` must be a group.*drawn from the group itself",
    ),
    "share": (
        lambda: eqs.ProjectedTraining(_AVERAGE, share="half"),
        "`share` must be a number from 0 to 1, got 'half'",
    ),
    "seed": (
        lambda: _vmc().init(waves(), walkers(_CRYSTAL, 2), key=0),
        r"such as `jax.random.key\(0\)`, got 0",
    ),
}
_RUN = {
    "seed": (dict(key=7), r"such as `jax.random.key\(7\)`, got 7"),
    "vmc": (dict(vmc=_HAMILTONIAN), "`vmc` must be .*an instance of `Lattice`"),
    "class": (dict(wavefunction=eqs.SolidNet), "got the class `SolidNet`. Make"),
    "array": (
        dict(wavefunction=_Logarithm(_CRYSTAL, jnp.ones(3))),
        r"an array of shape \(\). For a positive function return `eqs.LogPsi",
    ),
    "float": (dict(steps=1e3), "`steps` must be an integer, got 1000.0: write 1000"),
    "pretraining": (dict(pretraining=300), "`eqs.Pretraining.mean_field, steps=300."),
    "stage": (
        dict(stages=[(1, _AVERAGE)]),
        "`stages` must be a strategy.*Wrap it in `eqs.SymmetrizedTraining`",
    ),
    "one stage": (
        dict(stages=(1, eqs.PlainTraining())),
        "`stages` must be pairs of a step and a strategy.*got 1",
    ),
    "strategies": (dict(stages=[eqs.PlainTraining()]), "pairs .* `PlainTraining`"),
    "no list": (dict(stages=eqs.PlainTraining()), "pairs of a step and a strategy"),
    "figure": (dict(figure=True), "`figure` must be a function, such as `eqs.plot.tra"),
}


@pytest.mark.parametrize("name", _MADE)
def test_when_an_object_is_made(name, unchecked):
    make, message = _MADE[name]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", _RUN)
def test_before_a_run_begins(name, tmp_path, unchecked):
    change, message = _RUN[name]
    with pytest.raises(ValueError, match=message):
        _run(path=tmp_path / "run", **change)
    assert not (tmp_path / "run" / "run.json").exists()


def test_hamiltonian_of_a_wave_function():
    places = walkers(_CRYSTAL, 2)
    one, other = (
        f(waves(), places[0]) for f in (_HAMILTONIAN, _HAMILTONIAN.local_energy)
    )
    assert one.total == other.total
    with pytest.raises(ValueError, match="For walkers type `jax.vmap"):
        _HAMILTONIAN(waves(), places)

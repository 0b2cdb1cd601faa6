"""Networks fitted to mean fields."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs
from eqsym._training.pretraining import _loss


_LATTICE = [[3.2, 0.0, 0.0], [0.3, 3.4, 0.0], [0.0, 0.2, 3.6]]


def _crystal(**kwargs):
    return eqs.Crystal(
        _LATTICE, ["H"], frac_positions=[[0, 0, 0]], unit="bohr", **kwargs
    )


@pytest.fixture(scope="module")
def real():
    crystal = _crystal(supercell=(2, 1, 1))
    return eqs.MeanField.solve(crystal, basis="sto-3g")


@pytest.fixture(scope="module")
def twisted():
    """Two spin-up electrons and one spin-down."""
    crystal = _crystal(supercell=(3, 1, 1), twist=(0.1, 0.2, 0.3))
    return eqs.MeanField.solve(crystal, basis="sto-3g")


def _network(mean_field, **kwargs):
    kwargs = {"widths": ((8, 2),), "determinants": 2} | kwargs
    return eqs.SolidNet(
        mean_field.crystal, mean_field.occupation, key=jax.random.key(0), **kwargs
    )


def _walkers(crystal, count=5):
    return eqs.initial_walkers(crystal, count, key=jax.random.key(1))


@pytest.mark.parametrize("full", [True, False])
def test_loss(twisted, full):
    """Mean of |phi^d_j(r_i) - varphi_j(r_i)|^2, blocks of other spin against 0."""
    network = _network(twisted, full_determinant=full)
    walkers = _walkers(twisted.crystal)
    expected = []
    both = jax.jit(jax.vmap(lambda x: (network.orbitals(x), twisted.orbitals(x))))
    of_network, of_mean_field = jax.tree.map(np.asarray, both(walkers))
    for i in range(len(walkers)):
        blocks = [m[i] for m in of_network]
        targets = [m[i] for m in of_mean_field]
        if full:
            targets = [
                np.concatenate([targets[0], np.zeros((2, 1))], axis=1),
                np.concatenate([np.zeros((1, 2)), targets[1]], axis=1),
            ]
        expected.append(
            sum(
                np.mean(np.abs(block - target[None]) ** 2)
                for block, target in zip(blocks, targets, strict=True)
            )
        )
    found = eqx.filter_jit(_loss)(*eqs.partition(network), twisted, walkers)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-10)


@pytest.mark.parametrize("full", [True, False])
def test_fits(real, full):
    """The loss falls, and so does the distance of the amplitudes: the overlap of
    network and determinant, over walkers of the latter, comes near 1."""
    network = _network(real, full_determinant=full)
    assert network.real
    losses = []
    pretraining = eqs.Pretraining(real, 150, optimizer=optax.adam(1e-2))
    fitted, walkers = pretraining(
        network,
        _walkers(real.crystal, 100),
        key=jax.random.key(2),
        callback=lambda step, loss: losses.append((step, loss)),
    )
    assert [step for step, _ in losses] == list(range(1, 151))
    assert losses[-1][1] < 0.1 * losses[0][1]
    assert walkers.shape == (100, 2, 3)

    def overlap(network):
        values = eqx.filter_jit(lambda f: jax.vmap(f)(walkers))
        psi, target = values(network), values(eqs.HartreeFock(real))
        log = psi.log - target.log
        ratio = np.asarray(psi.sign * target.sign * jnp.exp(log - jnp.max(log)))
        return np.mean(ratio) ** 2 / np.mean(ratio**2)

    assert overlap(fitted) > max(0.9, overlap(network))


@pytest.mark.slow
@pytest.mark.parametrize("is_real", [True, False])
def test_fits_at_k_and_minus_k(is_real):
    """Columns of the network mean what those of the mean field do: cos and sin, or
    plane waves. With k and -k exchanged, the network could not follow."""
    crystal = eqs.Crystal.hydrogen_chain(
        spacing=1.8, vacuum=10.0, atoms=2, unit="bohr", supercell=(3, 1, 1)
    )
    mean_field = eqs.MeanField.solve(crystal, basis="sto-3g")
    network = _network(
        mean_field, full_determinant=False, real=None if is_real else False
    )
    assert network.real == is_real
    losses = []
    eqs.Pretraining(mean_field, 80, optimizer=optax.adam(2e-2))(
        network,
        _walkers(crystal, 50),
        key=jax.random.key(2),
        callback=lambda step, loss: losses.append(loss),
    )
    assert losses[-1] < 0.1 * losses[0]


def test_no_steps(real):
    network = _network(real)
    walkers = _walkers(real.crystal)
    fitted, _ = eqs.Pretraining(real, 0)(network, walkers, key=jax.random.key(0))
    assert eqx.tree_equal(fitted, network)


def test_errors(real, twisted):
    with pytest.raises(ValueError, match="`steps` must not be negative, got -1"):
        eqs.Pretraining(real, -1)
    with pytest.raises(
        ValueError, match="must belong to the crystal of the mean field"
    ):
        eqs.Pretraining(twisted, 1)(
            _network(real), _walkers(real.crystal), key=jax.random.key(0)
        )


def test_mean_fields_serve_all_descriptions_of_their_crystal(real, tmp_path):
    def crystal(stretched):
        lattice = np.array(_LATTICE) + np.diag([stretched, 0, 0])
        # The nucleus in another cell.
        return eqs.Crystal(
            lattice, ["H"], frac_positions=[[0, 2, 0]], unit="bohr", supercell=(2, 1, 1)
        )

    def fit(crystal):
        network = eqs.SolidNet(crystal, real.occupation, key=jax.random.key(0))
        start = _walkers(crystal)
        eqs.Pretraining(real, 0)(network, start, key=jax.random.key(0))
        return network

    path = tmp_path / "real.npz"
    real.save(path)
    solve = functools.partial(eqs.MeanField.solve, basis="sto-3g", path=path)
    assert crystal(1e-9) != real.crystal
    assert solve(crystal(1e-9)).energy == real.energy
    assert fit(crystal(1e-9)).real
    different = "vector 0 of `lattice` differs by 0.001 Bohr"
    with pytest.raises(ValueError, match=f"another crystal: .* {different}"):
        solve(crystal(1e-3))
    with pytest.raises(
        ValueError, match=f"crystal of the mean field, but .* {different}"
    ):
        fit(crystal(1e-3))


def test_divergence_is_reported(real):
    with pytest.raises(FloatingPointError, match="the loss of step [12] is nan"):
        eqs.Pretraining(real, 5, optimizer=optax.sgd(np.nan))(
            _network(real), _walkers(real.crystal), key=jax.random.key(0)
        )

"""The score matrix as an operator, against the matrix written down."""

import functools

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym._training.taps import check_factors, split_linears
from eqsym._wavefunction.linear import Linear


_WALKERS = 6
_CASES = (
    "real",
    "complex",
    "factored",
    "one spin",
    "symmetrized",
    "weighted",
    "viewed",
    "attention",
)


def _crystal(**kwargs):
    lattice = [[3.0, 0.2, 0.0], [0.0, 3.4, 0.3], [0.4, 0.0, 3.8]]
    return eqs.Crystal(
        lattice, ["H"], cart_positions=[[0.1, 0.2, 0.3]], unit="bohr", **kwargs
    )


def _network(crystal, **kwargs):
    k = crystal.frac_kpoints @ crystal.lattice.reciprocal
    up, dn = crystal.electrons
    occupation = eqs.Occupation((k[np.arange(up) % len(k)], k[np.arange(dn) % len(k)]))
    # The first pair layer is so narrow, and the electrons' layers so wide, that both
    # ways to the Gram matrix are taken.
    return eqs.SolidNet(
        crystal,
        occupation,
        widths=((40, 3), (40, 3)),
        determinants=2,
        key=jax.random.key(0),
        **kwargs,
    )


@functools.cache
def _case(name):
    weights, view = None, None
    if name == "one spin":
        wavefunction = _network(_crystal(supercell=(2, 1, 1), spin=2))
    elif name == "complex":
        wavefunction = _network(_crystal(supercell=(3, 1, 1), twist=(0.1, 0.2, 0.3)))
    elif name == "factored":
        wavefunction = _network(_crystal(supercell=(3, 1, 1)), full_determinant=False)
    elif name == "attention":
        crystal = _crystal(supercell=(3, 1, 1), twist=(0.1, 0.2, 0.3))
        wavefunction = eqs.Jastrow(
            eqs.AttentionNet(
                crystal,
                _network(crystal).occupation,
                width=24,
                layers=2,
                pair_width=3,
                layer_norm=True,
                determinants=2,
                key=jax.random.key(0),
            )
        )
    elif name == "weighted":
        wavefunction = _network(_crystal(supercell=(3, 1, 1), twist=(0.1, 0.2, 0.3)))
        weights = jnp.asarray([0.3, 1.0, 0.0, 2.0, 0.7, 0.1])
    elif name in ("symmetrized", "viewed"):
        crystal = _crystal(supercell=(2, 1, 1))
        turns = np.array([np.eye(3), -np.eye(3)]).astype(int)
        about = 2 * crystal.lattice.to_fractional(crystal.cart_positions[0])
        group = eqs.SpaceGroup(crystal, turns, np.stack([0 * about, about]))
        view = functools.partial(
            eqs.Symmetrized, symmetrizer=eqs.GroupAverage(group), operation_chunk=1
        )
        wavefunction = _network(crystal)
        if name == "symmetrized":
            wavefunction, view = view(wavefunction), None
    else:
        wavefunction = _network(_crystal(supercell=(2, 1, 1)), real=True)
    rng = np.random.default_rng(1)
    crystal = wavefunction.crystal
    frac = rng.uniform(size=(_WALKERS, sum(crystal.electrons), 3))
    walkers = jnp.asarray(crystal.supercell.to_cartesian(frac))
    return eqs.Scores(wavefunction, walkers, weights, view)


@functools.cache
def _dense(name):
    """The matrix, (rows, parameters), real parts of all walkers first, from its
    definition."""
    scores = _case(name)
    parameters, rest = eqs.partition(scores.wavefunction)
    flat, unravel = jax.flatten_util.ravel_pytree(parameters)

    def rows(flat):
        wavefunction = eqs.combine(unravel(flat), rest)
        if scores.view is not None:
            wavefunction = scores.view(wavefunction)
        psi = jax.vmap(wavefunction)(scores.walkers)
        return jnp.stack([psi.log] if psi.is_real else [psi.log, psi.phase])

    jacobian = np.asarray(jax.jit(jax.jacrev(rows))(flat))
    shares = _shares(scores)
    mean = np.average(jacobian, axis=1, weights=shares)
    centered = np.sqrt(shares)[:, None] * (jacobian - mean[:, None])
    return centered.reshape(-1, flat.size), unravel


def _shares(scores):
    weights = np.ones(_WALKERS) if scores.weights is None else scores.weights
    return np.asarray(weights) / np.sum(weights)


@eqx.filter_jit
def _by_factors(scores, direction, residual, chunk):
    factored = scores.factored(chunk)
    return factored.apply(direction), factored.transpose(residual), factored.gram()


@functools.cache
def _factored(name, chunk=None):
    """What the factored matrix makes of a direction, of a residual, and its Gram
    matrix."""
    direction, residual = _direction(name), _residual(name)
    unravel = _dense(name)[1]
    return _by_factors(_case(name), unravel(direction), residual, chunk)


def _direction(name):
    size = _dense(name)[0].shape[1]
    return jnp.asarray(np.random.default_rng(2).normal(size=size))


def _residual(name):
    rng = np.random.default_rng(3)
    residual = rng.normal(size=_WALKERS)
    if not _case(name).is_real:
        residual = residual + 1j * rng.normal(size=_WALKERS)
    return jnp.asarray(residual)


def _stacked(values):
    return np.concatenate([values.real, values.imag][: 1 + np.iscomplexobj(values)])


@pytest.mark.parametrize("name", _CASES)
def test_apply(name):
    dense, found = _dense(name)[0], _factored(name)[0]
    assert _case(name).is_real == (not jnp.iscomplexobj(found))
    np.testing.assert_allclose(_stacked(np.asarray(found)), dense @ _direction(name))


@pytest.mark.parametrize("way", ["at once", "in chunks", "factored"])
@pytest.mark.parametrize("name", _CASES)
def test_transpose(name, way):
    scores, (dense, _), residual = _case(name), _dense(name), _residual(name)
    if way == "factored":
        found = _factored(name)[1]
    else:
        found = eqx.filter_jit(eqs.Scores.transpose)(
            scores, residual, None if way == "at once" else 3
        )
    assert jax.tree.structure(found) == jax.tree.structure(scores.parameters)
    flat = jax.flatten_util.ravel_pytree(found)[0]
    np.testing.assert_allclose(
        flat, dense.T @ _stacked(np.asarray(residual)), atol=1e-12
    )


@pytest.mark.parametrize(
    ("name", "chunk"), [*((name, None) for name in _CASES), ("complex", 4)]
)
def test_gram(name, chunk):
    dense, _ = _dense(name)
    found = np.asarray(_factored(name, chunk)[2])
    close = functools.partial(
        np.testing.assert_allclose, rtol=0, atol=1e-12 * np.max(dense**2) * _WALKERS
    )
    close(found, dense @ dense.T)
    # What the definition promises: no component along the mean of either part.
    blocks = found.reshape(-1, _WALKERS, len(found))
    close(np.einsum("cwr,w->cr", blocks, np.sqrt(_shares(_case(name)))), 0)


@pytest.mark.parametrize("name", ["real", "complex"])
def test_both_kinds_of_layers_are_tested(name):
    scores = _case(name)
    wide, narrow, _ = split_linears(scores.wavefunction, _WALKERS, 2 - scores.is_real)
    kept = [
        node
        for node in jax.tree.leaves(
            narrow, is_leaf=lambda node: isinstance(node, Linear)
        )
        if isinstance(node, Linear) and node.weight is not None
    ]
    assert any(linear.bias is not None for linear in wide)
    assert any(linear.bias is None for linear in wide)
    assert kept


def test_single_precision():
    scores, (dense, _) = _case("complex"), _dense("complex")
    single = eqs.Scores(
        _in_single_precision(scores.wavefunction), scores.walkers.astype(jnp.float32)
    )
    found = eqx.filter_jit(lambda scores: scores.factored().gram())(single)
    assert found.dtype == jnp.float32
    expected = dense @ dense.T
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.max(expected))


def test_large_means_in_single_precision():
    """Along 100 Bohr of vacuum features are large and hardly differ, and so do
    derivatives by their weights, of walkers that are close to each other. The Gram
    matrix is of the differences, and does not round by the size of what is alike."""
    crystal = eqs.Crystal.hydrogen_chain(spacing=1.8, vacuum=100.0, unit="bohr")
    single = _in_single_precision(_network(crystal, real=True))
    parameters, rest = eqs.partition(single)
    double = eqs.combine(jax.tree.map(lambda x: x.astype(float), parameters), rest)
    rng = np.random.default_rng(0)
    places = crystal.cart_positions + 0.1 * rng.normal(size=(_WALKERS, 2, 3))
    walkers = jnp.asarray(places, jnp.float32)
    gram = eqx.filter_jit(lambda scores: scores.factored().gram())
    found, expected = (
        np.asarray(gram(eqs.Scores(f, walkers.astype(dtype))), float)
        for f, dtype in ((single, jnp.float32), (double, jnp.float64))
    )
    # In units in which all rows have the length 1.
    scale = 1 / np.sqrt(np.diagonal(expected))
    found, expected = (
        np.linalg.eigvalsh(scale[:, None] * matrix * scale)
        for matrix in (found, expected)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def _in_single_precision(wavefunction):
    parameters, rest = eqs.partition(wavefunction)
    parameters = jax.tree.map(lambda x: x.astype(jnp.float32), parameters)
    return eqs.combine(parameters, rest)


def test_network_in_single_precision_at_walkers_in_double():
    """As when double precision is switched on after the network was made."""
    scores = _case("one spin")
    mixed = eqs.Scores(_in_single_precision(scores.wavefunction), scores.walkers)
    check_factors(mixed.wavefunction, scores.walkers[:2])
    residual = jnp.linspace(-1.0, 1.0, _WALKERS)

    @eqx.filter_jit
    def both(scores):
        return scores.transpose(residual), scores.factored().transpose(residual)

    for plain, factored in zip(*map(jax.tree.leaves, both(mixed)), strict=True):
        assert plain.dtype == factored.dtype == jnp.float32
        np.testing.assert_allclose(plain, factored, rtol=1e-4, atol=1e-5)


class Applied(eqs.AbstractWavefunction):
    """A layer of the library, applied in one way or another."""

    crystal: eqs.Crystal
    layer: Linear
    inner: eqs.AbstractWavefunction
    way: str = eqx.field(static=True)

    @property
    def crystal_momentum(self):
        return self.inner.crystal_momentum

    def __call__(self, electrons):
        w = electrons @ jnp.asarray(self.crystal.supercell.reciprocal).T
        h = jnp.concatenate([jnp.cos(w), jnp.sin(w)], axis=1)
        if self.way == "twice":
            h = self.layer(jnp.tanh(self.layer(h)))
        elif self.way == "vmap":
            h = jax.vmap(self.layer)(jnp.stack([h, 2 * h**2]))[0]
        elif self.way == "row by row":
            h = jax.vmap(self.layer)(h)
        elif self.way == "penalty":
            h = self.layer(h) + jnp.sum(self.layer.weight**2)
        elif self.way == "penalty of the bias":
            h = self.layer(h) + jnp.sum(jnp.sin(self.layer.bias))
        else:
            # What is known of a layer can be looked at.
            scale = len(self.layer.bias) / self.layer.weight.shape[0]
            h = self.layer(scale * h) + (self.layer.rows - 2)
        psi = self.inner(electrons)
        return eqs.LogPsi(psi.sign, psi.log + jnp.sum(jnp.tanh(h) ** 2))


@pytest.mark.parametrize(
    "way", ["once", "twice", "vmap", "row by row", "penalty", "penalty of the bias"]
)
def test_layers_of_the_library_are_applied_once(way):
    """Otherwise products by factors are wrong by their own size, and nothing else
    shows it."""
    inner = _case("one spin").wavefunction
    crystal = inner.crystal
    layer = Linear(6, 6, rows=2, scale=0.4, use_bias=True, key=jax.random.key(1))
    walkers = _case("one spin").walkers
    wavefunction = Applied(crystal, layer, inner, way)
    if way == "once":
        check_factors(wavefunction, walkers[:2])
        # Nothing is factored of a network inside of another function.
        check_factors(_case("symmetrized").wavefunction, walkers[:2])
        return
    message = "must apply its linear layers once|of one configuration, of shape"
    with pytest.raises(ValueError, match=message) as caught:
        check_factors(wavefunction, walkers[:2])
    assert "equinox.nn.Linear" in str(caught.value)

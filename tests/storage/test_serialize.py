"""Trees described in JSON: built again, compared, or refused."""

import functools
import json
import re
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.interpolate import CubicSpline

import eqsym as eqs
from eqsym._hamiltonian.laplacian import Derivatives
from eqsym._storage.comparison import compare, differences, flatten
from eqsym._storage.serialize import (
    arrays_of,
    decode,
    dumps,
    encode,
    pretty,
    uncompared,
)
from group_toys import crystal_for, database
from toys import hydrogen, Waves, waves


def _again(tree):
    node = json.loads(dumps(encode(tree)))
    arrays = {
        name: np.asarray(
            jax.random.key_data(leaf)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )
        for name, leaf in arrays_of(tree).items()
    }
    return decode(node, arrays)


def _equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(a) is type(b)
        if eqx.is_array(a) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def _network():
    crystal = hydrogen(supercell=(2, 1, 1), twist=(0.25, 0, 0))
    k = [crystal.frac_kpoints[:1] @ crystal.lattice.reciprocal] * 2
    return eqs.SolidNet(
        crystal,
        eqs.Occupation((k[0], k[1])),
        widths=((4, 2),),
        determinants=2,
        features=eqs.NuFeatures(),
        key=jax.random.key(0),
    )


def _lih_group():
    return eqs.SpaceGroup.of(eqs.Crystal.rock_salt("Li", "H", a=4.0, unit="angstrom"))


@pytest.mark.parametrize(
    "make",
    [
        _network,
        _lih_group,
        lambda: eqs.Symmetrized(
            _network(), eqs.GroupAverage(eqs.SpaceGroup.of(_network().crystal))
        ),
        lambda: eqs.IrrepProjection(_lih_group(), "T1u", row=1),
        lambda: eqs.Canonicalization(eqs.FundamentalDomain.of(_lih_group())),
        lambda: eqs.RandomSubset(_lih_group(), 3).draw(jax.random.key(1)),
        lambda: eqs.Hamiltonian(hydrogen()),
        lambda: eqs.SymmetrizedTraining(eqs.GroupAverage(_lih_group())),
        lambda: (jax.random.key(3), {"a": [1, 2.5, np.inf], "b": (None, "x", 1 + 2j)}),
    ],
)
def test_round_trip(make):
    tree = make()
    _equal(_again(tree), tree)


@pytest.mark.parametrize("hall", [1, 143, 530])
def test_groups_survive(hall):
    group = eqs.SpaceGroup.of(crystal_for(*database(hall)))
    assert group.order > 0 and _again(group) == group


def test_functions_of_the_library_survive():
    form = functools.partial(eqs.Symmetrized, operation_chunk=4)
    found = _again(eqs.SymmetrizedTraining(eqs.GroupAverage(_lih_group()), form))
    assert found.form.func is eqs.Symmetrized
    assert found.form.keywords == {"operation_chunk": 4}


def test_named_tuples_of_the_library_survive():
    tree = Derivatives(jnp.ones(3), jnp.zeros(()))
    found = _again({"x": tree})["x"]
    assert type(found) is Derivatives
    _equal(found, tree)


def test_moves_inside_the_package_change_nothing(move):
    """Of public and private classes, and of functions: the same text, from which the
    same is made."""
    tree = eqs.SymmetrizedTraining(eqs.GroupAverage(_lih_group()), eqs.Symmetrized)
    network = _network()
    described = (tree, network, eqs.initial_walkers, eqs.SmoothStep.__call__)
    before = dumps(encode(described))
    move(
        eqs.GroupAverage, eqs.Symmetrized, eqs.SpaceGroup, type(network.bloch.features)
    )
    move(eqs.initial_walkers, type(network.layers[0]))
    assert dumps(encode(described)) == before
    assert not re.search(r"eqsym\._\w+\.", before)
    for one in (tree, network):
        _equal(_again(one), one)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (waves(), r"`` is a `Waves`, which is not of eqsym"),
        (eqs.Optax(optax.sgd(0.1)), "`.transformation` is a `optax.*not of eqsym"),
        (eqs.Spring(lambda step: 0.1), "`.learning_rate` is a .*cannot be made"),
        ({"x": np.linalg.norm}, r"`\['x'\]` is a `numpy.norm`, which is not of"),
        (dict, "`` is a `builtins.dict`, which is not of eqsym"),
    ],
)
def test_refused(tree, message):
    with pytest.raises(ValueError, match=message):
        _again(tree)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "os.system"}, "`os.system`, which is not of eqsym"),
        ({"class": "subprocess.Popen", "fields": {"args": ["true"]}}, "not of eqsym"),
        ({"name": "eqsym.Perpetuum"}, "this version of eqsym does not have"),
        ({"name": "eqsym._nowhere.Crystal"}, "this version of eqsym does not have"),
        # Imported by eqsym, but not of it.
        ({"name": "eqsym.Path"}, "this version of eqsym does not have"),
        ({"name": "eqsym.History"}, "must be a module of eqsym"),
        ({"class": "eqsym.run", "fields": {}}, "must be a module of eqsym"),
        ({"class": "eqsym.AbstractOptimizer", "fields": {}}, "must be a module of"),
        ({"class": "eqsym.save_checkpoint", "fields": {}}, "must be a module of eqsym"),
        ({"class": "eqsym.folder.os.system", "fields": {}}, "does not have"),
        (
            {"class": "eqsym.GroupAverage", "fields": {"subgroup": 1}},
            r"another version of eqsym: it has the fields \['subgroup'\].*'group'",
        ),
    ],
)
def test_foreign_data_is_not_run(node, message):
    with pytest.raises(ValueError, match=message):
        decode(node, {})


def test_double_precision_is_not_lost_silently():
    node, arrays = encode({"x": jnp.zeros(3)}), {"['x']": np.zeros(3)}
    with jax.enable_x64(False), pytest.raises(ValueError, match="double precision"):
        decode(node, arrays)


def _differences(one, other):
    nodes = [json.loads(dumps(encode(tree))) for tree in (one, other)]
    return list(map(str, differences(*(flatten(node, "x") for node in nodes))))


def _decaying(scale):
    return lambda step: scale / (1 + step)


def _bounded(step, bound=0.1):
    return jnp.minimum(bound, 1 / (1 + step))


class _Rates:
    """A plain object."""

    def __init__(self, **numbers):
        vars(self).update(numbers)

    @functools.cached_property
    def asked(self):
        return 1

    def rate(self, step):
        return 1 / (1 + step)


def test_differences():
    rate = eqs.Spring(0.1)
    assert _differences(rate, eqs.Spring(0.1)) == []
    assert _differences(rate, eqs.Spring(0.1 + 1e-12)) == []
    assert _differences(rate, eqs.Spring(0.2)) == [
        "x.learning_rate: saved 0.1, here 0.2"
    ]
    assert _differences(rate, eqs.Spring(0.1, chunk=4)) == []
    forms = [functools.partial(eqs.Symmetrized, operation_chunk=n) for n in (2, 4)]
    assert _differences(*forms) == []
    assert (
        "x.learning_rate: saved 0.1"
        in _differences(rate, eqs.Spring(_decaying(0.1)))[0]
    )


def _tabulated(rates):
    return lambda step: rates[step]


def test_a_part_that_only_one_has_is_one_difference():
    group = eqs.SpaceGroup.of(hydrogen())
    stage = (50, eqs.AugmentedTraining(group, 1))
    (length, added) = compare(encode(()), (stage,), "stages")
    assert str(length) == "stages: saved tuple of 0, here tuple of 1"
    assert added.field == "stages[0]" and added.saved == "nothing"
    assert re.fullmatch(r"tuple of 2 \(\d+ values, [0-9a-f]{8}\)", added.here)
    (_, removed) = compare(encode((stage,)), (), "stages")
    assert removed == added._replace(saved=added.here, here="nothing")
    (_, other) = compare(encode(()), ((51, stage[1]),), "stages")
    assert other.here != added.here
    # A field of a class of another version.
    saved = encode(eqs.Metropolis(3))
    saved["fields"]["mass"] = 1.0
    (lost,) = compare(saved, eqs.Metropolis(3), "sampler")
    assert lost == ("sampler.mass", 1.0, "nothing")


def test_what_users_write_is_the_same_in_a_script_and_imported(monkeypatch):
    """Where their classes, functions and objects are, `__main__` or a file, is not part
    of their names."""
    values = waves(), Waves, _bounded, _decaying(2.0), _Rates(a=1).rate
    before = encode(values)
    for value in (Waves, _bounded, _decaying, _Rates):
        monkeypatch.setattr(value, "__module__", "__main__")
    assert encode(values) == before


def test_functions_differ_by_name_and_by_what_they_hold():
    assert _differences(_decaying(1.0), _decaying(1.0)) == []
    assert _differences(_decaying(1.0), _decaying(2.0)) == [
        "x.scale: saved 1.0, here 2.0"
    ]
    (line,) = _differences(_bounded, functools.partial(_bounded))[:1]
    assert line == "x: saved _bounded, here functools.partial"
    other = _copied(_bounded, defaults=(0.2,))
    assert _differences(_bounded, other) == ["x.bound: saved 0.1, here 0.2"]
    # Numbers in arrays too, which parameters may not have.
    for kind in (np.float64, jnp.bfloat16, np.int64, bool):
        one, other = (_tabulated(np.asarray([1, x, 0], kind)) for x in (1, 0))
        assert _differences(one, one) == []
        (line,) = _differences(one, other)
        assert line.startswith("x.rates[1]: saved ")
    one, other = (_tabulated(jnp.asarray([1.0, x])) for x in (2.0, 3.0))
    assert _differences(one, other) == ["x.rates[1]: saved 2.0, here 3.0"]


def _copied(function, *, code=None, defaults=None):
    return types.FunctionType(
        code or function.__code__,
        function.__globals__,
        function.__name__,
        defaults or function.__defaults__,
        function.__closure__,
    )


def test_code_is_not_compared_but_named():
    """A corrected docstring, or another Python, is no other setting."""
    other = _copied(_bounded, code=(lambda step, bound: bound / 7).__code__)
    other.__qualname__ = _bounded.__qualname__
    assert _differences(_bounded, other) == []
    assert uncompared(encode(eqs.Spring(_bounded)), "x") == [
        "x.learning_rate (the code of _bounded)"
    ]
    # The code of libraries is theirs.
    adam = optax.adam(optax.cosine_decay_schedule(0.1, 10))
    assert uncompared(encode(adam), "x") == []
    inside = optax.adam(_decaying(0.1))
    (found,) = uncompared(encode(inside), "x")
    assert found.endswith("(the code of _decaying.<locals>.<lambda>)")


def test_bound_methods():
    """By what they belong to: modules, classes of the library, other objects."""
    one, other = (hydrogen(twist=(t, 0, 0)).matches for t in (0, 0.5))
    assert _differences(one, hydrogen().matches) == []
    (line,) = _differences(one, other)
    assert line == "x.__self__._twist[0]: saved 0.0, here 0.5"
    assert encode(eqs.SpaceGroup.of) == {
        "function": "eqsym.SpaceGroup.of",
        "holds": {"self": {"name": "eqsym.SpaceGroup"}},
    }
    assert uncompared(encode(_Rates().rate), "x") == [
        "x (the code of _Rates.rate)",
        "x.self (the code of _Rates)",
    ]


def test_optax_settings_differ():
    one, other = optax.adam(1e-2), optax.adam(1e-3)
    # Moves inside a library are none of our business.
    assert "optax._src" not in dumps(encode((one, one.init({"x": jnp.zeros(2)}))))
    assert _differences(one, optax.adam(1e-2)) == []
    (line,) = _differences(one, other)
    assert line.endswith("saved -0.01, here -0.001") or "0.01, here" in line
    assert _differences(one, optax.adam(1e-2, b1=0.8))
    assert _differences(one, optax.chain(optax.clip(1.0), optax.adam(1e-2)))
    cosine = optax.cosine_decay_schedule(0.1, 100)
    assert _differences(eqs.Spring(cosine), eqs.Spring(cosine)) == []
    longer = optax.cosine_decay_schedule(0.1, 200)
    assert _differences(eqs.Spring(cosine), eqs.Spring(longer))


class _Slotted:
    __slots__ = ("__secret", "depth", "missing")

    def __init__(self, depth, secret=0):
        self.depth, self.__secret = depth, secret


class _Silent(_Rates):
    def __repr__(self):
        return "Silent"


def _wrapped(depth):
    """A decorator that holds something."""
    return functools.update_wrapper(_Rates(depth=depth), _bounded)


def _wrapped_function(depth, inside=_bounded):
    @functools.wraps(inside)
    def wrapper(step):
        return depth * inside(step)

    return wrapper


def _with_attribute(depth):
    function = _copied(_bounded)
    function.depth = depth
    return function


class _Called(_Rates):
    def __call__(self, step):
        return step


@pytest.mark.parametrize(
    "made",
    [
        lambda depth: _Rates(depth=depth),
        lambda depth: _Rates(inner={(0, 1): [_Rates(depth=depth)]}),
        lambda depth: _Called(depth=jnp.asarray([depth, 1.0])),
        lambda depth: _Silent(depth=frozenset({"a", depth})),
        lambda depth: _Slotted(depth),
        lambda depth: _Slotted(0.0, depth),
        lambda depth: _tabulated([np.asarray([depth])]),
        lambda depth: _tabulated(waves(a=(depth, 0, 0))),
        lambda depth: _tabulated(jax.random.key(int(depth))),
        lambda depth: _tabulated(dict.fromkeys([depth, (0, 1)])),
        # Of a library.
        lambda depth: CubicSpline(np.arange(4), depth * np.arange(4) ** 3),
        _wrapped,
        _wrapped_function,
        lambda depth: jax.jit(_wrapped_function(1.0, _wrapped_function(depth))),
        lambda depth: _Rates(depth=depth).rate,
        _with_attribute,
    ],
)
def test_objects_are_compared_by_what_they_hold(made):
    one, same, other = ({"rate": made(depth)} for depth in (0.5, 0.5, 5.0))
    assert _differences(one, same) == []
    assert _differences(one, other)


def test_what_is_asked_of_an_object_changes_nothing():
    asked, other = _Called(), _Called()
    assert asked.asked == 1 and "asked" in vars(asked)
    assert encode(asked) == encode(other)
    assert uncompared(encode(asked), "x") == ["x (the code of _Called)"]


def test_large_arrays_of_functions_are_named():
    held = uncompared(encode(_tabulated({"a": np.zeros(2000)})), "x")
    assert held[1:] == ["x.rates['a']"]


def test_what_cannot_be_compared_is_named():
    tree = {"a": object(), "b": eqs.Spring(0.1), "c": [object()]}
    assert uncompared(encode(tree), "x") == ["x['a']", "x['c'][0]"]
    # What has a text of its own is compared by it.
    assert uncompared(encode({"a": np.dtype("f4")}), "x") == []
    assert len(_differences({"a": np.dtype("f4")}, {"a": np.dtype("f8")})) == 1
    assert _differences(tree, tree | {"a": object()}) == []


def test_pretty():
    value = {"a": [[1.5, -2]] * 20, "e": {"f": [None, True]}, "g": [{}], "h": "x" * 99}
    assert json.loads(pretty(value)) == value
    lines = pretty(value).splitlines()
    assert "    [1.5, -2]," in lines and '  "e": {"f": [null, true]},' in lines

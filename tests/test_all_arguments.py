"""Every argument of everything public, with values of the wrong kind: one line that
names the argument, wherever it was made for, and not an error from inside."""

import functools
import inspect
import types
import typing
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import AbstractArray

import eqsym as eqs
from eqsym._core import kinds


# Made by eqsym, or returned by methods of one's own while JAX traces them.
_RESULTS = {
    *("Batch", "Cost", "Estimate", "Evaluation", "Irrep", "LocalEnergy", "LogPsi"),
    *("MeanField", "Orbit", "PostHoc", "RunResult", "Scores", "Sectors", "Statistics"),
    *("TranslationScan", "VMCState"),
}
# What these are given is any tree.
_TREES = {"combine", "partition", "replicate"}


@functools.cache
def _objects():
    """One of each kind, as cheap as they come."""
    o = types.SimpleNamespace(key=jax.random.key(0))
    o.crystal = eqs.Crystal.hydrogen_chain(spacing=1.8, vacuum=20.0, unit="bohr")
    o.mean_field = eqs.MeanField.solve(o.crystal, basis="sto-3g", progress=False)
    o.group = eqs.SpaceGroup.of(o.crystal)
    o.inversion = eqs.SpaceGroup.from_number(o.crystal, 2)
    o.domain = eqs.FundamentalDomain.of(o.group)
    o.average = eqs.GroupAverage(o.group)
    o.net = eqs.SolidNet(
        o.crystal,
        o.mean_field.occupation,
        widths=[(4, 2)],
        determinants=1,
        key=o.key,
    )
    o.hamiltonian = eqs.Hamiltonian(o.crystal)
    o.valence = eqs.Crystal.hydrogen_chain(
        spacing=1.8, vacuum=20.0, unit="bohr", pseudopotential="ccecp"
    )
    o.walkers = eqs.initial_walkers(o.crystal, 2, key=o.key)
    o.chains = eqs.Chains(o.walkers, key=o.key, steps=2)
    o.vmc = eqs.VMC(o.hamiltonian, eqs.Metropolis(2), eqs.Spring())
    o.state = o.vmc.init(o.net, o.walkers, key=o.key, check=False)
    one = eqs.Estimate(-1.0, 0.1)
    o.evaluation = eqs.Evaluation(one, None, one, one, one, None, 4, 0)
    o.scan = eqs.TranslationScan(
        np.zeros((2, 2)), None, np.zeros(3), np.eye(3)[:2] * 4.0
    )
    o.density = eqs.Density(o.crystal, (2, 2, 2))
    names = ("energy", "variance", "acceptance", "hop_acceptance")
    o.history = {name: np.ones(8) for name in (*names, "exchange_acceptance", "step")}
    return o


def _calls(o):
    """For everything public one good value of each argument."""
    crystal = dict(crystal=o.crystal)
    group, wave = dict(group=o.group), dict(wavefunction=o.net)
    network = crystal | dict(
        occupation=o.mean_field.occupation,
        determinants=1,
        full_determinant=True,
        features=eqs.TriFeatures(),
        real=True,
        key=o.key,
    )
    cell = dict(a=4.0, unit="angstrom")
    table = dict(axes=np.eye(3, dtype=int), frac_origin=(0, 0, 0))
    estimate = wave | dict(hamiltonian=o.hamiltonian, chains=o.chains, path="x")
    points = dict(orbit_points=2, local_energies=1)
    place = dict(origin=(0, 0, 0), points=3)
    sides = dict(vectors=np.eye(3)[:2])
    density = dict(spins=(1, 0), supercell=True)
    vacuum = dict(vacuum=(1, 2))
    canonical = dict(domain=o.domain, eps=0.1, smoothing=eqs.SmoothStep())
    optimizer = dict(learning_rate=0.1, damping=1e-3, norm_bound=0.1, chunk=2)
    one = dict(electrons=o.walkers[0])
    places = dict(walkers=o.walkers, key=o.key)
    quadrature = eqs.SphericalQuadrature(6)
    operations = one | dict(operations=jnp.zeros(1, int))
    return {
        "AugmentedTraining": group
        | dict(copies=1, replace=True, weighted=True, chunk=2),
        "Canonicalization": canonical | dict(max_terms=2),
        "Chains": dict(
            walkers=o.walkers,
            key=o.key,
            steps=2,
            burn_in=2,
            sampler=eqs.Metropolis(),
            chunk=2,
            progress=False,
        ),
        "Crystal": dict(
            lattice=4 * np.eye(3),
            species=["H"],
            unit="bohr",
            cart_positions=None,
            frac_positions=[[0, 0, 0]],
            supercell=1,
            charge=0,
            spin=1,
            twist=(0, 0, 0),
            vacuum=(),
            pseudopotential=None,
        ),
        "Crystal.bcc": dict(element="Li") | cell,
        "Crystal.diamond": dict(element="C") | cell,
        "Crystal.fcc": dict(element="Al") | cell,
        "Crystal.from_ase": dict(atoms=None),
        "Crystal.from_pyscf": dict(cell=None),
        "Crystal.graphene": dict(vacuum=20.0) | cell,
        "Crystal.hydrogen_chain": dict(spacing=1.8, vacuum=20.0, atoms=2, unit="bohr"),
        "Crystal.rock_salt": dict(cation="Li", anion="H") | cell,
        "Crystal.zinc_blende": dict(cation="B", anion="N") | cell,
        "Crystal.symmetrized": dict(symprec=1e-3),
        "Crystal.primitive": dict(keep_cell=True),
        "Crystal.matches": dict(other=o.crystal),
        "Crystal.difference": dict(other=o.crystal, electrons=True),
        "Density": crystal | dict(shape=(2, 2, 2)) | density,
        "Density.for_group": group | dict(spacing=2.0) | density,
        "EffectiveCorePotential": dict(
            element="Li", core=2, terms=[(-1, 2, 1.0, 1.0)], name="own"
        ),
        "Ewald": crystal | dict(alpha=1.0, precision=1e-5),
        "Ewald.__call__": one,
        "ForwardLaplacian": {},
        "FourierDensity": crystal | dict(max_q=2.0),
        "FundamentalDomain": dict(group=o.inversion, point=(0.1, 0.2, 0.3)),
        "FundamentalDomain.of": group | dict(point=None),
        "GroupAverage": group,
        "Hamiltonian": dict(
            crystal=o.valence,
            kinetic=eqs.HessianLaplacian(),
            alpha=1.0,
            quadrature=quadrature,
        ),
        "AttentionNet": network
        | dict(width=4, layers=1, heads=2, pair_width=2)
        | dict(layer_norm=True, split=True),
        "BlochOrbitals": network | dict(width=2),
        "Jastrow": wave | dict(ranges=(1.0, 1.0)),
        "Jastrow.__call__": one,
        "transfer": wave | crystal | dict(mean_field=o.mean_field, key=o.key),
        "HartreeFock": dict(mean_field=o.mean_field, real=False),
        "HessianLaplacian": {},
        "InverseDecay": dict(start=0.1, delay=10.0),
        "IrrepProjection": group | dict(irrep=eqs.irreps(o.group)[0], row=0),
        "Kfac": optimizer | dict(decay=0.9),
        "Lattice": dict(vectors=np.eye(3)),
        "Lattice.points_within": dict(radius=1.0),
        "MeanField.load": dict(path="x"),
        "MeanField.orbitals": one | dict(real=False),
        "MeanField.save": dict(path="x"),
        "MeanField.solve": crystal
        | dict(
            basis="sto-3g",
            exp_to_discard=0.1,
            unrestricted=False,
            moments=None,
            smearing=0.01,
            closed_shell=False,
            max_cycles=1,
            path="x",
            progress=False,
        ),
        "Metropolis": dict(moves=2, width=0.1, target=0.5, exchange=0.1, hop=0.1),
        "NuFeatures": {},
        "Occupation": dict(cart_kpoints=(np.zeros((1, 3)), np.zeros((1, 3)))),
        "Optax": dict(transformation=optax.adam(1e-3), chunk=2),
        "PairCorrelation": crystal | dict(bins=2, r_max=1.0, spins=(0, 1)),
        "PlainTraining": {},
        "Polarization": crystal,
        "Pretraining": dict(
            mean_field=o.mean_field,
            steps=2,
            optimizer=optax.adam(1e-3),
            sampler=eqs.Metropolis(2),
        ),
        "Pretraining.init": wave | places,
        "ProjectedTraining": dict(
            projection=o.average, share=0.5, local_energies=2, orbit_points=2, chunk=2
        ),
        "Pseudopotential": dict(crystal=o.valence, quadrature=quadrature),
        "Pseudopotential.__call__": wave | one | dict(key=o.key),
        "RandomCanonicalization": canonical,
        "RandomSubset": group | dict(size=2, replace=True),
        "RandomSubset.draw": dict(key=o.key),
        "SmoothStep": {},
        "SolidNet": network | dict(widths=[(4, 2)]),
        "SolidNet.__call__": one,
        "SpaceGroup": crystal
        | dict(
            frac_rotations=[np.eye(3)],
            frac_translations=[[0, 0, 0]],
            tolerance=1e-4,
            modulo_supercell=False,
        )
        | vacuum,
        "SpaceGroup.of": crystal | dict(symprec=1e-5, min_vacuum=5.0) | vacuum,
        "SpaceGroup.from_hall_number": crystal | dict(hall_number=2) | table,
        "SpaceGroup.from_number": crystal | dict(number=2) | table,
        "SpaceGroup.layer_group": crystal | dict(number=2) | table,
        "SpaceGroup.plane_group": crystal | dict(group=2) | table,
        "SpaceGroup.subgroup": dict(operations=[0]),
        "SpaceGroup.generated_by": dict(operations=[1]),
        "SpaceGroup.point_part": dict(frac_origin=(0, 0, 0)),
        "SpaceGroup.check_crystal": crystal,
        "SpaceGroup.apply": operations,
        "SpaceGroup.apply_inverse": operations,
        "SphericalQuadrature": dict(points=6, random=True, cutoff=1e-4, amplitudes=2),
        "SplineStep": {},
        "Spring": optimizer | dict(momentum=0.9),
        "Spring.min_sr": dict(learning_rate=0.1),
        "StructureFactor": crystal | dict(max_q=2.0),
        "Symmetrized": wave | dict(symmetrizer=o.average, operation_chunk=2),
        "Symmetrized.__call__": one,
        "SymmetrizedOrbitals": wave | dict(symmetrizer=o.average, average_phases=True),
        "SymmetrizedTraining": dict(symmetrizer=o.average, form=eqs.Symmetrized),
        "TriFeatures": {},
        "VMC": dict(
            hamiltonian=o.hamiltonian,
            sampler=eqs.Metropolis(),
            optimizer=eqs.Spring(),
            strategy=eqs.PlainTraining(),
            clip=5.0,
            chunk=2,
        ),
        "VMC.adopt": dict(state=o.state, key=o.key),
        "VMC.check": wave | places,
        "VMC.equilibrate": dict(state=o.state),
        "VMC.init": wave | places | dict(check=False),
        "VMC.step": dict(state=o.state),
        "character_table": group,
        "check_wavefunction": wave
        | places
        | dict(derivatives=False, kinetic=eqs.HessianLaplacian()),
        "checkpoint.keep_compiled": {},
        "checkpoint.latest": dict(folder="x"),
        "checkpoint.restore": dict(folder="x", step=1, like={}, settings=None),
        "checkpoint.save": dict(folder="x", step=1, state={}, settings=None, keep=()),
        "closed_shell_twists": crystal
        | dict(
            mesh=(1, 1, 1),
            shift=(0, 0, 0),
            basis="sto-3g",
            exp_to_discard=0.1,
            symprec=1e-5,
        )
        | vacuum,
        "device_mesh": dict(operations=1, devices=1),
        "evaluate": estimate | dict(symmetrizer=o.average),
        "gradient_noise": dict(
            vmc=o.vmc,
            state=o.state,
            key=o.key,
            repeats=3,
            spacing=1,
            burn_in=1,
            progress=False,
        ),
        "initial_walkers": crystal | dict(count=2, key=o.key, spread=1.0),
        "irreducible_twists": crystal
        | dict(mesh=(1, 1, 1), shift=(0, 0, 0), symprec=1e-5)
        | vacuum,
        "irreps": group,
        "load_run": dict(path="x", wavefunction=None),
        "observe": wave
        | group
        | dict(observables={"density": o.density}, chains=o.chains, path="x"),
        "observe_post_hoc": wave
        | group
        | dict(observables={"density": o.density}, chains=o.chains, path="x"),
        "plot.densities": dict(density=o.density, observed={}) | sides | place,
        "plot.group": crystal | group | dict(domain=o.domain, layer=False),
        "plot.scans": dict(scans={"a": o.scan}, domain=o.domain, difference=False),
        "plot.sectors": dict(sectors=None),
        "plot.training": dict(history=o.history, window=2, references={"a": 1.0}),
        "post_hoc": estimate | group | points,
        "run": wave
        | dict(
            vmc=o.vmc,
            steps=1,
            walkers=2,
            key=o.key,
            state=None,
            pretraining=None,
            burn_in=1,
            stages=(),
            path="x",
            checkpoint_every=1,
            changed_settings=False,
            mesh=None,
            callback=None,
            figure=None,
            progress=False,
        ),
        "sectors": estimate | group | points,
        "shard_walkers": dict(walkers=o.walkers, mesh=eqs.device_mesh()),
        "symmetry_elements": group,
        "symmetry_ratio": wave | one | dict(symmetrizer=o.average, operation_chunk=2),
        "table": dict(rows={"a": o.evaluation}),
        "translation_scan": wave
        | one
        | sides
        | place
        | dict(hamiltonian=o.hamiltonian, key=o.key, chunk=2, progress=False),
        "twist_average": dict(evaluations=[o.evaluation], weights=[1.0]),
    }


# Methods, and the objects they are called of.
_METHODS = {
    "Crystal": "symmetrized primitive matches difference",
    "Ewald": "__call__",
    "Lattice": "points_within",
    "MeanField": "orbitals save",
    "Pretraining": "init",
    "Pseudopotential": "__call__",
    "RandomSubset": "draw",
    "Jastrow": "__call__",
    "SolidNet": "__call__",
    "SpaceGroup": (
        "subgroup generated_by point_part check_crystal apply apply_inverse"
    ),
    "Symmetrized": "__call__",
    "VMC": "adopt check equilibrate init step",
}
_OWNERS = {
    "Crystal": "crystal",
    "Ewald": lambda o: o.hamiltonian.ewald,
    "Lattice": lambda o: o.crystal.lattice,
    "MeanField": "mean_field",
    "Pretraining": lambda o: eqs.Pretraining(o.mean_field, 2),
    "Pseudopotential": lambda o: eqs.Hamiltonian(o.valence).pseudopotential,
    "RandomSubset": lambda o: eqs.RandomSubset(o.group, 2),
    "Jastrow": lambda o: eqs.Jastrow(o.net),
    "SolidNet": "net",
    "SpaceGroup": "group",
    "Symmetrized": lambda o: eqs.Symmetrized(o.net, o.average),
    "VMC": "vmc",
}


def _public():
    """All that must be in the table."""
    found = set()
    for name in eqs.__all__:
        value = getattr(eqs, name)
        if inspect.ismodule(value):
            found |= {f"{name}.{inner}" for inner in value.__all__}
        elif not inspect.isclass(value):
            found.add(name)
        elif not (inspect.isabstract(value) or name.startswith("Abstract")):
            found.add(name)
            found |= {
                f"{name}.{inner}"
                for inner, method in vars(value).items()
                if isinstance(method, classmethod) and inner[0] != "_"
            }
    return found - _RESULTS - _TREES


def _called(name):
    holder, _, method = name.partition(".")
    value = getattr(eqs, holder)
    if not method:
        return value
    function = getattr(value, method)
    if inspect.isclass(value) and not inspect.ismethod(function):
        owner = _OWNERS[holder]
        o = _objects()
        owner = getattr(o, owner) if isinstance(owner, str) else owner(o)
        return functools.partial(function, owner)
    return function


_NAMES = sorted(
    _public()
    | {f"{one}.{name}" for one, names in _METHODS.items() for name in names.split()}
)
# Given nothing to refuse they would sample, train, solve, compile or draw.
_COSTLY = {
    *("Ewald.__call__", "MeanField.orbitals", "SolidNet.__call__", "symmetry_ratio"),
    *("Jastrow.__call__",),
    *("Symmetrized.__call__", "Pseudopotential.__call__"),
    *("check_wavefunction", "evaluate", "gradient_noise", "observe", "post_hoc", "run"),
    *("observe_post_hoc", "sectors", "translation_scan", "MeanField.solve"),
    *("Pretraining.init", "VMC.check", "VMC.equilibrate", "VMC.init", "VMC.step"),
    *("SymmetrizedOrbitals", "plot.densities", "plot.group", "plot.scans"),
    *("plot.sectors", "plot.training", "checkpoint.keep_compiled"),
}
# Whose good value is a place or an object that is not there.
_ABSENT = {
    *("Crystal.from_ase", "Crystal.from_pyscf", "MeanField.load", "MeanField.save"),
    *("checkpoint.restore", "checkpoint.save", "load_run"),
}


# Arguments that are checked as others are.
_NAMED_AS = {"lattice": "vectors", "frac_positions": "cart_positions"}


def _members(kind):
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def _values(kind, good):
    """Wrong values, and whether each of them has to be refused."""
    members = _members(kind)
    numbers = {int, float, np.integer} & set(members)
    known = all(
        one is not typing.Any and typing.get_origin(one) is not typing.Annotated
        for one in members
    )
    array = any(inspect.isclass(m) and issubclass(m, AbstractArray) for m in members)
    tree = any(getattr(one, "__module__", "") == "jaxtyping" for one in members)
    known = known and (array or not tree)
    strategy = eqs.AbstractStrategy in members
    other = _objects().crystal if strategy else eqs.PlainTraining()
    calls = any(typing.get_origin(one) is Callable for one in members)
    if not calls:
        yield type(good) if isinstance(good, eqx.Module) else type(other), known
    yield other, known
    if str not in members:
        yield "wrong", known
    if types.NoneType not in members:
        yield None, known
    if float not in members:
        yield 1.5, known
    if bool not in members:
        yield True, known
    if not numbers:
        yield 3, known


def _is_clear(error, argument):
    names = (argument, _NAMED_AS.get(argument, argument))
    named = any(f"`{name}" in str(error) for name in names) and "\n" not in str(error)
    kind = isinstance(error, (TypeError, ValueError))
    return kind and named or isinstance(error, FileNotFoundError)


def test_nothing_public_is_missing():
    assert sorted(_calls(_objects())) == _NAMES
    for name in _NAMES:
        parameters = inspect.signature(_called(name)).parameters.values()
        named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        assert set(_calls(_objects())[name]) == set(named), name


@pytest.mark.parametrize("name", sorted({*_NAMES} - _COSTLY - _ABSENT))
def test_good_values_are_taken(name, unchecked):
    _called(name)(**_calls(_objects())[name])


@pytest.mark.parametrize("name", _NAMES)
def test_wrong_kinds_are_refused(name, unchecked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, good = _called(name), _calls(_objects())[name]
    wrong = []
    for argument, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for value, refused in _values(parameter.annotation, good[argument]):
            if not refused and name in _COSTLY | {"checkpoint.restore"}:
                continue
            shown = f"{argument}={value!r}"[:60]
            try:
                function(**good | {argument: value})
            except Exception as error:
                if not _is_clear(error, argument):
                    wrong.append(f"{shown}: {type(error).__name__} {error}")
            else:
                if refused:
                    wrong.append(f"{shown}: nothing")
    assert not wrong, "\n".join(wrong)


def _inside(kind):
    """Names of the classes in an annotation."""
    parts = typing.get_args(kind)
    yield getattr(kind, "__name__", "")
    for part in parts if isinstance(parts, tuple) else ():
        yield from _inside(part)


def test_words_are_of_classes_and_arguments_that_are_there():
    functions = map(_called, _NAMES)
    parameters = [
        p for f in functions for p in inspect.signature(f).parameters.values()
    ]
    used = {name for p in parameters for name in _inside(p.annotation)}
    assert set(kinds._WANTED) <= used
    assert set(kinds._REMEDIES) <= used
    assert set(kinds._NAMED) <= {p.name for p in parameters}
    for instead in kinds._REMEDIES.values():
        assert set(instead) <= set(eqs.__all__)

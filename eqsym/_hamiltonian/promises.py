"""What a wave function promises, also of its derivatives."""

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PyTree

from .._core import (
    checked_but,
    combine,
    full_precision,
    Key,
    on_host,
    partition,
    random_key,
    Walkers,
)
from .._wavefunction import AbstractWavefunction, check_values, refuse
from .local_energy import AbstractKinetic, ForwardLaplacian, HessianLaplacian


_logger = logging.getLogger("eqsym")

# Straight lines on which slopes are compared with second derivatives: their lengths, in
# Bohr times a normal number for every coordinate, and parts.
_LENGTH, _PARTS = 0.5, 64
# On a smooth line the difference falls with the square of the parts: it is 16 times
# smaller than in parts four times as long, and still three times if second derivatives
# jump. That of slopes that jump stays, and rounding grows with the number of parts.
_COARSE, _JUMPS = 4, (0.7, 2.5)
# Of the whole change of the slope, and what that is at least, in the size of slope and
# amplitude: less is not told from rounding.
_SHARE, _LEAST = 0.01, 1e-3
# A rule for derivatives that is wrong is so by more than rounding ever is.
_DIFFERENCE = 0.01


@checked_but("wavefunction")
def check_wavefunction(
    wavefunction: AbstractWavefunction,
    *,
    key: Key,
    walkers: Walkers | None = None,
    derivatives: bool = True,
    kinetic: AbstractKinetic | None = None,
) -> None:
    r"""Tries whether a wave function keeps its promises. Samplers, Hamiltonians and
    averages over groups rely on them: a function that is not antisymmetric can have a
    lower energy than any that is, and looks like a success.

    At four configurations: the amplitude is finite at one of them, with a sign of
    modulus 1; it changes its sign when two electrons of the same spin are exchanged; it
    has the phase of the twist, $e^{i k_s \cdot L}$, when one electron moves by a vector
    of the supercell; and the phase of its
    [`eqsym.AbstractWavefunction.crystal_momentum`][], if that is known, when all move
    by a primitive vector. Amplitudes of 0 tell nothing and are left out. And it has no
    arrays of numpy outside of [`eqsym.AbstractFixed`][]: these would be trained.

    Of its derivatives: those by positions and parameters are finite where the amplitude
    is. Along straight lines through the configurations, its slope changes by what the
    second derivative adds up to: slopes that jump, as those of `relu` do, have a
    kinetic energy that no local energy sees. They are found if they make up a hundredth
    of the change of the slope, on most of the lines. And [`eqsym.ForwardLaplacian`][]
    agrees with the second derivatives of JAX.

    [`eqsym.VMC`][] calls this before it trains, without derivatives for functions that
    consist of classes of eqsym alone. It compiles the amplitude, which takes a second
    or two for a network, and its derivatives, which take a few more.

    **Arguments:**

    - `wavefunction`: to try.
    - `key`: seeds small moves of the configurations, so that none is special.
    - `walkers`: where to try it, in Bohr, (walkers, electrons, 3); the first four are
        used, and [`eqsym.initial_walkers`][] by default.
    - `derivatives`: whether to try them too. What JAX cannot differentiate is left to
        the Hamiltonian.
    - `kinetic`: the way to kinetic energies that is compared with
        [`eqsym.HessianLaplacian`][], [`eqsym.ForwardLaplacian`][] by default.

    **Raises:** `ValueError` that says what fails, and by how much.
    """
    places = check_values(wavefunction, key=key, walkers=walkers)
    if derivatives:
        key = jax.random.fold_in(random_key(key), 1)
        directions = np.asarray(jax.random.normal(key, places.shape, places.dtype))
        kinetic = ForwardLaplacian() if kinetic is None else kinetic
        refuse(wavefunction, [*_failures(wavefunction, kinetic, places, directions)])


def _failures(
    wavefunction: AbstractWavefunction,
    kinetic: AbstractKinetic,
    places: Float[np.ndarray, "configurations electrons 3"],
    directions: Float[np.ndarray, "configurations electrons 3"],
) -> Iterator[str]:
    lines = _tried("positions", _logarithms, wavefunction, places, directions)
    present = np.ones(len(places), bool)
    if lines is not None:
        psi, first, second = _amplitudes(*lines)
        derived = np.isfinite(first) & np.isfinite(second)
        if np.any(np.isfinite(psi) & ~derived):
            yield _NOT_FINITE.format("positions of the electrons")
            return
        present = np.isfinite(psi[:, 0])
        share = _jumps(psi, first, second)
        if share > _SHARE:
            yield (
                f"Its slope jumps: along straight lines, jumps make up {share:.0%} of "
                "all that it changes. No local energy sees that part of the kinetic "
                "energy, so energies would be wrong. Take `jnp.tanh`, `jax.nn.silu` or "
                "another smooth function in place of `relu` (which `eqx.nn.MLP` has by "
                "default), absolute values, maxima and distances to the nearest image."
            )
    finite = _tried("parameters", _by_parameters, wavefunction, places)
    named = jax.tree_util.tree_leaves_with_path({} if finite is None else finite)
    wrong = [
        f"`wavefunction{jax.tree_util.keystr(path)}`"
        for path, good in named
        if np.any(present & ~good)
    ]
    if wrong:
        more = " and others" if len(wrong) > 3 else ""
        yield _NOT_FINITE.format(f"parameters {', '.join(wrong[:3])}{more}")
    elif lines is not None:
        yield from _differences(wavefunction, kinetic, places)


_NOT_FINITE = (
    "Its derivatives by the {} are not finite where its amplitude is. The usual reason "
    "is a root of 0, as in `jnp.linalg.norm` of the displacement of an electron from "
    "itself. Leave these pairs out, or replace the 0 before the root is taken: "
    "`jnp.sqrt(jnp.where(square > 0, square, 1.0))`; `jnp.where` after it does not "
    "help. The distances of `eqs.TriFeatures` are safe."
)


def _tried(by: str, function: Callable[..., Any], *args: Any) -> Any:
    """The result on the host, or `None` if JAX cannot differentiate."""
    try:
        return jax.tree.map(lambda x: np.asarray(on_host(x)), function(*args))
    except (NotImplementedError, TypeError, ValueError) as error:
        _logger.info("Derivatives by %s are not checked: %s", by, error)
        return None


def _amplitudes(
    sign: np.ndarray, *logs: Float[np.ndarray, "lines points parts"]
) -> tuple[Complex[np.ndarray, "lines points"], ...]:
    """The amplitude on a line from each configuration, up to a factor, and its first
    two derivatives, from what `_logarithms` returns. Not finite if it is zero there."""
    with np.errstate(all="ignore"):
        log, first, second = (
            x[..., 0] + (1j * x[..., 1] if x.shape[-1] > 1 else 0j)
            for x in (np.asarray(x, np.float64) for x in logs)
        )
        known = np.isfinite(log.real) & (np.abs(sign) > 0)
        largest = np.max(log.real, axis=1, keepdims=True, where=known, initial=-np.inf)
        psi = np.where(known, sign * np.exp(log.real - largest) + 0j, np.nan)
        return psi, psi * first, psi * (second + first**2)


@eqx.filter_jit
@full_precision()
def _logarithms(
    wavefunction: AbstractWavefunction,
    places: Float[Array | np.ndarray, "configurations electrons 3"],
    directions: Float[Array | np.ndarray, "configurations electrons 3"],
) -> tuple[Array, ...]:
    """Signs, and logarithms with the phases of complex functions, in the last axis."""

    def at(start, direction, time):
        def value(t):
            psi = wavefunction(start + t * direction)
            parts = [psi.log] if psi.is_real else [psi.log, psi.phase]
            return jnp.stack(parts), psi.sign

        def slope(t):
            log, first, sign = jax.jvp(value, (t,), (jnp.ones_like(t),), has_aux=True)
            return (log, first), sign

        one = jnp.ones_like(time)
        (log, first), (_, second), sign = jax.jvp(slope, (time,), (one,), has_aux=True)
        return sign, log, first, second

    times = jnp.linspace(0, _LENGTH, _PARTS + 1, dtype=places.dtype)
    line = jax.vmap(at, (None, None, 0))
    # One line after the other, for the memory.
    return jax.lax.map(
        lambda pair: line(pair[0], pair[1], times),
        (jnp.asarray(places), jnp.asarray(directions)),
    )


def _jumps(
    psi: Complex[np.ndarray, "lines points"],
    first: Complex[np.ndarray, "lines points"],
    second: Complex[np.ndarray, "lines points"],
) -> float:
    """The share of jumps in the change of slopes, on half of the lines or more; 0 if
    there are none."""
    rows = np.all(np.isfinite(psi), axis=1)
    psi, first, second = psi[rows], first[rows], second[rows]

    def difference(step: int) -> Float[np.ndarray, " lines"]:
        slopes, curvatures = first[:, ::step], second[:, ::step]
        width = step * _LENGTH / _PARTS
        added = width / 2 * (curvatures[:, 1:] + curvatures[:, :-1])
        return np.sum(np.abs(np.diff(slopes, axis=1) - added), axis=1)

    change = np.sum(np.abs(np.diff(first, axis=1)), axis=1)
    size = np.max(np.abs(first), axis=1) + np.max(np.abs(psi), axis=1)
    clear = change > _LEAST * size
    if np.sum(clear) < 2:
        return 0.0
    fine, coarse = difference(1)[clear], difference(_COARSE)[clear]
    low, high = _JUMPS
    stays = low < np.median(fine / np.maximum(coarse, 1e-300)) < high
    return float(np.median(fine / change[clear])) if stays else 0.0


@eqx.filter_jit
@full_precision()
def _by_parameters(
    wavefunction: AbstractWavefunction,
    places: Float[Array | np.ndarray, "configurations electrons 3"],
) -> PyTree:
    """For each array and configuration, whether the derivative is finite."""
    parameters, rest = partition(wavefunction)

    def value(parameters, electrons):
        psi = combine(parameters, rest)(electrons)
        return psi.log if psi.is_real else psi.log + psi.phase

    found = jax.vmap(jax.grad(value), (None, 0))(parameters, jnp.asarray(places))
    return jax.tree.map(
        lambda x: jnp.all(jnp.isfinite(x).reshape(len(places), -1), axis=1), found
    )


def _differences(
    wavefunction: AbstractWavefunction,
    kinetic: AbstractKinetic,
    places: Float[np.ndarray, "configurations electrons 3"],
) -> Iterator[str]:
    """Between two ways to kinetic energies."""
    if isinstance(kinetic, HessianLaplacian):
        return
    energies = []
    for way in (kinetic, HessianLaplacian()):
        try:
            found = _kinetic_energies(way, wavefunction, places)
        except (NotImplementedError, TypeError, ValueError) as error:
            # Its message says what to do, to whoever uses it.
            _logger.info("Laplacians are not compared: %s", error)
            return
        energies.append(np.asarray(on_host(found)))
    given, reference = energies
    present = np.isfinite(reference)
    if not np.any(present):
        return
    with np.errstate(all="ignore"):
        error = np.abs(given - reference) / (np.abs(given) + np.abs(reference))
    worst = np.median(np.where(np.isfinite(error), error, 1.0)[present])
    if worst > _DIFFERENCE:
        yield (
            f"`{type(kinetic).__name__}` does not agree with the second derivatives of "
            f"JAX: kinetic energies differ by {worst:.0%} of both together, and are "
            f"{given[present][0]:.6g} and {reference[present][0]:.6g} Ha at one "
            "configuration. Use `eqs.Hamiltonian(crystal, "
            "kinetic=eqs.HessianLaplacian())`, and tell us."
        )


@eqx.filter_jit
def _kinetic_energies(
    kinetic: AbstractKinetic,
    wavefunction: AbstractWavefunction,
    places: Float[Array | np.ndarray, "configurations electrons 3"],
) -> Array:
    one = functools.partial(kinetic, wavefunction)
    return jax.lax.map(one, jnp.asarray(places))

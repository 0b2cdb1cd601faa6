"""The promises of a wave function, tried at a few configurations."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from .._core import (
    AbstractFixed,
    checked,
    full_precision,
    Key,
    LogPsi,
    on_host,
    random_key,
    Walkers,
)
from .._crystal import Crystal
from .base import AbstractWavefunction, amplitude
from .walkers import check_walkers, initial_walkers


_CONFIGURATIONS = 4
# In Bohr: walkers may start where an amplitude is 0, or on top of each other.
_JITTER = 0.1
# Deviations that rounding does not explain: in units of what a change of the last bits
# of the electrons' positions does, and at least this, in units of the last bit. A twist
# written with seven digits is as good as its author wanted it.
_NOISE = 30
_LAST_BITS = 1e5
_AT_LEAST = 1e-6


@checked
def check_wavefunction(
    wavefunction: AbstractWavefunction, *, key: Key, walkers: Walkers | None = None
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

    [`eqsym.VMC`][] calls this before it trains. It compiles the amplitude once, which
    takes a second or two for a network.

    **Arguments:**

    - `wavefunction`: to try.
    - `key`: seeds small moves of the configurations, so that none is special.
    - `walkers`: where to try it, in Bohr, (walkers, electrons, 3); the first four are
        used, and [`eqsym.initial_walkers`][] by default.

    **Raises:** `ValueError` that says what fails, and by how much.
    """
    _check_arrays(wavefunction)
    crystal = wavefunction.crystal
    place, move = jax.random.split(random_key(key))
    if walkers is None:
        walkers = initial_walkers(crystal, _CONFIGURATIONS, key=place)
    check_walkers(crystal, walkers)
    electrons = on_host(walkers[:_CONFIGURATIONS])
    psi = _check_types(wavefunction, electrons[0])
    eps = max(float(jnp.finfo(kind).eps) for kind in (electrons.dtype, psi.log.dtype))

    noise = np.asarray(jax.random.normal(move, (3, *electrons.shape), electrons.dtype))
    size = np.max(np.abs(electrons)) + np.max(np.abs(crystal.supercell.vectors))
    places = electrons + _JITTER * noise[0]
    last = 4 * eps * size
    images = [places, places + last * noise[1], places + last * noise[2]]
    tries = [list(_tries(crystal, wavefunction, i)) for i in range(len(places))]
    images += [
        np.stack(
            [x[row.order] + row.shift for x, row in zip(places, rows, strict=True)]
        )
        for rows in zip(*tries, strict=True)
    ]
    # As numpy: of several processes each has all of it.
    batch = np.stack(images).astype(electrons.dtype)
    try:
        psi = _amplitudes(wavefunction, batch)
    except (NotImplementedError, TypeError, ValueError) as error:
        # It could be traced for one configuration.
        raise ValueError(
            f"`wavefunction` ({type(wavefunction).__name__}) must be a function that "
            "`jax.vmap` can evaluate for many configurations; `jax.pure_callback` "
            f'needs `vmap_method="sequential"`, for example. JAX says: {error}'
        ) from error
    sign, log = np.asarray(on_host(psi.sign)), np.asarray(on_host(psi.log), np.float64)
    failures = [*_wrong_signs(sign, log), *_broken(tries, sign, log, eps)]
    if failures:
        raise ValueError(
            f"`wavefunction` ({type(wavefunction).__name__}) does not keep what wave "
            "functions promise, see `AbstractWavefunction`. " + " ".join(failures)
        )


class _Try(NamedTuple):
    """A configuration `x[order] + shift`, and the factor that its amplitude must have;
    in words what was done, and what it shows."""

    order: np.ndarray
    shift: Float[np.ndarray, "electrons 3"]
    factor: complex
    done: str
    shows: str


def _tries(
    crystal: Crystal, wavefunction: AbstractWavefunction, number: int
) -> Iterator[_Try]:
    """Of a configuration with this number: each takes other electrons."""
    n_up, n = crystal.electrons[0], sum(crystal.electrons)
    same, still = np.arange(n), np.zeros((n, 3))
    for start, count, spin in ((0, n_up, "up"), (n_up, n - n_up, "down")):
        if count > 1:
            one = number % count
            other = (one + 1 + number % (count - 1)) % count
            order = same.copy()
            order[[start + one, start + other]] = start + other, start + one
            yield _Try(
                order,
                still,
                -1 + 0j,
                f"two spin-{spin} electrons exchanged",
                "antisymmetry",
            )
    for i, vector in enumerate(crystal.supercell.vectors):
        shift = still.copy()
        shift[(number + i) % n] = vector
        factor = np.exp(2j * np.pi * crystal.twist[i])
        done = f"one electron moved by supercell vector {i}"
        yield _Try(same, shift, factor, done, f"the twist {crystal.twist.tolist()}")
    momentum = wavefunction.crystal_momentum
    if momentum is not None:
        momentum = np.asarray(momentum, dtype=np.float64)
        shows = f"the `crystal_momentum` {momentum.tolist()}"
        for i, vector in enumerate(crystal.lattice.vectors):
            factor = np.exp(1j * momentum @ vector)
            done = f"all electrons moved by lattice vector {i}"
            yield _Try(same, still + vector, factor, done, shows)


@eqx.filter_jit
def _amplitudes(
    wavefunction: AbstractWavefunction,
    images: Float[Array | np.ndarray, "images configurations electrons 3"],
) -> LogPsi:
    return jax.vmap(jax.vmap(functools.partial(amplitude, wavefunction)))(
        jnp.asarray(images)
    )


def _check_arrays(wavefunction: AbstractWavefunction) -> None:
    def is_fixed(node: Any) -> bool:
        return isinstance(node, AbstractFixed)

    leaves = jax.tree_util.tree_leaves_with_path(wavefunction, is_leaf=is_fixed)
    arrays = {
        f"`wavefunction{jax.tree_util.keystr(path)}`": leaf
        for path, leaf in leaves
        if eqx.is_inexact_array(leaf)
    }
    names = [name for name, leaf in arrays.items() if jnp.iscomplexobj(leaf)]
    if names:
        raise ValueError(
            f"{', '.join(names)} must be real, got complex arrays. If they are to be "
            "trained, make them two real arrays, of real and imaginary parts; if not, "
            "hold them in a module derived from `AbstractFixed`."
        )
    names = [name for name, leaf in arrays.items() if not isinstance(leaf, jax.Array)]
    if names:
        raise ValueError(
            f"{', '.join(names)} must be parameters or data, got arrays of numpy, "
            "which would be trained. Make them arrays of `jax.numpy` if they are to be "
            "trained; hold them in a module derived from `AbstractFixed` if not."
        )


def _check_types(
    wavefunction: AbstractWavefunction, electrons: Float[np.ndarray, "electrons 3"]
) -> Any:
    """Shapes and types of the amplitude."""
    with full_precision():
        psi = eqx.filter_eval_shape(
            lambda f, x: f(x), wavefunction, jnp.asarray(electrons)
        )
    fits = isinstance(psi, LogPsi) and all(
        x.shape == () and jnp.issubdtype(x.dtype, kind)
        for x, kind in ((psi.log, jnp.floating), (psi.sign, jnp.inexact))
    )
    if not fits:
        alone = isinstance(psi, jax.ShapeDtypeStruct)
        hint = (
            " For a positive function return `eqs.LogPsi(jnp.ones_like(log), log)`."
            if alone
            else ""
        )
        raise ValueError(
            "`wavefunction` must return a `LogPsi` with a sign and a real logarithm, "
            "one floating-point number each for one configuration, got "
            + (f"an array of shape {psi.shape}." if alone else f"{psi}.")
            + hint
        )
    if jnp.finfo(psi.log.dtype).bits < 32:
        raise ValueError(
            "`wavefunction` must return the logarithm in single or double precision, "
            f"got {psi.log.dtype}, in which samples and local energies would be too "
            "coarse. Convert at its end: `log.astype(electrons.dtype)` after the last "
            "sum, and networks in lower precision only before."
        )
    return psi


def _wrong_signs(
    sign: np.ndarray, log: Float[np.ndarray, "images configurations"]
) -> Iterator[str]:
    finite = np.isfinite(log) & np.isfinite(sign)
    if not np.any(finite[0]):
        found = ", ".join(f"{x:.3g}" for x in log[0])
        yield f"Its amplitude is not finite at any configuration: log|psi| is {found}."
    off = np.abs(np.abs(sign[finite]) - 1)
    if np.any(off > 1e-3):
        yield (
            "Its sign must have the modulus 1, or -1 and 1 for a real one, got "
            f"{sign[finite][np.argmax(off)]:.6g}."
        )


def _broken(
    tries: list[list[_Try]],
    sign: np.ndarray,
    log: Float[np.ndarray, "images configurations"],
    eps: float,
) -> Iterator[str]:
    with np.errstate(invalid="ignore", over="ignore"):
        ratios: Complex[np.ndarray, "images configurations"] = (
            sign * np.conj(sign[0]) * np.exp(log - log[0])
        )
    present = np.isfinite(log) & (np.abs(sign) > 0)
    present &= present[0]
    noise = np.max(np.where(present, np.abs(ratios - 1), 0)[1:3], axis=0)
    least = max(_AT_LEAST, _LAST_BITS * eps)
    bounds = least + _NOISE * noise
    for row, (ratio, there) in enumerate(zip(ratios[3:], present[3:], strict=True)):
        if not np.any(there):
            if np.any(present[0]):
                yield (
                    f"With {tries[0][row].done}, its amplitude is not finite or 0, and "
                    "was not before."
                )
            continue
        off = np.abs(ratio - [case[row].factor for case in tries])
        worst = np.argmax(np.where(there, off / bounds, 0))
        if off[worst] > bounds[worst]:
            case = tries[worst][row]
            expected, found = (_number(complex(x)) for x in (case.factor, ratio[worst]))
            yield (
                f"With {case.done}, it must be multiplied by {expected} "
                f"({case.shows}), got {found}."
            )


def _number(value: complex) -> str:
    if abs(value.imag) < 1e-6 * abs(value):
        return f"{value.real:.6g}"
    return f"{value:.6g}"

"""The density and the local energy along translations of all electrons."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._core import (
    AbstractSummarized,
    check_chunk,
    checked_but,
    chunked_vmap,
    Electrons,
    full_precision,
    Integer,
    Key,
    Numbers,
    progress_bar,
    random_key,
    whole_number,
)
from .._crystal import check_electrons
from .._hamiltonian import AbstractHamiltonian, check_crystals
from .._wavefunction import AbstractWavefunction, amplitude
from .arguments import check_kinds


class TranslationScan(AbstractSummarized):
    r"""$\log |\psi|^2$, and maybe the local energy, when all electrons are moved at
    once over a parallelogram; see [`eqsym.translation_scan`][].

    - `log_density`: (points, points); first axis along the first vector.
    - `local_energy`: its real part in Hartree per primitive cell, of the same shape;
        `None` without a Hamiltonian.
    - `origin`: the translation at the first corner of the parallelogram in Bohr.
    - `vectors`: the two sides of the parallelogram in Bohr.
    """

    log_density: Float[np.ndarray, "points points"]
    local_energy: Float[np.ndarray, "points points"] | None
    origin: Float[np.ndarray, "3"]
    vectors: Float[np.ndarray, "2 3"]

    def _summary(self) -> str:
        energies = "out" if self.local_energy is None else ""
        points = " x ".join(map(str, self.log_density.shape))
        return f"{points} points, with{energies} local energies"


@checked_but("wavefunction", "electrons", "hamiltonian")
def translation_scan(
    wavefunction: AbstractWavefunction,
    electrons: Electrons,
    vectors: Numbers,
    *,
    origin: Numbers = (0.0, 0.0, 0.0),
    points: Integer = 61,
    hamiltonian: AbstractHamiltonian | None = None,
    key: Key | None = None,
    chunk: Integer | None = None,
    progress: bool | None = None,
) -> TranslationScan:
    r"""Shows the symmetry of a wave function in a picture, or the lack of it: evaluates
    $\log |\psi(x + t)|^2$, and the local energy, for translations t of all electrons.

    If x is invariant under operations up to exchanges of electrons of one spin,
    $g x = \pi x$ with $g = (R, \cdot)$, an invariant wave function has
    $|\psi(x + R t)| = |\psi(x + t)|$: a picture with the symmetry of the crystal.

    **Arguments:**

    - `wavefunction`: the wave function.
    - `electrons`: the configuration x in Bohr, (electrons, 3).
    - `vectors`: (2, 3), the sides of the parallelogram of translations in Bohr.
    - `origin`: its first corner in Bohr. Off a plane of nuclei, no electron meets one.
    - `points`: along each side, both ends included.
    - `hamiltonian`: for the local energy, if wanted.
    - `key`: for a local energy that is random, see [`eqsym.AbstractHamiltonian`][]: the
        same one for all translations, so that the picture shows no noise.
    - `chunk`: points evaluated at a time, one line by default.
    - `progress`: whether to show a progress bar; by default in terminals and notebooks.

    **Returns:**

    The values, [`eqsym.TranslationScan`][].

    **Raises:** `ValueError` for a Hamiltonian of another crystal, and electrons of
    another shape.
    """
    check_kinds(
        optional=("hamiltonian",), wavefunction=wavefunction, hamiltonian=hamiltonian
    )
    if hamiltonian is not None:
        check_crystals(wavefunction, hamiltonian)
    check_electrons(sum(wavefunction.crystal.electrons), electrons)
    key = None if key is None else random_key(key)
    points, chunk = whole_number("points", points, 2), check_chunk(chunk)
    vectors = np.asarray(vectors, dtype=np.float64)
    start = np.asarray(origin, dtype=np.float64)
    along = np.linspace(0, 1, points)
    grid = along[:, None, None] * vectors[0] + along[None, :, None] * vectors[1]

    @eqx.filter_jit
    @full_precision()
    def line(wavefunction, hamiltonian, shifts):
        def at(shift):
            moved = electrons + shift[None]
            log = 2 * amplitude(wavefunction, moved).log
            if hamiltonian is None:
                return log, None
            found = hamiltonian.local_energy(wavefunction, moved, key=key)
            return log, found.total.real

        return chunked_vmap(at, shifts, chunk)

    rows = []
    compiled = "a line of the scan"
    with progress_bar("Scanning", points, progress, compiled=compiled) as bar:
        for shifts in start + grid:
            shifts = jnp.asarray(shifts, electrons.dtype)
            rows.append(jax.device_get(line(wavefunction, hamiltonian, shifts)))
            bar.say("")
            bar.update()
    density = np.array([row[0] for row in rows], dtype=np.float64)
    energy = None
    if hamiltonian is not None:
        energy = np.array([row[1] for row in rows], dtype=np.float64)
        energy = energy / wavefunction.crystal.cells
    return TranslationScan(density, energy, start, vectors)

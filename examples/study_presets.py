"""The crystals of `study.py`, and the sizes of networks and runs."""

import functools
from typing import Any, NamedTuple

import numpy as np

import eqsym as eqs


class Preset(NamedTuple):
    """A crystal, and the size of network and runs."""

    crystal: eqs.Crystal
    # Of the scans: where electrons of one spin are, in fractions of a frame, and the
    # sides of the parallelogram; frame and sides as rows in Bohr.
    sites: Any
    frame: Any
    sides: Any
    widths: tuple[tuple[int, int], ...]
    determinants: int
    strategies: tuple[str, ...]
    evaluations: int  # of the network's local energy, in a step
    subset: int  # operations of a random subset, and copies of augmentation
    terms: int  # of smoothed canonicalization in training; others are dropped
    moves: int
    pretraining_steps: int
    steps: int
    checkpoints: int  # at equal distances, where noise and energies are measured
    repeats: int  # batches for the noise
    walkers: int  # of evaluations
    evaluation_steps: int
    canonical_walkers: int  # of evaluations of canonicalized functions
    points: int  # of a scan, along each side
    chunk: int  # evaluations of the network at a time
    basis: str = "cc-pvdz"  # of the mean field
    burn_in: int = 20  # steps of the sampler before noise and energies are measured
    optimizer: str = "spring"


ALL = ("OG", "DA", "GA, subset", "GA", "SC")
LIH = functools.partial(eqs.Crystal.rock_salt, "Li", "H", a=4.02, unit="angstrom")
LIH_EDGE = 4.02 / 0.529177210903
GRAPHENE = eqs.Crystal.graphene(a=2.4612, vacuum=50 * 0.529177210903, unit="angstrom")
LITHIUM_EDGE = 3.426817894 / 0.529177210903
LARGE: dict[str, Any] = {
    "widths": ((256, 32),) * 3,
    "determinants": 8,
    "evaluations": 1000,
    "subset": 12,
    "terms": 24,
    "moves": 20,
    "pretraining_steps": 1000,
    "steps": 10_000,
    "checkpoints": 5,
    "repeats": 50,
    "walkers": 1000,
    "evaluation_steps": 50,
    "canonical_walkers": 200,
    "points": 60,
    "chunk": 500,
}
PRESETS = {
    "lih": Preset(
        crystal=LIH(),
        sites=[[0, 0, 0], [0.5, 0.5, 0.5]],
        frame=LIH().lattice.vectors,
        sides=LIH_EDGE * np.eye(3)[:2],
        widths=((64, 16),) * 3,
        determinants=4,
        strategies=ALL,
        evaluations=256,
        subset=4,
        terms=32,
        moves=10,
        pretraining_steps=200,
        steps=400,
        checkpoints=2,
        repeats=20,
        walkers=256,
        evaluation_steps=40,
        canonical_walkers=64,
        points=36,
        chunk=64,
    ),
    "graphene": Preset(
        crystal=GRAPHENE,
        # Both atoms, the three bonds, and the middle of the hexagon.
        sites=np.array([[2, 4], [4, 2], [3, 0], [0, 3], [3, 3], [0, 0]])
        @ np.eye(2, 3)
        / 6,
        frame=GRAPHENE.lattice.vectors,
        sides=GRAPHENE.lattice.vectors[:2],
        strategies=ALL,
        **LARGE,
    ),
    "lih-2x2x2": Preset(
        crystal=LIH(supercell=2),
        sites=[[0, 0, 0], [0.5, 0.5, 0.5]],
        frame=LIH().lattice.vectors,
        sides=LIH_EDGE * np.eye(3)[:2],
        strategies=("OG", "DA", "GA, subset", "SC"),
        **LARGE,
    ),
    # Two cubes along each edge: 16 primitive cells, 48 electrons.
    "lithium-2x2x2": Preset(
        crystal=eqs.Crystal.bcc(
            "Li", a=LITHIUM_EDGE, unit="bohr", supercell=2 * (1 - np.eye(3, dtype=int))
        ),
        sites=[[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
        frame=LITHIUM_EDGE * np.eye(3),
        sides=LITHIUM_EDGE * np.eye(3)[:2],
        strategies=("OG", "DA", "GA, subset", "SC"),
        **LARGE,
    ),
}

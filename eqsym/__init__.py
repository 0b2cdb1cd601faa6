"""Neural wave functions for crystals, and what their symmetries are worth."""

from ._ansatz import AbstractWavefunction as AbstractWavefunction
from ._crystal import Crystal as Crystal, Lattice as Lattice
from ._types import (
    AbstractFixed as AbstractFixed,
    combine as combine,
    LogPsi as LogPsi,
    partition as partition,
)


__version__ = "0.1.0"

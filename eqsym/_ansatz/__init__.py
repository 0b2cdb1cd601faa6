from .base import AbstractWavefunction as AbstractWavefunction

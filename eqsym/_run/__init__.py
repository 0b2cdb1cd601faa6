"""The loop around the training step: checkpoints, history, faults, run folders."""

from .folder import load_run as load_run
from .loop import run as run
from .result import RunResult as RunResult

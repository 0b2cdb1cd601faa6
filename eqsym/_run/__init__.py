"""The loop around the training step: checkpoints, history, faults, run folders."""

from .folder import load_run as load_run, SavedRun as SavedRun
from .loop import run as run, RunResult as RunResult

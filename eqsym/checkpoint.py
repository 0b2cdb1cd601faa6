"""Checkpoints: any state in a folder, written whole or not at all. And what is
compiled, so that whoever goes on from one need not wait."""

from ._storage import (
    keep_compiled as keep_compiled,
    latest_checkpoint as latest,
    restore_checkpoint as restore,
    save_checkpoint as save,
)


__all__ = ["keep_compiled", "latest", "restore", "save"]

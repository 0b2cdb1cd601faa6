"""Checkpoints: any state in a folder, written whole or not at all."""

from ._storage import (
    latest_checkpoint as latest,
    restore_checkpoint as restore,
    save_checkpoint as save,
)


__all__ = ["latest", "restore", "save"]

"""Figures of runs, wave functions and groups. They need the extra `plot`."""

from ._plot import (
    plot_densities as densities,
    plot_group as group,
    plot_scans as scans,
    plot_sectors as sectors,
    plot_training as training,
)


__all__ = ["densities", "group", "scans", "sectors", "training"]

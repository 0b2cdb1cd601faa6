"""Figures. Nothing else imports them."""

from .density import plot_densities as plot_densities
from .figures import (
    plot_scans as plot_scans,
    plot_sectors as plot_sectors,
    plot_training as plot_training,
)
from .groups import plot_group as plot_group

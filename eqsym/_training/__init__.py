"""Samplers, optimizers, strategies, and the training step made of them."""

from .optimizer import (
    AbstractOptimizer as AbstractOptimizer,
    AbstractOptimizerState as AbstractOptimizerState,
    MinSR as MinSR,
    Optax as Optax,
    OptaxState as OptaxState,
    Spring as Spring,
    SpringState as SpringState,
)
from .pretraining import (
    check_loss as check_loss,
    Pretraining as Pretraining,
    PretrainingState as PretrainingState,
    report_replaced as report_replaced,
)
from .projection import Project as Project
from .sampler import (
    AbstractSampler as AbstractSampler,
    AbstractSamplerState as AbstractSamplerState,
    Metropolis as Metropolis,
    MetropolisState as MetropolisState,
    REPLACED as REPLACED,
)
from .scores import FactoredScores as FactoredScores, Scores as Scores
from .strategy import (
    AbstractStrategy as AbstractStrategy,
    Augment as Augment,
    Batch as Batch,
    Cost as Cost,
    Coupling as Coupling,
    DrawnKey as DrawnKey,
    DrawnSymmetrizer as DrawnSymmetrizer,
    NoState as NoState,
    NoSymmetry as NoSymmetry,
    Schedule as Schedule,
    Symmetrize as Symmetrize,
)
from .vmc import Statistics as Statistics, VMC as VMC, VMCState as VMCState

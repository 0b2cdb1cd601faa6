"""Neural wave functions for crystals, and what their symmetries are worth."""

from ._ansatz import (
    AbstractFeatures as AbstractFeatures,
    AbstractWavefunction as AbstractWavefunction,
    Displacement as Displacement,
    HartreeFock as HartreeFock,
    Linear as Linear,
    NuFeatures as NuFeatures,
    SolidNet as SolidNet,
    TriFeatures as TriFeatures,
)
from ._checkpoint import (
    latest_checkpoint as latest_checkpoint,
    restore_checkpoint as restore_checkpoint,
    save_checkpoint as save_checkpoint,
)
from ._crystal import Crystal as Crystal, Lattice as Lattice
from ._estimate import Estimate as Estimate, Evaluation as Evaluation, table as table
from ._evaluate import evaluate as evaluate, post_hoc as post_hoc, PostHoc as PostHoc
from ._ewald import Ewald as Ewald
from ._group import SpaceGroup as SpaceGroup
from ._hamiltonian import (
    AbstractHamiltonian as AbstractHamiltonian,
    AbstractKinetic as AbstractKinetic,
    ForwardLaplacian as ForwardLaplacian,
    Hamiltonian as Hamiltonian,
    HessianLaplacian as HessianLaplacian,
    LocalEnergy as LocalEnergy,
)
from ._irreps import (
    character_table as character_table,
    CharacterTable as CharacterTable,
    Irrep as Irrep,
    irreps as irreps,
)
from ._meanfield import MeanField as MeanField, Occupation as Occupation
from ._optimizer import (
    AbstractOptimizer as AbstractOptimizer,
    MinSR as MinSR,
    Optax as Optax,
    Spring as Spring,
    SpringState as SpringState,
)
from ._plot import (
    plot_scans as plot_scans,
    plot_training as plot_training,
    translation_scan as translation_scan,
    TranslationScan as TranslationScan,
)
from ._pretrain import Pretraining as Pretraining
from ._run import run as run, RunResult as RunResult
from ._sampler import (
    AbstractSampler as AbstractSampler,
    AbstractSamplerState as AbstractSamplerState,
    initial_walkers as initial_walkers,
    Metropolis as Metropolis,
    MetropolisState as MetropolisState,
)
from ._scores import Scores as Scores
from ._sharding import (
    replicate as replicate,
    shard_walkers as shard_walkers,
    walker_mesh as walker_mesh,
)
from ._symmetrize import (
    AbstractSymmetrizer as AbstractSymmetrizer,
    GroupAverage as GroupAverage,
    IrrepProjection as IrrepProjection,
    Orbit as Orbit,
    Symmetrized as Symmetrized,
    symmetry_ratio as symmetry_ratio,
)
from ._types import (
    AbstractFixed as AbstractFixed,
    combine as combine,
    LogPsi as LogPsi,
    partition as partition,
)
from ._vmc import Statistics as Statistics, VMC as VMC, VMCState as VMCState


__version__ = "0.1.0"

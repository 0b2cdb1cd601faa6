"""Neural wave functions for crystals, and what their symmetries are worth."""

from ._ansatz import (
    AbstractFeatures as AbstractFeatures,
    AbstractWavefunction as AbstractWavefunction,
    Displacement as Displacement,
    HartreeFock as HartreeFock,
    NuFeatures as NuFeatures,
    SolidNet as SolidNet,
    TriFeatures as TriFeatures,
)
from ._averages import (
    RandomSubset as RandomSubset,
    SubsetAverage as SubsetAverage,
    SymmetrizedOrbitals as SymmetrizedOrbitals,
)
from ._canonicalize import (
    AbstractSmoothing as AbstractSmoothing,
    Canonicalization as Canonicalization,
    RandomCanonicalization as RandomCanonicalization,
    RandomImage as RandomImage,
    SmoothStep as SmoothStep,
    SplineStep as SplineStep,
)
from ._check import check_wavefunction as check_wavefunction
from ._checkpoint import (
    latest_checkpoint as latest_checkpoint,
    restore_checkpoint as restore_checkpoint,
    save_checkpoint as save_checkpoint,
)
from ._crystal import Crystal as Crystal, Lattice as Lattice
from ._domain import FundamentalDomain as FundamentalDomain
from ._elements import (
    symmetry_elements as symmetry_elements,
    SymmetryAxis as SymmetryAxis,
    SymmetryElements as SymmetryElements,
    SymmetryPlane as SymmetryPlane,
)
from ._estimate import Estimate as Estimate, Evaluation as Evaluation, table as table
from ._evaluate import evaluate as evaluate
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
from ._mixing import Mixing as Mixing
from ._noise import (
    gradient_noise as gradient_noise,
    GradientNoise as GradientNoise,
    Scatter as Scatter,
)
from ._observables import (
    AbstractObservable as AbstractObservable,
    Density as Density,
    FourierDensity as FourierDensity,
    PairCorrelation as PairCorrelation,
    Polarization as Polarization,
    StructureFactor as StructureFactor,
)
from ._observe import (
    observe as observe,
    observe_post_hoc as observe_post_hoc,
    Observed as Observed,
    PostHocObserved as PostHocObserved,
)
from ._optimizer import (
    AbstractOptimizer as AbstractOptimizer,
    AbstractOptimizerState as AbstractOptimizerState,
    MinSR as MinSR,
    Optax as Optax,
    OptaxState as OptaxState,
    Spring as Spring,
    SpringState as SpringState,
)
from ._plot import (
    plot_scans as plot_scans,
    plot_sectors as plot_sectors,
    plot_training as plot_training,
    translation_scan as translation_scan,
    TranslationScan as TranslationScan,
)
from ._plot_density import plot_densities as plot_densities
from ._plot_group import plot_group as plot_group
from ._post_hoc import post_hoc as post_hoc, PostHoc as PostHoc
from ._pretrain import (
    Pretraining as Pretraining,
    PretrainingState as PretrainingState,
)
from ._run import run as run, RunResult as RunResult
from ._run_folder import load_run as load_run, SavedRun as SavedRun
from ._sampler import (
    AbstractSampler as AbstractSampler,
    AbstractSamplerState as AbstractSamplerState,
    initial_walkers as initial_walkers,
    Metropolis as Metropolis,
    MetropolisState as MetropolisState,
)
from ._scores import FactoredScores as FactoredScores, Scores as Scores
from ._sectors import Sector as Sector, Sectors as Sectors, sectors as sectors
from ._sharding import (
    device_mesh as device_mesh,
    replicate as replicate,
    shard_walkers as shard_walkers,
)
from ._strategy import (
    AbstractStrategy as AbstractStrategy,
    Augment as Augment,
    Batch as Batch,
    Cost as Cost,
    Coupling as Coupling,
    DrawnKey as DrawnKey,
    DrawnSymmetrizer as DrawnSymmetrizer,
    NoState as NoState,
    NoSymmetry as NoSymmetry,
    Project as Project,
    Schedule as Schedule,
    Symmetrize as Symmetrize,
)
from ._symmetrize import (
    AbstractRandomSymmetrizer as AbstractRandomSymmetrizer,
    AbstractSymmetrizer as AbstractSymmetrizer,
    GroupAverage as GroupAverage,
    IrrepProjection as IrrepProjection,
    Orbit as Orbit,
    Symmetrized as Symmetrized,
    symmetry_ratio as symmetry_ratio,
)
from ._threads import enlarge_pool as _enlarge_pool
from ._twists import (
    irreducible_twists as irreducible_twists,
    twist_average as twist_average,
    TwistAverage as TwistAverage,
    Twists as Twists,
)
from ._types import (
    AbstractFixed as AbstractFixed,
    combine as combine,
    LogPsi as LogPsi,
    partition as partition,
)
from ._vmc import Statistics as Statistics, VMC as VMC, VMCState as VMCState


__version__ = "0.1.0"

_enlarge_pool()

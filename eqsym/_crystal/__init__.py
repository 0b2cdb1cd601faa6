"""Lattices and crystals; readers of structures of ASE and PySCF."""

from .arguments import (
    check_electrons as check_electrons,
    vacuum_directions as vacuum_directions,
)
from .crystal import (
    Crystal as Crystal,
    with_cell as with_cell,
    with_changes as with_changes,
)
from .lattice import Lattice as Lattice
from .modulo import (
    into_cell as into_cell,
    is_whole as is_whole,
    length_modulo as length_modulo,
    ROUNDING as ROUNDING,
    SAME_ELEMENT as SAME_ELEMENT,
    SYMPREC as SYMPREC,
)
from .nearest import from_nearest as from_nearest, inner_radius as inner_radius
from .potentials import (
    EffectiveCorePotential as EffectiveCorePotential,
    from_pyscf_terms as from_pyscf_terms,
    given_again as given_again,
)
from .standard import (
    cell_of as cell_of,
    find_operations as find_operations,
    in_bohr as in_bohr,
    larger_group as larger_group,
    quiet as quiet,
    SymmetricCell as SymmetricCell,
)
from .structures import MIN_VACUUM as MIN_VACUUM, widest_gap as widest_gap

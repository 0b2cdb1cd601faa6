"""Space groups, their symmetry elements, domains and irreducible representations."""

from .domain import FundamentalDomain as FundamentalDomain, polyhedron as polyhedron
from .elements import (
    integer_complement as integer_complement,
    symmetry_elements as symmetry_elements,
    SymmetryElements as SymmetryElements,
)
from .operations import (
    pure_translations as pure_translations,
    static_data as static_data,
    supercell_rotations as supercell_rotations,
)
from .representations import (
    character_table as character_table,
    Irrep as Irrep,
    irreps as irreps,
)
from .space_group import SpaceGroup as SpaceGroup
from .vacuum import vacuum_gap as vacuum_gap

"""Space groups of crystals with published structures, and pictures of them.

    python examples/groups.py

Reads the CIF files in examples/crystals, with ASE, and writes one picture each to
runs/groups; needs the extras `plot` and `ase` of eqsym.
"""

import argparse
from pathlib import Path

import eqsym as eqs


CRYSTALS = Path(__file__).parent / "crystals"
BOHR = 0.529177210903  # Angstrom


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("runs/groups"))
    options = parser.parse_args()
    options.path.mkdir(parents=True, exist_ok=True)

    print("crystal             space group     operations  domain [Angstrom^3]  faces")
    for file in sorted(CRYSTALS.glob("*.cif")):
        # Phosphorene is a slab: its group is a layer group.
        vacuum = (2,) if file.stem == "phosphorene" else ()
        crystal = eqs.Crystal.from_ase(file, vacuum=vacuum)
        group = eqs.SpaceGroup.of(crystal)
        domain = eqs.FundamentalDomain.of(group)
        print(
            f"{file.stem:20}{group.symbol:16}{group.order:10}"
            f"{domain.volume * BOHR**3:21.3f}{len(domain.faces):7}"
        )
        figure = eqs.plot.group(crystal, group=group, domain=domain)
        figure.savefig(options.path / f"{file.stem}.png")
    print(f"Wrote {options.path}")


if __name__ == "__main__":
    main()

"""The names that `eqsym` shows, and the texts of `help` about them."""

import inspect
import pathlib
import pydoc
import re
import runpy
import types

import pytest

import eqsym as eqs


def _classes():
    return [n for n in eqs.__all__ if inspect.isclass(getattr(eqs, n))]


def test_all_names_are_public_and_the_other_way_round():
    found = {
        name
        for name, value in vars(eqs).items()
        if name[0] != "_" and not isinstance(value, types.ModuleType)
    }
    assert set(eqs.__all__) == found | {"checkpoint", "plot"}
    assert eqs.__all__ == sorted(eqs.__all__)
    # As one types `eqs.` and the key that completes names.
    assert dir(eqs) == sorted([*eqs.__all__, "__version__"])
    names: dict = {}
    exec("from eqsym import *", names)
    assert set(eqs.__all__) <= set(names) and "_core" not in names


# Made by functions, which say what is in them.
_RESULTS = {
    "Cost",
    "Estimate",
    "Irrep",
    "LocalEnergy",
    "LogPsi",
    "MeanField",
    "RunResult",
}


@pytest.mark.parametrize("name", sorted({*_classes()} - _RESULTS))
def test_the_docstring_of_a_class_names_all_arguments(name):
    cls = getattr(eqs, name)
    if inspect.isabstract(cls) or name.startswith("Abstract"):
        return
    for argument in list(inspect.signature(cls.__init__).parameters)[1:]:
        assert f"`{argument}`" in cls.__doc__, argument
    # Each of them once.
    assert cls.__doc__.count("**Arguments:**") <= 1


def test_help_tells_the_arguments_once():
    text = pydoc.render_doc(eqs.SpaceGroup, renderer=pydoc.plaintext)
    head = text[: text.index("Methods defined here")]
    assert "- `tolerance`: in Bohr, how precisely nuclei" in head
    assert text.count("- `modulo_supercell`: whether operations are compared") == 1


_NAMES = pathlib.Path(__file__).parent.parent / "docs" / "names.py"


def test_pages_list_what_is_on_them():
    """For those who read them in the repository. `python docs/names.py` mends it."""
    names = runpy.run_path(str(_NAMES))
    for page in names["PAGES"]:
        text = page.read_text()
        assert names["rewritten"](text) == text, f"run {_NAMES}, {page} is not as it is"
        links = dict(re.findall(r"^\[`(\S+)`\]: (\S+)$", text, re.MULTILINE))
        assert set(re.findall(r"\[`(eqsym\.\S+)`\]\[\]", text)) == set(links)
        for link in links.values():
            assert (page.parent / link).is_file(), link
    sentence = names["sentence"]
    assert sentence("Of [`eqsym.run`][], by Huang et al. (2025). More.\n\nRest.") == (
        "Of `eqsym.run`, by Huang et al. (2025)."
    )
    assert sentence("A sum\n    of numbers:\n\n    $$x$$") == "A sum of numbers."

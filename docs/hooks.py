"""Formulas of the pages as MathML, which browsers draw without a script or a network.

MkDocs calls the functions `on_...`. When a page has become HTML, docstrings included,
`pymdownx.arithmatex` has marked the TeX, and latex2mathml translates it. A font for
formulas, which not every system has, is copied from ziamath.
"""

import html
import importlib.resources
import re

from latex2mathml.converter import convert
from mkdocs.structure.files import File


_FONT = "STIXTwoMath-Regular.ttf"
_MARKED = re.compile(
    r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL
)
# A function without parentheses needs a space before its argument.
_FUNCTION = re.compile(r"\\(arg|cos|det|log|sin)(?!\w|\s*(\(|\\left|\|))")
_SOURCE = re.compile(r"^\[`eqsym\.[\w.]+`\]: \.\./\.\./eqsym/.*\n", re.MULTILINE)
# Bars around a number have no spaces, the bar over one stretches, `min` is a name.
_IMPROVED = {
    '<mo stretchy="false">&#x0007C;': '<mo stretchy="false" lspace="0" rspace="0">|',
    '<mo accent="true">&#x02015;': '<mo accent="true" stretchy="true">&#x0203E;',
    "<mo>min</mo>": "<mi>min</mi>",
}
# Commands that latex2mathml 3.81 leaves as they are, or spaces badly.
_REPLACED = {
    r"\arg": r"\operatorname{arg}",
    r"\lvert": "|",
    r"\rvert": "|",
    r"\Big\langle": r"\Big⟨",
    r"\Big\rangle": r"\Big⟩",
}


def _mathml(tag: str, tex: str) -> str:
    tex = html.unescape(tex)
    tex = _FUNCTION.sub(r"\\\1\\,", tex)
    for command, replacement in _REPLACED.items():
        tex = tex.replace(command, replacement)
    formula = convert(tex, display="block" if tag == "div" else "inline")
    for element, replacement in _IMPROVED.items():
        formula = formula.replace(element, replacement)
    if "\\" in formula:
        raise ValueError(
            f"latex2mathml does not know a command of the formula {tex!r}."
        )
    return f'<{tag} class="formula">{formula}</{tag}>'


def on_page_markdown(markdown: str, **_) -> str:
    """Names lead to sources in the repository, as names.py defines, and to the entries
    about them here."""
    return _SOURCE.sub("", markdown)


def on_page_content(content: str, **_) -> str:
    return _MARKED.sub(lambda match: _mathml(*match.groups()), content)


def on_files(files, config):
    font = importlib.resources.files("ziamath") / "fonts" / _FONT
    files.append(File.generated(config, f"assets/{_FONT}", content=font.read_bytes()))
    return files

"""Lists of names on the pages of docs/api, for readers of the repository.

`python docs/names.py` writes, between two marks on each page, every name that the page
documents, with the first sentence of its docstring; and for these and all other names
that the page refers to, the places of their sources, which makes them links. The site
leads to the entries of its pages instead: hooks.py leaves the definitions of the links
out.
"""

import inspect
import pathlib
import re
import sys
import textwrap

import eqsym


ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
_BEGIN, _END = "<!-- names, by docs/names.py -->", "<!-- end of names -->"
_DIRECTIVE = re.compile(r"^::: (eqsym\.\S+)$", re.MULTILINE)
_REFERENCE = re.compile(r"\[(`[^`]+`)\]\[\]")
_NAME = re.compile(r"\[`(eqsym\.[\w.]+)`\]\[\]")
_FORMULA, _SPACE = re.compile(r"\$[^$]+\$"), "\0"
# A sentence ends before a capital, but not after "Huang et al.".
_SENTENCE = re.compile(r"(?<!al\.)(?<=\.)\s(?=[A-Z`$(])")


def sentence(docstring: str) -> str:
    """The first one."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    first = _SENTENCE.split(paragraph)[0]
    # A formula may follow.
    return _REFERENCE.sub(r"\1", first).rstrip(".:,") + "."


def named(name: str):
    """What has a name such as `eqsym.plot.group`; of a class, not of its method."""
    value = eqsym
    for part in name.split(".")[1:]:
        if inspect.isclass(value):
            break
        value = getattr(value, part)
    return value


def definition(name: str) -> str:
    """The target of all links of a name, its source in the repository."""
    source = pathlib.Path(sys.modules[named(name).__module__].__file__)
    return f"[`{name}`]: ../../{source.relative_to(ROOT).as_posix()}"


def entry(name: str) -> str:
    """One name of a list."""
    text = f"- [`{name}`][]: {sentence(named(name).__doc__)}"
    # Formulas stay on one line.
    text = _FORMULA.sub(lambda found: found[0].replace(" ", _SPACE), text)
    wrapped = textwrap.fill(
        text,
        92,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped.replace(_SPACE, " ")


def rewritten(page: str) -> str:
    """A page with its list, in its old place or before the first heading or name."""
    if _BEGIN in page:
        before, rest = page.split(_BEGIN)
        after = rest.split(_END)[1]
    else:
        start = re.search(r"^(## |::: |<details)", page, re.MULTILINE).start()
        before, after = page[:start], f"\n\n{page[start:]}"
    names = _DIRECTIVE.findall(page)
    entries = "\n".join(map(entry, names))
    others = _NAME.findall(before + after)
    links = "\n".join(map(definition, sorted({*names, *others})))
    parts = (_BEGIN, "On this page:", entries, links, _END)
    return before + "\n\n".join(parts) + after


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(rewritten(path.read_text()))

"""Lists on the pages of docs/api what is on them, for readers of the repository.

`python docs/names.py` writes, between two marks on each page, every name that the page
documents, with the first sentence of its docstring and a link to its source. On the site
the links lead to the entry on the page instead (see hooks.py).
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
_FORMULA, _SPACE = re.compile(r"\$[^$]+\$"), "\0"
# A sentence ends before a capital, but not after "Huang et al.".
_SENTENCE = re.compile(r"(?<!al\.)(?<=\.)\s(?=[A-Z`$(])")


def sentence(docstring: str) -> str:
    """The first one."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    first = _SENTENCE.split(paragraph)[0]
    # A formula may follow.
    return _REFERENCE.sub(r"\1", first).rstrip(".:,") + "."


def entry(name: str) -> str:
    """One name of a list."""
    value = eqsym
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    source = pathlib.Path(sys.modules[value.__module__].__file__)
    link = f"[`{name}`](../../{source.relative_to(ROOT).as_posix()})"
    text = f"- {link}: {sentence(value.__doc__)}"
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
    """A page with its list: where it was, or before the first heading or name."""
    entries = "\n".join(map(entry, _DIRECTIVE.findall(page)))
    names = f"{_BEGIN}\n\nOn this page:\n\n{entries}\n\n{_END}"
    if _BEGIN in page:
        before, rest = page.split(_BEGIN)
        return before + names + rest.split(_END)[1]
    start = re.search(r"^(## |::: |<details)", page, re.MULTILINE).start()
    return f"{page[:start]}{names}\n\n{page[start:]}"


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(rewritten(path.read_text()))

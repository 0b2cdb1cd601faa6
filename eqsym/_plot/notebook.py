"""Figures that notebooks draw by themselves."""

import io

from matplotlib.figure import Figure


# Pixels of a browser in an inch.
_PIXELS = 96


class NotebookFigure(Figure):
    """A bare figure, outside of pyplot: no global state, no window, and a picture in a
    notebook without `%matplotlib inline`, which is needed by other bare figures."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture, and the size to show it in."""
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        width, height = (
            round(_PIXELS * float(inches)) for inches in self.bbox_inches.size
        )
        return picture.getvalue(), {"width": width, "height": height}

"""What every face detector does, and what it is given."""

from __future__ import annotations

from typing import Mapping, Optional, Protocol, Sequence

from edgecam.types import Faces, Floats, Image


class Net(Protocol):
    """A loaded net (an `edgecam.nn` session)."""

    def run(self, feeds: Mapping[str, Floats], /) -> Sequence[Floats]:
        """Return the outputs in the file's order."""
        ...


class Detector(Protocol):
    """Finds faces in a picture; holds no state between pictures."""

    def __call__(self, image: Image, regions: Optional[Floats] = None) -> Faces:
        """Return the faces of a picture, best score first.

        Args:
            image: (H, W, 3) uint8 BGR, any size; not altered.
            regions: (N, 4) float32 x, y, w, h in image pixels that are to be searched; None is the
                whole picture, N = 0 nothing. A face whose centre lies in a region and which is not
                larger than the region's longer side is found as in the whole picture.

        Returns:
            Faces in pixels of the whole picture.
        """
        ...

"""What every face detector does."""

from __future__ import annotations

from typing import Optional, Protocol

from edgecam.types import Faces, Floats, Image


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

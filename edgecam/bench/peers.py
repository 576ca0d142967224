"""The same picture through other people's detectors and encoders, where they are installed: ratios within one run."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Callable, Dict, Iterator, Tuple

import cv2
import numpy as np

from edgecam import align
from edgecam.bench.lab import Lab, repeat
from edgecam.bench.report import Figure, Row, Skipped
from edgecam.bench.scene import Scene
from edgecam.embed import embed
from edgecam.types import FaceCrop, Image

Work = Callable[[], object]


def peers(lab: Lab) -> Iterator[Row]:
    """Yield how much faster or slower (above 1: we are faster) we are than each peer that can be imported."""
    image = Scene(lab.faces(1)).at(0)
    faces = lab.detector(image)
    crop = align.make_crop(image, faces.boxes[0], faces.landmarks[0])
    ours: Dict[str, Work] = {"detect": lambda: lab.detector(image), "embed": lambda: embed(lab.encoder, [crop])}
    for module, make in (("facenet_pytorch", _facenet_pytorch), ("insightface", _insightface), ("dlib", _dlib)):
        name = f"peer_{module}"
        if importlib.util.find_spec(module) is None:
            yield Skipped(name, f"{module} is not installed")
            continue
        lab.tell(f"beside {module}")
        try:
            works = make(lab, image, crop)
        except Exception as err:  # a peer without weights, or against another numpy, is no failure of ours
            yield Skipped(name, f"{module} does not run here: {(str(err).splitlines() or [type(err).__name__])[0]}")
            continue
        for what, (theirs, remark) in works.items():
            times = lab.of_extent(5, 15, 40)
            mine, other = repeat(ours[what], times), repeat(theirs, times)
            ratio = float(np.median(other.wall_s) / np.median(mine.wall_s))
            yield Figure(
                f"{name}_{what}",
                ratio,
                "x as fast",
                detail={
                    "ours_ms": float(1e3 * np.median(mine.wall_s)),
                    "theirs_ms": float(1e3 * np.median(other.wall_s)),
                    "theirs": remark,
                },
            )


def _facenet_pytorch(lab: Lab, image: Image, _crop: FaceCrop) -> Dict[str, Tuple[Work, str]]:
    import torch

    facenet_pytorch: Any = importlib.import_module("facenet_pytorch")

    torch.set_num_threads(lab.config.run.threads)
    mtcnn = facenet_pytorch.MTCNN(min_face_size=lab.config.detect.min_face_px, thresholds=[0.7, 0.7, 0.9], device="cpu")
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    net = facenet_pytorch.InceptionResnetV1().eval()
    blob = torch.zeros((1, 3, 160, 160))

    def encode() -> Any:
        with torch.no_grad():
            return net(blob)

    return {
        "detect": (lambda: mtcnn.detect(rgb), "MTCNN, the same smallest face and thresholds"),
        "embed": (encode, "InceptionResnetV1 alone, random weights (as fast as trained ones)"),
    }


def _insightface(_lab: Lab, image: Image, _crop: FaceCrop) -> Dict[str, Tuple[Work, str]]:
    import insightface

    app = insightface.app.FaceAnalysis(allowed_modules=["detection"], providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=-1, det_size=(640, 640))
    return {"detect": (lambda: app.get(image), "SCRFD at 640x640")}


def _dlib(_lab: Lab, image: Image, _crop: FaceCrop) -> Dict[str, Tuple[Work, str]]:
    import dlib

    hog = dlib.get_frontal_face_detector()
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return {"detect": (lambda: hog(grey, 1), "HOG, doubled once: faces from about 40 px")}

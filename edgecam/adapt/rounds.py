"""Associate, pick, train, look again: the night's loop over values (`algorithms.md` 8, steps 6 to 12).

Nothing here knows the store, the clock or PyTorch: who calls hands in what was gathered and how to train.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from edgecam.adapt.apart import Trained
from edgecam.adapt.samples import Samples
from edgecam.associate import Association, Options, Scene, associate
from edgecam.associate.base import Numbers
from edgecam.associate.tell import admit
from edgecam.errors import ShapeError
from edgecam.types import Floats, Ints

Train = Callable[[Samples, Ints], Trained]
"""Tunes a head from the base on samples; the numbers are those of the material's groups that are in them, in order."""
Project = Callable[[Mapping[str, bytes], Floats], Floats]
"""Heads as ONNX (none: as installed) and (N, K) features -> (N, D) unit vectors."""

_STRANGER = 0.8
"""A face that is unknown with so much mass teaches what is nobody of the house."""
_UNLIKE = 0.5
"""And is less like each named person than this cosine: a resident whose phone stayed at home is no stranger."""


@dataclass(frozen=True, eq=False)
class Material:
    """What one night works on."""

    samples: Samples
    """All of it, with the shares that need no device: 1 for enrolment photos and what the user named, else 0."""

    scene: Scene
    """Tracklets and devices; its vectors are made anew."""

    group: Ints
    """(T,) int64 the samples' group of each tracklet of the scene."""

    features: Floats
    """(T, K) float32 mean trunk features of each tracklet."""

    persons: Tuple[str, ...]
    """(m,) person ids of the scene's columns, each one of `samples.people`."""

    days: Ints
    """(T,) int64 day number."""

    night: int = 0
    """Nights since the association began to teach: each admits a little more."""

    def __post_init__(self) -> None:
        """Raise ShapeError unless the parts agree."""
        count = len(self.scene.events)
        if not len(self.group) == len(self.features) == len(self.days) == count:
            raise ShapeError(f"want {count} groups, features and days")
        if len(self.persons) != self.scene.persons or set(self.persons) - set(self.samples.people):
            raise ShapeError(f"want {self.scene.persons} persons, each of the samples' people")


@dataclass(frozen=True, eq=False)
class Adapted:
    """What came of it."""

    trained: Trained
    found: Association
    taught: NDArray[np.bool_]
    """(T,) which tracklets the last training used."""
    trainings: int
    samples: Samples
    """What the last training used."""


def adapt(
    material: Material,
    train: Train,
    project: Project,
    options: Optional[Options] = None,
    sketch: Optional[Train] = None,
) -> Adapted:
    """Run the loop: at most `options.iterations` rounds, until the labels or the attendance hardly change.

    Each training starts from the base head (the `train` given does). The last one is on the labels as told in the end,
    without those who cannot be told apart or whose device two faces carry. Without devices, with too few events or too
    few faces there is one training, on what is enrolled and what the user named.

    Args:
        material: what was gathered.
        train: tunes a head on samples.
        project: runs a head.
        options: of the association.
        sketch: the same for all trainings but the last, which only sort the faces better: fewer epochs will do
            (`apart.Options.of`). `train` if None.
    """
    look = Looks.at(material, project, {})
    trainings = 0

    def tuner(labels: Numbers) -> Floats:
        nonlocal look, trainings
        picked = pick(material, labels, look)
        trained = (sketch or train)(picked.samples, picked.groups)
        trainings += 1
        look = Looks.at(material, project, trained.heads)
        return look.vectors

    found = associate(replace(material.scene, vectors=look.vectors), options, tuner)
    last = pick(material, found.labels, look)
    return Adapted(train(last.samples, last.groups), found, last.taught, trainings + 1, last.samples)


class Looks(NamedTuple):
    """How tracklets and people look to one head."""

    vectors: Floats
    """(T, D)."""
    enrolled: Floats
    """(P, D) unit mean of each person's enrolment photos; 0 without."""

    @staticmethod
    def at(material: Material, project: Project, heads: Mapping[str, bytes]) -> Looks:
        """Return how they look to these heads."""
        samples = material.samples
        known = np.flatnonzero(samples.enrolled)
        owners = samples.shares[samples.group[known]]
        photos = project(heads, samples.features[known]) if len(known) else np.zeros((0, 1), np.float32)
        vectors = project(heads, material.features)
        sums = owners.T @ photos if len(known) else np.zeros((len(samples.people), vectors.shape[1]), np.float32)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return Looks(vectors, (sums / np.maximum(lengths, 1e-9)).astype(np.float32))


class Picked(NamedTuple):
    """What one training is given."""

    samples: Samples
    groups: Ints
    """(G,) the material's groups that are in them, in order."""
    taught: NDArray[np.bool_]
    """(T,) the tracklets that are in them."""


def pick(material: Material, labels: Numbers, looks: Looks) -> Picked:
    """Return what may teach.

    Enrolment and what the user said always. Of the rest the sure names (`associate.tell.admit`) on which face and
    device agree: nobody enrolled looks more like it. And as strangers those who are surely nobody with a device, if
    everybody of the house has one, and who do not look like anybody enrolled.

    Args:
        material: what was gathered.
        labels: (T, m + 1) soft labels; column 0 is unknown.
        looks: of the head that is best so far.
    """
    samples, scene = material.samples, material.scene
    quality = np.ones(len(labels)) if scene.quality is None else scene.quality
    said = np.zeros(len(labels), np.int64) if scene.verified is None else scene.verified
    columns = [samples.people.index(person) for person in material.persons]
    alike = looks.vectors @ looks.enrolled.T
    named = admit(labels, material.days, material.night, quality) & (said == 0) & _agreed(labels, alike, columns)
    strange = np.zeros(len(labels), np.bool_)
    if set(samples.people) == set(material.persons):
        strange = (labels[:, 0] >= _STRANGER) & (said == 0) & (alike.max(axis=1, initial=-1.0) < _UNLIKE)
    used = named | strange | (said != 0)
    shares = samples.shares.copy()
    groups = material.group[named]
    shares[groups] = 0.0
    shares[np.ix_(groups, columns)] = labels[named, 1:]
    of_tracklets = np.isin(samples.group, material.group)
    kept = np.unique(samples.group[~of_tracklets | np.isin(samples.group, material.group[used])])
    return Picked(replace(samples, shares=shares.astype(np.float32)).of_groups(kept), kept, used)


def _agreed(labels: Numbers, alike: Floats, columns: List[int]) -> NDArray[np.bool_]:
    """Return (T,) whether the most likely person is also the enrolled one who looks most like it."""
    if not columns:
        return np.zeros(len(labels), np.bool_)
    likely = np.array(columns)[labels[:, 1:].argmax(axis=1)]
    agreed: NDArray[np.bool_] = alike[np.arange(len(labels)), likely] >= alike.max(axis=1, initial=-1.0)
    return agreed

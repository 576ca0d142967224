"""What a camera's light does to features, and how a head undoes it: a mean shift a domain.

A face seen at night lies elsewhere in feature space than the same face by day, whoever it is. That common part is
estimated without knowing who most faces are, and taken off before the head (as AdaBN does with a batch norm's mean,
Li et al. 2016), but only off the faces that lie where this light puts them: the head tells them by itself, so that
nothing else has to know what light a face was seen in.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional

import numpy as np

from edgecam.adapt.samples import SURE, Samples
from edgecam.identify.light import learn_light
from edgecam.types import Floats

_FACES_MIN, _NAMED_MIN, _PEOPLE_MIN = 3, 2, 5
"""Faces of a named person; named people; they and the visits of nobody together. Of fewer the mean is who they are."""
_APART = 3.0
"""Standard deviations between enrolment and domain along the shift, under which a face does not tell which it is."""
_STEEP = 8.0
"""Logit at the domain's middle less that at the enrolment's."""


class DomainShift(NamedTuple):
    """features - softmax(features @ weight.T + bias) @ shift; row 0 is 0 everywhere: any other light."""

    weight: Floats
    """(D + 1, K)."""
    bias: Floats
    """(D + 1,)."""
    shift: Floats
    """(D + 1, K)."""


def domain_shift(samples: Samples, columns: slice, mean: Floats) -> Optional[DomainShift]:
    """Return the shifts of the domains in which faces enough were seen; None without any.

    Named people show it by their enrolment photos (`identify.light`). Of a visitor who is nobody, what the face is like
    by day is unknown, and the mean on average.

    Args:
        samples: of a night; domain 0 holds the enrolment photos by day.
        columns: of the features: one encoder's.
        mean: (K,) of the same columns, over many people.
    """
    rows, shares = samples.features[:, columns], samples.shares[samples.group]
    by_day = samples.enrolled & (samples.domain == 0)
    found: List[DomainShift] = []
    for domain in np.unique(samples.domain[~samples.enrolled]):
        seen = ~samples.enrolled & (samples.domain == domain)
        nights, days = [], []
        for person in range(len(samples.people)):
            live, photos = seen & (shares[:, person] >= SURE), by_day & (shares[:, person] >= SURE)
            if live.sum() >= _FACES_MIN and photos.any():
                nights.append(rows[live].mean(axis=0))
                days.append(rows[photos].mean(axis=0))
        nobody = seen & (shares.sum(axis=1) <= 1.0 - SURE)
        visits = [rows[nobody & (samples.group == g)].mean(axis=0) - mean for g in np.unique(samples.group[nobody])]
        if len(nights) < _NAMED_MIN or len(nights) + len(visits) < _PEOPLE_MIN:
            continue
        named = learn_light(np.stack(days), np.stack(nights), mean).shift
        shift = (len(nights) * named + sum(visits)) / (len(nights) + len(visits))
        along = shift / max(float(shift @ shift), 1e-9)
        far = rows @ along  # a copy of all faces would be 40 MB
        one = _told_apart(far[seen], far[by_day], along, shift)
        if one is not None:
            found.append(one)
    if not found:
        return None
    nothing = DomainShift(np.zeros_like(mean)[None], np.zeros(1, np.float32), np.zeros_like(mean)[None])
    return DomainShift(*(np.concatenate(parts).astype(np.float32) for parts in zip(nothing, *found)))


def _told_apart(there: Floats, here: Floats, along: Floats, shift: Floats) -> Optional[DomainShift]:
    """Return one row each, by how far a face lies along the shift; None if that does not tell the two apart.

    Args:
        there: (N,) how far the domain's faces lie.
        here: (M,) how far the photos by day lie.
        along: (K,) features @ along is how far.
        shift: (K,).
    """
    gap, spread = float(there.mean() - here.mean()), float(np.sqrt((there.var() + here.var()) / 2.0))
    if gap <= _APART * spread:
        return None
    steep = _STEEP / gap
    bias = np.array([-steep * float(here.mean() + gap / 2.0)], np.float32)
    return DomainShift((steep * along)[None], bias, shift[None])

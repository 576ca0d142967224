"""Tune a head on one night's samples, and, as a program, do so for a waiting parent (`adapt.apart`).

The loss: soft cross-entropy over cosines to one centre a person and to "nobody" at a fixed cosine, the stochastic
centre loss (AutoTune, eq. 3-5), SymTriplet over what is known the same and apart (eq. 8), a pull to the base head
(L2-SP, Li et al. 2018). Tuning makes strangers look more alike, as they learn the light of the door that the household
is seen in; so the result goes only part of the way (Wortsman et al. 2022). It always starts from the base head.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from copy import deepcopy
from pathlib import Path
from threading import Thread
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch.nn import functional

from edgecam.adapt import losses
from edgecam.adapt.apart import FRAME, Job, Limits, Trained
from edgecam.adapt.heads import Head, SFaceHead, difference, make_head, project, shifts_of, write_heads
from edgecam.adapt.samples import SURE, Samples
from edgecam.adapt.supply import celsius, on_battery
from edgecam.errors import EdgecamError, TuneError
from edgecam.types import Floats, Ints

_LOGGER = logging.getLogger(__name__)

AfterEpoch = Callable[[int, float, Callable[[], bytes]], None]
"""Told the number of epochs done, their last loss, and how to get a checkpoint."""

FACES_A_GROUP = 8
"""Of one track in one epoch: its frames are nearly the same picture."""
_HARDEST, _FOES = 0.2, 40
"""A negative is one of the hardest fifth of so many."""
_TRIPLETS = 16
"""In a step."""
_KEPT_BACK, _KEEP_BACK_FROM = 0.2, 5
"""This share of a person's groups is for validation, if the person has so many."""
_CHECKED = 256
"""Samples on which onnxruntime must agree with PyTorch."""
_ROWS = 1024
_CLASS_RATE = 1e-2
_STRANGERS = 64
"""Virtual strangers in a step."""
_COOLER = 5.0
_WAIT_S = 5.0


def why_not(samples: Samples) -> str:
    """Return why these samples cannot teach who is not whom; empty if they can."""
    live = samples.shares[np.unique(samples.group)]
    people = int((live.sum(axis=0) >= SURE).sum())
    nobody = float((1.0 - live.sum(axis=1)).clip(0.0).sum())
    if not len(samples.features) or not people:
        return "nothing to learn from: no face has a name"
    if people < 2 and nobody < SURE and not len(samples.apart):
        return "no negatives: every face is one person's, and no two were seen at once; the head stays as it is"
    return ""


def train(job: Job, checkpoint: bytes = b"", after_epoch: Optional[AfterEpoch] = None) -> Trained:
    """Tune the head.

    The number of threads is the caller's process's; sums in another order end in other bits.

    Args:
        job: what to learn from, and how.
        checkpoint: of the same job, to go on from; a damaged one is left alone.
        after_epoch: told after each.

    Raises:
        ModelError: the head as written computes something else.
    """
    reason = why_not(job.samples)
    if reason:
        return Trained({}, reason)
    torch.set_num_threads(job.options.threads)
    course = _Course(job)
    if checkpoint:
        try:
            course.restore(checkpoint)
        except TuneError as err:
            _LOGGER.warning("%s; training begins anew", err)
            course = _Course(job)
    while not course.over:
        course.epoch()
        if after_epoch is not None:
            after_epoch(course.done, course.history[-1], course.checkpoint)
    return course.result()


class _Course:
    """One training; everything that it needs to go on is in `checkpoint`."""

    def __init__(self, job: Job) -> None:
        self._job, self._options, samples = job, job.options, job.samples
        shifts = shifts_of(job.kind, samples, job.strangers)
        self._base = make_head(job.kind, job.file, shifts)
        self._head = make_head(job.kind, job.file, shifts)
        for part in self._base.parameters():
            part.requires_grad_(requires_grad=False)
        self._features = torch.from_numpy(np.ascontiguousarray(samples.features, np.float32))
        self._strangers = torch.from_numpy(np.ascontiguousarray(job.strangers, np.float32))
        # Column 0: nobody of the household.
        shares = samples.shares[samples.group].astype(np.float32)
        self._shares = torch.from_numpy(np.concatenate([(1.0 - shares.sum(1, keepdims=True)).clip(0.0), shares], 1))
        self._relations = _Relations.of(samples)
        self._learn, self._check = _split(samples, job.options.seed)
        self._centres = torch.nn.Parameter(losses.centres_of(self._now(self._base), self._shares[:, 1:]))
        self._adam = _Adam(self._rates())
        self._best = deepcopy(self._head.state_dict())
        self.history: List[float] = []

    def _rates(self) -> List[Tuple[torch.Tensor, float]]:
        """Return every tensor that is learnt, with its rate."""
        adapter = {id(p) for m in self._head.modules() if isinstance(m, SFaceHead) for p in m.parameters()}
        rates = {True: self._options.adapter_rate, False: self._options.rate}
        return [*((p, rates[id(p) in adapter]) for p in self._head.parameters()), (self._centres, _CLASS_RATE)]

    @property
    def done(self) -> int:
        """Return the number of epochs done."""
        return len(self.history)

    @property
    def over(self) -> bool:
        """Whether it has had its epochs, or stopped improving."""
        late = self.done - 1 - int(np.argmin(self.history)) if self.history else 0
        return self.done >= self._options.epochs or late >= self._options.patience

    def epoch(self) -> None:
        """Go once through what there is to learn."""
        # Drawn anew from the epoch's number, so that nothing of the generators has to be kept.
        rng = np.random.default_rng((self._options.seed, self.done))
        now = self._now(self._head)
        fixed, centres = now.numpy(), losses.centres_of(now, self._shares[:, 1:])
        order = torch.from_numpy(_order(self._job.samples, self._learn, rng))
        seen, total = 0, 0.0
        for rows in order.split(self._options.batch):
            loss = self._loss(rows, centres) + self._apart(fixed, rng) + self._pull(rng)
            self._adam.step(loss)
            seen, total = seen + len(rows), total + loss.item() * len(rows)
        if len(self._check):
            with torch.inference_mode():
                value = self._loss(torch.from_numpy(self._check), centres).item()
        else:
            value = total / max(seen, 1)
        self.history.append(value)
        if value <= min(self.history):
            self._best = deepcopy(self._head.state_dict())

    def _loss(self, rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        vectors, shares = self._head(self._features[rows]), self._shares[rows]
        cosines = vectors @ functional.normalize(self._centres, dim=1).T
        nobody = torch.full((len(rows), 1), self._options.nobody)
        logits = self._options.sharpness * torch.cat([nobody, cosines], dim=1)
        near = losses.stochastic_centre(vectors, shares[:, 1:], centres)
        return losses.soft_cross_entropy(logits, shares) + self._options.centre * near

    def _apart(self, fixed: Floats, rng: np.random.Generator) -> torch.Tensor:
        """Return SymTriplet over faces known the same and the hardest of those known apart, as the epoch began."""
        rows = self._relations.draw(fixed, rng) if self._options.triplets else np.zeros((3, 0), np.int64)
        if not rows.size:
            return torch.zeros(())
        parts = self._head(self._features[torch.from_numpy(rows.ravel())]).split(rows.shape[1])
        return self._options.triplets * losses.symtriplet(parts[0], parts[1], parts[2], self._options.margin)

    def _pull(self, rng: np.random.Generator) -> torch.Tensor:
        """Return what holds the head: L2-SP, and the vectors of virtual strangers where the base puts them."""
        out = torch.zeros(())
        if self._options.stay:
            pairs = zip(self._head.parameters(), self._base.parameters())
            away = [(a - b).square().sum() / b.square().sum().clamp_min(1.0) for a, b in pairs]
            out = out + self._options.stay * torch.stack(away).sum()
        if self._options.like_base and len(self._strangers):
            some = self._strangers[torch.from_numpy(rng.integers(0, len(self._strangers), _STRANGERS))]
            with torch.no_grad():
                were = self._base(some)
            out = out + self._options.like_base * (1.0 - (self._head(some) * were).sum(dim=1).mean())
        return out

    def _now(self, head: Head) -> torch.Tensor:
        """Return (N, D) vectors of all samples."""
        with torch.no_grad():
            return torch.cat([head(part) for part in self._features.split(_ROWS)])

    def checkpoint(self) -> bytes:
        """Return all that is needed to go on."""
        out = io.BytesIO()
        state = {
            "head": self._head.state_dict(),
            "best": self._best,
            "centres": self._centres.detach(),
            "adam": self._adam.state(),
            "history": self.history,
        }
        torch.save(state, out)
        return out.getvalue()

    def restore(self, checkpoint: bytes) -> None:
        """Go on from a checkpoint of the same job.

        Raises:
            TuneError: it is torn, or of something else.
        """
        try:
            state = torch.load(io.BytesIO(checkpoint), weights_only=True)
            self._head.load_state_dict(state["head"])
            self._adam.restore(state["adam"])
            with torch.no_grad():
                self._centres.copy_(state["centres"])
            self._best, self.history = state["best"], [float(value) for value in state["history"]]
        except Exception as err:  # torch's unpickler raises whatever it meets
            raise TuneError(f"the checkpoint is damaged: {str(err).splitlines()[0] if str(err) else err!r}") from err

    def result(self) -> Trained:
        """Return the best epoch's head, gone part of the way from the base."""
        self._head.load_state_dict(self._best)
        with torch.no_grad():
            for mine, base in zip(self._head.parameters(), self._base.parameters()):
                mine.copy_(base + self._options.blend * (mine - base))
        features = self._job.samples.features
        some = features[:: 1 + len(features) // _CHECKED]
        heads = write_heads(self._head, some)
        before, after = project(make_head(self._job.kind, self._job.file), some), project(self._head, some)
        return Trained(
            heads,
            epochs=self.done,
            stopped_early=self.done < self._options.epochs,
            losses=tuple(self.history),
            moved=float(1.0 - (before * after).sum(axis=1).mean()),
            differs=difference(self._head, heads, some),
        )


class _Adam:
    """Adam (Kingma & Ba 2015). PyTorch's own draws in its compiler: 8 s and 150 MB more."""

    _BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8

    def __init__(self, rates: List[Tuple[torch.Tensor, float]]) -> None:
        self._rates = rates
        self._first = [torch.zeros_like(p, requires_grad=False) for p, _ in rates]
        self._second = [torch.zeros_like(p, requires_grad=False) for p, _ in rates]
        self._steps = 0

    def step(self, loss: torch.Tensor) -> None:
        """Go one step down the slope of the loss."""
        slopes = torch.autograd.grad(loss, [p for p, _ in self._rates])
        self._steps += 1
        ahead = (1 - self._BETA_2**self._steps) ** 0.5 / (1 - self._BETA_1**self._steps)
        with torch.no_grad():
            for (part, rate), slope, first, second in zip(self._rates, slopes, self._first, self._second):
                first.mul_(self._BETA_1).add_(slope, alpha=1 - self._BETA_1)
                second.mul_(self._BETA_2).addcmul_(slope, slope, value=1 - self._BETA_2)
                part.addcdiv_(first, second.sqrt().add_(self._EPS), value=-rate * ahead)

    def state(self) -> Dict[str, Any]:
        return {"first": self._first, "second": self._second, "steps": self._steps}

    def restore(self, state: Dict[str, Any]) -> None:
        for mine, kept in ((self._first, state["first"]), (self._second, state["second"])):
            for one, value in zip(mine, kept):
                one.copy_(value)
        self._steps = int(state["steps"])


def _split(samples: Samples, seed: int) -> Tuple[Ints, Ints]:
    """Return the rows to learn from and those to validate on: whole groups, a fifth of each person's where there are
    enough, never an enrolment photo.
    """
    rng = np.random.default_rng((seed, 1 << 20))
    live = np.unique(samples.group[~samples.enrolled])
    owner = np.where(samples.shares[live].max(axis=1, initial=0.0) >= SURE, samples.shares[live].argmax(axis=1), -1)
    back: List[int] = []
    for person in np.unique(owner[owner >= 0]):
        mine = rng.permutation(live[owner == person])
        if len(mine) >= _KEEP_BACK_FROM:
            back += mine[: int(_KEPT_BACK * len(mine))].tolist()
    held = np.isin(samples.group, np.array(back, np.int64)) & ~samples.enrolled
    return np.flatnonzero(~held), np.flatnonzero(held)


def _order(samples: Samples, learn: Ints, rng: np.random.Generator) -> Ints:
    """Return the rows of one epoch: at most eight a group, and every person's enrolment photos as often in all as a
    person has live faces on average.
    """
    live = rng.permutation(learn[~samples.enrolled[learn]])
    turn = _turns(samples.group[live])
    live = live[turn < FACES_A_GROUP]
    known = learn[samples.enrolled[learn]]
    owners = samples.shares[samples.group[known]].argmax(axis=1) if len(known) else known
    people = np.unique(owners)
    each = -(-len(live) // max(len(people), 1))
    replayed = [known]
    for person in people:
        mine = rng.permutation(known[owners == person])
        replayed.append(np.resize(mine, max(0, each - len(mine))))
    out: Ints = rng.permutation(np.concatenate([live, *replayed])).astype(np.int64)
    return out


def _turns(groups: Ints) -> Ints:
    """Return (N,) how often each value has come before."""
    order = np.argsort(groups, kind="stable")
    ranked = groups[order]
    first = np.searchsorted(ranked, ranked)
    out = np.empty(len(groups), np.int64)
    out[order] = np.arange(len(groups)) - first
    return out


class _Relations(NamedTuple):
    """What is known of who is the same and who is not."""

    own: Dict[int, Ints]
    """A sure person, or an unnamed group -> rows; of whom others are known who are not them."""
    foes: Dict[int, Ints]
    """The same -> rows of those others."""

    @staticmethod
    def of(samples: Samples) -> _Relations:
        people = len(samples.people)
        sure = samples.shares.max(axis=1, initial=0.0) >= SURE
        # Groups of one sure person are one; every other group stands for itself.
        name = np.where(sure, samples.shares.argmax(axis=1) if people else 0, people + np.arange(len(samples.shares)))
        who = name[samples.group]
        nobody = people + np.flatnonzero(samples.shares.sum(axis=1) <= 1.0 - SURE)
        known = np.unique(name[sure])
        apart = {int(w): {*known.tolist(), *nobody.tolist()} - {int(w)} for w in known}
        for a, b in samples.apart:
            one, two = int(name[a]), int(name[b])
            if one != two:
                apart.setdefault(one, set()).add(two)
                apart.setdefault(two, set()).add(one)
        own = {w: np.flatnonzero(who == w) for w in sorted(apart)}
        foes = {w: np.flatnonzero(np.isin(who, sorted(others))) for w, others in apart.items()}
        usable = [w for w in own if len(own[w]) > 1 and len(foes[w])]
        return _Relations({w: own[w] for w in usable}, {w: foes[w] for w in usable})

    def draw(self, vectors: Floats, rng: np.random.Generator) -> Ints:
        """Return (3, T) rows: two faces of one person, and one of the hardest fifth of some others' faces."""
        anchors = list(self.own)
        found: List[Tuple[int, int, int]] = []
        for _ in range(_TRIPLETS if anchors else 0):
            who = anchors[rng.integers(len(anchors))]
            mine, foes = self.own[who], self.foes[who]
            one = int(rng.integers(len(mine)))
            two = (one + 1 + int(rng.integers(len(mine) - 1))) % len(mine)
            others = foes[rng.integers(0, len(foes), _FOES)]
            hardest = np.argsort(-(vectors[others] @ vectors[mine[one]]), kind="stable")[: round(_HARDEST * _FOES)]
            found.append((int(mine[one]), int(mine[two]), int(others[hardest[rng.integers(len(hardest))]])))
        out: Ints = np.ascontiguousarray(np.array(found, np.int64).reshape(-1, 3).T)
        return out


# --- as a program -----------------------------------------------------------------------------------------------------


def main() -> int:
    """Do the job in the open file that is named; limits and checkpoint come by stdin, only frames go to stdout."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not tear a frame

    def send(letter: bytes, content: bytes) -> None:
        out.write(FRAME.pack(letter, len(content)))
        out.write(content)
        out.flush()

    try:
        limits = Limits(**json.loads(_part(sys.stdin.buffer)))
        os.nice(limits.niceness)
        checkpoint = _part(sys.stdin.buffer)
        with open(int(sys.argv[1]), "rb") as file:
            file.seek(0)
            job = Job.read(file)
        Thread(target=_leave_with_parent, args=(sys.stdin.buffer,), daemon=True, name="parent").start()

        def after_epoch(epoch: int, loss: float, state: Callable[[], bytes]) -> None:
            send(b"C", state())
            send(b"P", json.dumps({"epoch": epoch, "text": f"loss {loss:.3f}"}).encode())
            wait_until_allowed(limits)

        wait_until_allowed(limits)
        send(b"D", train(job, checkpoint, after_epoch).pack())
    except BrokenPipeError:
        return 1
    except MemoryError:
        send(b"E", b"not enough memory")
        return 1
    except (EdgecamError, RuntimeError) as err:  # PyTorch says "out of memory" as a RuntimeError
        send(b"E", (str(err).splitlines() or [repr(err)])[0].encode())
        return 1
    return 0


def _part(stream: IO[bytes]) -> bytes:
    _, length = FRAME.unpack(stream.read(FRAME.size))
    return stream.read(length)


def _leave_with_parent(stream: IO[bytes]) -> None:
    stream.read()
    os._exit(1)


def wait_until_allowed(limits: Limits) -> None:
    """Wait while the box is too hot.

    Raises:
        TuneError: no mains supply is online, and the battery is not to be used.
    """
    roof = limits.celsius
    while True:
        if not limits.on_battery and on_battery(Path(limits.sysfs)):
            raise TuneError("training was ended: the box runs on its battery; it goes on next time")
        if (heat := celsius(Path(limits.sysfs))) is None or heat <= roof:
            return
        roof = limits.celsius - _COOLER
        time.sleep(_WAIT_S)


if __name__ == "__main__":
    sys.exit(main())

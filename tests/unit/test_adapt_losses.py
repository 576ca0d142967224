"""The losses of the night: every slope against the printed formula, and against differences, in float64."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, get_args

import pytest
import torch

from edgecam.adapt import losses
from edgecam.adapt.losses import Margin

B, C, D, P = 6, 7, 5, 3
CLOSE = 1e-4
STEP = 1e-6


def draw(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(loss: Callable[[Any], Any], at: Any) -> Any:
    point = at.clone().requires_grad_()
    loss(point).backward()
    return point.grad


def differences(loss: Callable[[Any], Any], at: Any) -> Any:
    out = torch.zeros_like(at)
    for n in range(at.numel()):
        ahead, behind = at.clone(), at.clone()
        ahead.view(-1)[n] += STEP
        behind.view(-1)[n] -= STEP
        out.view(-1)[n] = (loss(ahead) - loss(behind)) / (2 * STEP)
    return out


SHARES = draw(B, P, seed=1).softmax(dim=1)
CENTRES = torch.nn.functional.normalize(draw(P, D, seed=2), dim=1)
OTHER, THIRD = draw(B, D, seed=3), draw(B, D, seed=4)
SAME = torch.tensor([True, False, True, False, False, True])
TARGETS = torch.tensor([0, 2, 4, 6, 1, 3])
DATASET = torch.tensor([0, 0, 0, 0, 1, 1, 1])
MASK = losses.dataset_mask(DATASET[TARGETS], DATASET)

LOSSES: Dict[str, Callable[[Any], Any]] = {
    "soft": lambda x: losses.soft_cross_entropy(x[:, :P], SHARES),
    "centre": lambda x: losses.stochastic_centre(x, SHARES, CENTRES),
    "contrastive": lambda x: losses.contrastive(x, OTHER, SAME, margin=12.0),
    "triplet": lambda x: losses.triplet(x, OTHER, THIRD),
    "triplet positive": lambda x: losses.triplet(OTHER, x, THIRD),
    "triplet negative": lambda x: losses.triplet(OTHER, THIRD, x),
    "symtriplet k": lambda x: losses.symtriplet(x, OTHER, THIRD),
    "symtriplet l": lambda x: losses.symtriplet(OTHER, x, THIRD),
    "symtriplet m": lambda x: losses.symtriplet(OTHER, THIRD, x),
    "masked": lambda x: losses.masked_cross_entropy(torch.cat([x, OTHER], dim=1)[:, :C], TARGETS, MASK),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_slope_is_that_of_the_differences(name: str) -> None:
    at = draw(B, D)
    found = slope(LOSSES[name], at)
    assert found.abs().max() > 0.01
    assert (found - differences(LOSSES[name], at)).abs().max() < CLOSE


@pytest.mark.parametrize("kind", get_args(Margin))
@pytest.mark.parametrize("margin", [0.3, 2.5])
def test_each_margin_slopes_as_its_differences(kind: Margin, margin: float) -> None:
    def loss(cosines: Any) -> Any:
        rng = torch.Generator().manual_seed(5)
        return torch.nn.functional.cross_entropy(
            losses.margin_logits(kind, cosines, TARGETS, 8.0, margin, rng), TARGETS
        )

    at = draw(B, C, seed=6).tanh() * 0.95
    assert (slope(loss, at) - differences(loss, at)).abs().max() < CLOSE


# --- soft labels ------------------------------------------------------------------------------------------------------


def test_soft_labels_follow_the_printed_sum() -> None:
    logits = draw(B, P)
    printed = -sum(
        float(SHARES[i, k] * torch.log(logits[i].exp()[k] / logits[i].exp().sum())) for i in range(B) for k in range(P)
    )
    assert float(losses.soft_cross_entropy(logits, SHARES)) == pytest.approx(printed / B)
    hard = torch.eye(P, dtype=torch.float64)[TARGETS % P]
    assert float(losses.soft_cross_entropy(logits, hard)) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, TARGETS % P))
    )


def test_a_row_that_is_half_somebody_else_counts_half() -> None:
    logits = draw(1, P)
    whole, half = (float(losses.soft_cross_entropy(logits, share * SHARES[:1])) for share in (1.0, 0.5))
    assert half == pytest.approx(whole / 2)


def test_centres_are_the_weighted_means_scaled_to_one_without_slope() -> None:
    vectors = draw(B, D).requires_grad_()
    found = losses.centres_of(vectors, SHARES)
    for k in range(P):
        mean = sum(SHARES[i, k] * vectors[i].detach() for i in range(B)) / SHARES[:, k].sum()
        assert torch.allclose(found[k], mean / mean.norm())
    assert not found.requires_grad
    nobody = torch.zeros(B, P, dtype=torch.float64)
    assert torch.equal(losses.centres_of(vectors, nobody), torch.zeros(P, D, dtype=torch.float64))


def test_the_centre_loss_weighs_by_membership_and_holds_the_centres() -> None:
    vectors, centres = draw(B, D), CENTRES.clone().requires_grad_()
    printed = sum(float(SHARES[i, k] * (vectors[i] - CENTRES[k]).pow(2).sum()) for i in range(B) for k in range(P))
    assert float(losses.stochastic_centre(vectors, SHARES, CENTRES)) == pytest.approx(printed / B)
    point = vectors.clone().requires_grad_()
    losses.stochastic_centre(point, SHARES, centres).backward()
    assert torch.allclose(point.grad, 2 * (vectors - SHARES @ CENTRES) / B)
    assert centres.grad is None


# --- the same and apart -----------------------------------------------------------------------------------------------


def test_pairs_follow_the_printed_equation() -> None:
    a, b = (
        torch.zeros(4, 2, dtype=torch.float64),
        torch.tensor([[0.6, 0.0], [0.6, 0.0], [2.0, 0.0], [0.0, 0.0]]).double(),
    )
    same = torch.tensor([True, False, False, False])
    # D = .36 same, .36 apart and too near, 4 apart and far enough, 0 apart and on top of each other.
    assert float(losses.contrastive(a, b, same, 1.0)) == pytest.approx((0.36 + 0.64 + 0.0 + 1.0) / 2 / 4)


def test_triplets_follow_the_printed_equations() -> None:
    k, same, m = (torch.tensor([row], dtype=torch.float64) for row in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.2]))
    assert float(losses.triplet(k, same, m, 1.0)) == pytest.approx((1.0 - 1.44 + 1.0) / 2)
    assert float(losses.symtriplet(k, same, m, 1.0)) == pytest.approx(1.0 - (1.44 + 2.44) / 2 + 1.0)
    assert float(losses.symtriplet(k, same, 3 * m, 1.0)) == 0.0


def test_symtriplet_has_the_closed_slopes_of_the_paper_and_none_when_satisfied() -> None:
    k, same, m = (draw(B, D, seed=s).requires_grad_() for s in (7, 8, 9))
    fk, fl, fm = (v.detach() for v in (k, same, m))
    active = losses.squared(fk, fl) - (losses.squared(fk, fm) + losses.squared(fl, fm)) / 2 + 1.0 > 0
    assert 0 < int(active.sum()) < B
    losses.symtriplet(k, same, m, 1.0).backward()
    on = active[:, None] / B
    assert torch.allclose(k.grad, on * (-2 * (fl - fk) + (fm - fk)))
    assert torch.allclose(same.grad, on * (2 * (fl - fk) + (fm - fl)))
    assert torch.allclose(m.grad, on * (-(fm - fk) - (fm - fl)))


# --- margins ----------------------------------------------------------------------------------------------------------


def test_margins_are_the_printed_ones_and_touch_the_own_class_alone() -> None:
    cosines, s = draw(B, C, seed=6).tanh() * 0.9, 16.0
    own = cosines.gather(1, TARGETS[:, None])
    angle = own.acos()
    near = angle < math.pi / 2  # where none of them has turned
    want = {
        "softmax": own,
        "arcface": (angle + 0.3).cos(),
        "cosface": own - 0.3,
        "sphereface": (2.0 * angle).cos(),
    }
    assert 0 < int(near.sum()) < B
    for kind, expected in want.items():
        found = losses.margin_logits(kind, cosines, TARGETS, s, 2.0 if kind == "sphereface" else 0.3)  # type: ignore[arg-type]
        assert torch.allclose(found.gather(1, TARGETS[:, None])[near], s * expected[near]), kind
        others = torch.ones_like(cosines).scatter(1, TARGETS[:, None], 0.0).bool()
        assert torch.equal(found[others], s * cosines[others]), kind


@pytest.mark.parametrize(("kind", "margin"), [("arcface", 0.5), ("sphereface", 2.0), ("sphereface", 3.0)])
def test_a_margin_falls_over_every_angle(kind: Margin, margin: float) -> None:
    angles = torch.linspace(0.01, math.pi - 0.01, 300, dtype=torch.float64)
    found = losses.margin_logits(kind, angles.cos()[:, None], torch.zeros(300, dtype=torch.int64), 1.0, margin)[:, 0]
    assert (found.diff() < 1e-9).all()
    assert (found <= angles.cos() + 1e-3).all()


def test_a_margin_at_its_own_centre_has_a_finite_slope() -> None:
    for kind in get_args(Margin):
        point = torch.ones(B, C, requires_grad=True)
        losses.margin_logits(kind, point, TARGETS, 8.0, 2.0).sum().backward()
        assert torch.isfinite(point.grad).all(), kind


def test_an_elastic_margin_differs_by_sample_and_is_drawn_from_the_generator() -> None:
    cosines = torch.full((400, 2), 0.2, dtype=torch.float64)
    own = torch.zeros(400, dtype=torch.int64)

    def drawn(seed: int) -> Any:
        rng = torch.Generator().manual_seed(seed)
        return losses.margin_logits("elasticface", cosines, own, 1.0, 0.5, rng)[:, 0].acos() - math.acos(0.2)

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert float(drawn(0).mean()) == pytest.approx(0.5, abs=3e-3)
    assert float(drawn(0).std()) == pytest.approx(losses.ELASTIC_SD, rel=0.15)


# --- several datasets -------------------------------------------------------------------------------------------------


def test_without_crossing_only_the_own_dataset_repels() -> None:
    logits = draw(B, C)
    samples = DATASET[TARGETS]
    mask = losses.dataset_mask(samples, DATASET, p=0.0)
    assert torch.equal(mask, samples[:, None] == DATASET[None])
    printed = 0.0
    for i in range(B):
        shown = [j for j in range(C) if DATASET[j] == samples[i]]
        printed -= float(torch.log(logits[i, TARGETS[i]].exp() / logits[i, shown].exp().sum()))
    assert float(losses.masked_cross_entropy(logits, TARGETS, mask)) == pytest.approx(printed / B)


def test_foreign_classes_get_no_slope_at_p_0_and_p_1_is_plain_softmax_bit_for_bit() -> None:
    logits = draw(B, C)
    aware = slope(lambda x: losses.masked_cross_entropy(x, TARGETS, MASK), logits)
    assert torch.equal(aware != 0, MASK)
    everything = losses.dataset_mask(DATASET[TARGETS], DATASET, p=1.0)
    plain = torch.nn.functional.cross_entropy(logits, TARGETS)
    assert torch.equal(losses.masked_cross_entropy(logits, TARGETS, everything), plain)
    assert torch.equal(
        slope(lambda x: losses.masked_cross_entropy(x, TARGETS, everything), logits),
        slope(lambda x: torch.nn.functional.cross_entropy(x, TARGETS), logits),
    )


def test_the_aware_loss_is_bit_for_bit_that_of_dropout_at_p_0() -> None:
    logits, targets = draw(2000, 500), torch.arange(2000) % 500
    classes = torch.arange(500) % 2
    aware = targets[:, None] % 2 == classes[None]
    dropped = losses.dataset_mask(classes[targets], classes, 0.0, torch.Generator().manual_seed(1))
    assert torch.equal(dropped, aware)
    assert torch.equal(
        losses.masked_cross_entropy(logits, targets, dropped), losses.masked_cross_entropy(logits, targets, aware)
    )


def test_crossing_lets_foreign_classes_in_at_its_rate_for_each_sample_anew() -> None:
    samples, classes = torch.zeros(500, dtype=torch.int64), torch.tensor([0] * 10 + [1] * 40)
    rng = torch.Generator().manual_seed(2)
    p = losses.crossing_chance(2, 40)
    mask = losses.dataset_mask(samples, classes, p, rng)
    assert mask[:, :10].all()
    assert float(mask[:, 10:].sum(dim=1).double().mean()) == pytest.approx(2.0, abs=0.2)
    assert not torch.equal(mask, losses.dataset_mask(samples, classes, p, rng))
    assert not torch.equal(mask[0], mask[1])


def test_the_chance_of_crossing_is_the_wanted_number_of_negatives() -> None:
    assert losses.crossing_chance(1, 40) == 0.025
    assert losses.crossing_chance(5, 2) == 1.0
    assert losses.crossing_chance(1, 0) == 0.0


def test_the_own_class_counts_whatever_the_mask_says() -> None:
    logits = draw(B, C)
    nothing = torch.zeros(B, C, dtype=torch.bool)
    assert float(losses.masked_cross_entropy(logits, TARGETS, nothing)) == 0.0
    apart = torch.zeros(C, C, dtype=torch.bool)
    apart[0, 2] = apart[2, 0] = True
    found = slope(lambda x: losses.masked_cross_entropy(x, TARGETS, apart[TARGETS]), logits)
    assert (found[0] != 0).tolist() == [j in (0, 2) for j in range(C)]
    assert (found[2] == 0).all()


def test_the_reversed_gradient_leaves_the_values_and_turns_the_slope() -> None:
    values = draw(B, D).requires_grad_()
    weight = draw(D, 2, seed=3).requires_grad_()
    out = losses.reverse_gradient(values, 0.3)
    assert torch.equal(out, values)
    (out @ weight).sum().backward()
    ahead = torch.ones(B, 2, dtype=torch.float64)
    assert torch.allclose(values.grad, -0.3 * ahead @ weight.detach().T)
    assert torch.allclose(weight.grad, values.detach().T @ ahead)  # the classifier learns from its whole loss
    still = draw(B, D).requires_grad_()
    losses.reverse_gradient(still, 0.0).sum().backward()
    assert (still.grad == 0).all()
    assert torch.equal(losses.reverse_gradient(draw(B, D), 0.3), draw(B, D))


def test_the_gradient_is_reversed_in_the_second_stage_alone_and_grows() -> None:
    weights = [losses.reversal_weight(step, 300, shared=0.5) for step in range(300)]
    assert set(weights[:101]) == {0.0}
    assert weights[101] > 0
    assert weights == sorted(weights)
    assert weights[150] == pytest.approx(0.05)
    assert weights[200:] == [0.1] * 100


def test_nothing_is_reversed_where_datasets_hold_other_people() -> None:
    assert losses.reversal_weight(299, 300, shared=0.29) == 0.0
    assert losses.reversal_weight(299, 300, shared=0.3, most=0.03) == 0.03

"""Components of planted maps: what they are, what does not change them, and the colours that show them."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tests.dense.fields import CHANNELS, COLUMNS, FEW, ROWS, directions, disc, noise, smooth
from vit2onnx.dense import components
from vit2onnx.dense.components import Basis, aligned, colours, fit, levels, scores
from vit2onnx.errors import InputError

Array = np.ndarray


def of_model(latent: Array, seed: int, channels: int) -> Array:
    """What a model of so many channels makes of hidden variables [h, w, k]: its own directions, mean and noise."""
    shown = latent @ directions(latent.shape[-1], seed, channels)
    return shown + noise(seed, 1, 1, channels) + 0.01 * noise(seed + 1, *latent.shape[:2], channels)


def latents(count: int = 4) -> list[Array]:
    """Three hidden variables of different size in some images."""
    return [smooth(seed, channels=3) * [5, 3, 2] for seed in range(count)]


def planted(count: int = 4) -> list[Array]:
    return [of_model(latent, 10, FEW) for latent in latents(count)]


def test_components_are_those_of_a_singular_value_decomposition():
    maps = planted()
    basis = fit(maps)
    rows = np.concatenate([grid.reshape(-1, FEW) for grid in maps])
    _, values, vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    assert np.abs(np.sum(basis.components * vectors[:3], axis=1)) == pytest.approx(np.ones(3), abs=1e-12)
    assert basis.mean == pytest.approx(rows.mean(axis=0), abs=1e-12)
    assert basis.deviations == pytest.approx(values[:3] / math.sqrt(len(rows) - 1), rel=1e-12)
    squares = values**2
    assert basis.shares == pytest.approx(squares[:3] / squares.sum(), rel=1e-12)
    assert basis.gaps == pytest.approx(1 - squares[1:4] / squares[:3], rel=1e-10)
    assert basis.patches == len(rows) == 4 * ROWS * COLUMNS
    assert basis.components @ basis.components.T == pytest.approx(np.eye(3), abs=1e-12)


def test_scores_of_the_fitted_maps_are_whitened():
    maps = planted()
    basis = fit(maps)
    whitened = np.concatenate([scores(basis, grid).reshape(-1, 3) for grid in maps])
    assert whitened.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-12)
    assert np.cov(whitened.T) == pytest.approx(np.eye(3), abs=1e-12)


def test_the_largest_loading_is_positive():
    for maps in (planted(), [-grid for grid in planted()]):
        found = fit(maps, count=8).components
        assert (np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_of_equal_loadings_the_first_is_positive():
    # All loadings are equal but for rounding, which otherwise would choose the sign.
    signs = np.array([-1, 1, 1, -1, 1, -1, -1, 1])
    for rounding in (0, 1e-9, -1e-9):
        along = smooth(channels=1) * signs * (1 + rounding * np.arange(8))
        assert fit([along], count=1).components[0] * signs == pytest.approx(-np.full(8, 8**-0.5), abs=1e-7)


def test_negated_maps_have_the_same_components_and_negated_scores():
    maps = planted()
    basis, negated = fit(maps), fit([-grid for grid in maps])
    assert negated.components == pytest.approx(basis.components, abs=1e-12)
    assert scores(negated, -maps[0]) == pytest.approx(-scores(basis, maps[0]), abs=1e-10)
    assert negated.shares == pytest.approx(basis.shares, rel=1e-12)


@pytest.mark.parametrize("most", [components.MOST_FITTED, 500])
def test_the_order_of_images_and_of_channels_does_not_matter(most: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(components, "MOST_FITTED", most)
    maps = planted()
    # Of different sizes, so that each has another share of the sample.
    maps[1] = maps[1][:20]
    basis, turned = fit(maps), fit(maps[::-1])
    assert turned.patches == basis.patches <= most
    assert turned.components == pytest.approx(basis.components, abs=1e-12)
    assert scores(turned, maps[0]) == pytest.approx(scores(basis, maps[0]), abs=1e-10)
    other = np.random.default_rng(0).permutation(FEW)
    permuted = fit([grid[..., other] for grid in maps])
    assert permuted.components == pytest.approx(basis.components[:, other], abs=1e-12)


def test_two_fits_are_equal_to_the_bit():
    basis, again = fit(planted()), fit(planted())
    for name in ("mean", "components", "deviations", "shares", "gaps"):
        assert getattr(basis, name).tobytes() == getattr(again, name).tobytes()


def test_many_patches_are_sampled_at_even_distances():
    # 9000 patches: the first component is where a patch is, so the sample shows in the mean and the deviation.
    maps = [np.arange(4500.0).reshape(90, 50, 1) * [1, 0.1] for _ in range(2)]
    basis = fit(maps, count=1)
    assert basis.patches == 4096
    assert basis.mean[0] == pytest.approx(4499 / 2, rel=1e-3)
    assert basis.deviations[0] == pytest.approx(math.hypot(1, 0.1) * 4500 / math.sqrt(12), rel=1e-3)


def test_no_map_is_left_out_of_the_sample(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(components, "MOST_FITTED", 16)
    basis = fit([noise(rows=20, columns=20, channels=4), noise(1, 1, 1, channels=4) + 100])
    assert basis.patches == 16
    assert basis.mean.min() > 4


@pytest.mark.parametrize("grid", [(3, 4), (1, 9), (2, 1)])
def test_fewer_patches_than_channels(grid: tuple[int, int]):
    field = noise(0, *grid)
    basis, count = fit([field], count=5), min(5, grid[0] * grid[1] - 1)
    rows = field.reshape(-1, CHANNELS)
    _, values, vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    assert np.abs(basis.components[:count] @ vectors[:count].T) == pytest.approx(np.eye(count), abs=1e-10)
    assert basis.deviations[:count] == pytest.approx(values[:count] / math.sqrt(len(rows) - 1), rel=1e-10)
    assert basis.shares.sum() <= 1 + 1e-12
    # What does not exist is grey.
    assert not basis.components[count:].any() and not basis.shares[count:].any() and not basis.gaps[count:].any()
    assert (basis.deviations[count:] == 1).all() and max(basis.turning, default=0) <= count
    assert (colours(scores(basis, field))[..., count:] == 0.5).all()


def test_directions_without_variance_are_no_components():
    # Two directions, in more patches than channels and in fewer.
    latent = smooth(rows=12, channels=2)
    for field in (latent @ directions(2, channels=24), latent @ directions(2, channels=300)):
        basis = fit([1000 + field])
        assert basis.shares[:2].sum() == pytest.approx(1, abs=1e-9)
        assert (basis.shares[2], basis.gaps[2], basis.deviations[2]) == (0, 0, 1)
        assert basis.gaps[1] == 1 and not basis.components[2].any()
        assert np.abs(scores(basis, 1000 + field)).max() < 10


@pytest.mark.parametrize("value", [0.0, 1e6, 1 / 3])
def test_a_constant_map_has_no_components(value: float):
    for channels in (8, 300):
        field = np.full((12, 20, channels), value, np.float32)
        basis = fit([field])
        assert not basis.components.any() and not basis.shares.any() and basis.turning == []
        assert (levels(colours(scores(basis, field))) == 128).all()


def test_a_small_gap_means_that_a_component_may_turn():
    # Two variances that are equal to 2 percent, then one of a quarter.
    latent = noise(rows=40, columns=40, channels=3).reshape(-1, 3)
    latent = np.linalg.qr(latent - latent.mean(axis=0))[0] * [1.01, 1, 0.5]
    basis = fit([latent.reshape(40, 40, 3) @ directions(3, channels=12)])
    assert basis.gaps == pytest.approx([1 - 1 / 1.01**2, 0.75, 1], abs=1e-9)
    # The second is what the first mixes with.
    assert basis.turning == [1, 2]
    assert fit(planted()).turning == []


def test_masks_leave_the_background_out():
    field, inside, part = disc()
    basis = fit([field, field], [inside, inside])
    assert basis.patches == 2 * inside.sum()
    # Without a background, what differs are the three parts: two directions, and noise.
    assert basis.shares[:2].sum() > 0.9 > fit([field]).shares[1:].sum()
    found = scores(basis, field)
    centres = np.array([found[inside & (part == number)][:, :2].mean(axis=0) for number in range(3)])
    assert np.linalg.norm(centres - np.roll(centres, 1, axis=0), axis=1).min() > 1
    # A map with nothing inside adds nothing, and masks may be numbers.
    other = fit([field, noise(channels=FEW), field], [inside.astype(np.uint8), np.zeros((ROWS, COLUMNS)), inside])
    assert np.array_equal(other.components, basis.components)


def test_an_own_scale_keeps_the_colours_where_one_patch_stands_out():
    field, inside, _ = disc()
    field[3, 3] *= 30
    others = np.ones((ROWS, COLUMNS), bool)
    others[3, 3] = False
    assert not inside[3, 3]
    found = scores(fit([field]), field)
    stretched = (found - found.min(axis=(0, 1))) / np.ptp(found, axis=(0, 1))
    # Both components that the patch takes part in.
    assert stretched[others].std(axis=0)[:2].max() < 0.05
    assert colours(found)[others].std(axis=0).min() >= 0.25


def test_colours_are_a_fixed_scale():
    found = np.array([[[0, np.inf, -np.inf, 9], [1, -1, 0.5, 9]]])
    sigmoid = 1 / (1 + np.exp(-2 * np.array([1, -1, 0.5])))
    assert colours(found)[0, 0].tolist() == [0.5, 1, 0]
    assert colours(found)[0, 1] == pytest.approx(sigmoid, abs=1e-15)
    # Far from the mean as well, without a warning.
    assert colours(np.full((1, 1, 3), -1e6)).tolist() == [[[0, 0, 0]]]


def test_levels_are_rounded_half_to_even():
    assert levels(np.array([0, 0.5 / 255, 1.5 / 255, 2.5 / 255, 127.5 / 255, 1])).tolist() == [0, 0, 2, 2, 128, 255]
    assert levels(np.zeros((1, 1, 3))).dtype == np.uint8


def test_two_models_that_see_the_same_agree_but_for_a_rotation():
    a, b = ([of_model(latent, seed, channels) for latent in latents()] for seed, channels in ((20, 384), (30, 768)))
    first, second = fit(a), fit(b)
    ours, theirs = [scores(first, grid) for grid in a], [scores(second, grid) for grid in b]
    rotation, agreement = aligned(ours, theirs)
    assert agreement >= 0.998
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-12)
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one - other @ rotation).max() < 0.1
    # In any orthogonal basis, a mirrored one among them, and at any scale.
    for turn in (directions(3, 5, 3), -np.eye(3), np.eye(3)[[2, 0, 1]]):
        rotation, turned = aligned(ours, [7 * one @ turn for one in theirs])
        assert turned == pytest.approx(agreement, abs=1e-12)
        assert np.abs(ours[0] - theirs[0] @ turn @ rotation).max() < 0.1
    assert aligned(theirs, ours)[1] == pytest.approx(agreement, abs=1e-12)


def test_agreement_is_one_for_equal_maps_and_near_zero_for_noise():
    field = noise(channels=3)
    assert aligned([field], [field])[1] == pytest.approx(1, abs=1e-12)
    assert aligned([field], [field])[0] == pytest.approx(np.eye(3), abs=1e-12)
    assert aligned([field], [noise(1, channels=3)])[1] < 0.01
    assert math.isnan(aligned([field], [np.zeros_like(field)])[1])


def test_another_order_of_patches_does_not_agree():
    ours = latents()
    exchanged = [one.reshape(COLUMNS, ROWS, 3).transpose(1, 0, 2) for one in ours]
    assert aligned(ours, exchanged)[1] < 0.5


def test_components_of_all_images_are_turned_together():
    # Each image by itself could be turned to fit, all together cannot.
    ours = [noise(channels=3), noise(1, channels=3)]
    theirs = [ours[0], ours[1] @ np.eye(3)[[2, 0, 1]]]
    assert aligned(ours[1:], theirs[1:])[1] == pytest.approx(1, abs=1e-12)
    assert aligned(ours, theirs)[1] < 0.9


FIELD = noise(rows=3, columns=4, channels=5)
NOT_FINITE = np.where(np.indices(FIELD.shape).sum(axis=0) == 4, np.nan, FIELD)


@pytest.mark.parametrize(
    "maps, masks, message",
    [
        ([], None, "need two patches and there are 0; give more"),
        ([FIELD[:1, :1]], None, "need two patches and there are 1; give more"),
        ([FIELD], [np.zeros((3, 4))], "need two patches and there are 0"),
        ([FIELD, NOT_FINITE], None, "not finite; compute"),
        ([FIELD, FIELD[..., :4]], None, "Maps of 4 and 5 channels .*; give maps of one model"),
        ([FIELD, FIELD], [np.ones((3, 4))], "2 maps and 1 masks; give one"),
        ([FIELD], [np.ones((4, 3))], "3 x 4 and 4 x 3"),
        ([FIELD[0]], None, "must be rows x columns x channels"),
    ],
)
def test_what_has_no_components_is_refused(maps: Sequence[Array], masks: Sequence[Array] | None, message: str):
    with pytest.raises(InputError, match=message):
        fit(maps, masks)


def test_a_map_of_another_model_has_no_scores():
    basis = fit([FIELD])
    assert isinstance(basis, Basis)
    with pytest.raises(InputError, match="4 channels and the basis 5"):
        scores(basis, FIELD[..., :4])
    with pytest.raises(InputError, match="not finite"):
        scores(basis, NOT_FINITE)


@pytest.mark.parametrize(
    "a, b, message",
    [
        ([], [], "0 maps cannot be compared with 0"),
        ([FIELD], [FIELD, FIELD], "1 maps cannot be compared with 2; give both models the same images"),
        ([FIELD], [FIELD.transpose(1, 0, 2)], "Maps of 3 x 4 and 4 x 3 patches"),
        ([FIELD], [FIELD[..., :3]], "5 and 3 components"),
        ([FIELD], [NOT_FINITE], "not finite"),
    ],
)
def test_what_cannot_be_aligned_is_refused(a: Sequence[Array], b: Sequence[Array], message: str):
    with pytest.raises(InputError, match=message):
        aligned(a, b)

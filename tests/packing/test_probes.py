"""Probes of models in numpy that keep images apart, or do not."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from vit2onnx.packing import pack
from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED, Run, noise, probe, wrong_inputs

IMAGES = noise(2)


def model(pixel_values: np.ndarray, grid_thw: np.ndarray) -> dict[str, np.ndarray]:
    """Each patch with its place in the image, and the mean of each image."""
    ends = np.cumsum(grid_thw.prod(axis=1))
    images = np.split(pixel_values, ends[:-1])
    columns = np.concatenate([np.arange(len(one)) % grid[2] for one, grid in zip(images, grid_thw, strict=True)])
    return {
        "last_hidden_state": pixel_values + columns[:, None].astype(np.float32),
        "pooler_output": np.stack([one.mean(axis=0) for one in images]),
        "registers": np.stack([one[:1] for one in images]),
    }


def altered(change: Callable[[np.ndarray, np.ndarray, dict[str, np.ndarray]], object]) -> Run:
    def run(pixel_values: np.ndarray, grid_thw: np.ndarray) -> Mapping[str, np.ndarray]:
        outputs = model(pixel_values, grid_thw)
        change(pixel_values, grid_thw, outputs)
        return outputs

    return run


def found(run: Run) -> set[str]:
    """The probes in which an image is not the same."""
    probed = probe(run, IMAGES, 2)
    return {one.probe for one in probed if not np.array_equal(one.tokens, one.expected)}


def test_a_model_that_keeps_images_apart_is_the_same_in_all_probes():
    assert found(model) == {EXCHANGED}


def mean_of_all(pixels: np.ndarray, _: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    outputs["pooler_output"] += pixels.mean()


def first_of_the_next(pixels: np.ndarray, grid: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    ends = np.cumsum(grid.prod(axis=1))
    outputs["pooler_output"] += pixels[ends % len(pixels)]


def number_of_the_image(_: np.ndarray, __: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    outputs["registers"] += np.arange(len(outputs["registers"]), dtype=np.float32)[:, None, None]


def masked_by_zero(pixels: np.ndarray, _: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    outputs["last_hidden_state"] += np.float32(0) * pixels.sum()


@pytest.mark.parametrize(
    ("change", "shows"),
    [
        (mean_of_all, {*EXACT, *ROUNDED} - {"in reverse order", "given twice"}),
        (first_of_the_next, {"in reverse order", "beside other images", "alone"}),
        (number_of_the_image, {"in reverse order", "given twice", "alone", "in two calls"}),
        (masked_by_zero, {"beside NaN"}),
    ],
)
def test_a_leak_shows(change: Callable[..., None], shows: set[str]):
    assert found(altered(change)) >= shows


def test_wrong_inputs_are_wrong_in_one_way_each():
    inputs = pack(IMAGES.values(), 2)
    named = {name: (pixels, grid) for name, pixels, grid in wrong_inputs(**inputs)}
    assert len(named) == 11
    for pixels, grid in named.values():
        rows = [int(t) * int(h) * int(w) for t, h, w in grid]
        is_right = sum(rows) == len(pixels) and (grid[:, 0] == 1).all() and (grid > 0).all() and pixels.shape[1] == 12
        assert not is_right
    # Of products and sums alone these could not be told.
    assert named["negative rows and columns"][1][0].prod() == inputs["grid_thw"][0].prod()
    assert (
        len(named["two frames with their patches"][0]) == named["two frames with their patches"][1].prod(axis=1).sum()
    )

"""Where dense maps are looked at: at one grid of patches, or at the only size that a model or a graph takes."""

import pytest

from vit2onnx.errors import InputError
from vit2onnx.families.interface import block_outputs, images_to_tokens, packed_images_to_tokens
from vit2onnx.spec.case import Case
from vit2onnx.spec.dense import compared_size, dense_cases, described_grid, described_size, layer_numbers
from vit2onnx.spec.recipe import Recipe

P14, P16 = (images_to_tokens(8, size, 0, block_outputs(12)) for size in (14, 16))
GRID = (32, 20)


def test_models_of_any_patch_size_look_at_the_same_places() -> None:
    assert described_size(P14, GRID) == (448, 280)
    assert described_size(P16, GRID) == (512, 320)
    assert described_grid(P14, GRID) == described_grid(P16, GRID) == GRID


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ({"height": None, "width": None}, (512, 320)),
        ({"height": 512, "width": 320}, (512, 320)),
        ({"height": 224, "width": 224}, (224, 224)),
        ({"height": 224, "width": None}, None),
    ],
)
def test_a_graph_of_a_fixed_size_is_compared_at_it(sizes: dict[str, int | None], size: tuple[int, int] | None) -> None:
    assert compared_size(P16, Recipe("graph", 23, {"batch": 1, **sizes}), GRID) == size


def test_a_packed_graph_is_compared_at_the_grid() -> None:
    assert compared_size(packed_images_to_tokens(P16), Recipe("packed", 23, {}, "packed"), GRID) == (512, 320)


def test_a_graph_without_layers_has_no_maps() -> None:
    assert compared_size(images_to_tokens(8, 16, 0), Recipe("graph", 23, {"height": None, "width": None}), GRID) is None


def test_every_size_is_there_once() -> None:
    assert dense_cases(["a", "b"], [(2, 3), (1, 1), (2, 3)]) == [
        Case(name, *size) for name in "ab" for size in ((1, 1), (2, 3))
    ]


def test_layers_are_counted_from_either_end() -> None:
    assert layer_numbers(P16, [-1, 3, 11, 0, -12]) == [0, 3, 11]
    with pytest.raises(InputError, match="there is no layer 12, only 0 to 11, or -1 to -12 from the end"):
        layer_numbers(P16, [12])
    with pytest.raises(InputError, match="no layer -13"):
        layer_numbers(P16, [-13])

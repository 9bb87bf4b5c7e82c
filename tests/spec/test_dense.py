"""Where dense maps are looked at: at one grid of patches, or at the only size that a model or a graph takes."""

from pathlib import Path
from typing import Any

import pytest

from vit2onnx.errors import InputError
from vit2onnx.families.interface import block_outputs, images_to_tokens, packed_images_to_tokens
from vit2onnx.spec.case import Case
from vit2onnx.spec.dense import DenseMaps, compared_size, dense_cases, described_grid, described_size, layer_numbers
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec, read_variants

ROOT = Path(__file__).parents[2]
VARIANTS = read_variants(ROOT / "config" / "variants")
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
        ({"height": 224, "width": None}, (224, 320)),
        ({"height": None, "width": 48}, (512, 48)),
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


V2, V3, SIGLIP2 = "dinov2_vits14_pretrain", "dinov3_vits16_pretrain_lvd1689m", "siglip2_base_patch16_224"
NAFLEX = "siglip2_base_patch16_naflex"
RECIPES = {
    "dynamic": Recipe("dynamic", 23, {"batch": None, "height": None, "width": None}),
    "static": Recipe("static", 23, {"batch": 1, "height": 224, "width": 224}),
    "packed": Recipe("packed", 23, {}, "packed"),
    "vision_model": Recipe("vision_model", 23, {"batch": None}, "vision"),
    "text_model": Recipe("text_model", 23, {"batch": None}, "text"),
}


def maps(**changes: Any) -> DenseMaps:
    config = {
        "enabled": True,
        "grid": [4, 6],
        "layers": [-1],
        "compare": [],
        "retrieval": None,
        "retrieval_masks": None,
    }

    def spec_of(name: str) -> VariantSpec:
        return VariantSpec.from_mapping(name, VARIANTS[name])

    return DenseMaps(config | changes, spec_of, RECIPES, ["one"])


def test_a_variant_is_described_at_the_grid_and_its_graphs_are_compared_there_or_at_their_own_size() -> None:
    asked = maps()
    assert asked.described_cases(V3) == ["one@64x96"]
    assert asked.cases(V3) == ["one@64x96", "one@224x224"]
    assert asked.cases_of_graph(V3, "packed") == asked.cases_of_graph(V3, "dynamic") == ["one@64x96"]
    assert asked.cases_of_graph(V2, "static") == ["one@224x224"]
    assert asked.cases(SIGLIP2) == ["one@224x224"]
    assert asked.layers(V3) == [11]


def test_a_graph_of_a_fixed_number_of_patches_is_compared_on_a_square_of_as_many() -> None:
    naflex = VariantSpec.from_mapping(NAFLEX, VARIANTS[NAFLEX]).interface("vision")
    for patches, size in ((64, (128, 128)), (256, (256, 256)), (None, (512, 320))):
        recipe = Recipe("graph", 23, {"batch": None, "patches": patches}, "vision")
        assert compared_size(naflex, recipe, GRID) == size


def test_every_recipe_with_maps_has_a_size() -> None:
    free = {"batch": None, "height": None, "width": None}
    for name in (V2, V3, SIGLIP2, NAFLEX):
        spec = VariantSpec.from_mapping(name, VARIANTS[name])
        for interface in map(spec.interface, spec.interfaces):
            axes = {axis: size for axis, size in free.items() if axis in interface.minimum}
            size = compared_size(interface, Recipe("graph", 23, axes, interface.name), GRID)
            assert (size is not None) == bool(interface.compared_as.layers)


def test_graphs_without_maps_are_not_judged_by_them() -> None:
    assert maps().is_judged(SIGLIP2, "vision_model")
    assert not maps().is_judged(SIGLIP2, "text_model")
    assert not maps(enabled=False).is_judged(V3, "dynamic")


def test_pairs_are_named_after_both() -> None:
    assert maps(compare=[[V2, V3]]).pairs == {f"{V2}-{V3}": [V2, V3]}


def test_a_folder_of_labels_is_read_once_it_is_asked_for(tmp_path: Path) -> None:
    assert maps().labelled == maps(retrieval="composites").labelled == []
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [one.name for one in maps(retrieval=str(tmp_path)).labelled] == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]

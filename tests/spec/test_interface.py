"""The edge of a graph as data: what follows from sizes, and what stays a name because they are free."""

from dataclasses import replace

import pytest

from vit2onnx.families.interface import images_to_tokens, packed_images_to_tokens, photographs_to
from vit2onnx.spec.case import Case
from vit2onnx.spec.interface import Derived, Group, Interface, Port, cases_in, key_of, of_cases
from vit2onnx.spec.recipe import Recipe

VIT = images_to_tokens(embed_dim=48, patch_size=16, registers=4)
CONVNEXT = images_to_tokens(embed_dim=20, patch_size=32, registers=0)
FREE = {"batch": None, "height": None, "width": None}
FIXED = {"batch": 2, "height": 70, "width": 101}

# Texts of 8 tokens, if a recipe does not say otherwise.
TEXT = Interface(
    "text",
    inputs=(Port("input_ids", ("batch", "length"), "ids", dtype="int64"),),
    outputs=(Port("last_hidden_state", ("batch", "length", 6), "tokens"),),
    minimum={"batch": 1, "length": 1},
    recipe_defaults={"length": 8},
    maximum={"length": 8},
    case_axes=("texts", "length"),
    kind="text",
)
# Patches of images of any size with padding behind them, which count each other: no input is apart from the others.
PADDED = Interface(
    "pair",
    inputs=(
        Port("pixel_values", ("images", "patches", 12), "patches"),
        Port("spatial_shapes", ("images", 2), "grid", dtype="int64"),
    ),
    outputs=(
        Port("logits_per_image", ("images", "texts"), "fit", transpose_of="logits_per_text"),
        Port("logits_per_text", ("texts", "images"), "fit"),
        Port("hidden", ("images", "patches", 5), "patches", rows="valid"),
    ),
    minimum={"images": 1, "texts": 1, "patches": 1},
    recipe_defaults={"patches": None},
    derived={
        "patches": Derived(("images", "texts"), lambda images, texts: max(images * texts, 16)),
        "valid": Derived(("images", "texts"), lambda images, texts: images * texts),
    },
    case_axes=("images", "texts"),
    kind="pair",
    patch_size=2,
)
# Images of one size, which no recipe sets.
SQUARE = replace(VIT, minimum={"batch": 1}, fixed={"height": 32, "width": 32})


def shapes(interface: Interface, sizes: dict[str, int | None]) -> dict[str, tuple[int | str, ...]]:
    return {port.name: interface.shape(port, sizes) for port in interface.ports}


def test_free_sizes_are_names():
    assert shapes(VIT, FREE) == {
        "pixel_values": ("batch", 3, "height", "width"),
        "last_hidden_state": ("batch", "tokens", 48),
        "pooler_output": ("batch", 48),
    }
    # What is not told is free.
    assert shapes(VIT, {}) == shapes(VIT, FREE)


@pytest.mark.parametrize(
    ("interface", "tokens", "channels"), [(VIT, 5 + 4 * 6, 48), (CONVNEXT, 1 + 2 * 3, 20)], ids=["vit", "convnext"]
)
def test_fixed_sizes_are_numbers(interface: Interface, tokens: int, channels: int):
    assert shapes(interface, FIXED) == {
        "pixel_values": (2, 3, 70, 101),
        "last_hidden_state": (2, tokens, channels),
        "pooler_output": (2, channels),
    }


@pytest.mark.parametrize(
    ("free", "features"),
    [
        ("batch", ("batch", 5 + 24, 48)),
        # Of tokens, both have to be known.
        ("height", (2, "tokens", 48)),
        ("width", (2, "tokens", 48)),
    ],
)
def test_what_follows_from_a_free_size_is_free(free: str, features: tuple[int | str, ...]):
    assert VIT.shape(VIT.compared[0], FIXED | {free: None}) == features


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(16, 16, (1, 1)), (31, 47, (1, 2)), (224, 160, (14, 10)), (250, 170, (15, 10))]
)
def test_a_grid_is_of_whole_patches(height: int, width: int, grid: tuple[int, int]):
    sizes = {"height": height, "width": width}
    assert (VIT.size("grid_height", sizes), VIT.size("grid_width", sizes)) == grid
    assert VIT.size("tokens", sizes) == 5 + grid[0] * grid[1]
    assert VIT.size("grid_height", sizes | {"height": None}) == "grid_height"
    assert VIT.size("grid_width", sizes | {"height": None}) == grid[1]


def test_a_number_is_its_own_size():
    assert (VIT.size(3, {}), VIT.size(3, FIXED)) == (3, 3)


def test_elements_are_those_of_inputs_and_outputs():
    image, features, pooled = 3 * 70 * 101, (5 + 24) * 48, 48
    assert VIT.elements(Case("cat", 70, 101)) == image + features + pooled


def test_groups_are_cls_registers_and_patches():
    for interface, first_patch in ((VIT, 5), (CONVNEXT, 1)):
        rows = range(first_patch + 6)
        groups = {group.name: rows[group.start : group.stop] for group in interface.compared[0].groups}
        assert list(groups) == (["cls", "registers", "patches"] if first_patch > 1 else ["cls", "patches"])
        assert [row for group in groups.values() for row in group] == list(rows)
        assert (groups["cls"], groups["patches"]) == (range(1), range(first_patch, first_patch + 6))
        (patches,) = (group for group in interface.compared[0].groups if group.grid)
        assert (patches.name, patches.grid) == ("patches", ("grid_height", "grid_width"))


def test_a_file_is_told_what_its_tokens_are():
    assert VIT.facts["tokens"]["first_patch"] == 5
    assert (CONVNEXT.facts["tokens"]["registers"], CONVNEXT.facts["tokens"]["patch_size"]) == (0, 32)


def test_the_minimum_is_one_patch():
    assert VIT.minimum == {"batch": 1, "height": 16, "width": 16}
    assert VIT.shape(VIT.compared[0], VIT.minimum) == (1, 5 + 1, 48)


def test_an_axis_may_follow_from_any_others():
    port = Port("pair", ("pairs", 2), "every two images")
    pairs = Derived(("batch", "others"), lambda batch, others: batch * others)
    interface = Interface("pairs", (port,), (port,), minimum={"batch": 1, "others": 1}, derived={"pairs": pairs})
    assert interface.ports == (port, port)
    assert interface.shape(port, {"batch": 3, "others": 5}) == (15, 2)
    assert interface.shape(port, {"batch": 3}) == ("pairs", 2)
    assert replace(interface, case_axes=("batch", "others")).elements(Case("x", 3, 5)) == 60


def test_the_first_port_of_a_case_stands_under_the_case_and_others_beside_it():
    names = [key_of("a@1x8", port, PADDED.inputs) for port in PADDED.inputs]
    assert names == ["a@1x8", "a@1x8/spatial_shapes"]
    arrays = {key: number for number, key in enumerate([*names, "b@2x8", "b@2x8/spatial_shapes"])}
    assert cases_in(arrays) == ["a@1x8", "b@2x8"]
    assert of_cases(arrays, ["b@2x8"]) == {"b@2x8": 2, "b@2x8/spatial_shapes": 3}
    assert PADDED.inputs_of(arrays, "b@2x8") == {"pixel_values": 2, "spatial_shapes": 3}


def test_the_axes_of_a_case_are_those_that_the_interface_names():
    assert VIT.sizes(Case("cat", 70, 101)) == {
        **{"height": 70, "width": 101, "tokens": 5 + 24},
        **{"grid_height": 4, "grid_width": 6},
    }
    assert TEXT.sizes(Case("greeting", 1, 8)) == {"texts": 1, "length": 8}
    assert PADDED.sizes(Case("pairs", 3, 5)) == {"images": 3, "texts": 5, "patches": 16, "valid": 15}


def accepts(interface: Interface, case: Case, **sizes: int | None) -> bool:
    return interface.accepts(case, Recipe("recipe", 23, sizes, interface.name))


def test_a_case_fits_a_recipe_by_all_sizes_that_it_gives():
    assert accepts(VIT, Case("cat", 70, 101), batch=2, height=70, width=None)
    assert not accepts(VIT, Case("cat", 101, 70), batch=2, height=70, width=None)
    # By sizes that follow from its own, too.
    assert accepts(PADDED, Case("pairs", 3, 5), images=None, texts=None, patches=16)
    assert not accepts(PADDED, Case("pairs", 4, 5), images=None, texts=None, patches=16)


def test_recipes_choose_among_further_outputs():
    further = tuple(Port(name, VIT.outputs[0].axes, "tokens", layer="x") for name in ("block_0", "block_1", "block_2"))
    interface = replace(VIT, further=further)
    chosen = interface.with_outputs(["block_2", "block_0"])
    assert chosen.outputs == (*VIT.outputs, further[2], further[0])
    # The first output that is compared stays the first, by which files name cases.
    assert chosen.compared[0] is VIT.compared[0]
    assert [key_of("a@1x1", port, chosen.compared) for port in chosen.compared] == [
        "a@1x1",
        "a@1x1/block_2",
        "a@1x1/block_0",
    ]
    case = Case("a", 32, 48)
    assert chosen.elements(case) == VIT.elements(case) + 2 * 11 * 48
    recipes = [
        Recipe("first", 23, FREE, outputs=("block_2", "block_1")),
        Recipe("second", 23, FREE, outputs=("block_1",)),
        Recipe("other", 23, FREE, interface="vision", outputs=("block_0",)),
    ]
    assert interface.asked_outputs(recipes) == ("block_1", "block_2")


def test_photographs_are_compared_on_the_same_further_outputs():
    interface = replace(VIT, further=(Port("block_0", VIT.outputs[0].axes, "tokens", layer="blocks.0.output"),))
    chosen = photographs_to(interface).with_outputs(["block_0"])
    assert chosen.compared_as.compared == chosen.compared == interface.with_outputs(["block_0"]).compared
    assert packed_images_to_tokens(interface).further == ()


def test_the_default_size_is_that_of_recipes_that_leave_it_out():
    assert accepts(TEXT, Case("greeting", 1, 8), batch=None)
    assert not accepts(TEXT, Case("greeting", 1, 7), batch=None)
    assert accepts(TEXT, Case("greeting", 1, 7), batch=None, length=None)
    assert TEXT.of_recipe(Recipe("recipe", 23, {"batch": None})) == {"batch": None, "length": 8}
    assert TEXT.of_recipe(Recipe("recipe", 23, {"batch": None, "length": None})) == {"batch": None, "length": None}


def test_fixed_sizes_are_the_models_whatever_is_asked_for():
    assert shapes(SQUARE, {"batch": 2})["last_hidden_state"] == (2, 5 + 4, 48)
    assert accepts(SQUARE, Case("cat", 32, 32), batch=2)
    assert not accepts(SQUARE, Case("cat", 32, 48), batch=2)


def test_only_batched_graphs_are_given_batches():
    assert (VIT.is_batched, TEXT.is_batched, PADDED.is_batched) == (True, True, False)
    free, two = (Recipe("recipe", 23, {"batch": batch}) for batch in (None, 2))
    assert [VIT.batches(recipe, [1, 3], 5) for recipe in (free, two)] == [[1, 3], [2]]
    assert PADDED.batches(two, [1, 3], 5) == [0]
    assert [VIT.batch_in_double(recipe, 5) for recipe in (free, replace(two, sizes={"batch": 3}))] == [2, 3]
    assert PADDED.batch_in_double(free, 5) == 0


def test_packed_images_are_run_all_at_once_as_well():
    packed, recipe = packed_images_to_tokens(VIT), Recipe("packed", 23, {}, "packed")
    assert [packed.batches(recipe, [1, 3], count) for count in (5, 3, 1)] == [[5, 1, 3], [3, 1], [1]]
    assert packed.batch_in_double(recipe, 5) == 5


def test_packed_images_are_compared_on_the_cases_of_single_ones():
    packed, recipe = packed_images_to_tokens(VIT), Recipe("packed", 23, {}, "packed")
    assert (packed.compared_as, VIT.compared_as) == (VIT, VIT)
    chosen_by = packed.compared_recipe(recipe)
    assert VIT.accepts(Case("cat", 50, 34), chosen_by)
    other = Recipe("recipe", 23, {"batch": 1, "height": 32, "width": 32})
    assert VIT.compared_recipe(other) is other


def test_rows_behind_those_that_mean_something_are_told():
    *_, hidden = PADDED.outputs
    assert PADDED.rows(hidden, "pairs@3x4") == 12
    assert VIT.rows(VIT.outputs[0], "cat@32x32") is None


def test_weights_are_told_by_tower_and_by_name():
    assert VIT.parameter_prefixes == ("",)
    two = replace(PADDED, towers=("vision", "text"), joint_parameters=("scale",))
    assert two.parameter_prefixes == ("vision.", "text.", "scale")


def test_only_images_that_are_cut_into_patches_before_are_of_whole_patches():
    assert (VIT.takes_patches, TEXT.takes_patches, PADDED.takes_patches) == (False, False, True)
    assert (VIT.whole_patches((70, 101)), PADDED.whole_patches((71, 1))) == ((70, 101), (70, 2))


def test_what_is_a_part_of_another_output_is_not_compared_by_itself():
    assert [port.name for port in VIT.compared] == ["last_hidden_state"]
    assert [port.name for port in PADDED.compared] == ["logits_per_text", "hidden"]


def test_the_output_with_patches_is_that_whose_group_has_a_grid():
    assert VIT.patches == (VIT.outputs[0], Group("patches", 5, None, grid=("grid_height", "grid_width")))
    assert TEXT.patches is None

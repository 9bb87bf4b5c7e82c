"""The edge of a graph as data: what follows from sizes, and what stays a name because they are free."""

import pytest

from vit2onnx.spec.interface import Derived, Interface, Port, images_to_tokens

VIT = images_to_tokens(embed_dim=48, patch_size=16, registers=4)
CONVNEXT = images_to_tokens(embed_dim=20, patch_size=32, registers=0)
FREE = {"batch": None, "height": None, "width": None}
FIXED = {"batch": 2, "height": 70, "width": 101}


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
    assert VIT.shape(VIT.features, FIXED | {free: None}) == features


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
    assert VIT.elements({"batch": 1, "height": 70, "width": 101}) == image + features + pooled
    assert VIT.elements(FIXED) == 2 * (image + features + pooled)


def test_groups_are_cls_registers_and_patches():
    for interface, first_patch in ((VIT, 5), (CONVNEXT, 1)):
        rows = range(first_patch + 6)
        groups = {group.name: rows[group.start : group.stop] for group in interface.features.groups}
        assert list(groups) == (["cls", "registers", "patches"] if first_patch > 1 else ["cls", "patches"])
        assert [row for group in groups.values() for row in group] == list(rows)
        assert (groups["cls"], groups["patches"]) == (range(1), range(first_patch, first_patch + 6))
        (patches,) = (group for group in interface.features.groups if group.grid)
        assert (patches.name, patches.grid) == ("patches", ("grid_height", "grid_width"))


def test_a_file_is_told_what_its_tokens_are():
    assert VIT.facts["tokens"]["first_patch"] == 5
    assert (CONVNEXT.facts["tokens"]["registers"], CONVNEXT.facts["tokens"]["patch_size"]) == (0, 32)


def test_the_least_size_is_one_patch():
    assert VIT.least == {"batch": 1, "height": 16, "width": 16}
    assert VIT.shape(VIT.features, VIT.least) == (1, 5 + 1, 48)


def test_an_axis_may_follow_from_any_others():
    port = Port("pair", ("pairs", 2), "every two images")
    pairs = Derived(("batch", "others"), lambda batch, others: batch * others)
    interface = Interface("pairs", (port,), (port,), least={"batch": 1, "others": 1}, derived={"pairs": pairs})
    assert interface.ports == (port, port)
    assert interface.shape(port, {"batch": 3, "others": 5}) == (15, 2)
    assert interface.shape(port, {"batch": 3}) == ("pairs", 2)
    assert interface.elements({"batch": 3, "others": 5}) == 60

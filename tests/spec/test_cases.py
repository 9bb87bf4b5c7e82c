"""Which cases the graphs of an interface are compared on."""

from dataclasses import replace

import pytest

from vit2onnx.families.interface import images_to_tokens
from vit2onnx.spec.case import Case
from vit2onnx.spec.cases import case_of_stages, cases_of, fixed_size, sizes_of
from vit2onnx.spec.interface import Interface, Port
from vit2onnx.spec.recipe import Recipe

STATIC = Recipe("static", 23, {"batch": 1, "height": 224, "width": 224})
WIDE = Recipe("wide", 23, {"batch": 1, "height": 224, "width": None})
DYNAMIC = Recipe("dynamic", 23, {"batch": None, "height": None, "width": None})
LISTED = [(512, 320), (48, 112), (224, 64)]

IMAGES = images_to_tokens(embed_dim=1, patch_size=1, registers=0)
SQUARE = replace(IMAGES, name="square", minimum={"batch": 1}, fixed={"height": 96, "width": 96})
OF_SQUARES = Recipe("squares", 23, {"batch": None}, "square")
# Images that are cut into patches before they go in.
PATCHES = replace(IMAGES, inputs=(*IMAGES.inputs, Port("spatial_shapes", ("batch", 2), "grid")), patch_size=32)
IDS = Port("input_ids", ("batch", "length"), "ids")
TEXT = Interface("text", (IDS,), (), {"batch": 1, "length": 1}, recipe_defaults={"length": 64}, kind="text")
TEXT = replace(TEXT, compared_sizes={"length": (1, 17, 64)})
TEXT = replace(TEXT, case_axes=("texts", "length"))
OF_TEXTS = Recipe("texts", 23, {"batch": None}, "text")
PAIR = replace(TEXT, name="pair", kind="pair", case_axes=("images", "texts"), minimum={"images": 1, "texts": 1})
OF_PAIRS = Recipe("pairs", 23, {"images": None, "texts": None}, "pair")
ASKED = {"images": ["cat", "tree"], "texts": ["one", "two"], "sizes": LISTED, "pairs": [(3, 5), (1, 7), (2, 2)]}


@pytest.mark.parametrize(
    "exports, sizes",
    [
        ([STATIC], [(224, 224)]),
        ([DYNAMIC], sorted(LISTED)),
        ([WIDE], [(224, 64)]),
        ([STATIC, WIDE], [(224, 64), (224, 224)]),
        ([STATIC, DYNAMIC], [(48, 112), (224, 64), (224, 224), (512, 320)]),
        ([], []),
    ],
    ids=["static", "dynamic", "wide", "static and wide", "static and dynamic", "none"],
)
def test_sizes_are_those_listed_that_fit_and_those_that_are_fixed(exports, sizes):
    assert sizes_of(IMAGES, iter(exports), iter(LISTED)) == sizes


def test_a_size_that_is_both_listed_and_fixed_is_compared_once():
    assert sizes_of(IMAGES, [STATIC, DYNAMIC], [(224, 224)]) == [(224, 224)]


def test_a_size_that_the_model_fixes_is_the_only_one():
    assert sizes_of(SQUARE, [OF_SQUARES], LISTED) == [(96, 96)]


def test_sizes_of_patches_are_whole_patches_and_at_least_one():
    assert sizes_of(PATCHES, [DYNAMIC], [(48, 112), (32, 127), (224, 16)]) == [(32, 96), (224, 32)]


@pytest.mark.parametrize(
    ("interface", "recipe", "size"),
    [(IMAGES, STATIC, (224, 224)), (IMAGES, WIDE, None), (IMAGES, DYNAMIC, None), (SQUARE, OF_SQUARES, (96, 96))],
)
def test_a_recipe_has_a_fixed_size_if_both_sides_are(interface, recipe, size):
    assert fixed_size(interface, recipe) == size


def test_every_image_is_compared_at_every_size():
    found = cases_of(IMAGES, [STATIC, WIDE, OF_TEXTS], **ASKED)
    assert [*map(str, found)] == ["cat@224x64", "cat@224x224", "tree@224x64", "tree@224x224"]


@pytest.mark.parametrize(
    ("lengths", "compared"),
    [
        ([{}], [64]),
        ([{"length": 16}], [16]),
        ([{}, {"length": 16}], [16, 64]),
        # Free: the default length, one token and a number that is no power of two.
        ([{"length": None}], [1, 17, 64]),
        ([{"length": None}, {"length": 16}], [1, 16, 17, 64]),
    ],
    ids=["default", "fixed", "both", "free", "free and fixed"],
)
def test_every_text_is_compared_at_every_length(lengths, compared):
    recipes = [Recipe(str(number), 23, {"batch": None, **own}, "text") for number, own in enumerate(lengths)]
    assert cases_of(TEXT, [DYNAMIC, *recipes], **ASKED) == [
        Case(name, 1, length) for name in ("one", "two") for length in compared
    ]


def test_images_are_compared_with_texts_in_the_numbers_that_are_listed():
    assert [*map(str, cases_of(PAIR, [OF_PAIRS], **ASKED))] == ["pairs@3x5", "pairs@1x7", "pairs@2x2"]


def test_images_with_texts_have_all_sizes_that_are_free_or_fixed_in_another_way():
    free = replace(OF_PAIRS, sizes={"images": None, "texts": None, "length": None})
    found = [*map(str, cases_of(PAIR, [free], **ASKED))]
    assert found == ["pairs@3x5", "pairs@1x7", "pairs@2x2", "pairs-length1@1x7", "pairs-length17@1x7"]
    short = replace(OF_PAIRS, sizes={"images": None, "texts": None, "length": 16})
    cases = cases_of(PAIR, [short], **ASKED | {"pairs": [(3, 5)]})
    assert [*map(str, cases)] == ["pairs-length16@3x5"] and PAIR.sizes(cases[0])["length"] == 16
    assert PAIR.accepts(cases[0], short) and not PAIR.accepts(cases[0], OF_PAIRS)


@pytest.mark.parametrize(
    ("export", "sizes", "size"),
    [
        # The first that is not square, in the order of the list.
        (DYNAMIC, [(224, 224), (160, 288), (48, 112)], (160, 288)),
        (DYNAMIC, [(224, 224), (448, 448)], (224, 224)),
        (WIDE, [(48, 112), (224, 224), (224, 64)], (224, 64)),
        # A fixed size need not be listed.
        (STATIC, [(48, 112)], (224, 224)),
    ],
)
def test_stages_are_compared_where_rows_and_columns_differ(export, sizes, size):
    asked = ASKED | {"images": ["astronaut", "cat"], "sizes": sizes}
    assert case_of_stages(IMAGES, export, **asked) == Case("astronaut", *size)


def test_stages_of_other_inputs_are_compared_on_the_first_text_and_the_first_numbers_that_differ():
    assert str(case_of_stages(TEXT, OF_TEXTS, **ASKED)) == "one@1x64"
    assert str(case_of_stages(PAIR, OF_PAIRS, **ASKED | {"pairs": [(2, 2), (1, 7)]})) == "pairs@1x7"
    assert str(case_of_stages(SQUARE, OF_SQUARES, **ASKED)) == "cat@96x96"

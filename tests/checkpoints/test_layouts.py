"""The key tables against names and shapes written by hand from the publishers' files, and transformers' own."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import safetensors

from tests.checkpoints.test_convert import used_twice
from tests.families.dinov2 import published as dinov2
from vit2onnx.checkpoints.detect import detect, tables_of
from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.families.dinov3_vit.layouts import MASK_KEY_BIAS
from vit2onnx.nn.rope import rope_periods
from vit2onnx.spec.family import part
from vit2onnx.weights.archive import archive_skeleton
from vit2onnx.weights.keytable import assign
from vit2onnx.weights.leaves import array_shapes

VIT_LAYOUTS = ["meta", "huggingface", "huggingface5", "timm", "timm_qkvb"]
# Parameters in the publisher's file and in Hugging Face's, as counted on their models (MODELS.md C.1).
PARAMETERS = {
    "dinov3_vits16_pretrain_lvd1689m": (21_601_152, 21_596_544),
    "dinov3_vits16plus_pretrain_lvd1689m": (28_697_472, 28_692_864),
    "dinov3_vitb16_pretrain_lvd1689m": (85_669_632, 85_660_416),
    "dinov3_vitl16_pretrain_lvd1689m": (303_154_176, 303_129_600),
    "dinov3_vitl16_pretrain_sat493m": (303_156_224, 303_129_600),
    "dinov3_vith16plus_pretrain_lvd1689m": (840_633_600, 840_592_640),
    "dinov3_vit7b16_pretrain_lvd1689m": (6_716_043_264, 6_716_035_072),
    "dinov3_vit7b16_pretrain_sat493m": (6_716_043_264, 6_716_035_072),
    "dinov3_convnext_tiny_pretrain_lvd1689m": (27_820_128, 27_820_128),
    "dinov3_convnext_small_pretrain_lvd1689m": (49_454_688, 49_454_688),
    "dinov3_convnext_base_pretrain_lvd1689m": (87_566_464, 87_566_464),
    "dinov3_convnext_large_pretrain_lvd1689m": (196_230_336, 196_230_336),
    **{name: (count, count) for name, (count, _) in dinov2.RELEASES.items()},
}
BUFFERS = ("bias_mask", "periods")


def layouts_of(spec) -> list[str]:
    return [layout for layout in VIT_LAYOUTS if layout != "timm_qkvb" or is_dinov3_vit(spec)]


def is_convnext(spec) -> bool:
    return spec.family == "dinov3_convnext"


def is_dinov3_vit(spec) -> bool:
    return spec.family == "dinov3_vit"


def transformers_model_of(spec):
    return part(spec.family, "references").transformers_model(spec.architecture)


def told(spec, layout: str) -> str:
    """The name of the layout whose keys a file of `layout` has: without any bias, timm's two are one."""
    no_bias = layout == "timm_qkvb" and is_dinov3_vit(spec) and not spec.architecture.qkv_bias
    return "timm" if no_bias else layout


def sources_of(spec, layout: str) -> dict[str, tuple[int, ...]]:
    """What a table asks for and ignores, when every leaf is filled once and every source is used once.

    Only DINOv2's position table is used twice, by two transforms.
    """
    table = tables_of(spec)[layout]
    leaves = array_shapes(archive_skeleton(spec))
    assignments = assign(table, leaves)
    assert [assignment.target for assignment in assignments] == list(leaves)
    shapes = [
        pair
        for assignment in assignments
        for pair in zip(assignment.sources, assignment.transform.shapes(assignment.shape), strict=True)
    ]
    shapes += [(key, entry.shape) for key, entry in table.ignored.items()]
    times = Counter(key for key, _ in shapes)
    assert times == Counter(times.keys()) + Counter(used_twice(spec, layout))
    return dict(shapes)


def test_the_names_written_by_hand_hold_as_many_parameters_as_the_models(released, published):
    assert released.keys() == PARAMETERS.keys()
    for name, spec in released.items():
        layouts = published(spec)
        assert list(layouts) == layouts_of(spec)
        counts = {
            layout: sum(
                int(np.prod(shape))
                for key, shape in shapes.items()
                # Not the same norm once more.
                if not key.endswith(BUFFERS) and not key.startswith("norms.")
            )
            for layout, shapes in layouts.items()
        }
        assert (counts["meta"], counts["huggingface"]) == PARAMETERS[name]
        assert counts["huggingface5"] == counts["huggingface"]
        if is_convnext(spec):
            assert counts["timm"] == counts["meta"]
        elif spec.family == "dinov2":
            rows = 2 if spec.architecture.num_registers else 1
            assert counts["timm"] == counts["meta"] - rows * spec.architecture.embed_dim
        else:
            arch = spec.architecture
            assert counts["timm_qkvb"] == counts["huggingface"] - arch.embed_dim
            assert counts["timm"] == counts["timm_qkvb"] - arch.qkv_bias * 2 * arch.depth * arch.embed_dim


def test_every_table_knows_the_names_and_shapes_of_the_files(small, published):
    spec = small.spec
    assert sorted(tables_of(spec)) == sorted(layouts_of(spec))
    for layout, shapes in published(spec).items():
        assert sources_of(spec, layout) == shapes, layout


@pytest.mark.parametrize("name", ["dinov3_vits16plus_pretrain_lvd1689m", "dinov3_convnext_small_pretrain_lvd1689m"])
def test_tables_know_files_of_full_width_and_depth_too(released, published, name):
    for layout, shapes in published(released[name]).items():
        assert sources_of(released[name], layout) == shapes, layout


def test_no_line_of_a_table_is_dead(spines):
    """Some variant needs it, or it would be a line that no test sees."""
    lines, used = defaultdict(set), defaultdict(set)
    for name in PARAMETERS:
        spec = spines(name).spec
        leaves = array_shapes(archive_skeleton(spec))
        for layout, table in tables_of(spec).items():
            lines[spec.family, layout] |= {entry.target for entry in table.entries}
            for assignment in assign(table, leaves):
                target = re.sub(r"^blocks\.0\.blocks\.\d", "blocks.0.blocks.{i}", assignment.target)
                used[spec.family, layout].add(re.sub(r"^stages\.\d\.blocks\.\d", "stages.{i}.blocks.{j}", target))
    assert lines == used


def test_the_layout_is_told_by_the_keys(released, published):
    for spec in released.values():
        for layout, shapes in published(spec).items():
            assert detect("a name that says nothing", spec, shapes).layout == told(spec, layout)
            assert detect("file", spec, reversed(shapes)).layout == told(spec, layout)


def test_the_file_name_has_no_say(small, tmp_path):
    for layout, file in small.checkpoints.items():
        path = tmp_path / ("huggingface.safetensors" if layout == "meta" else "meta.pth")
        path.unlink(missing_ok=True)
        path.symlink_to(file)
        assert detect(str(path), small.spec, open_checkpoint(path)).layout == told(small.spec, layout)


def test_faulty_files_are_still_told_so_that_each_fault_can_be_named(released, published):
    for spec in released.values():
        for layout, shapes in published(spec).items():
            keys = [key for index, key in enumerate(shapes) if index % 5]
            found = detect("file", spec, [*keys, "head.weight", "head.bias"]).layout
            assert found == told(spec, layout), spec.name


@pytest.mark.parametrize("layout", VIT_LAYOUTS)
def test_half_a_file_is_still_told(layout, real_spec, published):
    keys = list(published(real_spec)[layout])
    assert detect("file", real_spec, [*keys[::2], "head.weight", "head.bias"]).layout == layout


@pytest.mark.parametrize(
    "keys, shown",
    [
        (["bert.encoder.0", "bert.encoder.1", "bert.encoder.2", "bert.encoder.3"], "like bert.encoder.0, bert.enc"),
        (None, "its 188 tensors are named like module.cls_token, "),
        ([], "its 0 tensors are named like nothing"),
        (["model", "optimizer", "norm.weight", "iteration"], "like model, optimizer, norm.weight;"),
    ],
    ids=["another model", "prefixed", "empty", "one key in four"],
)
def test_an_unknown_layout_is_named_with_its_keys_and_the_way_out(keys, shown, real_spec, published):
    if keys is None:
        keys = [f"module.{key}" for key in published(real_spec)["meta"]]
    with pytest.raises(InputError) as caught:
        detect("folder/model.pth", real_spec, keys)
    sentence = str(caught.value)
    assert sentence.startswith("folder/model.pth holds no dinov3_vit checkpoint in a known layout (meta, huggingface,")
    assert shown in sentence
    assert sentence.endswith(
        "give the file as its publisher offers it, or run make run CHECKPOINT=… if it is your own."
    )


@pytest.mark.parametrize("layout", ["meta", "huggingface", "huggingface5", "timm"])
def test_a_file_of_the_other_family_is_named_as_unknown(layout, released, published):
    vit, convnext = (released[f"dinov3_{name}_pretrain_lvd1689m"] for name in ("vitb16", "convnext_tiny"))
    for spec, other in ((vit, convnext), (convnext, vit)):
        with pytest.raises(InputError, match=f"holds no {spec.family} checkpoint in a known layout"):
            detect("file", spec, published(other)[layout])


def test_huggingface5_is_what_transformers_holds(released, published):
    for spec in released.values():
        model = transformers_model_of(spec)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        assert published(spec)["huggingface5"] == expected, spec.name


def test_huggingface_is_what_transformers_writes(small, published, tmp_path):
    transformers_model_of(small.spec).to_empty(device="cpu").save_pretrained(tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="np") as file:
        expected = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert published(small.spec)["huggingface"] == expected


# As MODELS.md C.2 gives them for a head of 64 channels, to the four decimals that it prints: released and unrounded.
ROUNDED = [1, 1.3359, 1.7812, 2.375, 3.1562, 4.2188, 5.625, 7.5, 10, 13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75]
UNROUNDED = [1, 1.3335, 1.7783, 2.3714, 3.1623]


def test_the_released_rope_periods():
    found = rope_periods(16, "bfloat16")
    assert found.dtype == np.float32
    assert [round(period, 4) for period in found.tolist()] == ROUNDED
    # A bfloat16 is a float32 whose lower 16 bits are zero.
    assert not (found.view(np.uint32) & 0xFFFF).any()


def test_the_rope_periods_that_transformers_computes(released):
    found = rope_periods(16, "float32")
    assert found.dtype == np.float32
    assert [round(period, 4) for period in found.tolist()[:5]] == UNROUNDED
    assert (found.view(np.uint32) & 0xFFFF).any()
    for name, count, change in (
        ("dinov3_vits16_pretrain_lvd1689m", 16, 1.9e-3),
        ("dinov3_vit7b16_pretrain_lvd1689m", 32, 3.2e-3),
    ):
        rounded, unrounded = (rope_periods(count, precision) for precision in ("bfloat16", "float32"))
        # The largest relative change that was measured apart from this project.
        assert np.abs(rounded / unrounded - 1).max() == pytest.approx(change, abs=5e-5)
        model = transformers_model_of(released[name])
        frequencies = type(model.rope_embeddings)(model.config).inv_freq.numpy()
        # Measured 7.2e-8, one unit in the last place, because it holds the frequencies and not the periods.
        np.testing.assert_allclose(1 / frequencies, unrounded, rtol=7e-7, atol=0)


def test_the_mask_removes_even_the_sign_of_the_key_bias():
    """0 times a negative bias is minus zero, which no other layout holds, so that archives would differ."""
    bias = np.array([1, -2, -3, 4, -5, 6], np.float32)
    mask = np.array([1, 1, 0, 0, 1, 1], np.float32)
    found = MASK_KEY_BIAS.apply([bias, mask], (6,))
    assert found.tobytes() == np.array([1, -2, 0, 0, -5, 6], np.float32).tobytes()
    assert MASK_KEY_BIAS.shapes((6,)) == ((6,), (6,))
    assert [part.tolist() for part in MASK_KEY_BIAS.invert(bias)] == [bias.tolist(), mask.tolist()]


def test_what_a_layout_lacks_is_restored_and_nothing_else(small_vit):
    spec, arch = small_vit.spec, small_vit.spec.architecture
    zeros, ones = np.zeros(arch.embed_dim, np.float32), np.ones(arch.embed_dim, np.float32)
    always = {"mask_token": zeros[None]}
    if arch.local_cls_norm:
        always |= {"local_cls_norm.weight": ones, "local_cls_norm.bias": zeros}
    periods = {"local_pos_embed.patch_rope.freqs": rope_periods(arch.head_dim // 4, "bfloat16")}
    no_bias = {f"blocks.0.blocks.{i}.attn.qkv.bias": np.tile(zeros, 3) for i in range(2 if arch.qkv_bias else 0)}
    more = {"meta": {}, "timm": periods | no_bias}
    leaves = array_shapes(archive_skeleton(spec))
    for layout, table in tables_of(spec).items():
        found = {a.target: a for a in assign(table, leaves) if not a.sources}
        expected = always | more.get(layout, periods)
        assert found.keys() == expected.keys(), layout
        for target, value in expected.items():
            transform = found[target].transform
            assert transform.name.startswith("restored: ")
            assert transform.shapes(value.shape) == ()
            assert transform.invert(value) == []
            assert transform.apply([], value.shape).tobytes() == value.tobytes()


def test_no_layout_of_a_convnext_lacks_anything(small_convnext):
    leaves = array_shapes(archive_skeleton(small_convnext.spec))
    for table in tables_of(small_convnext.spec).values():
        assert all(assignment.sources for assignment in assign(table, leaves))


def test_what_a_file_may_hold_besides_is_named_with_its_reason(small):
    spec = small.spec
    dim = spec.architecture.embed_dim
    reasons = {
        layout: {key: (entry.shape, entry.same_as) for key, entry in table.ignored.items()}
        for layout, table in tables_of(spec).items()
    }
    assert all(entry.reason for table in tables_of(spec).values() for entry in table.ignored.values())
    if is_convnext(spec):
        meta = {f"norms.3.{leaf}": ((dim,), f"norm.{leaf}") for leaf in ("weight", "bias")}
        assert reasons == {"meta": meta, "huggingface": {}, "huggingface5": {}, "timm": {}}
        return
    meta = {"mask_token": ((1, dim), None)}
    if spec.family == "dinov2":
        huggingface = {"embeddings.mask_token": ((1, dim), None)}
        assert reasons == {"timm": {}, "meta": meta, "huggingface": huggingface, "huggingface5": huggingface}
        return
    if spec.architecture.local_cls_norm:
        meta |= {"local_cls_norm.weight": ((dim,), None), "local_cls_norm.bias": ((dim,), None)}
    huggingface = {"embeddings.mask_token": ((1, 1, dim), None)}
    assert reasons == {
        "meta": meta,
        "huggingface": huggingface,
        "huggingface5": huggingface,
        "timm": {},
        "timm_qkvb": {},
    }

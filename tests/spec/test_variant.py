"""Variants and exports as their files describe them."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import yaml

from vit2onnx.errors import InputError
from vit2onnx.families.interface import images_to_tokens
from vit2onnx.spec.case import Case
from vit2onnx.spec.family import part
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec, read_variants
from vit2onnx.weights.model_file import skeleton_of

ROOT = Path(__file__).parents[2]
STATIC = {"batch": 1, "height": 224, "width": 160, "opset": 23}
DYNAMIC = {"batch": "dynamic", "height": "dynamic", "width": "dynamic", "opset": 21}


def test_variants_are_named_by_their_files(tmp_path):
    for name in ("one/b.yaml", "two/a.yaml", "one/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("parameters: 1")
    assert read_variants(tmp_path) == {
        "a": {"family": "two", "parameters": 1},
        "b": {"family": "one", "parameters": 1},
    }
    assert list(read_variants(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (
            {"a.yaml": "x: 1"},
            r"config/variants/a\.yaml: move it to the folder of its family, config/variants/\{family\}\.",
        ),
        (
            {"one/a.yaml": "x: 1", "two/a.yaml": "x: 1"},
            r"config/variants/two/a\.yaml: one has a variant of the same name",
        ),
        ({"one/a.yaml": "family: two"}, r"config/variants/one/a\.yaml: delete the key 'family'; the folder says it\."),
        ({"one/a.yaml": "- x"}, r"config/variants/one/a\.yaml: it must hold keys with values\."),
        ({"one/a.yaml": ""}, r"config/variants/one/a\.yaml: it must hold keys with values\."),
        ({"one/a.yaml": "x: 1", "two/A.yaml": "x: 1"}, r"config/variants/.*\.yaml: .* has a variant of the same name"),
    ],
    ids=["in no folder", "twice", "family", "list", "empty", "case"],
)
def test_a_misplaced_variant_file_is_named(tmp_path, files, fault):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"^{fault}"):
        read_variants(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "x;touch T;y",
        "-rf",
        "..",
        "a b",
        "a{b}",
        "$(touch T)",
        "`touch T`",
        "a\nb",
        "a\n",
        "a\x1b[2J",
        "é",
        "a'",
        "n" * 101,
    ],
)
def test_a_name_that_a_path_or_a_shell_would_not_take_as_it_is_is_refused(tmp_path, name):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / f"{name}.yaml").write_text("x: 1")
    with pytest.raises(InputError, match=r"name it with letters, digits, _, \. and - only") as caught:
        read_variants(tmp_path)
    assert str(caught.value).isprintable()


def test_every_variant_of_the_project_becomes_a_spec():
    for name, mapping in read_variants(ROOT / "config" / "variants").items():
        spec = VariantSpec.from_mapping(name, mapping)
        assert spec.name == name
        if "images" in spec.interfaces:
            assert Path(spec.release.file).stem.startswith(name)


# As in MODELS.md C.1: hash, embed_dim, depth, heads, ffn and its width, qkv bias, norm of local crops' CLS, parameters.
VITS = {
    "vits16_lvd1689m": ("08c60483", 384, 12, 6, "mlp", 1536, True, False, 21_601_152),
    "vits16plus_lvd1689m": ("4057cbaa", 384, 12, 6, "swiglu", 1536, True, False, 28_697_472),
    "vitb16_lvd1689m": ("73cec8be", 768, 12, 12, "mlp", 3072, True, False, 85_669_632),
    "vitl16_lvd1689m": ("8aa4cbdd", 1024, 24, 16, "mlp", 4096, True, False, 303_154_176),
    "vitl16_sat493m": ("eadcf0ff", 1024, 24, 16, "mlp", 4096, True, True, 303_156_224),
    "vith16plus_lvd1689m": ("7c1da9a5", 1280, 32, 20, "swiglu", 5120, True, False, 840_633_600),
    "vit7b16_lvd1689m": ("a955f4ea", 4096, 40, 32, "swiglu", 8192, False, True, 6_716_043_264),
    "vit7b16_sat493m": ("a6675841", 4096, 40, 32, "swiglu", 8192, False, True, 6_716_043_264),
}
# Hash, channels and blocks per stage, parameters.
CONVNEXTS = {
    "convnext_tiny_lvd1689m": ("21b726bb", (96, 192, 384, 768), (3, 3, 9, 3), 27_820_128),
    "convnext_small_lvd1689m": ("296db49d", (96, 192, 384, 768), (3, 3, 27, 3), 49_454_688),
    "convnext_base_lvd1689m": ("801f2ba9", (128, 256, 512, 1024), (3, 3, 27, 3), 87_566_464),
    "convnext_large_lvd1689m": ("61fa432d", (192, 384, 768, 1536), (3, 3, 27, 3), 196_230_336),
}
# timm's names, but for what stands after the dot.
TIMM = {
    "vits16": "vit_small_patch16_dinov3",
    "vits16plus": "vit_small_plus_patch16_dinov3",
    "vitb16": "vit_base_patch16_dinov3",
    "vitl16": "vit_large_patch16_dinov3",
    "vith16plus": "vit_huge_plus_patch16_dinov3",
    "vit7b16": "vit_7b_patch16_dinov3",
}


def registers(spec: VariantSpec) -> int:
    """How many registers a variant has, as its interface says."""
    return sum(group.stop - group.start for group in spec.interface().compared[0].groups if group.name == "registers")


def digits(spec: VariantSpec) -> str:
    """Those of the SHA-256 at the end of a release's file name, by which the file is known."""
    found = Path(spec.release.file).stem[-8:]
    assert spec.release.is_file(found + 56 * "0")
    assert not spec.release.is_file(found[:-1] + "g" + 56 * "0")
    return found


def first_patch(spec: VariantSpec) -> int:
    """Which of a variant's tokens is the first patch, as its interface says."""
    (found,) = (group for group in spec.interface().compared[0].groups if group.name == "patches")
    return found.start


def test_there_are_all_twelve_releases_of_dinov3(released):
    names = [name.removeprefix("dinov3_") for name in released if name.startswith("dinov3_")]
    assert {name.replace("_pretrain", "") for name in names} == VITS.keys() | CONVNEXTS.keys()


@pytest.mark.parametrize("name", VITS)
def test_vision_transformers_are_as_published(released, name):
    arch, data = name.rsplit("_", 1)
    spec = released[f"dinov3_{arch}_pretrain_{data}"]
    found = spec.architecture
    assert (
        digits(spec),
        found.embed_dim,
        found.depth,
        found.num_heads,
        found.ffn,
        found.ffn_hidden,
        found.qkv_bias,
        found.local_cls_norm,
        spec.parameters,
    ) == VITS[name]
    assert (found.patch_size, registers(spec), first_patch(spec), found.norm_eps) == (16, 4, 5, 1e-5)
    assert found.head_dim == (128 if arch == "vit7b16" else 64)
    assert found.rope_periods == "bfloat16"
    assert spec.release.huggingface == f"facebook/dinov3-{arch}-pretrain-{data}"
    assert spec.release.timm == f"{TIMM[arch]}.{data}"
    assert spec.release.url == f"https://dinov3.llamameta.net/dinov3_{arch}/"


@pytest.mark.parametrize("name", CONVNEXTS)
def test_convnexts_are_as_published(released, name):
    arch, data = name.rsplit("_", 1)
    spec = released[f"dinov3_{arch}_pretrain_{data}"]
    found = spec.architecture
    assert (digits(spec), found.embed_dims, found.depths, spec.parameters) == CONVNEXTS[name]
    assert (found.patch_size, registers(spec), first_patch(spec), found.norm_eps) == (32, 0, 1, 1e-6)
    assert found.embed_dim == found.embed_dims[-1]
    assert spec.release.huggingface == f"facebook/dinov3-{arch.replace('_', '-')}-pretrain-{data}"
    assert spec.release.timm == f"{arch}.dinov3_{data}"
    assert spec.release.url == f"https://dinov3.llamameta.net/dinov3_{arch}/"


def test_pictures_are_normalised_as_the_training_images_were(released):
    for name, spec in released.items():
        found = spec.preprocessing
        is_dinov2 = spec.family == "dinov2"
        assert (found.interpolation, found.crop_pct) == (("bicubic", 0.875) if is_dinov2 else ("bilinear", None))
        if name.endswith("sat493m"):
            assert (found.mean, found.std) == ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
        else:
            assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert spec.licence.id == ("Apache-2.0" if is_dinov2 else "DINOv3-License")
        assert hash(spec) == hash(spec)


@pytest.mark.parametrize(
    "height, width, tokens",
    [(224, 224, 5 + 196), (16, 16, 5 + 1), (48, 112, 5 + 21), (250, 170, 5 + 150), (31, 47, 5 + 2)],
)
def test_pixels_beyond_the_last_whole_patch_make_no_token(real_spec, height, width, tokens):
    assert real_spec.interface().size("tokens", {"height": height, "width": width}) == tokens


@pytest.mark.parametrize(
    "height, width, tokens", [(224, 224, 1 + 49), (32, 32, 1 + 1), (64, 96, 1 + 6), (63, 97, 1 + 3), (250, 170, 1 + 35)]
)
def test_a_convnext_has_a_token_per_32_pixels(released, height, width, tokens):
    interface = released["dinov3_convnext_tiny_pretrain_lvd1689m"].interface()
    assert interface.size("tokens", {"height": height, "width": width}) == tokens


def test_stages_without_a_depth_are_named():
    name = "dinov3_convnext_tiny_pretrain_lvd1689m"
    mapping = read_variants(ROOT / "config" / "variants")[name]
    mapping["architecture"]["depths"].pop()
    with pytest.raises(
        InputError,
        match=r"config/variants/dinov3_convnext/tiny\.yaml: architecture\.embed_dims names 4 stages and dept",
    ):
        VariantSpec.from_mapping("tiny", mapping)


@pytest.mark.parametrize("embed_dim, num_heads", [(384, 5), (384, 7), (36, 6), (48, 8)])
def test_heads_that_cannot_be_rotated_are_named(embed_dim, num_heads):
    name = "dinov3_vits16_pretrain_lvd1689m"
    mapping = read_variants(ROOT / "config" / "variants")[name]
    mapping["architecture"] |= {"embed_dim": embed_dim, "num_heads": num_heads}
    with pytest.raises(
        InputError, match=rf"config/variants/dinov3_vit/tiny\.yaml: architecture\.embed_dim {embed_dim} must be"
    ):
        VariantSpec.from_mapping("tiny", mapping)


def test_a_free_dimension_is_none():
    free = {"batch": None, "height": None, "width": None}
    assert Recipe.from_mapping("dynamic", DYNAMIC) == Recipe("dynamic", 21, free)
    layers = Recipe.from_mapping("layers", {**DYNAMIC, "outputs": ["block_1", "block_0_norm"]})
    assert layers == Recipe("layers", 21, free, outputs=("block_1", "block_0_norm"))
    assert Recipe.from_mapping("static", STATIC) == Recipe("static", 23, {"batch": 1, "height": 224, "width": 160})


@pytest.mark.parametrize(
    "recipe, accepted",
    [
        (STATIC, [True, False, False, False]),
        (DYNAMIC, [True, True, True, True]),
        (STATIC | {"height": "dynamic"}, [True, False, True, False]),
        (STATIC | {"width": "dynamic"}, [True, True, False, False]),
    ],
)
def test_an_export_accepts_its_own_sizes(recipe, accepted):
    export = Recipe.from_mapping("export", recipe)
    cases = [Case("cat", *size) for size in ((224, 160), (224, 224), (160, 160), (160, 224))]
    interface = images_to_tokens(embed_dim=1, patch_size=1, registers=0)
    assert [interface.accepts(case, export) for case in cases] == accepted


def test_the_snakefile_can_import_it_without_the_heavy_libraries():
    heavy = {"jax", "numpy", "torch", "equinox", "onnx", "requests", "huggingface_hub", "tqdm"}
    code = (
        "import sys; from vit2onnx.checkpoints import own; from vit2onnx.spec import case, family, variant;"
        " light = ('architecture', 'interface', 'recognition');"
        " [family.part(name, one) for name in family.families() for one in light];"
        f" print(sorted(sys.modules.keys() & {heavy}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("family", ["dinov2", "dinov3_convnext", "dinov3_vit"])
def test_fields_with_a_default_are_optional_in_variant_files(family):
    schema = yaml.safe_load((ROOT / f"vit2onnx/families/{family}/architecture.schema.yaml").read_text())
    fields = dataclasses.fields(part(family, "architecture").Architecture)
    assert list(schema["properties"]) == [field.name for field in fields]
    assert schema["required"] == [field.name for field in fields if field.default is dataclasses.MISSING]
    assert all(one.get("description") for one in schema["properties"].values())
    assert schema["properties"]["activation"]["enum"] == ["gelu", "gelu_tanh", "relu", "silu"]


def test_the_weights_of_all_layers_are_counted(released):
    for spec in released.values():
        model = skeleton_of(spec.family, spec.architecture)
        matrices = [
            leaf.size for _, layer in model.trunk() for leaf in jax.tree_util.tree_leaves(layer) if len(leaf.shape) == 2
        ]
        assert spec.architecture.trunk_parameters == sum(matrices), spec.name
        assert 0.8 * spec.parameters < spec.architecture.trunk_parameters < spec.parameters

"""Variants and exports as their files describe them."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vit2onnx.errors import InputError
from vit2onnx.variants import ExportSpec, VariantSpec, read_variants

ROOT = Path(__file__).parents[1]
STATIC = {"batch": 1, "height": 224, "width": 160, "opset": 23}
DYNAMIC = {"batch": "dynamic", "height": "dynamic", "width": "dynamic", "opset": 21}


def test_variants_are_named_by_their_files(tmp_path):
    (tmp_path / "b.yaml").write_text("family: two")
    (tmp_path / "a.yaml").write_text("family: one")
    (tmp_path / "notes.txt").write_text("family: none")
    assert read_variants(tmp_path) == {"a": {"family": "one"}, "b": {"family": "two"}}
    assert list(read_variants(tmp_path)) == ["a", "b"]


def test_every_variant_of_the_project_becomes_a_spec():
    for name, mapping in read_variants(ROOT / "config" / "variants").items():
        spec = VariantSpec.from_mapping(name, mapping)
        assert spec.name == name
        assert spec.release.file.startswith(f"{name}-")


def test_the_small_vit_is_as_published(real_spec):
    """As in MODELS.md C.1."""
    arch = real_spec.architecture
    assert (arch.embed_dim, arch.depth, arch.num_heads, arch.ffn_hidden) == (384, 12, 6, 1536)
    assert (arch.patch_size, arch.num_registers, arch.norm_eps, arch.qkv_bias) == (16, 4, 1e-5, True)
    assert (arch.head_dim, arch.num_prefix) == (64, 5)
    assert real_spec.parameters == 21_601_152
    assert real_spec.release.sha256_prefix == "08c60483"
    assert real_spec.release.huggingface == "facebook/dinov3-vits16-pretrain-lvd1689m"
    assert real_spec.preprocessing.mean == (0.485, 0.456, 0.406)
    assert real_spec.preprocessing.std == (0.229, 0.224, 0.225)
    assert hash(real_spec) == hash(real_spec)


@pytest.mark.parametrize(
    "height, width, tokens",
    [(224, 224, 5 + 196), (16, 16, 5 + 1), (48, 112, 5 + 21), (250, 170, 5 + 150), (31, 47, 5 + 2)],
)
def test_pixels_beyond_the_last_whole_patch_make_no_token(real_spec, height, width, tokens):
    assert real_spec.architecture.num_tokens(height, width) == tokens


@pytest.mark.parametrize("embed_dim, num_heads", [(384, 5), (384, 7), (36, 6), (48, 8)])
def test_heads_that_cannot_be_rotated_are_named(embed_dim, num_heads):
    name = "dinov3_vits16_pretrain_lvd1689m"
    mapping = yaml.safe_load((ROOT / "config" / "variants" / f"{name}.yaml").read_text())
    mapping["architecture"] |= {"embed_dim": embed_dim, "num_heads": num_heads}
    with pytest.raises(InputError, match=rf"config/variants/tiny\.yaml: architecture\.embed_dim {embed_dim} must be"):
        VariantSpec.from_mapping("tiny", mapping)


def test_a_free_dimension_is_none():
    assert ExportSpec.from_mapping("dynamic", DYNAMIC) == ExportSpec("dynamic", None, None, None, 21)
    assert ExportSpec.from_mapping("static", STATIC) == ExportSpec("static", 1, 224, 160, 23)


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
    export = ExportSpec.from_mapping("export", recipe)
    sizes = [(224, 160), (224, 224), (160, 160), (160, 224)]
    assert [export.accepts(*size) for size in sizes] == accepted


def test_the_snakefile_can_import_it_without_the_heavy_libraries():
    heavy = {"jax", "numpy", "torch", "equinox", "onnx"}
    code = f"import sys, vit2onnx.variants, vit2onnx.cases; print(sorted(sys.modules.keys() & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr

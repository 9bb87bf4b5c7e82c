"""A wrong key or value is named before any job runs."""

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vit2onnx.checkpoints.detect import tables_of
from vit2onnx.errors import InputError
from vit2onnx.spec.configuration import check_configuration
from vit2onnx.spec.family import FOLDER, PARTS, SCHEMA, part, self_test_models
from vit2onnx.spec.variant import VariantSpec, read_variants

ROOT = Path(__file__).parents[2]
FILES = ("config.yaml", "limits.yaml")
CONFIG = {key: value for name in FILES for key, value in yaml.safe_load((ROOT / "config" / name).read_text()).items()}
VIT, CONVNEXT = "dinov3_vits16_pretrain_lvd1689m", "dinov3_convnext_tiny_pretrain_lvd1689m"

FAULTS: dict[str, tuple[Callable[[dict], Any], str]] = {
    "unknown key": (lambda c: c.update(weigths="official"), "top level: .*'weigths' was unexpected"),
    "unknown key below": (lambda c: c["parity"].update(size=[]), "parity: .*'size' was unexpected"),
    "missing key": (lambda c: c.pop("images"), "top level: 'images' is a required property"),
    "wrong choice": (lambda c: c.update(weights="real"), "weights: 'real' is not one of"),
    "wrong type": (lambda c: c["synthetic"].update(seed="0"), "synthetic.seed: '0' is not of type 'integer'"),
    "wrong size": (
        lambda c: c["exports"]["static"].update(batch="free"),
        "exports.static.batch: 'free' does not match",
    ),
    "limit that is no number": (
        lambda c: c["limits"]["float32"]["floors"].update(limit=float("nan")),
        "limits.float32.floors.limit: nan is not of type 'number'",
    ),
    "measured without end": (
        lambda c: c["limits"]["float32"]["cosine"].update(measured=float("inf")),
        "limits.float32.cosine.measured: inf is not of type 'number'",
    ),
    "size without end": (
        lambda c: c.update(external_weights_above_mb=float("nan")),
        "external_weights_above_mb: nan is not of type 'number'",
    ),
    "number that YAML takes for text": (
        lambda c: c["limits"]["float32"]["floors"].update(limit="1e-7"),
        "limits.float32.floors.limit: '1e-7' is not of type 'number'; write 1.0e-7",
    ),
    "cosine above one": (
        lambda c: c["limits"]["float32"]["cosine"].update(limit=5),
        "limits.float32.cosine.limit: 5 is greater than the maximum of 1",
    ),
    "misspelt limit": (
        lambda c: c["limits"]["preprocessing"].update(grey_level=c["limits"]["preprocessing"]["grey_levels"]),
        "limits.preprocessing: .*'grey_level' was unexpected",
    ),
    "misspelt precision": (lambda c: c["limits"].update(float23={}), "limits: .*'float23' was unexpected"),
    "misspelt limits": (lambda c: c.update(limit=c["limits"]), "top level: .*'limit' was unexpected"),
    "limit that there is no more": (
        lambda c: c["limits"]["float32"].update(max_abs=c["limits"]["float32"]["floors"]),
        "limits.float32: .*'max_abs' was unexpected",
    ),
    "missing limit": (
        lambda c: c["limits"]["float32"].pop("floors_double"),
        "limits.float32: 'floors_double' is a required property",
    ),
    "limit of nothing": (
        lambda c: c["limits"]["float32"]["floors"].update(limit=0),
        "limits.float32.floors.limit: 0 is less than or equal to the minimum of 0",
    ),
    "limit that lets everything pass": (
        lambda c: c["limits"]["float32"]["floors"].update(limit=101),
        "limits.float32.floors.limit: 101 is greater than the maximum of 100",
    ),
    "limit where it was": (lambda c: c["parity"].update(limits={}), "parity: .*'limits' was unexpected"),
    "no limits": (lambda c: c.pop("limits"), "top level: 'limits' is a required property"),
    "no variants": (lambda c: c.update(variants=[]), "variants: "),
    "unknown variant": (
        lambda c: c.update(variants=["dinov3_vits8"]),
        r"there is no config/variants/\*/dinov3_vits8.yaml",
    ),
    "no images": (lambda c: c.update(images={}), "images: "),
    "limit without a reason": (lambda c: c["limits"]["float32"]["cosine"].pop("why"), "limits.float32.cosine: 'why'"),
    "size below a patch": (lambda c: c["parity"]["sizes"].append([8, 224]), "parity.sizes: 8x224 is smaller than one"),
    "recipe below a patch": (lambda c: c["exports"]["static"].update(width=15), "exports.static.width: 15 is smaller"),
    "recipe without a size": (lambda c: c["exports"]["static"].pop("width"), "exports.static: 'width' is a required"),
    "recipe with a size that its interface does not have": (
        lambda c: c["exports"]["static"].update(depth=3),
        "exports.static: 'depth' was unexpected; the interface images has batch, height, width",
    ),
    "recipe of an interface that no family has": (
        lambda c: c["exports"]["static"].update(interface="txet"),
        "exports.static.interface: 'txet. is not one of images, photographs, packed, vision, text, pair",
    ),
    "attention of single images": (
        lambda c: c["exports"]["static"].update(attention="loop"),
        "exports.static.attention: only the interface packed has it; leave it out",
    ),
    "attention that there is not": (
        lambda c: c["exports"].update(packed={"interface": "packed", "opset": 23, "attention": "mask"}),
        r"exports.packed.attention: 'mask' is not one of \['loop', 'padded'\]",
    ),
    "attention that the operator set lacks": (
        lambda c: c["exports"].update(packed={"interface": "packed", "opset": 23, "attention": "padded"}),
        "exports.packed.opset: 23 has no padded attention; use 24",
    ),
    "native operators that the operator set lacks": (
        lambda c: c["exports"]["static"].update(opset=17),
        "exports.static.opset: 17 has no Attention and no RotaryEmbedding; use 23 or newer, or `operators: portable`",
    ),
    "operator set that is too old": (
        lambda c: c["exports"]["static"].update(opset=16, operators="portable"),
        "exports.static.opset: 16 is less than the minimum of 17",
    ),
    "precision that there is not": (
        lambda c: c["exports"]["static"].update(precision="fp16"),
        r"exports.static.precision: 'fp16' is not one of \['float32', 'float16', 'int8'\]",
    ),
    "activations of a graph that is not in int8": (
        lambda c: c["exports"]["static"].update(activations="static"),
        "exports.static.activations: only `precision: int8` has it; leave it out",
    ),
    "images that would depend on those beside them": (
        lambda c: c["exports"].update(packed={"interface": "packed", "opset": 23, "precision": "int8"}),
        "exports.packed.activations: with dynamic scales the features of an image would depend on the images beside it;"
        " add `activations: static`",
    ),
    "folds in a small precision": (
        lambda c: c["exports"]["static"].update(precision="float16", folds=["layer_scale"]),
        "exports.static.folds: only `precision: float32` has them; leave it out",
    ),
    "misspelt key of a recipe": (
        lambda c: c["exports"]["static"].update(precison="int8"),
        "exports.static.precison: there is no such key; you may mean precision",
    ),
    "misspelt key of a recipe with a number": (
        lambda c: c["exports"]["static"].update(opest=17),
        "exports.static: 'opest' was unexpected; you may mean opset",
    ),
    "misspelt size": (
        lambda c: c["exports"]["static"].update(hieght=224),
        "exports.static: 'hieght' was unexpected; you may mean height",
    ),
    "one fold instead of a list": (
        lambda c: c["exports"]["static"].update(folds="layer_scale"),
        r"exports.static.folds: 'layer_scale' is not of type 'array'; give a list, \[layer_scale\]",
    ),
    "size that is a word": (
        lambda c: c["exports"]["static"].update(batch="Dynamic"),
        "exports.static.batch: 'Dynamic' does not match .*; write for example 224 or dynamic",
    ),
    "fold that there is not": (
        lambda c: c["exports"]["static"].update(folds=["bias"]),
        r"exports.static.folds.0: 'bias' is not one of \['layer_scale'\]",
    ),
    "photographs that are resized to any size": (
        lambda c: c["exports"]["dynamic"].update(interface="photographs"),
        "exports.dynamic.height: photographs are resized to one size; give a number",
    ),
    "number of packed images": (
        lambda c: c["exports"].update(packed={"interface": "packed", "opset": 23, "images": 8}),
        "exports.packed.images: a packed graph takes any number of images; leave it out",
    ),
    "size of packed images": (
        lambda c: c["exports"].update(packed={"interface": "packed", "opset": 23, "height": "dynamic"}),
        "exports.packed: 'height' was unexpected; a packed graph takes any number of images and patches",
    ),
    "layer that a model does not have": (
        lambda c: c["exports"]["static"].update(outputs=["block_11", "block_12"]),
        f"exports.static.outputs: {VIT} has no block_12, only block_0 to block_11, each also with _norm at the end",
    ),
    "layer that is there twice": (
        lambda c: c["exports"]["dynamic"].update(outputs=["block_3", "block_3"]),
        "exports.dynamic.outputs: block_3 is there twice; name it once",
    ),
    "layer whose channels the norm does not have": (
        lambda c: (c.update(variants=CONVNEXT), c["exports"]["static"].update(outputs=["stage_2_norm"])),
        f"exports.static.outputs: {CONVNEXT} has no stage_2_norm, only stage_0 to stage_3 and stage_3_norm, because the"
        " final norm fits no other",
    ),
    "layers of packed images": (
        lambda c: c["exports"].update(packed={"interface": "packed", "opset": 23, "outputs": ["block_3"]}),
        "exports.packed.outputs: the interface packed has no outputs of layers; use the interface images, or",
    ),
    "layers of images with texts": (
        lambda c: (c.update(variants="siglip2_base_patch16_224"), c["exports"]["model"].update(outputs=["block_3"])),
        "exports.model.outputs: the interface pair has no outputs of layers; use the interface vision, or leave",
    ),
    "output of no layer": (
        lambda c: c["exports"]["static"].update(outputs=["last_hidden_state"]),
        "exports.static.outputs.0: 'last_hidden_state' does not match",
    ),
    "outputs without any": (
        lambda c: c["exports"]["static"].update(outputs=[]),
        r"exports.static.outputs: \[\] should be non-empty",
    ),
    "variant whose images cannot be packed": (
        lambda c: c.update(
            variants=["dinov3_convnext_tiny_pretrain_lvd1689m"],
            exports={"packed": {"interface": "packed", "opset": 23}},
        ),
        "variants: no recipe of exports is for dinov3_convnext_tiny_pretrain_lvd1689m, whose interface is images",
    ),
    "variant that no recipe is for": (
        lambda c: [recipe.update(interface="text") for recipe in c["exports"].values()],
        f"variants: no recipe of exports is for {VIT}, whose interface is images",
    ),
    "recipe nothing fits": (
        lambda c: c["exports"]["static"].update(height=225, width="dynamic"),
        "exports.static: nothing of parity.sizes fits it",
    ),
    "unknown variant by itself": (lambda c: c.update(variants="every"), r"there is no config/variants/\*/every.yaml"),
    "no golden image": (
        lambda c: c["official"].update(golden_image="cats.jpg"),
        "official.golden_image: there is no file cats.jpg",
    ),
    "folder without images": (
        lambda c: c["images"].update(mine="config"),
        r"images.mine: there is no photograph \(.jpg, .*\) in the folder config",
    ),
    "golden among the images": (
        lambda c: c["images"].update(golden=c["images"]["coffee"]),
        "images.golden: this name is taken by official.golden_image",
    ),
    "checkpoint of an unknown variant": (
        lambda c: c["official"]["checkpoints"].update(dinov3_vits8="x.pth"),
        r"there is no config/variants/\*/dinov3_vits8.yaml",
    ),
    "checkpoint that is not there": (
        lambda c: (c.update(weights="official"), c["official"]["checkpoints"].update({VIT: "gone.pth"})),
        f"official.checkpoints.{VIT}: there is no file or folder gone.pth",
    ),
    "checkpoint among the results": (
        lambda c: c["official"]["checkpoints"].update({VIT: "results/official/checkpoint"}),
        "lies in results/, whose files are made anew",
    ),
    "layout that there is not": (
        lambda c: (c.update(weights="official"), c["synthetic"].update(layout="metta")),
        "synthetic.layout: 'metta' is not one of publisher, meta, huggingface, huggingface5, timm, timm_qkvb",
    ),
    "clone of nothing": (
        lambda c: c["reference"]["repositories"].update({"facebookresearch/dinov4": "."}),
        "repositories: 'facebookresearch/dinov4' is not one of facebookresearch/dinov2, facebookresearch/dinov3",
    ),
    "clone that is not there": (
        lambda c: c["reference"]["repositories"].update({"facebookresearch/dinov3": "gone"}),
        "reference.repositories.facebookresearch/dinov3: there is no folder gone",
    ),
    "layout that the family lacks": (
        lambda c: (c.update(variants=[VIT, CONVNEXT]), c["synthetic"].update(layout="timm_qkvb")),
        f"there is no timm_qkvb layout of {CONVNEXT}",
    ),
    "sizes without end": (
        lambda c: c["parity"]["sizes"].append([10**9, 224]),
        "parity.sizes.5.0: 1000000000 is greater",
    ),
    "batch without end": (
        lambda c: c["parity"]["batch_sizes"].append(10**9),
        "parity.batch_sizes.2: 1000000000 is great",
    ),
    "recipe without end": (
        lambda c: c["exports"]["static"].update(height=10**9),
        "exports.static.height: .*maximum of 4096",
    ),
    "seed without end": (lambda c: c["synthetic"].update(seed=2**62), "synthetic.seed: .* is greater than the maximum"),
    "measured beyond reason": (
        lambda c: c["limits"]["float32"]["floors"].update(measured=1e30),
        "limits.float32.floors.measured: 1e\\+30 is greater",
    ),
    "recipe with a newline": (
        lambda c: c["exports"].update({"a\n": c["exports"]["static"]}),
        "exports: .* does not match",
    ),
    "recipe that is a path": (
        lambda c: c["exports"].update({"../a": c["exports"]["static"]}),
        "exports: .* does not match",
    ),
    "recipe with a long name": (
        lambda c: c["exports"].update({"a" * 300: c["exports"]["static"]}),
        "exports: .*too long",
    ),
    "photograph that is an option": (lambda c: c["images"].update({"-rf": "a.jpg"}), "images: '-rf' does not match"),
    "photograph with a newline": (lambda c: c["images"].update({"a\n": "a.jpg"}), "images: .* does not match"),
}


def dense(**changes: Any) -> Callable[[dict], Any]:
    """Ask for dense maps, in some other way than by default."""
    return lambda c: c["dense"].update({"enabled": True, **changes})


V2, SIGLIP2 = "dinov2_vits14_pretrain", "siglip2_base_patch16_224"
FAULTS |= {
    "misspelt key of dense": (dense(grids=[1, 1]), "dense: .*'grids' was unexpected"),
    "grid of one row": (dense(grid=[1, 8]), "dense.grid.0: 1 is less than the minimum of 2"),
    "grid of one number": (dense(grid=[32]), "dense.grid: .*"),
    "grid without end": (dense(grid=[128, 64]), "dense.grid: 128x64 has 8192 patches; use 4096 at most"),
    "reference of no photograph": (
        dense(references={"austronaut": [0.5, 0.5]}),
        "dense.references: 'austronaut' is no photograph of images, only astronaut, camera",
    ),
    "reference in pixels": (
        dense(references={"astronaut": [120, 80]}),
        "dense.references.astronaut.0: 120 is greater than the maximum of 1",
    ),
    "masks that nothing uses": (dense(masks={"astronaut": "mask.png"}), "dense.masks: nothing uses them"),
    "photograph without a mask": (dense(foreground="masks"), "dense.masks: there is no mask of astronaut"),
    "mask that is not there": (
        dense(foreground="masks", masks={"astronaut": "no/such.png"}),
        "dense.masks.astronaut: there is no file no/such.png",
    ),
    "layer that is not there": (dense(layers=[12]), f"dense.layers: {VIT}: there is no layer 12, only 0 to 11"),
    "norm that is always high": (dense(high_norm=1), "dense.high_norm: 1 is less than or equal to the minimum of 1"),
    "model that is compared with itself": (dense(compare=[[VIT, VIT]]), "dense.compare.0: .* has non-unique elements"),
    "pair with a variant that is not listed": (
        dense(compare=[[VIT, V2]]),
        f"dense.compare: {V2} is no listed variant with patches, only {VIT}",
    ),
    "own checkpoints that are not asked for": (
        lambda c: (c.update(own={"before": "a.pth"}), dense(compare=[["before", VIT]])(c)),
        "dense.compare: before is no listed variant with patches; set weights: own",
    ),
    "folder of nobody": (
        dense(retrieval="~nobody_at_all/x"),
        "dense.retrieval: .* names the home of a user who is not",
    ),
    "folder that Snakemake misreads": (
        dense(retrieval="resources", retrieval_masks="no{such}"),
        "dense.retrieval_masks: there is no folder no\\{such\\}",
    ),
    "graph whose map is too large": (
        lambda c: (c["exports"]["static"].update(height=2048, width=2048), dense()(c)),
        "dense: static.onnx of .* has a map of 128x128 patches, and maps have 2 to 4096",
    ),
    "graph whose map is one patch": (
        lambda c: (c["exports"]["static"].update(height=16, width=16), dense()(c)),
        "dense: static.onnx of .* has a map of 1x1 patches",
    ),
    "two pairs whose folders have one name": (
        dense(compare=[["a-b", "c"], ["a", "b-c"]]),
        "dense.compare: a-b-c names two pairs; rename a variant",
    ),
    "layer that is not there while maps are off": (
        lambda c: c["dense"].update(layers=[12]),
        f"dense.layers: {VIT}: there is no layer 12",
    ),
    "pair of two grids": (
        lambda c: (c.update(variants=[VIT, SIGLIP2]), dense(compare=[[VIT, SIGLIP2]])(c)),
        f"{VIT} has 32x32 patches and {SIGLIP2} has 14x14 patches; .* so set dense.grid: \\[14, 14\\]",
    ),
    "folder of labels that is not there": (dense(retrieval="no/such/folder"), "dense.retrieval: .*no/such/folder"),
    "folder without labels": (dense(retrieval="config/variants/dinov2"), "dense.retrieval: .* has 0 subfolders"),
    "masks without a folder": (
        dense(retrieval="composites", retrieval_masks="masks"),
        "dense.retrieval_masks: they are those of a folder",
    ),
    "less than nothing to suppress": (dense(suppress=-1), "dense.suppress: -1 is less than the minimum of 0"),
}


# Of a release's file or of a licence's, with the ending that the first must have.
PATHS = ("/etc/x-08c60483.pth", "../x-08c60483.pth", "a/../../x-08c60483.pth", "-x-08c60483.pth", ".x-08c60483.pth")
PATHS += ("x;touch T-08c60483.pth", "x-08c60483.pth\n", "a" * 300 + "-08c60483.pth", "$(touch T)-08c60483.pth")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(name: str):
    change, sentence = FAULTS[name]
    config = copy.deepcopy(CONFIG)
    change(config)
    with pytest.raises(InputError, match=f"^config: .*{sentence}"):
        check_configuration(config, ROOT)


def test_the_config_as_it_comes_has_no_fault():
    assert VIT in check_configuration(CONFIG, ROOT)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_graphs_in_small_precisions_need_no_dense_maps(precision: str):
    config = copy.deepcopy(CONFIG)
    config["exports"]["static"]["precision"] = precision
    config["dense"]["enabled"] = True
    assert VIT in check_configuration(config, ROOT)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: v.pop("licence"), "top level: 'licence' is a dependency of 'release'.$"),
        (lambda v: v.update(family="dinov3_vit"), "delete the key 'family'; the folder says it.$"),
        (lambda v: v["architecture"].pop("depth"), "architecture: 'depth' is a required property.$"),
        (lambda v: v["architecture"].update(depth="12"), "architecture.depth: '12' is not of type 'integer'.$"),
        (lambda v: v["architecture"].update(embed_dims=[1]), "architecture: .*'embed_dims' was unexpected"),
        (
            lambda v: v["release"].update(file="vits16.pth"),
            "release.file vits16.pth does not end in the first eight digits",
        ),
        (lambda v: v["release"].update(file="vits16.bin"), "release.file: 'vits16.bin' does not match"),
        (lambda v: v["release"].update(sha256="08c60483"), "release.sha256: '08c60483' does not match"),
        (lambda v: v["architecture"].update(num_heads=7), "must be a multiple of 4 x num_heads"),
        # Names that would lead out of the project, or be obeyed by a shell.
        *((lambda v, file=file: v["release"].update(file=file), "release.file") for file in PATHS),
        *((lambda v, text=text: v["licence"].update(text=text), "licence.text") for text in PATHS),
        (lambda v: v["release"].update(huggingface="../x"), "release.huggingface: '../x' does not match"),
        (lambda v: v["release"].update(url="javascript:x"), "release.url: 'javascript:x' does not match"),
        # Numbers that mean nothing.
        (lambda v: v.update(parameters=10**30), "an integer has more than 64 bits"),
        (lambda v: v.update(parameters=10**15), "parameters: 1000000000000000 is greater than the maximum"),
        (lambda v: v["preprocessing"].update(std=[0.2, 0, 0.2]), "preprocessing.std.1: 0 is less than the minimum"),
        (lambda v: v["preprocessing"].update(std=[1e30] * 3), "preprocessing.std.0: 1e\\+30 is greater"),
        (lambda v: v["preprocessing"].update(mean=[124.0, 116.0, 104.0]), "preprocessing.mean.0: 124.0 is greater"),
        (lambda v: v["architecture"].update(norm_eps=1e300), "architecture.norm_eps: 1e\\+300 is greater"),
        (lambda v: v["architecture"].update(norm_eps=1e-300), "architecture.norm_eps: 1e-300 is less"),
        (lambda v: v["architecture"].update(depth=10**9), "architecture.depth: 1000000000 is greater"),
        (lambda v: v["architecture"].update(embed_dim=10**9), "architecture.embed_dim: 1000000000 is greater"),
        (
            lambda v: v["golden"]["tokens"][0].update(features=[1e300]),
            "golden.tokens.0.features.0: 1e\\+300 is greater",
        ),
    ],
)
def test_a_fault_in_a_variant_file_is_named(tmp_path: Path, change: Callable[[dict], Any], sentence: str):
    for folder in ("config", "workflow/schemas"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = tmp_path / "config" / "variants" / "dinov3_vit" / f"{VIT}.yaml"
    variant = yaml.safe_load(path.read_text())
    change(variant)
    path.write_text(yaml.safe_dump(variant))
    with pytest.raises(InputError, match=rf"^config/variants/dinov3_vit/{VIT}\.yaml: .*{sentence}"):
        check_configuration(CONFIG, tmp_path)
    path.write_text("family: [")
    with pytest.raises(InputError, match=rf"^config/variants/dinov3_vit/{VIT}\.yaml is no valid YAML: "):
        check_configuration(CONFIG, tmp_path)


@pytest.mark.parametrize("kind", ["link", "pipe", "long"])
def test_a_licence_is_a_text_of_the_project(tmp_path: Path, kind: str):
    for folder in ("config", "workflow/schemas", "resources"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    licence = tmp_path / "resources" / "licences" / "DINOv3-License.md"
    licence.unlink()
    if kind == "link":
        licence.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(licence)
    else:
        licence.write_bytes(b"")
        os.truncate(licence, 10**12)
    with pytest.raises(InputError, match=r"licence\.text: .*resources/licences/DINOv3-License\.md"):
        check_configuration(CONFIG, tmp_path)


def test_a_key_that_is_there_twice_is_named(tmp_path: Path):
    name = f"variants/dinov3_vit/{VIT}.yaml"
    for folder in ("config", "workflow/schemas"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = tmp_path / "config" / name
    content = path.read_text() + "nested: {one: 1, two: 2,\n one: 3}\n"
    path.write_text(content)
    where = rf"the key 'one' is there twice in .*, line {content.count(chr(10))}, column 2\.$"
    with pytest.raises(InputError, match=rf"^config/{name} is no valid YAML: {where}"):
        check_configuration(CONFIG, tmp_path)


@pytest.mark.parametrize("file", [*(f"{name}.py" for name in PARTS), SCHEMA])
def test_what_a_family_lacks_is_named_where_the_family_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
):
    copied = shutil.copytree(FOLDER, tmp_path / "families")
    (copied / "dinov3_convnext" / file).unlink()
    monkeypatch.setattr("vit2onnx.spec.family.FOLDER", copied)
    part.cache_clear()
    assert VIT in check_configuration(CONFIG, ROOT)
    sentence = rf"The family dinov3_convnext is not complete: there is no vit2onnx/families/dinov3_convnext/{file}\.$"
    of_self_test = CONFIG | {"parity": CONFIG["parity"] | {"self_test": True}}
    for config in (CONFIG | {"variants": [VIT, CONVNEXT]}, of_self_test):
        with pytest.raises(InputError, match=f"^config: {sentence}"):
            check_configuration(config, ROOT)
    # The target self_test is there whatever the config says.
    with pytest.raises(InputError, match=f"^{sentence}"):
        self_test_models()


def test_all_faults_are_named_at_once_and_each_once():
    config = copy.deepcopy(CONFIG) | {"variants": "all", "images": {"gone": "gone.jpg"}}
    config["exports"]["static"] |= {"width": 13, "depth": 3}
    with pytest.raises(InputError) as error:
        check_configuration(config, ROOT)
    text = str(error.value)
    assert text.count("'depth' was unexpected") == text.count("images.gone: there is no file gone.jpg") == 1
    assert "exports.static.width: 13 is smaller" in text


@pytest.mark.parametrize("name", [VIT, CONVNEXT])
def test_the_layouts_of_a_family_are_those_it_has_tables_for(name: str):
    spec = VariantSpec.from_mapping(name, read_variants(ROOT / "config" / "variants")[name])
    assert list(tables_of(spec)) == list(part(spec.family, "architecture").LAYOUTS)


def test_the_self_test_says_which_variant_it_misses(tmp_path: Path):
    for folder in ("config", "workflow", "resources"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    name = "dinov3_vit7b16_pretrain_lvd1689m"
    (tmp_path / "config" / "variants" / "dinov3_vit" / f"{name}.yaml").unlink()
    check_configuration(CONFIG, tmp_path)
    config = CONFIG | {"parity": CONFIG["parity"] | {"self_test": True}}
    with pytest.raises(
        InputError, match=rf"parity\.self_test: it needs the variant {name}, which has no file in config/variants"
    ):
        check_configuration(config, tmp_path)

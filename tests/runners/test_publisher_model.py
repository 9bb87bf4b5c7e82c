"""The publisher's code as reference, with a stand-in for it; a clone of the real one is the user's to bring."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import transformers_model
from tests.conftest import RELEASED, Spine
from tests.rounding import LAYER_LIMIT, MODEL_LIMIT, floors, rms
from vit2onnx.errors import InputError
from vit2onnx.families.reference import Reference, native_convolutions
from vit2onnx.runners import torch as torch_runner
from vit2onnx.self_test.chain import shrink
from vit2onnx.spec.case import layer_inputs
from vit2onnx.spec.variant import VariantSpec

HERE = Path(__file__).parent
DINOV2 = HERE.parent / "families" / "dinov2" / "publisher_stand_in.py"
STAND_INS = {
    "dinov2/layers.py": DINOV2,
    "dinov2/models/vision_transformer.py": DINOV2,
    "dinov3/models/vision_transformer.py": HERE / "publisher_stand_in.py",
    "dinov3/models/convnext.py": HERE / "publisher_convnext_stand_in.py",
}
# Wide, tall, and no multiple of the patch.
SIZES = [(48, 112), (112, 48), (50, 37)]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that looks like a clone; what is imported from it is forgotten after the test."""
    for name, stand_in in STAND_INS.items():
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stand_in, path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path / "clone"
    for name in [name for name in sys.modules if name.partition(".")[0] in ("dinov2", "dinov3")]:
        del sys.modules[name]


def prepare(spec: VariantSpec, checkpoint: Path, repository: Path) -> Reference:
    return torch_runner.reference_of(spec, "publisher", checkpoint, repository)


def features(
    spec: VariantSpec, checkpoint: Path, repository: Path, cases: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return torch_runner.features(prepare(spec, checkpoint, repository), cases, spec.interface())


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {str(size): rng.standard_normal((3, *size), np.float32) for size in SIZES}


def test_features_are_those_of_the_other_reference(
    tiny_spec: VariantSpec, tiny_checkpoint: Path, repository: Path, images: Mapping[str, np.ndarray]
):
    found = features(tiny_spec, tiny_checkpoint, repository, images)
    other = transformers_model.features(tiny_spec, tiny_checkpoint, images)
    assert found.keys() == other.keys()
    for size in SIZES:
        assert (found[f"float32/{size}"].dtype, found[f"float64/{size}"].dtype) == ("float32", "float64")
        # Measured 1.0 and 0.
        assert floors(found[f"float32/{size}"], other[f"float64/{size}"], other[f"float32/{size}"]) <= MODEL_LIMIT
        np.testing.assert_allclose(found[f"float64/{size}"], other[f"float64/{size}"], rtol=0, atol=1e-12)


def test_features_of_every_release_are_those_of_the_other_reference(small, repository: Path):
    image = {"x": np.random.default_rng(0).standard_normal((3, 134, 165), np.float32)}
    path = small.checkpoints["meta"]
    found = features(small.spec, path, repository, image)
    other = transformers_model.features(small.spec, path, image)
    # Measured 1.0 and 3.8e-15.
    assert floors(found["float32/x"], other["float64/x"], other["float32/x"]) <= MODEL_LIMIT
    np.testing.assert_allclose(found["float64/x"], other["float64/x"], rtol=0, atol=1e-12)


def test_stages_of_every_release_are_those_of_the_other_reference(small, repository: Path):
    image = np.random.default_rng(0).standard_normal((3, 134, 165), np.float32)
    path = small.checkpoints["meta"]
    other = dict(transformers_model.stages(small.spec, path, image))
    inputs, injected = {"pixel_values": image}, layer_inputs(other)
    interface = small.spec.interface()
    found = dict(torch_runner.stages(lambda: prepare(small.spec, path, repository), inputs, interface, injected))
    assert list(found) == [key for key in other if not key.startswith("inputs/")]
    for key in (key.removeprefix("float32/") for key in found if key.startswith("float32/")):
        truth = other[f"float64/{key}"]
        # Measured 1.0 at most, and 1.6e-14 of a stage's scale.
        assert floors(found[f"float32/{key}"], truth, other[f"float32/{key}"]) <= LAYER_LIMIT, key
        np.testing.assert_allclose(found[f"float64/{key}"], truth, rtol=0, atol=1e-12 * max(1, rms(truth)), err_msg=key)
    # To be looked at changes nothing.
    own = features(small.spec, path, repository, {"x": image})
    for precision in ("float32", "float64"):
        np.testing.assert_array_equal(found[f"{precision}/accumulated/norm"], own[f"{precision}/x"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_step_by_step_is_the_models_own_forward_to_the_bit(small, repository: Path, dtype: torch.dtype):
    # DINOv2's own code takes multiples of its patch only.
    size = (126, 154) if small.spec.family == "dinov2" else (134, 165)
    image = np.random.default_rng(0).standard_normal((3, *size), np.float32)
    path = small.checkpoints["meta"]
    precision = str(dtype).removeprefix("torch.")
    streamed = features(small.spec, path, repository, {"x": image})[f"{precision}/x"]
    reference = prepare(small.spec, path, repository)
    model = torch_runner.filled_model(reference).to(dtype)
    if dtype == torch.float64:
        reference.in_double()
    is_convnext = small.spec.family == "dinov3_convnext"
    with torch.inference_mode(), native_convolutions() if is_convnext else nullcontext():
        out = model.forward_features(torch.from_numpy(image[None]).to(dtype))
    registers = out["x_norm_regtokens" if small.spec.family == "dinov2" else "x_storage_tokens"]
    parts = [out["x_norm_clstoken"][:, None], registers, out["x_norm_patchtokens"]]
    np.testing.assert_array_equal(streamed, torch.cat(parts, 1)[0])


def test_unrounded_periods_are_a_switch_of_the_variant(
    tiny_spec: VariantSpec, tiny_checkpoint: Path, repository: Path, images: Mapping[str, np.ndarray]
):
    unrounded = replace(tiny_spec, architecture=replace(tiny_spec.architecture, rope_periods="float32"))
    found = features(unrounded, tiny_checkpoint, repository, images)
    other = transformers_model.features(unrounded, tiny_checkpoint, images)
    rounded = transformers_model.features(tiny_spec, tiny_checkpoint, images)
    for size in SIZES:
        single, truth = other[f"float32/{size}"], other[f"float64/{size}"]
        # Measured 1.0, and 320 at least.
        assert floors(found[f"float32/{size}"], truth, single) <= MODEL_LIMIT
        assert floors(rounded[f"float32/{size}"], truth, single) > 50 * MODEL_LIMIT
        np.testing.assert_allclose(found[f"float64/{size}"], truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "release, own",
    [
        ("dinov3_vits16", {"key_bias": True, "num_registers": 0, "rope_periods": "checkpoint"}),
        ("dinov2_vits14", {"activation": "gelu_tanh"}),
        ("dinov2_vits14", {"activation": "relu"}),
    ],
    ids=str,
)
def test_own_weights_are_those_of_the_other_reference(repository: Path, tmp_path: Path, release: str, own):
    spec = shrink(next(spec for name, spec in RELEASED.items() if name.startswith(f"{release}_pretrain")))
    spec = replace(spec, architecture=replace(spec.architecture, **own))
    path = Spine(spec, tmp_path).checkpoints["meta"]
    image = {"x": np.random.default_rng(0).standard_normal((3, 56, 112), np.float32)}
    found = features(spec, path, repository, image)
    other = transformers_model.features(spec, path, image)
    np.testing.assert_allclose(found["float64/x"], other["float64/x"], rtol=0, atol=1e-12)
    # It has the periods of the file by itself.
    assert prepare(spec, path, repository).natively is None


@pytest.mark.parametrize(
    "name, own, told",
    [
        ("dinov3_vits16_pretrain_lvd1689m", {"activation": "relu"}, "has no relu with ffn: mlp"),
        ("dinov3_vits16plus_pretrain_lvd1689m", {"activation": "gelu"}, "has no gelu with ffn: swiglu"),
        ("dinov3_convnext_tiny_pretrain_lvd1689m", {"activation": "silu"}, "has no silu"),
    ],
)
def test_an_activation_that_the_publishers_code_lacks_is_an_error(spines, repository: Path, name: str, own, told: str):
    spine = spines(name)
    spec = replace(spine.spec, architecture=replace(spine.spec.architecture, **own))
    with pytest.raises(InputError, match=rf"^The publisher's code {told}; leave reference\.repositories empty\.$"):
        prepare(spec, spine.checkpoints["meta"], repository)


@pytest.mark.parametrize("content", [None, "README.md", "dinov3/README.md", "dinov3/models/vision_transformer"])
def test_a_folder_that_is_no_clone_is_an_error(
    tiny_spec: VariantSpec, tiny_checkpoint: Path, tmp_path: Path, content: str | None
):
    folder = tmp_path / "clone"
    if content:
        (folder / content).parent.mkdir(parents=True)
        (folder / content).touch()
    before = sys.path.copy()
    with pytest.raises(InputError, match=rf"^reference\.repositories: {folder} is no clone of github\.com/"):
        prepare(tiny_spec, tiny_checkpoint, folder)
    assert sys.path == before
    assert "dinov3" not in sys.modules


@pytest.mark.parametrize("layout", ["huggingface", "huggingface5", "timm", "timm_qkvb"])
def test_another_layout_is_an_error(
    tiny_spec: VariantSpec, tiny_checkpoints: Mapping[str, Path], repository: Path, layout: str
):
    with pytest.raises(InputError, match=r"is not in the publisher's own layout.*leave reference\.repositories empty"):
        prepare(tiny_spec, tiny_checkpoints[layout], repository)


def test_a_missing_tensor_is_an_error(tiny_spec: VariantSpec, tiny_checkpoint: Path, repository: Path, tmp_path: Path):
    state = torch.load(tiny_checkpoint, weights_only=True)
    del state["blocks.1.attn.qkv.bias_mask"]
    path = tmp_path / "damaged.pth"
    torch.save(state, path)
    with pytest.raises(InputError, match=rf"^{path} .*blocks\.1\.attn\.qkv\.bias_mask"):
        prepare(tiny_spec, path, repository)

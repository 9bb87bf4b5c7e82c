"""A model run step by step is the model, with the weights of no more than one step in memory."""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import transformers_model
from vit2onnx.errors import InputError
from vit2onnx.families.reference import check_names, native_convolutions, reader
from vit2onnx.runners.torch import filled_model, run_stages, run_steps
from vit2onnx.spec.family import part
from vit2onnx.weights.keytable import LazyTensor

IMAGES = {str(size): np.random.default_rng(0).standard_normal((3, *size), np.float32) for size in [(70, 101), (96, 40)]}


def test_step_by_step_is_the_models_own_forward_to_the_bit(small):
    path = small.checkpoints["meta"]
    model = transformers_model.load(small.spec, path)
    streamed = transformers_model.features(small.spec, path, IMAGES)
    is_convnext = small.spec.family == "dinov3_convnext"
    with torch.inference_mode(), native_convolutions() if is_convnext else nullcontext():
        for name, image in IMAGES.items():
            out = model(torch.from_numpy(image[None]))
            np.testing.assert_array_equal(streamed[f"float32/{name}"], out.last_hidden_state[0])
            np.testing.assert_array_equal(streamed[f"float32/{name}"][0], out.pooler_output[0])


@pytest.mark.parametrize("name", ["vits16plus", "vit7b16", "convnext_tiny"])
def test_in_double_precision_it_is_too(spines, name: str):
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    path = spine.checkpoints["meta"]
    reference = transformers_model.prepare(spine.spec, path)
    model = filled_model(reference).double()
    reference.in_double()
    streamed = transformers_model.features(spine.spec, path, IMAGES)
    with torch.inference_mode():
        for case, image in IMAGES.items():
            out = model(torch.from_numpy(image[None]).double())
            np.testing.assert_array_equal(streamed[f"float64/{case}"], out.last_hidden_state[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["vits16plus", "convnext_tiny"])
def test_the_weights_of_one_step_are_in_memory_at_a_time(spines, name: str, dtype: torch.dtype):
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    reference = transformers_model.prepare(spine.spec, spine.checkpoints["meta"])
    state = reference.state
    paths = [step.paths for step in reference.steps({"pixel_values": torch.zeros(1, 3, 64, 64)})]
    alive: list[tuple[int, weakref.ref[np.ndarray]]] = []
    together: set[frozenset[int]] = set()

    def watched(key: str) -> Callable[[], torch.Tensor]:
        (owner,) = (i for i, path in enumerate(paths) if f"{key}.".startswith(tuple(f"{part}." for part in path)))

        def read() -> torch.Tensor:
            # Torch holds the array as long as it holds a tensor made of it.
            array = state[key]().numpy().copy().astype(str(dtype).removeprefix("torch."))
            alive.append((owner, weakref.ref(array)))
            together.add(frozenset(index for index, reference in alive if reference() is not None))
            return torch.from_numpy(array)

        return read

    watching = replace(reference, state={key: watched(key) for key in state})
    run_steps(watching, IMAGES, dtype, spine.spec.interface())
    # Each was read, once for all images, and none met one of another step.
    assert len(alive) == len(state)
    assert together == {frozenset({index}) for index in range(len(paths))}
    assert not [key for index, key in alive if key() is not None]
    assert {tensor.device.type for tensor in reference.module.state_dict().values()} == {"meta"}


def test_every_parameter_belongs_to_a_step(released):
    for spec in released.values():
        references = part(spec.family, "references")
        model = references.transformers_model(spec.architecture)
        if spec.family == "dinov3_vit":
            model.rope_embeddings.inv_freq = torch.ones(spec.architecture.head_dim // 4)
        steps = references.transformers_steps(model, {"pixel_values": torch.zeros(1, 3, 32, 32)})
        paths = [path for step in steps for path in step.paths]
        assert len(paths) == len(set(paths))
        for key in model.state_dict():
            assert len([path for path in paths if f"{key}.".startswith(f"{path}.")]) == 1, key


def test_readers_widen_cut_and_reshape():
    value = np.arange(12, dtype=np.float16).reshape(6, 2)
    tensor = LazyTensor((6, 2), "float16", lambda: value)
    assert reader(tensor)().dtype == torch.float32
    assert torch.equal(reader(tensor)(), torch.arange(12.0).reshape(6, 2))
    assert torch.equal(reader(tensor, slice(2, 4))(), torch.arange(4.0, 8.0).reshape(2, 2))
    assert reader(tensor, shape=(1, 3, 4))().shape == (1, 3, 4)


@pytest.mark.parametrize(
    "change, names",
    [
        ({"weight": None}, "weight"),
        ({"scale": 1, "shift": 1}, "scale, shift"),
        ({"a": 1, "b": 1, "weight": None, "d": 1}, "a, b, d, and 1 more"),
    ],
)
def test_names_that_only_one_side_has_are_told(change: dict, names: str):
    model = torch.nn.Linear(2, 3)
    state = {key: torch.Tensor for key, value in ({"weight": 1, "bias": 1} | change).items() if value}
    with pytest.raises(InputError) as caught:
        check_names("file.pth does not fit", model, state)
    assert str(caught.value) == f"file.pth does not fit: only one of the two has {names}."
    check_names("file.pth does not fit", model, {"bias": torch.Tensor, "weight": torch.Tensor})


@pytest.mark.parametrize("name", ["vits16plus", "convnext_tiny"])
def test_stages_change_nothing(spines, name: str):
    """With hooks on its modules and its queries watched, a model computes what it computes without."""
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    path, (case, image) = spine.checkpoints["meta"], next(iter(IMAGES.items()))
    features = transformers_model.features(spine.spec, path, {case: image})
    found = {}
    for key, value in transformers_model.stages(spine.spec, path, image):
        # Whoever takes what is yielded is not in inference mode.
        assert not torch.is_inference_mode_enabled()
        assert torch.backends.mkldnn.enabled
        found[key] = value
    for precision in ("float32", "float64"):
        np.testing.assert_array_equal(found[f"{precision}/accumulated/norm"], features[f"{precision}/{case}"])
        # What is injected is the truth, rounded.
        layer = next(key for key in found if key.startswith("inputs/")).removeprefix("inputs/")
        given = found[f"inputs/{layer}"]
        assert given.dtype == np.float32
        flat = given.reshape(-1, given.shape[-1])
        np.testing.assert_array_equal(found[f"{precision}/injected/{layer}.input"], flat)
        np.testing.assert_array_equal(found[f"float64/accumulated/{layer}.input"].astype(np.float32), flat)


@pytest.mark.parametrize("name", ["vits16plus", "convnext_tiny"])
def test_every_layer_goes_on_from_what_is_injected(spines, name: str):
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    inputs = {"pixel_values": next(iter(IMAGES.values()))}
    reference = transformers_model.prepare(spine.spec, spine.checkpoints["meta"])
    made = dict(run_stages(reference, inputs, torch.float32, None, spine.spec.interface()))
    noise = {
        key.removeprefix("inputs/"): np.random.default_rng(1).standard_normal(x.shape, np.float32)
        for key, x in made.items()
        if key.startswith("inputs/")
    }
    found = dict(run_stages(reference, inputs, torch.float32, noise, spine.spec.interface()))
    assert not [key for key in found if key.startswith("inputs/")]
    for key, x in found.items():
        mode, _, stage = key.partition("/")
        layer = stage.rpartition(".")[0] or stage.removesuffix("_in")
        is_changed = mode == "injected" and layer in noise
        assert np.array_equal(x, made[key]) != is_changed, key

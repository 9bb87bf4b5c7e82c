"""Every release's model against transformers' own, filled from the same checkpoint by other code, part by part.

Small models have every part of the real ones, at the real head sizes. What they cannot show is how rounding adds up
over many blocks; the workflow's own comparison does that.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import equinox as eqx
import jax
import numpy as np
import pytest

from tests import transformers_model
from tests.rounding import MODEL_LIMIT, floors
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.spec.variant import Architecture
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.model_file import open_model, skeleton_of

# Neither square nor a multiple of the patch.
SIZE = (134, 165)
DOUBLE = 1e-12  # measured 8.4e-15

Features = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    return {"noise": np.random.default_rng(0).standard_normal((3, *SIZE), np.float32)}


@pytest.fixture(scope="module")
def compare(images: Features) -> Callable[..., tuple[Features, Features]]:
    """Our features and transformers' of a variant; those of variants that are the same when small are computed once."""
    known: dict[Architecture, tuple[Features, Features]] = {}

    def run(spine) -> tuple[Features, Features]:
        arch = spine.spec.architecture
        if arch not in known:
            theirs = transformers_model.features(spine.spec, spine.checkpoints["meta"], images)
            known[arch] = equinox_runner.features(*open_model(spine.model_file), images, spine.spec.interface()), theirs
        return known[arch]

    return run


def test_features_are_the_references(small, compare):
    ours, theirs = compare(small)
    assert list(ours) == list(theirs) == ["float32/noise", "float64/noise"]
    for key in ours:
        assert ours[key].dtype == theirs[key].dtype == key.partition("/")[0]
    np.testing.assert_allclose(ours["float64/noise"], theirs["float64/noise"], rtol=0, atol=DOUBLE)


def test_every_token_is_there_at_unit_scale(small, compare):
    interface = small.spec.interface()
    found = compare(small)[0]["float32/noise"]
    _, *shape = interface.shape(interface.compared[0], dict(zip(("height", "width"), SIZE, strict=True)))
    assert found.shape == tuple(shape)
    # So that limits on absolute differences mean something: measured 1.01 to 1.08.
    assert 0.5 < np.std(found) < 2


def test_we_are_no_further_from_double_precision_than_the_reference(small, compare):
    ours, theirs = compare(small)
    # Measured 0.50 to 0.94.
    assert floors(ours["float32/noise"], theirs["float64/noise"], theirs["float32/noise"]) <= MODEL_LIMIT


@pytest.mark.parametrize("name", ["vits16plus", "vit7b16", "convnext_tiny"])
def test_another_epsilon_shows(spines, compare, images: Features, name: str):
    """Or a wrong one would not: it differs by a factor of ten between the families."""
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    arch = spine.spec.architecture
    other = replace(arch, norm_eps={1e-5: 1e-6, 1e-6: 1e-5}[arch.norm_eps])
    structure = jax.tree_util.tree_structure(skeleton_of(spine.spec.family, other))
    model = jax.tree_util.tree_unflatten(structure, jax.tree_util.tree_leaves(spine.model))
    found = eqx.filter_jit(model)(images["noise"][None]).last_hidden_state[0]
    _, theirs = compare(spine)
    # Measured 43 at least.
    assert floors(found, theirs["float64/noise"], theirs["float32/noise"]) > 10 * MODEL_LIMIT


@pytest.mark.parametrize("name", ["vits16plus", "convnext_tiny"])
def test_parts_one_by_one_are_the_whole(spines, compare, images: Features, name: str):
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    whole = eqx.filter_jit(spine.model)(images["noise"][None]).last_hidden_state[0]
    ours, _ = compare(spine)
    # Not the same bits, because XLA may fuse less block by block than over the whole model: measured 1.0.
    assert floors(whole, ours["float64/noise"], ours["float32/noise"]) <= MODEL_LIMIT


@pytest.mark.parametrize("name", ["vits16plus", "convnext_tiny"])
def test_stages_are_those_of_the_features(spines, compare, images: Features, name: str):
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    found = {}
    inputs = {"pixel_values": images["noise"]}
    for key, value in equinox_runner.stages(*open_model(spine.model_file), inputs, {}, spine.spec.interface()):
        # Whoever takes what is yielded does not compute in double precision because of it.
        assert not jax.config.jax_enable_x64
        assert str(value.dtype) == key.partition("/")[0]
        found[key] = value
    ours, _ = compare(spine)
    # With stages as results, XLA fuses less: measured 1.0 and 1.8e-15.
    assert floors(found["float32/accumulated/norm"], ours["float64/noise"], ours["float32/noise"]) <= MODEL_LIMIT
    np.testing.assert_allclose(found["float64/accumulated/norm"], ours["float64/noise"], rtol=0, atol=DOUBLE)
    # Nothing is injected.
    for precision in ("float32", "float64"):
        np.testing.assert_array_equal(found[f"{precision}/injected/norm"], found[f"{precision}/accumulated/norm"])


@pytest.mark.parametrize("run", ["features", "stages"])
@pytest.mark.parametrize("name", ["vits16plus", "convnext_tiny"])
def test_no_more_than_one_layer_is_in_memory(spines, name: str, run: str):
    """Besides what is in none, which stays."""
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    model, tensors = open_model(spine.model_file)
    sizes = {path: 0 for path, _ in model.trunk()} | {"": 0}
    for key, tensor in tensors.items():
        sizes[next((path for path in sizes if path and key.startswith(f"{path}.")), "")] += tensor.nbytes
    outside = sizes.pop("")
    most = 0

    def watched(tensor: LazyTensor) -> LazyTensor:
        def read() -> np.ndarray:
            nonlocal most
            most = max(most, sum(array.nbytes for array in jax.live_arrays()) - before)
            return tensor.read()

        return replace(tensor, read=read)

    seen = {key: watched(tensor) for key, tensor in tensors.items()}
    before = sum(array.nbytes for array in jax.live_arrays())
    image = np.ones((3, 32, 32), np.float64)
    if run == "features":
        equinox_runner.features(model, seen, {"one cell": image}, spine.spec.interface())
    else:
        # The names only, because the arrays may be views of what JAX holds.
        given = {"pixel_values": image}, {}, spine.spec.interface()
        assert {key for key, _ in equinox_runner.stages(model, seen, *given)}
    # All in double precision, and room for the activations.
    largest, room = max(sizes.values()), max(1.1 * image.nbytes, 0.2 * max(sizes.values()))
    assert 2 * largest < most <= 2 * (outside + largest) + room


@pytest.mark.parametrize("name", ["vits16", "vit7b16"])
@pytest.mark.parametrize("layout", ["meta", "huggingface"])
def test_unrounded_periods_are_a_switch_that_both_follow(spines, compare, images: Features, tmp_path, name, layout):
    rounded = spines(f"dinov3_{name}_pretrain_lvd1689m")
    arch = replace(rounded.spec.architecture, rope_periods="float32")
    unrounded = type(rounded)(replace(rounded.spec, architecture=arch), tmp_path)
    unrounded.checkpoints = {"meta": rounded.checkpoints[layout]}
    theirs = transformers_model.features(unrounded.spec, unrounded.checkpoints["meta"], images)
    ours = equinox_runner.features(*open_model(unrounded.model_file), images, unrounded.spec.interface())
    single, double = theirs["float32/noise"], theirs["float64/noise"]
    np.testing.assert_allclose(ours["float64/noise"], double, rtol=0, atol=DOUBLE)
    assert floors(ours["float32/noise"], double, single) <= MODEL_LIMIT
    # Far more than rounding, so that a mixture of the two would show: measured 280 at least.
    assert floors(compare(rounded)[0]["float64/noise"], double, single) > 50 * MODEL_LIMIT

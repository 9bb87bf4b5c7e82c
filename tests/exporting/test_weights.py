"""Weights in the file or beside it: what onnx itself would have written, without ever holding more than one of them."""

import shutil
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from vit2onnx.checkpoints.fetch import describe
from vit2onnx.errors import InputError, InternalError
from vit2onnx.exporting.graph import detach, trace, write
from vit2onnx.exporting.metadata import metadata_of
from vit2onnx.exporting.weights import write_embedded, write_external
from vit2onnx.spec.recipe import Recipe
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.model_file import open_model

DYNAMIC = Recipe("dynamic", 23, {"batch": None, "height": None, "width": None})
RELEASES = ["vits16plus", "vit7b16", "convnext_tiny"]
Tensors = Mapping[str, LazyTensor]


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def in_memory(value: np.ndarray) -> LazyTensor:
    return LazyTensor(value.shape, "float32", lambda: value)


def empty_model() -> onnx.ModelProto:
    """A model with a field of every kind before and after its graph."""
    graph = helper.make_graph([], "a graph", [], [], [numpy_helper.from_array(np.array([7]), "small")], "documented")
    model = helper.make_model(graph, producer_name="a producer", opset_imports=[helper.make_opsetid("", 23)])
    helper.set_model_props(model, {"key": "value", "another": "ü" * 300})
    return model


def with_weights(model: onnx.ModelProto, tensors: Tensors) -> onnx.ModelProto:
    """What onnx makes of a model and its weights."""
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    complete.graph.initializer.extend(numpy_helper.from_array(tensor.read(), name) for name, tensor in tensors.items())
    return complete


@pytest.fixture(scope="module", params=RELEASES)
def exported(spines, request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, Tensors, Path]:
    """A graph without its weights, the weights and their file."""
    spine = spines(f"dinov3_{request.param}_pretrain_lvd1689m")
    skeleton, tensors = open_model(spine.model_file)
    graph = trace(skeleton, spine.spec, DYNAMIC)
    detach(graph, tensors, ["pixel_values"])
    return ir.to_proto(graph), tensors, spine.model_file


def test_embedded_weights_are_as_onnx_writes_them(exported, tmp_path: Path):
    model, tensors, _ = exported
    write_embedded(tmp_path / "ours.onnx", model, tensors)
    expected = with_weights(model, tensors)
    found = onnx.load(tmp_path / "ours.onnx")
    assert {field.name for field, _ in found.ListFields()} == {field.name for field, _ in expected.ListFields()}
    # Of protobuf messages, this compares every field.
    for one, other in zip(found.graph.initializer, expected.graph.initializer, strict=True):
        assert one == other, other.name
    assert found == expected
    assert (tmp_path / "ours.onnx").stat().st_size == expected.ByteSize()


# On both sides of the lengths at which a length takes one byte more: 128, 16384 and 2097152.
SIZES = [0, 1, 25, 26, 27, 31, 32, 33, 4080, 4090, 4096, 4097, 524270, 524288, 524289]


@pytest.mark.parametrize("sizes", [SIZES, SIZES[::-1], []], ids=["growing", "shrinking", "none"])
def test_embedded_weights_of_any_size_are_as_onnx_writes_them(tmp_path: Path, sizes: list[int]):
    tensors = {f"{'long' * (size % 40)}.{size}": in_memory(noise((size,), size)) for size in sizes}
    tensors |= {"scalar": in_memory(noise(())), "matrix": in_memory(noise((3, 129)))}
    write_embedded(tmp_path / "ours.onnx", empty_model(), tensors)
    assert onnx.load(tmp_path / "ours.onnx") == with_weights(empty_model(), tensors)


def test_external_weights_are_where_the_graph_says(exported, tmp_path: Path):
    model, tensors, weights = exported
    write_external(tmp_path / "ours.onnx", model, tensors, "model.eqx")
    found = onnx.load(tmp_path / "ours.onnx", load_external_data=False)
    held = [tensor for tensor in found.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert [tensor.name for tensor in held] == list(tensors)
    for tensor in held:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries.keys() == {"location", "offset", "length"}
        assert entries["location"] == "model.eqx"
        assert not tensor.raw_data
        assert tensor.data_type == TensorProto.FLOAT
        count, offset = int(entries["length"]) // 4, int(entries["offset"])
        value = np.fromfile(weights, "<f4", count, offset=offset).reshape(tensor.dims)
        np.testing.assert_array_equal(value, tensors[tensor.name].read(), err_msg=tensor.name)
        # As ONNX asks, so that it can be mapped where a page is: all weights of the releases are, see test_archive.py.
        assert offset % 4 == 0
    # But for them, it is the same file as with the weights within.
    del found.graph.initializer[-len(held) :]
    assert found == model


def test_external_weights_are_those_that_onnx_reads(exported, tmp_path: Path):
    model, tensors, weights = exported
    shutil.copy(weights, tmp_path / "model.eqx")
    write_external(tmp_path / "external.onnx", model, tensors, "model.eqx")
    onnx.checker.check_model(tmp_path / "external.onnx", full_check=True)
    found, expected = onnx.load(tmp_path / "external.onnx"), with_weights(model, tensors)
    for one, other in zip(found.graph.initializer, expected.graph.initializer, strict=True):
        assert one.name == other.name
        assert numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(other).tobytes(), other.name


def test_both_run_alike(exported, tmp_path: Path):
    model, tensors, weights = exported
    shutil.copy(weights, tmp_path / "model.eqx")
    write_external(tmp_path / "external.onnx", model, tensors, "model.eqx")
    write_embedded(tmp_path / "embedded.onnx", model, tensors)
    pixel_values = noise((2, 3, 70, 101))
    # Packed weights may be added in another order, and external ones are not packed everywhere.
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    outputs = [
        ort.InferenceSession(tmp_path / f"{kind}.onnx", options, providers=["CPUExecutionProvider"]).run(
            None, {"pixel_values": pixel_values}
        )
        for kind in ("external", "embedded")
    ]
    for external, embedded in zip(*outputs, strict=True):
        np.testing.assert_array_equal(external, embedded)
        assert np.std(external) > 0.5


def test_the_weights_are_stored_once_for_all_graphs(exported, tmp_path: Path):
    model, tensors, weights = exported
    shutil.copy(weights, tmp_path / "model.eqx")
    for name in ("static", "dynamic", "another"):
        write_external(tmp_path / f"{name}.onnx", model, tensors, "model.eqx")
    own = sum(tensor.nbytes for tensor in tensors.values())
    # A graph of two blocks takes some 20 kB whatever its width.
    graphs = sum(path.stat().st_size for path in tmp_path.glob("*.onnx"))
    assert graphs < 3 * 60e3
    assert weights.stat().st_size < own + 256 * (len(tensors) + 4)


def test_a_graph_is_written_beside_its_weights(spines, tmp_path: Path):
    """As the workflow does it, without a tensor being read."""
    spine = spines("dinov3_vits16plus_pretrain_lvd1689m")
    weights = Path(shutil.copy(spine.model_file, tmp_path / "model.eqx"))
    skeleton, tensors = open_model(weights)
    record = describe(spine.spec, spine.checkpoints["meta"], origin={"kind": "synthetic"}, weights="synthetic")
    metadata = metadata_of(spine.spec, DYNAMIC, record, "")
    for external in (True, False):
        given = {name: unreadable(tensor) for name, tensor in tensors.items()} if external else tensors
        graph = trace(skeleton, spine.spec, DYNAMIC)
        path, interface = tmp_path / f"{external}.onnx", spine.spec.interface()
        write(graph, path, interface, DYNAMIC, metadata, given, weights=weights, external=external)
    beside, within = tmp_path / "True.onnx", tmp_path / "False.onnx"
    assert beside.stat().st_size < 60e3 < within.stat().st_size
    onnx.checker.check_model(beside, full_check=True)
    loaded = onnx.load(beside)
    for tensor in loaded.graph.initializer:
        # Which onnx leaves on what it has loaded.
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    expected = onnx.load(within)
    assert {field.name for field, _ in loaded.ListFields()} == {field.name for field, _ in expected.ListFields()}
    # The checksum that ends the file is another.
    del loaded.metadata_props[-1], expected.metadata_props[-1]
    assert loaded == expected


def unreadable(tensor: LazyTensor) -> LazyTensor:
    def read() -> np.ndarray:
        raise OSError("cannot be read")

    return replace(tensor, read=read)


@pytest.mark.parametrize("external", [True, False])
def test_a_graph_without_its_weights_is_not_written(spines, tmp_path: Path, external: bool):
    spine = spines("dinov3_vits16plus_pretrain_lvd1689m")
    skeleton, tensors = open_model(spine.model_file)
    broken = tensors | {"norm.bias": replace(unreadable(tensors["norm.bias"]), offset=None)}
    graph = trace(skeleton, spine.spec, DYNAMIC)
    with pytest.raises((OSError, InternalError)):
        write(
            graph,
            tmp_path / "ours.onnx",
            spine.spec.interface(),
            DYNAMIC,
            {"version": "0"},
            broken,
            weights=spine.model_file,
            external=external,
        )
    assert not list(tmp_path.iterdir())


def test_one_tensor_is_held_at_a_time(tmp_path: Path):
    made: list[weakref.ref[np.ndarray]] = []
    most = 0

    def read() -> np.ndarray:
        nonlocal most
        most = max(most, sum(reference() is not None for reference in made))
        value = np.ones((100, 10), np.float32)
        made.append(weakref.ref(value))
        return value

    tensors = {f"weight.{index}": LazyTensor((100, 10), "float32", read, 0) for index in range(5)}
    write_embedded(tmp_path / "ours.onnx", empty_model(), tensors)
    assert (len(made), most) == (5, 0)
    write_external(tmp_path / "ours.onnx", empty_model(), tensors, "model.eqx")
    assert len(made) == 5


@pytest.mark.parametrize(
    "value", [noise((5,)), noise((2, 2)), noise((4,)).astype(np.float64)], ids=lambda x: str(x.shape)
)
def test_a_tensor_that_is_not_what_it_says_is_not_written(tmp_path: Path, value: np.ndarray):
    """Its length has been written before it is read."""
    tensors = {"a": in_memory(noise((4,))), "b": replace(in_memory(value), shape=(4,))}
    with pytest.raises(InternalError, match="b is "):
        write_embedded(tmp_path / "ours.onnx", empty_model(), tensors)


def test_a_tensor_that_lies_nowhere_cannot_be_referred_to(tmp_path: Path):
    with pytest.raises(InternalError, match="a lies in no file"):
        write_external(tmp_path / "ours.onnx", empty_model(), {"a": in_memory(noise((4,)))}, "model.eqx")


def test_more_than_onnx_allows_in_a_file_is_refused(tmp_path: Path):
    """Before anything is written or read."""
    tensors = {"table": LazyTensor((2**29, 1), "float32", lambda: pytest.fail("was read"))}
    with pytest.raises(InputError, match=r"The weights have 2\.1 GB, and ONNX allows 2 GB in one file; keep them in"):
        write_embedded(tmp_path / "ours.onnx", empty_model(), tensors)
    assert not list(tmp_path.iterdir())

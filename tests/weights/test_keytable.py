"""Tables are applied strictly: what is missing, left over, misshapen or filled twice is found, all at once."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from vit2onnx.errors import InputError, InternalError
from vit2onnx.weights.keytable import (
    ADD_FIRST_AXIS,
    ADD_PIXEL_AXES,
    COPY,
    DROP_FIRST_AXIS,
    DROP_PIXEL_AXES,
    FUSE_QKV,
    FUSE_QV,
    TRANSPOSE,
    Entry,
    Ignored,
    KeyTable,
    LazyTensor,
    Shape,
    Transform,
    assign,
    chained,
    check,
    part_of,
    restoring,
    value_of,
)

TABLE = KeyTable(
    "foreign",
    entries=(
        Entry("stem", ("embeddings.stem",)),
        Entry("blocks.{i}.qkv", ("layer.{i}.q", "layer.{i}.k", "layer.{i}.v"), FUSE_QKV),
        Entry("blocks.{i}.fc", ("layer.{i}.fc",), TRANSPOSE),
    ),
    ignored={"step": Ignored("counts training steps", ()), "layer.3.mask": Ignored("is all ones", (9,))},
)
TARGETS: dict[str, Shape] = {"blocks.10.fc": (2, 5), "stem": (7,), "blocks.10.qkv": (6, 3), "blocks.0.fc": (2, 5)}
SOURCES: dict[str, Shape] = {
    "embeddings.stem": (7,),
    "layer.10.q": (2, 3),
    "layer.10.k": (2, 3),
    "layer.10.v": (2, 3),
    "layer.10.fc": (5, 2),
    "layer.0.fc": (5, 2),
}
# Every transform with a target shape and the source shapes that belong to it.
CASES = [
    (COPY, (4, 6), ((4, 6),)),
    (DROP_FIRST_AXIS, (4, 6), ((1, 4, 6),)),
    (ADD_FIRST_AXIS, (1, 4, 6), ((4, 6),)),
    (ADD_PIXEL_AXES, (4, 1, 1), ((4,),)),
    (DROP_PIXEL_AXES, (4,), ((4, 1, 1),)),
    (TRANSPOSE, (4, 6), ((6, 4),)),
    (TRANSPOSE, (300, 129), ((129, 300),)),
    (FUSE_QKV, (12, 5), ((4, 5), (4, 5), (4, 5))),
    (FUSE_QKV, (12,), ((4,), (4,), (4,))),
]
IDS = [f"{transform.name}-{target}" for transform, target, _ in CASES]


def noise(shape: Shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def lazy(shapes: dict[str, Shape], dtype: str = "float32") -> dict[str, LazyTensor]:
    """Tensors that fail the test when they are read."""

    def read() -> np.ndarray:
        raise AssertionError("nothing may be read before names, shapes and dtypes are checked")

    return {key: LazyTensor(shape, dtype, read) for key, shape in shapes.items()}


def faults_of(sources: dict[str, LazyTensor]) -> tuple[str, list[str]]:
    """The sentence and the notes with which sources are refused."""
    with pytest.raises(InputError) as caught:
        check("the file", TABLE, assign(TABLE, TARGETS), sources)
    return str(caught.value), caught.value.__notes__


def test_each_target_gets_its_line_in_the_targets_order():
    found = assign(TABLE, TARGETS)
    assert [assignment.target for assignment in found] == list(TARGETS)
    assert [assignment.shape for assignment in found] == list(TARGETS.values())
    assert found[2].sources == ("layer.10.q", "layer.10.k", "layer.10.v")
    assert found[2].transform is FUSE_QKV
    assert found[3].sources == ("layer.0.fc",)


@pytest.mark.parametrize("target", ["blocks.0.bias", "blocks.x.fc", "my.stem", "stem.weight", "blocks.0.qkv.0"])
def test_a_target_without_a_line_is_a_fault_of_the_table(target):
    with pytest.raises(InternalError, match=rf"0 lines of the foreign table match {target}"):
        assign(TABLE, {target: (1,)})


def test_a_target_with_two_lines_is_a_fault_of_the_table():
    table = replace(TABLE, entries=(*TABLE.entries, Entry("blocks.{i}.fc", ("other.{i}",))))
    with pytest.raises(InternalError, match=r"2 lines of the foreign table match blocks\.10\.fc"):
        assign(table, TARGETS)


def test_complete_sources_pass_unread():
    assert check("the file", TABLE, assign(TABLE, TARGETS), lazy(SOURCES)) == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes_that_widen_without_loss_are_accepted(dtype):
    check("the file", TABLE, assign(TABLE, TARGETS), lazy(SOURCES, dtype))


@pytest.mark.parametrize("dtype", ["float64", "int64", "float8_e4m3fn", "I32"])
def test_other_dtypes_are_not(dtype):
    sentence, notes = faults_of(lazy(SOURCES) | lazy({"layer.10.k": (2, 3)}, dtype))
    assert notes == [f"tensor layer.10.k is {dtype} instead of one of float32, bfloat16, float16"]
    assert sentence == f"the file: {notes[0]}."


def test_ignored_sources_are_returned_with_their_reason():
    sources = lazy(SOURCES) | lazy({"step": (), "layer.3.mask": (9,)})
    assert check("the file", TABLE, assign(TABLE, TARGETS), sources) == TABLE.ignored
    del sources["step"]
    assert check("the file", TABLE, assign(TABLE, TARGETS), sources).keys() == {"layer.3.mask"}


def test_an_ignored_source_of_another_shape_or_dtype_is_a_fault():
    _, notes = faults_of(lazy(SOURCES) | lazy({"layer.3.mask": (3, 3)}))
    assert notes == ["tensor layer.3.mask is 3x3 instead of 9"]
    _, notes = faults_of(lazy(SOURCES) | lazy({"layer.3.mask": (9,)}, "complex32"))
    assert notes == ["tensor layer.3.mask is complex32 instead of one of float32, bfloat16, float16"]


def test_an_ignored_source_that_is_required_must_be_there():
    table = replace(TABLE, ignored={"step": replace(TABLE.ignored["step"], required=True)})
    assert check("the file", table, assign(table, TARGETS), lazy(SOURCES) | lazy({"step": ()})) == table.ignored
    with pytest.raises(InputError, match=r"^the file: tensor step scalar is missing"):
        check("the file", table, assign(table, TARGETS), lazy(SOURCES))


@pytest.mark.parametrize("key", ["steps", "layer.3.mask.0", "model.layer.3.mask", "layer.4.mask", "layer.0.q"])
def test_what_is_neither_used_nor_ignored_is_unknown(key):
    _, notes = faults_of(lazy(SOURCES) | lazy({key: (8, 4)}))
    assert notes == [f"tensor {key} 8x4 is not known"]


def test_all_faults_are_raised_together_and_the_first_three_are_in_the_sentence():
    sources = lazy(SOURCES | {"layer.10.v": (3, 2), "head": (), "layer.10.fc": (2, 5), "tail": (4,)})
    sources |= lazy({"layer.0.fc": (5, 2)}, "int8")
    del sources["embeddings.stem"]
    sentence, notes = faults_of(sources)
    assert notes == [
        "tensor layer.10.fc is 2x5 instead of 5x2",
        "tensor embeddings.stem 7 is missing",
        "tensor layer.10.v is 3x2 instead of 2x3",
        "tensor layer.0.fc is int8 instead of one of float32, bfloat16, float16",
        "tensor head scalar is not known",
        "tensor tail 4 is not known",
    ]
    assert sentence == f"the file: {'; '.join(notes[:3])}; and 3 more (see the log)."


def test_a_source_may_be_shared_by_different_transforms_only():
    parts = [part_of(name, index) for index, name in enumerate("qkv")]
    split = KeyTable("fused", tuple(Entry(part.name, ("qkv",), part) for part in parts))
    targets = dict.fromkeys("qkv", (2, 5))
    assert check("the file", split, assign(split, targets), lazy({"qkv": (6, 5)})) == {}
    twice = replace(split, entries=(Entry("q", ("qkv",), parts[0]), Entry("k", ("qkv",), parts[0]), split.entries[2]))
    with pytest.raises(InternalError, match="qkv is used twice"):
        check("the file", twice, assign(twice, targets), lazy({"qkv": (6, 5)}))


@pytest.mark.parametrize("transform, target, sources", CASES, ids=IDS)
def test_transforms_state_the_shapes_of_their_sources(transform: Transform, target: Shape, sources):
    assert transform.shapes(target) == sources
    assert tuple(part.shape for part in transform.invert(noise(target))) == sources


@pytest.mark.parametrize("transform, target, sources", CASES, ids=IDS)
def test_apply_undoes_invert_and_invert_undoes_apply(transform: Transform, target: Shape, sources):
    value = noise(target)
    assert np.array_equal(transform.apply(transform.invert(value), target), value)
    parts = [noise(shape, seed) for seed, shape in enumerate(sources)]
    found = transform.apply(parts, target)
    assert found.shape == target
    assert all(map(np.array_equal, transform.invert(found), parts))


def test_transforms_put_each_element_where_it_belongs():
    """Round trips alone would not see a transform that shuffles and its inverse that shuffles back."""
    # Beyond one block of the transpose in both directions.
    matrix = noise((300, 129))
    assert np.array_equal(TRANSPOSE.apply([matrix], (129, 300)), matrix.T)
    query, key, value = (noise((4, 5), seed) for seed in range(3))
    fused = FUSE_QKV.apply([query, key, value], (12, 5))
    assert np.array_equal(fused[:4], query)
    assert np.array_equal(fused[4:8], key)
    assert np.array_equal(fused[8:], value)
    for index, part in enumerate((query, key, value)):
        assert part_of("part", index).shapes((4, 5)) == ((12, 5),)
        assert np.array_equal(part_of("part", index).apply([fused], (4, 5)), part)


def test_chained_transforms_follow_one_another():
    fused = noise((12, 5))
    second = chained(part_of("second", 1), TRANSPOSE)
    assert second.name == "second, transpose"
    assert second.shapes((5, 4)) == ((12, 5),)
    assert np.array_equal(second.apply([fused], (5, 4)), fused[4:8].T)
    back = chained(FUSE_QKV, TRANSPOSE)
    assert all(map(np.array_equal, back.invert(fused.T), np.split(fused, 3)))


def test_fusing_query_and_value_puts_a_key_of_zeros_between():
    query, value = noise((4,), 0), noise((4,), 1)
    fused = FUSE_QV.apply([query, value], (12,))
    assert FUSE_QV.shapes((12,)) == ((4,), (4,))
    assert np.array_equal(fused, [*query, 0, 0, 0, 0, *value])
    assert all(map(np.array_equal, FUSE_QV.invert(fused), (query, value)))


def test_taking_a_third_inverts_to_that_third():
    query, transform = noise((4,)), part_of("take_query", 0)
    assert transform.part == chained(transform, TRANSPOSE).part == (0, 3)
    (found,) = transform.invert(query)
    assert np.array_equal(found, query)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_are_float32_and_contiguous(dtype):
    source = noise((5, 2)).astype(dtype)
    found = value_of(assign(TABLE, {"blocks.0.fc": (2, 5)})[0], [source])
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, source.astype(np.float64).T)


def test_the_source_pattern_knows_the_layouts_keys_and_no_others():
    pattern = TABLE.source_pattern()
    for key in ("embeddings.stem", "layer.0.q", "layer.39.v", "step", "layer.3.mask"):
        assert pattern.fullmatch(key)
    for key in (
        "embeddings_stem",
        "stem",
        "layer.q",
        "layer.0.qk",
        "model.layer.0.q",
        "layer.{i}.q",
        "steps",
        "layer.7.mask",
    ):
        assert not pattern.fullmatch(key)


def test_two_numbers_and_a_path_are_carried_over():
    table = KeyTable("deep", (Entry("s.{i}.b.{j}.w", ("{i}.{j}",)), Entry("head.{path}", ("top.{path}.x",))))
    found = assign(table, {"s.3.b.12.w": (2,), "head.a.0.bias": (2,)})
    assert [assignment.sources for assignment in found] == [("3.12",), ("top.a.0.bias.x",)]
    pattern = table.source_pattern()
    assert pattern.fullmatch("3.12")
    assert pattern.fullmatch("top.a.0.bias.x")
    assert not pattern.fullmatch("3.x")
    assert not pattern.fullmatch("top..x")


def test_what_is_restored_has_no_sources_and_says_how():
    ones = restoring("ones, as before training", lambda shape: np.ones(shape, np.float32))
    table = KeyTable("lacking", (Entry("scale", (), ones),))
    (found,) = assign(table, {"scale": (2, 3)})
    assert check("the file", table, [found], {}) == {}
    assert found.transform.name == "restored: ones, as before training"
    assert value_of(found, []).tolist() == [[1] * 3] * 2
    assert ones.shapes((2, 3)) == ()
    assert ones.invert(np.zeros((2, 3), np.float32)) == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(2, 3), (5,), (1, 2, 3), ()])
def test_a_tensor_in_a_file_is_read_where_it_lies(tmp_path, shape, dtype):
    value = noise(shape).astype(dtype)
    path = tmp_path / "file"
    path.write_bytes(b"head" + value.tobytes() + b"tail")
    tensor = LazyTensor.in_file(path, 4, shape, dtype)
    assert (tensor.shape, tensor.dtype, tensor.offset, tensor.nbytes) == (shape, dtype, 4, value.nbytes)
    found = tensor.read()
    assert (found.shape, found.dtype) == (shape, value.dtype)
    assert found.tobytes() == value.tobytes()
    # Read anew each time, and not kept.
    path.write_bytes(b"head" + (2 * value).astype(dtype).tobytes())
    assert np.array_equal(tensor.read(), (2 * value).astype(dtype))


def test_a_file_that_became_shorter_is_no_shorter_tensor(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(8))
    with pytest.raises(ValueError, match="reshape"):
        LazyTensor.in_file(path, 0, (3,), "float32").read()

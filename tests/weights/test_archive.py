"""The archive and the model file: Equinox's own bytes, the same each time, streamed, and sound or refused."""

import hashlib
import io
import itertools
import json
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import lz4.frame
import numpy as np
import pytest

from vit2onnx.checkpoints.synthetic import synthetic_value
from vit2onnx.errors import DamagedError, InputError, InternalError
from vit2onnx.weights.archive import archive_config, archive_skeleton, read_archive, write_archive
from vit2onnx.weights.header import header_line
from vit2onnx.weights.leaves import CHUNK, ahead, array_shapes, leaf_names, npy_header, serialise, write_leaves
from vit2onnx.weights.model_file import load_model, open_model, skeleton_of, write_model

VERSIONED = ("format", "format_version", "weights_sha256", "model_class", "model_signature")


def values(skeleton: object, seed: int = 0) -> dict[str, np.ndarray]:
    """Synthetic values of all array leaves."""
    shapes = array_shapes(skeleton)
    return {name: synthetic_value("dinov3_vit", name, shape, seed).astype(np.float32) for name, shape in shapes.items()}


def members(path: Path) -> dict[str, bytes]:
    with lz4.frame.open(path) as file, tarfile.open(fileobj=file) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def pack(path: Path, files: dict[str, bytes]) -> None:
    """Write an archive of files, as Equimo does."""
    with lz4.frame.open(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def refusal(path: Path, spec) -> str:
    """The sentence with which an archive is refused, after its path, when nothing is left beside it."""
    with pytest.raises(InputError) as caught:
        list(read_archive(path, spec))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert str(caught.value).startswith(f"{path} ")
    return str(caught.value).removeprefix(f"{path} ")


def model_refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path} ")
    return str(caught.value).removeprefix(f"{path} ")


def whole(item: int) -> int:
    """The size of an item that fills a chunk."""
    return CHUNK


def test_the_next_item_is_made_while_one_is_in_use():
    made = [threading.Event() for _ in range(4)]
    threads = set()

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            threads.add(threading.current_thread())
            event.set()
            yield number

    found = []
    for number in ahead(items(), whole):
        assert all(event.wait(10) for event in made[: number + 2])
        assert not any(event.is_set() for event in made[number + 2 :])
        found.append(number)
    assert found == [0, 1, 2, 3]
    assert len(threads) == 1 and threading.current_thread() not in threads


def test_small_items_are_made_up_to_the_next_large_one():
    """Or a bias would be made while its weight is in use, and nothing while it is."""
    sizes = [CHUNK, 1, 1, 2 * CHUNK, 1, CHUNK - 1, 5]
    made: list[int] = []

    def items() -> Iterator[int]:
        for size in sizes:
            made.append(size)
            yield size

    found = ahead(items(), int)
    assert next(found) == CHUNK
    deadline = time.monotonic() + 10
    while made != sizes[:4] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == sizes[:4]
    assert list(found) == sizes[1:]


@pytest.mark.parametrize("broken", [0, 1, 3])
def test_what_is_raised_while_an_item_is_made_is_raised_in_its_place(broken):
    threads = set(threading.enumerate())

    def items() -> Iterator[int]:
        yield from range(broken)
        raise OSError("unreadable")

    found = ahead(items(), whole)
    assert [next(found) for _ in range(broken)] == list(range(broken))
    with pytest.raises(OSError, match="unreadable"):
        next(found)
    assert set(threading.enumerate()) <= threads


def test_no_thread_is_left_by_who_takes_no_more_items():
    threads = set(threading.enumerate())
    items = ahead(itertools.count(), whole)
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert set(threading.enumerate()) <= threads


def test_leaves_are_named_by_their_path_in_tree_order(tiny_spec):
    names = leaf_names(skeleton_of(tiny_spec.family, tiny_spec.architecture))
    assert names[:4] == ["patch_embed.weight", "patch_embed.bias", "cls_token", "register_tokens"]
    assert names[4:10] == [
        "rope_periods",
        "blocks.0.norm1.weight",
        "blocks.0.norm1.bias",
        "blocks.0.attn.q.weight",
        "blocks.0.attn.q.bias",
        "blocks.0.attn.k.weight",
    ]
    assert names[-1] == "norm.bias"
    assert len(names) == len(set(names)) == 5 + 2 * 17 + 2
    assert leaf_names({"a": [1.0, jnp.zeros(2)], "b": (3,)}) == ["a.0", "a.1", "b.0"]


def test_numbers_among_the_leaves_have_a_name_but_no_shape():
    tree = {"a": [1.0, jnp.zeros((2, 3))], "b": jax.ShapeDtypeStruct((), jnp.float32)}
    assert array_shapes(tree) == {"a.1": (2, 3), "b": ()}


@pytest.mark.parametrize("shape", [(), (1,), (384,), (1, 1, 4096), (384, 3, 16, 16), (10**6,)])
def test_npy_header_is_what_numpy_writes(shape):
    file = io.BytesIO()
    np.save(file, np.zeros(shape, np.float32))
    assert npy_header(shape) + bytes(4 * int(np.prod(shape))) == file.getvalue()


TREE = {"w": jnp.arange(6.0).reshape(2, 3), "s": jnp.float32(2.5), "eps": 1e-5, "n": 3, "flag": True}


def equinox_bytes(tree: object) -> bytes:
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, tree)
    return file.getvalue()


def test_serialised_bytes_are_those_of_equinox():
    """Numbers of every kind among the leaves included, which Equimo's models have."""
    arrays = [(name, np.asarray(TREE[name])) for name in ("s", "w")]
    assert b"".join(serialise(TREE, arrays)) == equinox_bytes(TREE)


@pytest.mark.parametrize("order", [("s", "w"), ("w", "s")])
def test_leaves_written_in_any_order_are_those_of_equinox_too(order):
    file = io.BytesIO(b"head" + b"x" * 999)
    file.seek(4)
    write_leaves(file, TREE, [(name, np.asarray(TREE[name])) for name in order])
    assert file.getvalue() == b"head" + equinox_bytes(TREE)


@pytest.mark.parametrize(
    "values",
    [
        [("w", np.zeros((2, 3), np.float32))],
        [("w", np.zeros((2, 3), np.float32)), ("s", np.zeros((), np.float64))],
        [("w", np.zeros((3, 2), np.float32)), ("s", np.zeros((), np.float32))],
        [("w", np.zeros((2, 3), np.float32)), ("s", np.zeros((), np.float32)), ("x", np.zeros((), np.float32))],
        [("w", np.zeros((2, 3), np.float32)), ("w", np.zeros((2, 3), np.float32))],
    ],
    ids=["missing", "dtype", "shape", "unknown", "twice"],
)
def test_leaves_other_than_the_skeletons_are_not_written(values):
    with pytest.raises(InternalError):
        write_leaves(io.BytesIO(), TREE, values)


@pytest.mark.parametrize(
    "name, value", [("v", np.zeros(2, np.float32)), ("w", np.zeros(3, np.float32)), ("w", np.zeros(2))]
)
def test_serialising_another_leaf_than_the_skeletons_fails(name, value):
    with pytest.raises(InternalError):
        list(serialise({"w": jax.ShapeDtypeStruct((2,), jnp.float32)}, [(name, value)]))


@pytest.mark.parametrize(
    "names, fault", [([], "there is no value for w"), (["w", "v"], r"there are values for \['v'\]")]
)
def test_serialising_more_or_fewer_leaves_than_the_skeletons_fails(names, fault):
    skeleton, value = {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}, np.zeros(2, np.float32)
    with pytest.raises(InternalError, match=fault):
        list(serialise(skeleton, [(name, value) for name in names]))


def test_a_model_that_lacks_a_leaf_is_an_error(tiny_spec, tmp_path):
    shapes = array_shapes(skeleton_of(tiny_spec.family, tiny_spec.architecture))
    values = [(name, np.zeros(shape, np.float32)) for name, shape in shapes.items() if name != "norm.weight"]
    with pytest.raises(InternalError, match=r"no values for \['norm\.weight'\]"):
        write_model(tmp_path / "model.eqx", tiny_spec, values)


def test_an_archive_holds_equinoxs_bytes_and_equimos_metadata(tiny_spec, tiny_archive):
    found = members(tiny_archive)
    assert list(found) == ["weights.eqx", "metadata.json"]
    metadata = json.loads(found["metadata.json"])
    assert metadata["model_config"] == {
        "img_size": 224,
        "in_channels": 3,
        "patch_size": 16,
        "dim": 48,
        "num_heads": 3,
        "depths": [2],
        "mlp_ratio": 2,
        "qkv_bias": True,
        "reg_tokens": 4,
        "use_mask_token": True,
        "use_global_pos_embed": False,
        "use_local_pos_embed": True,
        "dynamic_img_size": True,
        "act_layer": "exactgelu",
        "init_values": 1e-5,
        "eps": 1e-5,
        "num_classes": 0,
        "ffn_layer": "mlp",
        "untie_global_and_local_cls_norm": False,
    }
    assert metadata["vit2onnx"] == {"variant": "dinov3_tiny", "family": "dinov3_vit"}
    skeleton = archive_skeleton(tiny_spec)
    # What Equimo 2.7's `inspect_checkpoint` compares; its class has the same arrays at the same places as Equimo 1.1's.
    leaves = [
        {"path": jax.tree_util.keystr(path), "shape": leaf.shape}
        for path, leaf in jax.tree_util.tree_leaves_with_path(skeleton)
        if hasattr(leaf, "shape")
    ]
    signature = hashlib.sha256(json.dumps(leaves, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert {key: metadata[key] for key in VERSIONED} == {
        "format": "equimo.model.checkpoint",
        "format_version": 1,
        "weights_sha256": hashlib.sha256(found["weights.eqx"]).hexdigest(),
        "model_class": "equimo.vision.models.vit.VisionTransformer",
        "model_signature": f"sha256:{signature}",
    }
    # What only training uses is as before training.
    expected = values(skeleton)
    for block in range(2):
        # Of keys, which is masked.
        expected[f"blocks.0.blocks.{block}.attn.qkv.bias"][48:96] = 0
    arrays = iter((expected | {"mask_token": np.zeros_like(expected["mask_token"])}).values())
    tree = jax.tree_util.tree_map(lambda leaf: jnp.asarray(next(arrays)) if hasattr(leaf, "shape") else leaf, skeleton)
    assert found["weights.eqx"] == equinox_bytes(tree)


def test_an_archive_tells_nothing_of_where_and_when_it_was_written(tiny_archive):
    with lz4.frame.open(tiny_archive) as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_an_archive_is_read_back_to_the_bit(small, tmp_path):
    spec = small.spec
    skeleton = archive_skeleton(spec)
    expected = values(skeleton, seed=3)
    path = tmp_path / "archive.tar.lz4"
    write_archive(path, spec, skeleton, expected.items())
    names = []
    for name, array in read_archive(path, spec):
        names.append(name)
        assert array.dtype == np.float32
        assert array.shape == expected[name].shape
        assert array.tobytes() == expected[name].tobytes()
    assert names == list(expected)
    assert list(tmp_path.iterdir()) == [path]


def test_an_archive_says_of_its_architecture_all_that_sets_it_apart(released):
    """Or one variant's archive would be taken for another's of the same shapes."""
    architectures = {spec.architecture for spec in released.values()}
    configs = {json.dumps(archive_config(spec), sort_keys=True) for spec in released.values()}
    # Both 7B have the same, but for the images they were trained on.
    assert len(configs) == len(architectures) == len(released) - 1


def test_a_damaged_archive_is_refused_wherever_it_is_damaged(tiny_spec, tiny_archive, tmp_path):
    content = tiny_archive.read_bytes()
    path = tmp_path / "archive.tar.lz4"
    for length in [0, 1, 7, 20, *range(100, len(content), 20_011), len(content) - 5, len(content) - 1]:
        path.write_bytes(content[:length])
        assert refusal(path, tiny_spec).startswith("is damaged ("), length
    for position in range(0, len(content), 20_011):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        assert "delete it and run again" in refusal(path, tiny_spec), position


@pytest.mark.parametrize("padding", [0, tarfile.RECORDSIZE - 2 * tarfile.BLOCKSIZE])
def test_the_checksum_is_read_behind_the_padding_of_any_tar(tiny_spec, tiny_archive, tmp_path, padding):
    with lz4.frame.open(tiny_archive) as file:
        padded = lz4.frame.compress(file.read() + bytes(padding), content_checksum=True)
    path = tmp_path / "archive.tar.lz4"
    path.write_bytes(padded)
    assert list(read_archive(path, tiny_spec))
    path.write_bytes(padded[:-1] + bytes([padded[-1] ^ 1]))
    assert "is damaged" in refusal(path, tiny_spec)


@pytest.mark.parametrize(
    "more",
    [
        lambda inside, _: lz4.frame.compress(inside + bytes(64 * CHUNK)),
        lambda inside, _: lz4.frame.compress(inside + b"x"),
        lambda _, frame: frame + b"\0",
        lambda _, frame: frame + bytes(CHUNK),
        lambda _, frame: frame + frame,
        lambda _, frame: frame + b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
    ],
    ids=["zeros", "a byte", "a zero behind", "zeros behind", "another frame", "a frame to skip"],
)
def test_an_archive_ends_where_its_content_ends(tiny_spec, tiny_archive, tmp_path, more):
    with lz4.frame.open(tiny_archive) as file:
        content = more(file.read(), tiny_archive.read_bytes())
    (tmp_path / "archive.tar.lz4").write_bytes(content)
    assert "is damaged" in refusal(tmp_path / "archive.tar.lz4", tiny_spec)


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, -1, 0])
@pytest.mark.parametrize("name", ["weights.eqx", "metadata.json"])
def test_declared_sizes_are_not_believed(tiny_spec, tiny_archive, tmp_path, name, size):
    """Though zeros of any number take little space in an archive."""
    info = tarfile.TarInfo(name)
    info.size = size
    with lz4.frame.open(tiny_archive) as file:
        inside = file.read()
    start = inside.index(name.encode())
    inside = inside[:start] + info.tobuf(tarfile.GNU_FORMAT) + inside[start + tarfile.BLOCKSIZE :]
    (tmp_path / "archive.tar.lz4").write_bytes(lz4.frame.compress(inside + bytes(64 * CHUNK)))
    assert "delete it and run again" in refusal(tmp_path / "archive.tar.lz4", tiny_spec)


def test_a_foreign_archive_is_refused(tiny_spec, tiny_archive, tmp_path):
    path = tmp_path / "archive.tar.lz4"
    own = members(tiny_archive)
    for change in (
        {"metadata.json": b"{"},
        {"metadata.json": b"{}"},
        {"metadata.json": b"[]"},
        {"metadata.json": b"\xff"},
        {"weights.eqx": b""},
        {"weights.eqx": own["weights.eqx"][:-1]},
        {"weights.eqx": own["weights.eqx"].replace(b"'<f4'", b"'<i4'")},
        {"weights.eqx": own["weights.eqx"].replace(b"False", b"True ")},
        {"../escaped": b"x"},
        {"more": b"x"},
    ):
        pack(path, own | change)
        assert "delete it and run again to rebuild it." in refusal(path, tiny_spec), change.keys()
    for name in own:
        pack(path, {name: own[name]})
        assert "is damaged" in refusal(path, tiny_spec)
    for content in (b"hello", lz4.frame.compress(b"hello")):
        path.write_bytes(content)
        assert "is damaged" in refusal(path, tiny_spec)
    pack(path, own)
    assert [name for name, _ in read_archive(path, tiny_spec)] == list(array_shapes(archive_skeleton(tiny_spec)))


def test_any_flipped_bit_of_an_archive_is_named_or_changes_nothing(tiny_spec, tiny_archive, tmp_path):
    """By the checksums of the lz4 frame, which cover its head and all of its content."""
    path = tmp_path / "archive.tar.lz4"
    content = tiny_archive.read_bytes()
    rng = random.Random(0)
    places = [*range(40), *range(len(content) - 8, len(content)), *rng.sample(range(len(content)), 40)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        assert "delete it and run again" in refusal(path, tiny_spec), place


def test_the_leaf_at_which_an_archive_is_damaged_is_named(tiny_spec, tiny_archive, tmp_path):
    path = tmp_path / "archive.tar.lz4"
    own = members(tiny_archive)
    middle = own["weights.eqx"].index(b"'shape': (144, 48)")
    broken = own["weights.eqx"][:middle] + own["weights.eqx"][middle:].replace(b"(144, 48)", b"(48, 144)", 1)
    pack(path, own | {"weights.eqx": broken})
    told = "is damaged (leaf blocks.0.blocks.0.attn.qkv.weight is not as it was written);"
    assert refusal(path, tiny_spec).startswith(told)


@pytest.mark.parametrize("change", [{"depth": 3}, {"norm_eps": 1e-6}, {"num_heads": 6}, {"ffn_hidden": 192}])
def test_an_archive_of_another_architecture_is_refused(tiny_spec, tiny_archive, tmp_path, change):
    """Of these, only depth and ffn_hidden would show in the leaves."""
    other = replace(tiny_spec, architecture=replace(tiny_spec.architecture, **change))
    path = Path(shutil.copy(tiny_archive, tmp_path))
    refused = refusal(path, other)
    assert "dinov3_tiny as it is now" in refused and "is damaged" not in refused


def test_an_archive_of_another_variant_is_refused(tiny_spec, tiny_archive, tmp_path):
    """Two releases of one architecture differ in their values only."""
    path = Path(shutil.copy(tiny_archive, tmp_path))
    refused = refusal(path, replace(tiny_spec, name="other"))
    assert refused.startswith("holds dinov3_tiny and not other as it is now;")


def test_a_model_is_written_and_read_back_to_the_bit(small, tmp_path):
    spec = small.spec
    skeleton = skeleton_of(spec.family, spec.architecture)
    structure = jax.tree_util.tree_structure(skeleton)
    expected = values(skeleton, seed=3)
    path = tmp_path / "model.eqx"
    write_model(path, spec, reversed(expected.items()))
    with path.open("rb") as file:
        header = json.loads(file.readline())
        assert header.keys() == {"variant", "family", "architecture", "crc32", "crc32_of_this"}
        assert header["crc32"] == {name: f"{zlib.crc32(value.tobytes()):08x}" for name, value in expected.items()}
        assert (header["variant"], header["family"]) == (spec.name, spec.family)
        assert header["architecture"] == json.loads(json.dumps(asdict(spec.architecture)))
        assert file.read() == equinox_bytes(jax.tree_util.tree_unflatten(structure, expected.values()))
    found, tensors = open_model(path)
    assert eqx.tree_equal(found, skeleton)
    assert list(tensors) == list(expected)
    for name, value in expected.items():
        assert (tensors[name].shape, tensors[name].dtype) == (value.shape, "float32")
        assert tensors[name].read().tobytes() == value.tobytes()


def test_a_model_is_loaded_with_arrays_of_jax(tiny_spec, tiny_model_file, tiny_model):
    model = load_model(str(tiny_model_file))
    assert {type(leaf) for leaf in jax.tree_util.tree_leaves(model)} == {type(jnp.zeros(1))}
    assert {leaf.dtype for leaf in jax.tree_util.tree_leaves(model)} == {np.dtype("float32")}
    with tiny_model_file.open("rb") as file:
        file.readline()
        like = skeleton_of(tiny_spec.family, tiny_spec.architecture)
        assert eqx.tree_equal(eqx.tree_deserialise_leaves(file, like), model, tiny_model)


def test_weights_of_every_release_are_aligned_in_the_model_file(released, tiny_model_file):
    """To 64 bytes, so that a runtime can map them: the head of the file and of each array, and the arrays before."""
    with tiny_model_file.open("rb") as file:
        assert len(file.readline()) % 64 == 0
    for spec in released.values():
        for name, shape in array_shapes(skeleton_of(spec.family, spec.architecture)).items():
            assert len(npy_header(shape)) % 64 == 0
            assert 4 * int(np.prod(shape)) % 64 == 0, (spec.name, name)


def test_a_model_loads_and_runs_in_three_lines(tiny_model_file, tmp_path):
    """In a new Python and another folder, with no configuration at hand."""
    lines = f"""
from vit2onnx.weights.model_file import load_model
model = load_model({str(tiny_model_file)!r})
print(model(__import__("numpy").zeros((1, 3, 32, 48), "float32")).last_hidden_state.shape)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.stdout == "(1, 11, 48)\n", done.stderr


def test_a_loaded_model_compiles_once(tiny_model, caplog):
    """Or each call as documented, without `jit`, would take seconds."""
    pixel_values = np.zeros((1, 3, 32, 64), np.float32)
    tiny_model(pixel_values)
    with jax.log_compiles():
        tiny_model(pixel_values)
        assert [record.getMessage() for record in caplog.records if "ompil" in record.getMessage()] == []
        tiny_model(np.zeros((1, 3, 48, 64), np.float32))
        assert any("ompil" in record.getMessage() for record in caplog.records)


def test_a_truncated_model_is_refused_wherever_it_ends(tiny_model_file, tmp_path):
    content = tiny_model_file.read_bytes()
    path = tmp_path / "model.eqx"
    start = content.index(b"\n") + 1
    for length in (0, 1, len(content[:start].rstrip()) - 1):
        path.write_bytes(content[:length])
        assert model_refusal(path).startswith(
            "is no model.eqx written by this vit2onnx, or is damaged; delete it and run"
        )
    for length in [start - 1, start, start + 5, start + 100, start + 128, *range(start + 200, len(content), 20_011)]:
        path.write_bytes(content[:length])
        assert model_refusal(path).startswith("is damaged at ")
    for longer in (content[:-1], content + b"\0"):
        path.write_bytes(longer)
        assert model_refusal(path) == "is truncated or damaged; delete it and run again to rebuild it."


def test_any_flipped_bit_of_a_model_is_named(tiny_model_file, tmp_path):
    """In the first line and the headers when the file is opened, in an array when that is read."""
    path = tmp_path / "model.eqx"
    content = tiny_model_file.read_bytes()
    start = content.index(b"\n") + 1
    rng = random.Random(0)
    places = [*rng.sample(range(start), 30), *range(start, start + 128, 8), *rng.sample(range(start, len(content)), 30)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=r"model\.eqx is .*; delete it and run again to rebuild it"):
            {name: tensor.read() for name, tensor in open_model(path)[1].items()}


def test_a_foreign_model_file_is_refused(tiny_model_file, tmp_path):
    header, leaves = tiny_model_file.read_bytes().split(b"\n", 1)
    path = tmp_path / "model.eqx"
    other = json.loads(header)
    del other["crc32_of_this"]
    headers = [b"{}\n", b"[]\n", b"3\n", b"not json\n", b"\xff\n", leaves[:40], b"[" * 100_000 + b"\n"]
    changes = ({"family": "bert"}, {"architecture": {"depth": 2}})
    headers += [header_line(other | change, other["crc32"]) for change in changes]
    # What would take for ever, or memory without end, or another exception.
    for change in ({"depth": 10**9}, {"embed_dim": 10**30}, {"num_heads": 0}, {"ffn": ["mlp"]}, {"depth": "2"}):
        headers.append(header_line(other | {"architecture": other["architecture"] | change}, other["crc32"]))
    headers += [b"[" * 60_000 + b"\n", header_line(other | {"family": ["a"]}, other["crc32"]), b"x" * (1 << 17)]
    for first in headers:
        path.write_bytes(first + leaves)
        assert model_refusal(path).startswith("is no model.eqx written by this vit2onnx"), first
    path.write_bytes(header + b"\n" + leaves.replace(b"'<f4'", b"'<i4'", 1))
    assert model_refusal(path).startswith("is damaged at patch_embed.weight;")


@pytest.mark.parametrize("kind", ["archive", "model"])
def test_leaves_are_let_go_as_they_are_written(tiny_spec, tmp_path, kind):
    """When a large one is made, no more than the two before it are still alive: one in use, and its successor."""
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, embed_dim=768))
    skeleton = {"archive": archive_skeleton(spec), "model": skeleton_of(spec.family, spec.architecture)}[kind]
    made: list[weakref.ref] = []
    most = 0

    def stream() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal most
        for name, shape in array_shapes(skeleton).items():
            most = max(most, sum(reference() is not None for reference in made))
            value = np.ones(shape, np.float32)
            if value.nbytes >= CHUNK:
                made.append(weakref.ref(value))
            yield name, value
            del value

    if kind == "archive":
        write_archive(tmp_path / "file", spec, skeleton, stream())
    else:
        write_model(tmp_path / "file", spec, stream())
    # The patches' weight, and in each of two blocks queries, keys and values, together or apart, and proj.
    assert len(made) == 1 + 2 * {"archive": 2, "model": 4}[kind]
    assert most <= 2


def test_opening_reads_no_tensor(tiny_model_file, tmp_path):
    """What is changed in the file after opening it is what is read."""
    path = Path(shutil.copy(tiny_model_file, tmp_path))
    _, tensors = open_model(path)
    end = len(path.read_bytes())
    with path.open("r+b") as file:
        file.seek(end - 48 * 4)
        file.write(np.full(48, 7, np.float32).tobytes())
    with pytest.raises(DamagedError, match=r"model\.eqx is damaged within norm\.bias; delete it and run again"):
        tensors["norm.bias"].read()

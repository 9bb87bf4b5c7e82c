"""What a checkpoint may look like from inside and outside: read to the bit, or refused in one clear sentence."""

import io
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError

STATE = {
    "matrix": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
    "transposed": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    "channels last": torch.arange(120, dtype=torch.float32).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "part": torch.arange(12, dtype=torch.float32)[4:8],
    "column": torch.arange(12, dtype=torch.float32).reshape(3, 4)[1:, 2],
    "repeated": torch.arange(3, dtype=torch.float32).expand(4, 3),
    "empty": torch.ones(0, 3),
    "doubled": torch.linspace(-3, 3, 5).double(),
    "rounded": torch.linspace(-3, 3, 5).to(torch.bfloat16),
    "halved": torch.linspace(-3, 3, 5).half(),
    "scalar": torch.tensor(0.5),
    "counts": torch.arange(3),
}
LINES = {"is empty": b"", "web page": b"\n <!DOCTYPE html><html></html>", "LFS pointer": b"version https://git-lfs.x"}


def torch_bytes(state: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def legacy_bytes(state: object) -> bytes:
    """As torch wrote it before 1.6: a pickle and no zip."""
    return torch_bytes(state, _use_new_zipfile_serialization=False)


def safetensors_bytes(state: Mapping[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})


def packed_anew(
    content: bytes, compression: int = zipfile.ZIP_STORED, change: Callable[[str, bytes], bytes] = lambda name, old: old
) -> bytes:
    """A torch file as another program would pack what is in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


WRITERS = {"pth": torch_bytes, "legacy pth": legacy_bytes, "safetensors": safetensors_bytes}


def refusal(path: Path, content: bytes, after: str = " ") -> str:
    """The sentence with which a file is refused, after its path and what separates them."""
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}{after}")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence.removeprefix(f"{path}{after}")


@pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint.safetensors", "checkpoint"])
@pytest.mark.parametrize("form", WRITERS)
def test_every_tensor_is_read_whatever_the_file_is_called(tmp_path, form, name):
    path = tmp_path / name
    path.write_bytes(WRITERS[form](STATE))
    found = open_checkpoint(path)
    assert found.keys() == STATE.keys()
    for key, tensor in STATE.items():
        array = found[key].read()
        assert found[key].shape == array.shape == tuple(tensor.shape)
        assert array.dtype == found[key].dtype
        assert np.array_equal(array.astype(np.float64), tensor.double().numpy())
    dtypes = {key: tensor.dtype for key, tensor in found.items()}
    assert [dtypes[key] for key in ("matrix", "rounded", "halved")] == ["float32", "bfloat16", "float16"]
    assert (dtypes["counts"], dtypes["doubled"]) == ("int64", "float64")
    assert found["rounded"].read().dtype == ml_dtypes.bfloat16
    assert found["halved"].read().dtype == np.float16


def test_parameters_are_tensors_too(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(torch_bytes(torch.nn.Linear(2, 3).state_dict(keep_vars=True)))
    assert open_checkpoint(path)["weight"].read().shape == (3, 2)


def test_a_safetensors_header_may_begin_like_a_pickle(tmp_path):
    """The file begins with the header's length, and one length in 32 begins with a pickle's first byte."""
    path = tmp_path / "file.safetensors"
    lengths = {}
    for filling in range(0, 256, 8):
        content = safetensors.torch.save({"a": torch.ones(2)}, metadata={"filling": "x" * filling})
        lengths[content[0]] = content
    path.write_bytes(lengths[0x80])
    assert open_checkpoint(path)["a"].read().tolist() == [1, 1]


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("form", WRITERS)
def test_other_dtypes_are_named_as_numpy_names_them(tmp_path, form, dtype):
    if form == "legacy pth" and dtype == torch.float8_e4m3fn:
        return  # torch had no such dtype then
    path = tmp_path / "file"
    path.write_bytes(WRITERS[form]({"a": torch.ones(3).to(dtype)}))
    tensor = open_checkpoint(path)["a"]
    assert tensor.dtype == str(dtype).removeprefix("torch.")
    assert tensor.nbytes == 3 * dtype.itemsize


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_tensor_is_read_when_it_is_asked_for_and_not_before(tmp_path, form):
    """What is changed in the file after opening it is what is read."""
    path = tmp_path / "file"
    path.write_bytes(WRITERS[form]({"a": torch.full((4,), 1.5)}))
    tensors = open_checkpoint(path)
    before, after = (np.full(4, value, np.float32).tobytes() for value in (1.5, -2.5))
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(before))
        file.write(after)
    assert tensors["a"].read().tolist() == [-2.5] * 4


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_tensor_that_lies_in_the_file_as_it_is_can_be_pointed_to(tmp_path, form):
    path = tmp_path / "file"
    path.write_bytes(WRITERS[form](STATE))
    content = path.read_bytes()
    for key, tensor in open_checkpoint(path).items():
        strided = form == "pth" and key in ("transposed", "channels last", "column", "repeated")
        assert (tensor.offset is None) == strided, key
        if tensor.offset is not None:
            assert content[tensor.offset : tensor.offset + tensor.nbytes] == tensor.read().tobytes()


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_opening_takes_no_memory_for_the_tensors(tmp_path, form):
    path = tmp_path / "file"
    path.write_bytes(WRITERS[form]({f"layer.{i}": torch.ones(500, 500) for i in range(4)}))
    open_checkpoint(path)
    tracemalloc.start()
    tensors = open_checkpoint(path)
    # The tensors have 1 MB each. Measured 0.03 MB and less.
    assert tracemalloc.get_traced_memory()[1] < 2e5
    tracemalloc.reset_peak()
    for tensor in tensors.values():
        tensor.read()
    assert tracemalloc.get_traced_memory()[1] < 1.3e6
    tracemalloc.stop()


@pytest.mark.parametrize("says", LINES)
def test_what_a_failed_download_or_clone_leaves_is_named(tmp_path, says):
    assert says in refusal(tmp_path / "checkpoint.pth", LINES[says])


@pytest.mark.parametrize("form", WRITERS)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, form):
    content = WRITERS[form]({f"layer.{i}": torch.randn(10, 10) for i in range(3)})
    lengths = [*range(1, 40), *range(40, len(content) - 1, 97), len(content) - 1]
    for length in lengths:
        sentence = refusal(tmp_path / f"{length}.pth", content[:length])
        assert "damaged or" in sentence or (length <= 8 and "neither a PyTorch nor a safetensors" in sentence)


@pytest.mark.parametrize("form", WRITERS)
def test_a_flipped_byte_gives_no_error_of_another_kind(tmp_path, form):
    """A byte within a tensor is found by its hash alone, so that a file may as well open."""
    content = WRITERS[form]({f"layer.{i}": torch.randn(4, 4) for i in range(2)})
    refused = 0
    for position in range(0, len(content), max(1, len(content) // 150)):
        path = tmp_path / str(position)
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x15]) + content[position + 1 :])
        try:
            open_checkpoint(path)
        except InputError:
            refused += 1
    assert refused > 10


PLAIN = torch.arange(6, dtype=torch.float32).reshape(2, 3)
UNUSUAL: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": PLAIN.to_sparse,
    "sparse rows": PLAIN.to_sparse_csr,
    "without values": lambda: torch.empty(2, 3, device="meta"),
    # Its values are saved without their sign.
    "negated when read": lambda: torch._neg_view(PLAIN),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("form", ["pth", "legacy pth"])
@pytest.mark.parametrize("kind", UNUSUAL)
def test_a_tensor_that_is_not_stored_value_by_value_is_named(tmp_path, kind, form):
    (tmp_path / "file.pth").write_bytes(WRITERS[form]({"plain": PLAIN, "odd": UNUSUAL[kind]()}))
    tensors = open_checkpoint(tmp_path / "file.pth")
    assert np.array_equal(tensors["plain"].read(), PLAIN.numpy())
    # No key table takes such a dtype.
    assert tensors["odd"].dtype == {"sparse rows": "sparse", "negated when read": "negated or conjugated"}.get(
        kind, kind
    )
    with pytest.raises(InputError, match=f"a tensor that is {tensors['odd'].dtype}"):
        tensors["odd"].read()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning", "ignore:TypedStorage:UserWarning")
def test_quantized_tensors_are_refused(tmp_path):
    odd = torch.quantize_per_tensor(PLAIN, 0.1, 0, torch.quint8)
    for form in ("pth", "legacy pth"):
        (tmp_path / "file.pth").write_bytes(WRITERS[form]({"odd": odd}))
        assert open_checkpoint(tmp_path / "file.pth")["odd"].dtype == "quantized"  # which no key table takes


def test_a_file_that_was_packed_anew_is_read_where_its_tensors_now_lie(tmp_path):
    content = torch_bytes({"a": PLAIN, "b": PLAIN + 1})
    (tmp_path / "file.pth").write_bytes(packed_anew(content))
    tensors = open_checkpoint(tmp_path / "file.pth")
    assert np.array_equal(tensors["b"].read(), (PLAIN + 1).numpy())
    sentence = refusal(tmp_path / "file.pth", packed_anew(content, zipfile.ZIP_DEFLATED))
    assert "was packed anew with compression" in sentence


def test_a_tensor_that_ends_behind_its_record_is_refused(tmp_path):
    content = torch_bytes({"a": torch.ones(8), "b": torch.ones(8)})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        head = archive.read("archive/data.pkl")
    # The count of elements and the one dimension, wherever the pickle says 8.
    content = content.replace(head, head.replace(b"K\x08", b"K\x40"))
    assert "tensor a goes beyond its storage" in refusal(tmp_path / "file.pth", content)


def test_a_big_endian_file_is_refused_and_does_not_end_the_process(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(
        packed_anew(torch_bytes({"a": PLAIN}), change=lambda name, old: b"big" if "byteorder" in name else old)
    )
    program = (
        "import sys, pathlib; from vit2onnx.checkpoints.reading import *; open_checkpoint(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"InputError: {path} was written on a big-endian machine; save it again on a usual one." in done.stderr


def test_a_file_saved_on_a_gpu_is_read_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
    (tmp_path / "file.pth").write_bytes(torch_bytes({"a": PLAIN}))
    assert np.array_equal(open_checkpoint(tmp_path / "file.pth")["a"].read(), PLAIN.numpy())


def test_random_bytes_are_refused(tmp_path):
    content = np.random.default_rng(0).bytes(1000)
    assert "neither a PyTorch nor a safetensors file" in refusal(tmp_path / "checkpoint.pth", content)


class Payload:
    """A pickle of it creates a file when it is loaded by Python's own pickle."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", ["pth", "legacy pth", "bare pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path, form):
    trap = tmp_path / "trap"
    payload = {"weights": torch.ones(2), "more": Payload(trap)}
    # Loading it without care does spring the trap.
    pickle.loads(pickle.dumps(Payload(trap))).close()
    trap.unlink()
    path = tmp_path / "checkpoint.pth"
    if form == "bare pickle":
        assert "torch.save(model.state_dict()" in refusal(path, pickle.dumps(Payload(trap), 2))
    else:
        path.write_bytes(WRITERS[form](payload))
        assert list(open_checkpoint(path)) == ["weights"]
    assert not trap.exists()


def test_tensors_of_nested_mappings_are_named_by_their_paths_and_other_objects_left_out(tmp_path):
    state = {"model": {"head": {"weight": PLAIN}}, "epoch": 3, "args": Namespace(lr=0.1), 1: PLAIN}
    (tmp_path / "last.ckpt").write_bytes(torch_bytes(state))
    assert list(open_checkpoint(tmp_path / "last.ckpt")) == ["model.head.weight", "1"]


@pytest.mark.parametrize("state", [[torch.ones(2)], torch.ones(2)], ids=["list", "tensor"])
def test_what_is_no_mapping_is_refused(tmp_path, state):
    assert "no mapping of names to tensors" in refusal(tmp_path / "checkpoint.pth", torch_bytes(state))

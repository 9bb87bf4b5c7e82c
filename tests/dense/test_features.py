"""Patches are found among tokens, and a wrong number of other tokens is told."""

import numpy as np
import pytest

from vit2onnx.dense.features import Gathering, patches_of, registers_of
from vit2onnx.errors import InternalError
from vit2onnx.families.interface import images_to_tokens

CHANNELS, REGISTERS = 8, 4
INTERFACE = images_to_tokens(CHANNELS, 16, REGISTERS, ("blocks.0.output", "blocks.1.output"))
# Two rows of three patches.
CASE = "image@32x48"
TOKENS = np.random.default_rng(0).normal(size=(1 + REGISTERS + 6, CHANNELS))


def test_patches_lie_row_by_row_behind_cls_and_registers() -> None:
    found = patches_of(TOKENS, INTERFACE, CASE)
    assert found.shape == (2, 3, CHANNELS)
    np.testing.assert_array_equal(found[1, 2], TOKENS[-1])
    np.testing.assert_array_equal(found[0, 0], TOKENS[1 + REGISTERS])


@pytest.mark.parametrize("prefix", [0, 1, REGISTERS, REGISTERS + 2])
def test_a_wrong_number_of_tokens_before_the_patches_is_told(prefix: int) -> None:
    tokens = np.zeros((prefix + 6, CHANNELS))
    with pytest.raises(InternalError, match="tokens behind the first 5, and 2 x 3 patches"):
        patches_of(tokens, INTERFACE, CASE)


def test_dropped_tokens_are_not_looked_for() -> None:
    assert registers_of(INTERFACE) == REGISTERS
    found = patches_of(np.delete(TOKENS, range(1, 1 + REGISTERS), axis=0), INTERFACE, CASE, dropped=REGISTERS)
    np.testing.assert_array_equal(found, patches_of(TOKENS, INTERFACE, CASE))


def test_cls_is_never_taken_for_a_patch() -> None:
    # Tokens without CLS are as many as those of which the last patch is missing.
    with pytest.raises(InternalError, match="5 tokens behind"):
        patches_of(TOKENS[1:], INTERFACE, CASE)


def test_everything_is_gathered_by_its_name() -> None:
    gathering = Gathering(INTERFACE, [0])
    gathering.see(CASE, "blocks.0.attn_raw", None, lambda _: TOKENS)
    gathering.see(CASE, "blocks.0.output", "first", lambda _: TOKENS)
    gathering.see(CASE, "blocks.1.output", "second", lambda _: 2 * TOKENS)
    given = []
    gathering.norm(CASE, lambda value: given.append(value) or TOKENS + 1)
    gathering.finish(CASE, {"last_hidden_state": 3 * TOKENS})
    patches = patches_of(TOKENS, INTERFACE, CASE)
    wanted = {
        "norms.0": np.linalg.norm(patches, axis=-1),
        "layers.0": patches,
        "norms.1": 2 * np.linalg.norm(patches, axis=-1),
        "before_norm": 2 * patches,
        "layers.0.norm": patches + 1,
        "patches": 3 * patches,
        "pooled": 3 * TOKENS[0],
    }
    assert gathering.arrays.keys() == {f"{CASE}/{name}" for name in wanted}
    for name, array in wanted.items():
        np.testing.assert_allclose(gathering.arrays[f"{CASE}/{name}"], array, rtol=1e-15)
    # The last layer, which was not asked for, is not normed once more.
    assert given == ["first"]

"""What every model returns, and how every model is run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit2onnx.nn.primitives import first_token, flatten_grid
from vit2onnx.spec.case import path_of
from vit2onnx.spec.interface import Port

# Images as users have them, which models take as they are.
Images = Float[Array, "batch 3 height width"] | Float[np.ndarray, "batch 3 height width"]
# Arrays by the names of ports, or of stages.
Named = dict[str, Array]


class Features(NamedTuple):
    """Features under Hugging Face's names.

    `last_hidden_state` holds all tokens after the final norm; `pooler_output` is one vector for all of them, in most
    families the CLS token.
    """

    last_hidden_state: Float[Array, "batch tokens embed_dim"]
    pooler_output: Float[Array, "batch channels"]


class PackedFeatures(NamedTuple):
    """Features under the names of the packed interface. Without registers, `registers` has size 0."""

    last_hidden_state: Float[Array, "patches embed_dim"]
    pooler_output: Float[Array, "images embed_dim"]
    registers: Float[Array, "images registers embed_dim"]


def features_of(tokens: Float[Array, "batch tokens embed_dim"]) -> Features:
    """Features from the tokens after the final norm, of which the first is CLS."""
    return Features(tokens, first_token(tokens))


@runtime_checkable
class Layer(Protocol):
    """A layer of the trunk, whose intermediate results can be looked at."""

    def stages(self, x: Array, context: Any, /) -> Named:
        """Every stage by its name within the layer, in order; the last is `output`."""

    def __call__(self, x: Array, context: Any, /) -> Array:
        """The last stage."""


@runtime_checkable
class Tower(Protocol):
    """A trunk of layers, with what comes before and after, so that it can be run with one part in memory at a time.

    A stage's full name is its layer's path and its name within the layer, as in `blocks.7.mlp_raw`; those of `embed`
    and `head` have no layer. `embed` takes the values of the ports `inputs`; what it gives is the stage `embedded`, or
    no stage if that is "".
    """

    inputs: ClassVar[tuple[str, ...]]
    embedded: ClassVar[str]

    @property
    def norm(self) -> Callable[[Array], Array]:
        """The final norm, of channels that come last."""

    def embed(self, *inputs: Array) -> tuple[Array, Any]:
        """What enters the first layer, and what goes along with it to each layer and to the head."""

    def trunk(self) -> Sequence[tuple[str, Layer]]:
        """The layers in order, each with its path in the tower."""

    def head_stages(self, x: Array, context: Any, /) -> Named:
        """The stages of the head, from what leaves the last layer; `norm` is among them."""

    def features(self, stages: Named, context: Any, /) -> Features | PackedFeatures:
        """Features from the stages of the head."""


@runtime_checkable
class Model(Protocol):
    """One tower or several, whose parameters have the tower's name before theirs."""

    def towers(self, interface: str, /) -> Mapping[str, Tower]:
        """The towers of an interface, by their names in the tree: "" if the model itself is the only one."""

    def joint_stages(self, interface: str, pooled: Named, /) -> Named:
        """What is made of the pooled outputs of all towers, by name; nothing where there is one tower."""

    def natively(self, tensors: Mapping[str, Any], /) -> "tuple[Model, Mapping[str, Any]] | None":
        """Model and parameters as references are installed, if they differ by design; the latter as lazy tensors."""

    def without_registers(self, tensors: Mapping[str, Any], /) -> "tuple[Model, Mapping[str, Any]] | None":
        """Model and parameters without register tokens, if it has any."""


class ImageModel(eqx.Module):
    """A model that is one tower and takes images; CLS is the first of its tokens."""

    inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    embedded: ClassVar[str] = "patch_embed"

    def towers(self, _: str) -> dict[str, Any]:
        """The model itself."""
        return {"": self}

    def joint_stages(self, _: str, __: Named) -> Named:
        """None, because there is one tower."""
        return {}

    def features(self, stages: Named, _: Any) -> Features:
        """Features from the stages of the head."""
        return features_of(stages["norm"])

    def natively(self, _: Mapping[str, Any]) -> "tuple[ImageModel, Mapping[str, Any]] | None":
        """Nothing: references differ in nothing by design."""
        return None

    def without_registers(self, _: Mapping[str, Any]) -> "tuple[ImageModel, Mapping[str, Any]] | None":
        """Nothing: it has none."""
        return None

    def __call__(self, pixel_values: Images) -> Features:
        """Features of normalised RGB images; `height` and `width` are in pixels and at least one patch."""
        return Features(**run(self, {"pixel_values": jnp.asarray(pixel_values)}))


def run(model: Model, inputs: Named, interface: str = "images") -> Named:
    """Everything that a model gives for an interface, by name, in scopes by which graphs name their nodes."""
    return run_stages(model, inputs, interface)[0]


def run_stages(model: Model, inputs: Named, interface: str = "images") -> tuple[Named, Named]:
    """Everything that a model gives, and every stage by its full name, in order."""
    stages: Named = {}
    features: dict[str, Features | PackedFeatures] = {}
    for name, tower in model.towers(interface).items():
        found, features[name] = _run_tower(tower, name, inputs)
        stages |= found
    with jax.named_scope("joint"):
        outputs = outputs_of(model, interface, features)
    return outputs, stages if len(features) == 1 else stages | outputs


def outputs_of_layers(model: Model, interface: str, ports: Iterable[Port], stages: Named) -> Named:
    """Those of some outputs that are of layers, by name, from all stages; only models of one tower have such."""
    found: Named = {}
    for port in (port for port in ports if port.layer):
        ((name, tower),) = model.towers(interface).items()
        with jax.named_scope(path_of(name, port.name)):
            found[port.name] = output_of_layer(tower, stages[port.layer], normed=port.normed)
    return found


def output_of_layer(tower: Tower, x: Array, *, normed: bool) -> Float[Array, "batch tokens channels"]:
    """What a layer gives as an output: its tokens, or the pixels of its map row by row; `normed` by the final norm."""
    x = tower.norm(x) if normed else x
    return flatten_grid(x) if x.ndim == 4 else x


def outputs_of(model: Model, interface: str, features: Mapping[str, Features | PackedFeatures]) -> Named:
    """What a model gives, by name: the features of its only tower, or what is made of those of all towers."""
    if len(features) == 1:
        (only,) = features.values()
        return dict(only._asdict())
    return model.joint_stages(interface, {name: one.pooler_output for name, one in features.items()})


def _run_tower(tower: Tower, name: str, inputs: Named) -> tuple[Named, Features | PackedFeatures]:
    with jax.named_scope(path_of(name, "embed")):
        x, context = tower.embed(*(jnp.asarray(inputs[port]) for port in tower.inputs))
        found = {path_of(name, tower.embedded): x} if tower.embedded else {}
    for path, layer in tower.trunk():
        with jax.named_scope(path_of(name, path)):
            stages = layer.stages(x, context)
        found |= {path_of(name, f"{path}.{stage}"): value for stage, value in stages.items()}
        x = stages["output"]
    with jax.named_scope(path_of(name, "head")):
        stages = tower.head_stages(x, context)
        features = tower.features(stages, context)
    return found | {path_of(name, stage): value for stage, value in stages.items()}, features


def layers_of(model: Model, interface: str) -> dict[str, str]:
    """Every layer that can be given an input of its own, by its full name, with the stage whose place that takes.

    These are the layers of the trunks, and the heads, each called by its `norm`. A first layer that begins with the
    image is left out.
    """
    found = {}
    for name, tower in model.towers(interface).items():
        before = tower.embedded
        for path, _ in tower.trunk():
            if before:
                found[path_of(name, path)] = path_of(name, before)
            before = f"{path}.output"
        found[path_of(name, "norm")] = path_of(name, before)
    return found

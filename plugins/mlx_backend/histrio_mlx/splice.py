"""Layer ranges without per-model code: *splice, don't slice*.

The model keeps its full-length layer list and its own `__call__`, so every index that it computes stays right. Layers
before the range become stand-ins that return what the stage before sent, layers after it stand-ins that return what the
range produced. Stand-ins answer questions (`layer.use_sliding`) as the layer they stand for; weights they have none.
Shims replace embeddings, final norm and head where the stage doesn't own them, so the model's parameters are
exactly what the stage has to load.

Splice after the model's `sanitize` (some decide there whether the head is tied), before quantizing and loading.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding

from histrio.contracts.backend import StageSpec
from histrio.errors import UnsupportedModel
from histrio_mlx.parts import Parts, arrays_in, flatten, rebuild
from histrio_mlx.structure import Structure, find_structure, name_of

__all__ = ["Parts", "Relay", "splice"]


def splice(model: Module, spec: StageSpec) -> Relay:
    """Replace what other stages own; the caller loads what is left. Raises `UnsupportedModel`."""
    structure = find_structure(model)
    layers = structure.layers
    if len(layers) != spec.num_layers:
        raise UnsupportedModel(f"{name_of(model)} has {len(layers)} layers, but was planned with {spec.num_layers}")

    relay = Relay(model, structure)
    for index in range(spec.num_layers):
        if index < spec.first_layer:
            layers[index] = _Before(relay, layers[index])
        if index >= spec.last_layer:
            layers[index] = _After(relay, layers[index])
    _watch(layers[spec.last_layer - 1], relay)

    if not spec.is_first:
        _shim_embeddings(structure, relay, keep_head=spec.is_last)
    if not spec.is_last:
        _drop_tail(structure)
    return relay


class Relay:
    """Runs a spliced model: carries hidden states around the layers of other stages."""

    def __init__(self, model: Module, structure: Structure | None) -> None:
        self.model = model
        self.structure = structure
        """None for a whole model that runs as it is."""
        self._entry: Any = model if structure is None else structure.entry
        self._received: Parts = {}
        self._output: Any = None
        self._sampled: mx.array | None = None
        self._extras: list[mx.array] = []
        self._are_extras_read = False

    def run_layers(self, inputs: mx.array | Parts, caches: list[Any]) -> Parts:
        """Ids [rows, tokens] on the first stage, else what was received → what the last own layer gives. Lazy."""
        output = self._entry(self.begin(inputs), cache=caches)
        return {"": output} if self.structure is None else self._end()

    def run_model(self, inputs: mx.array | Parts, caches: list[Any], sampled: mx.array) -> mx.array:
        """Logits [sampled, vocab] on the last stage, at indices `row * tokens + token` of the step. Lazy."""
        ids = self.begin(inputs)
        self._sampled = sampled
        logits: mx.array = self.model(ids, cache=caches)
        logits = logits.reshape(-1, logits.shape[-1])
        if self.structure is None:
            return logits[sampled]

        self._end()
        return logits

    def begin(self, inputs: mx.array | Parts) -> mx.array:
        """Forget the step before; the ids to call the model with."""
        self._output = self._sampled = None
        self._extras, self._are_extras_read = [], False
        if isinstance(inputs, mx.array):
            return inputs

        self._received = inputs
        return mx.zeros(inputs[""].shape[:2], mx.int32)

    def hand_on(self) -> Any:
        """What a layer before the range returns: what was received."""
        return rebuild(self._received)

    def embed(self, width: int) -> mx.array:
        """[rows, tokens, width] in place of the embeddings, which no layer should read; a layer that does gets NaN."""
        residual = self._received[""]
        return mx.full((*residual.shape[:2], width), mx.nan, residual.dtype)

    def capture(self, output: Any) -> Any:
        """Take what the last own layer returned; give what the model goes on with."""
        if self._output is not None:
            raise UnsupportedModel(
                f"{name_of(self.model)} runs its layers more than once per step, so it can't be split"
            )

        self._output = output
        return self.produced()

    def produced(self) -> Any:
        """What a layer after the range returns. On the way to logits, only the tokens that are sampled."""
        parts = dict(flatten(self._output))
        if self._sampled is not None:
            residual = parts[""]
            parts[""] = residual.reshape(1, -1, residual.shape[-1])[:, self._sampled]
        output = rebuild(parts)
        self._extras += list(arrays_in(output))[1:]
        return output

    def notice(self, arguments: Any) -> None:
        """A layer after the range is called with these; what isn't the residual stream may be from the range."""
        handed_on = {id(array) for array in self._extras}
        if any(id(array) in handed_on for array in arrays_in(arguments)):
            self._are_extras_read = True

    def _end(self) -> Parts:
        parts = dict(flatten(self._output))
        self._received, self._output, self._extras = {}, None, []
        if self._are_extras_read:
            return parts

        unread = {name.partition(".")[0]: mx.zeros(0) for name in parts}
        return {**unread, "": parts[""]}


class _StandIn(Module):
    """Stands for a layer of another stage and has its attributes, but no parameters."""

    def __init__(self, relay: Relay, layer: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        for module in layer.modules():
            _drop_arrays(module)
        # Past Module's own `__setattr__`, which would make the layer a child.
        vars(self).update(_relay=relay, _layer=layer)

    def __getattr__(self, key: str) -> Any:
        return getattr(vars(self)["_layer"], key)


class _Before(_StandIn):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._relay.hand_on()


class _After(_StandIn):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._relay.notice([args, kwargs])
        return self._relay.produced()


class _NoEmbeddings(Module):
    """Stands for embeddings of the first stage."""

    def __init__(self, relay: Relay, width: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        vars(self).update(_relay=relay, _width=width)

    def __call__(self, ids: mx.array) -> Any:
        return self._relay.embed(self._width)


class _NoModule(Module):
    """Stands for a final norm or a head that this stage doesn't have and whose result is not read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __call__(self, hidden: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        return hidden


def _watch(layer: Module, relay: Relay) -> None:
    """Have `relay` capture what the layer returns; its parameters and their names stay."""
    kind: Any = type(layer)

    class Watched(kind):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return relay.capture(super().__call__(*args, **kwargs))

    layer.__class__ = Watched


def _shim_embeddings(structure: Structure, relay: Relay, *, keep_head: bool) -> None:
    for path, embeddings in structure.embeddings.items():
        width = embeddings.weight.shape[-1]
        if keep_head and structure.head_is_embeddings:
            _mute(embeddings, relay, width)
            continue

        _put(structure.inner, path, _NoEmbeddings(relay, width))


def _mute(embeddings: Embedding, relay: Relay, width: int) -> None:
    """Leave the weight for the head (`as_linear`), whatever it is quantized to later; its embeddings are not read."""

    class Muted(Embedding):
        def __call__(self, ids: mx.array) -> mx.array:
            return relay.embed(width)

    embeddings.__class__ = Muted


def _drop_tail(structure: Structure) -> None:
    for path in structure.tail:
        _put(structure.model, path, _NoModule())
    for module in structure.model.modules():
        if module is not structure.inner and any(part is structure.inner for part in module.modules()):
            _drop_arrays(module)


def _drop_arrays(module: Module) -> None:
    for key in [key for key, value in module.items() if isinstance(value, mx.array)]:
        del module[key]


def _put(parent: Any, path: str, module: Module) -> None:
    *names, last = path.split(".")
    for name in names:
        parent = parent[int(name)] if isinstance(parent, list) else parent[name]
    parent[int(last) if isinstance(parent, list) else last] = module

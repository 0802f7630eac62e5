"""The compiled decoder over one model's packed weights (implements ``Decoder``).

A row's result is a function of its session's tokens, bit for bit, whatever shares the forward and
however many threads compute it: exact mode needs nothing more.
"""

from array import array
from collections.abc import Collection, Sequence
from copy import copy
from typing import Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from specrouter_dist.config import Quantization
from specrouter_dist.engine.cpu import library as c
from specrouter_dist.engine.cpu.packing import PackedLinear, Packing
from specrouter_dist.engine.decoder import Part, Run
from specrouter_dist.engine.kv_cache import KvCache
from specrouter_dist.engine.llama_layers import Layer, Reader, read_embeddings, read_layer
from specrouter_dist.engine.llama_shape import LlamaShape
from specrouter_dist.engine.loading import Weights
from specrouter_dist.engine.lora import Adapter, LowRank
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray


class CompiledDecoder:
    """One model of the Llama family.

    Args:
        library: the compiled code.
        shape: sizes of the model.
        weights: where its tensors are.
        dtype: of the weights, float32 or bfloat16.
        quantization: of linear layers and head; None: as ``dtype`` says.
        cache: of its keys and values, of the same dtype.
        rotary: complex64 ``[positions, 1, head_dim / 2]``.
        num_ids: rows of embedding and head that are kept.

    Raises:
        ConfigError: a tensor is missing, unreadable or of another shape than the config says.
    """

    def __init__(
        self,
        library: c.Library,
        shape: LlamaShape,
        weights: Weights,
        *,
        dtype: torch.dtype,
        quantization: Quantization | None,
        cache: KvCache,
        rotary: Tensor,
        num_ids: int,
    ) -> None:
        self.shape = shape
        self.cache = cache
        self.layer_dtype = dtype
        self._library = library
        packing = Packing(library.panel_outs, quantization)
        reader = Reader(weights, dtype, cache.device, packing.linear, packing.gate_up, Tensor.float)
        self._layers = [read_layer(shape, reader, i) for i in range(shape.num_layers)]
        self._embedding, head = read_embeddings(shape, reader, num_ids)
        self._head = packing.linear(head, None)
        self._last_norm = reader.norm("model.norm", shape.hidden_size)
        self._rotations = torch.view_as_real(rotary).contiguous()
        self._packing = Packing(library.panel_outs)
        """Of adapters, which are trained in more bits."""
        self._adapters = WeakKeyDictionary[Adapter, _PackedAdapter]()
        self._model = self._make_model()
        self._room = _Room(shape.hidden_size, num_ids)

    @property
    def weight_bytes(self) -> int:
        """A tied head counts twice, since it is packed apart."""
        linears = [self._head, *(linear for layer in self._layers for linear in layer.linears())]
        return self._embedding.nbytes + sum(linear.num_bytes for linear in linears)

    def forward(self, parts: Sequence[Part]) -> Tensor:
        ids = _ids(parts)
        batch = self._batch(parts, ids)
        self._library.forward(self._model, batch, torch.get_num_threads())
        return self._room.hidden

    def draw(self, runs: Sequence[Run]) -> list[TokenArray]:
        parts = [run.part for run in runs]
        ids = _ids(parts)
        draws = (c.Draws * len(runs))()
        found = []
        for run, drawn in zip(runs, draws, strict=True):
            tokens = array(TOKEN_TYPECODE, bytes(4 * (run.num_picks + run.num_drafts)))
            drawn.num_picks, drawn.num_drafts = run.num_picks, run.num_drafts
            drawn.first_position, drawn.dice = run.first_position, c.dice_of(run.dice)
            drawn.stop_ids, drawn.num_stop_ids = run.stop_ids.buffer_info()
            drawn.tokens = tokens.buffer_info()[0]
            found.append(tokens)
        batch = self._batch(parts, ids)
        logits = self._room.logits_of(max(len(runs), sum(run.num_picks for run in runs)))
        self._library.draw(
            self._model, batch, draws, batch.ids, logits.data_ptr(), torch.get_num_threads()
        )
        return found

    def _batch(self, parts: Sequence[Part], ids: TokenArray) -> c.Batch:
        """For a call; valid while parts and ids are."""
        rows = (c.Rows * len(parts))()
        first_row = 0
        for part, part_rows in zip(parts, rows, strict=True):
            num_rows = len(part.tokens)
            part_rows.first_row, part_rows.num_rows = first_row, num_rows
            part_rows.start, part_rows.pages = part.start, part.table.address
            if part.adapter is not None:
                part_rows.adapter = self._pack(part.adapter).layers
            first_row += num_rows
        room = self._room
        if len(ids) > room.num_rows:
            room.grow(len(ids), self._library.scratch_floats(self._model, len(ids)))
        return c.Batch(
            len(ids),
            len(parts),
            ids.buffer_info()[0],
            rows,
            self.cache.address,
            self.cache.num_rows,
            room.hidden_address,
            room.scratch_address,
        )

    def _pack(self, adapter: Adapter) -> "_PackedAdapter":
        if adapter not in self._adapters:
            self._adapters[adapter] = _PackedAdapter(adapter, self._packing)
        return self._adapters[adapter]

    def logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        index = array("i", rows)
        logits = self._room.logits_of(len(rows))
        self._library.logits(
            self._model,
            hidden.data_ptr(),
            index.buffer_info()[0],
            len(rows),
            logits.data_ptr(),
            torch.get_num_threads(),
        )
        return logits

    def without(self, mask: Collection[str]) -> Self:
        slim = copy(self)
        slim._layers = [layer.without(number, mask) for number, layer in enumerate(self._layers)]
        slim._model = slim._make_model()
        return slim

    def _make_model(self) -> c.Model:
        shape = self.shape
        return c.Model(
            num_layers=shape.num_layers,
            hidden=shape.hidden_size,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            intermediate=self._packing.whole_panels(shape.intermediate_size),
            is_bfloat16=self.layer_dtype == torch.bfloat16,
            norm_eps=shape.norm_eps,
            embedding=self._embedding.data_ptr(),
            rotations=self._rotations.data_ptr(),
            last_norm=self._last_norm.data_ptr(),
            head=self._head.matrix(),
            layers=(c.Layer * shape.num_layers)(*map(_make_layer, self._layers)),
        )


class _Room:
    """What forwards write to, as much as the largest has needed so far. A slim model's share it."""

    _KEPT_ROWS = 32
    """Views of so many rows of logits, which recur, are kept: making one costs as much as drawing
    from it."""

    def __init__(self, hidden_size: int, num_ids: int) -> None:
        self._hidden_size, self._num_ids = hidden_size, num_ids
        self._logits: dict[int, Tensor] = {}
        self._grow_logits(self._KEPT_ROWS)
        self.num_rows = 0

    def grow(self, num_rows: int, scratch_floats: int) -> None:
        self.num_rows = num_rows
        self.hidden = torch.empty(num_rows, self._hidden_size)
        self._scratch = torch.empty(scratch_floats)
        self.hidden_address, self.scratch_address = self.hidden.data_ptr(), self._scratch.data_ptr()

    def logits_of(self, num_rows: int) -> Tensor:
        if num_rows in self._logits:
            return self._logits[num_rows]
        if num_rows > len(self._all_logits):
            self._grow_logits(num_rows)
        return self._all_logits[:num_rows]

    def _grow_logits(self, num_rows: int) -> None:
        self._all_logits = torch.empty(num_rows, self._num_ids)
        self._logits = {n: self._all_logits[:n] for n in range(1, self._KEPT_ROWS + 1)}


class _PackedAdapter:
    """An adapter as calls want it."""

    def __init__(self, adapter: Adapter, packing: Packing) -> None:
        self._packing = packing
        self._packed: list[PackedLinear] = []
        self.layers = (c.Adapter * len(adapter.layers))(
            *(
                c.Adapter(**{name: self._term(name, term) for name, term in terms.items()})
                for terms in adapter.layers
            )
        )

    def _term(self, name: str, term: LowRank) -> c.LowRank:
        packing = self._packing
        pack_up = packing.gate_up if name == "gate_up" else packing.linear
        packed = packing.linear(term.down.t(), None), pack_up(term.up.t(), None)
        self._packed += packed
        return c.LowRank(*(linear.matrix() for linear in packed))


def _ids(parts: Sequence[Part]) -> TokenArray:
    ids = array(TOKEN_TYPECODE)
    for part in parts:
        ids.extend(part.tokens)
    return ids


def _make_layer(layer: Layer[PackedLinear]) -> c.Layer:
    made, attention, mlp = c.Layer(), layer.attention, layer.mlp
    if attention is not None:
        made.attention_norm = attention.norm.data_ptr()
        if attention.qk_norm is not None:
            made.qk_norm = attention.qk_norm.data_ptr()
        made.qkv, made.out = attention.qkv.matrix(), attention.out.matrix()
    if mlp is not None:
        made.mlp_norm = mlp.norm.data_ptr()
        made.gate_up, made.down = mlp.gate_up.matrix(), mlp.down.matrix()
    return made

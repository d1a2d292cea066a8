"""Self-attention whose two projections are quantized; the products of activations stay float.

``nn.MultiheadAttention`` keeps ``in_proj_weight`` in itself and multiplies with it in one function,
so that swapping its layers would miss it.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.quant.layers import QuantLayer, QuantLinear
from lsqctl.quant.spec import TensorSpec

LayerSpecs = tuple[TensorSpec, TensorSpec]  # of the weight and of the input


class PackedProjection(QuantLayer):
    """The projection to queries, keys and values; its Parameters are its owner's.

    So the owner's state dict has the keys of the float one, and quantizers beside them.
    """

    def __init__(self, owner: nn.MultiheadAttention, specs: LayerSpecs) -> None:
        super().__init__()
        self._owner = (owner,)  # in a tuple: not a submodule of its own part
        self.add_quantizers(*specs)

    @property
    def master_weight(self) -> Tensor:
        """The owner's ``in_proj_weight``, (3 E, E)."""
        weight: Tensor = self._owner[0].in_proj_weight
        return weight

    @property
    def weight(self) -> Tensor:
        """The owner's ``in_proj_weight``, (3 E, E)."""
        return self.master_weight

    @property
    def bias(self) -> Tensor | None:
        """The owner's ``in_proj_bias``, (3 E)."""
        bias: Tensor | None = self._owner[0].in_proj_bias
        return bias

    def forward(self, input: Tensor) -> Tensor:
        """Return queries, keys and values side by side: (…, E) to (…, 3 E)."""
        return self._linear(input, self.bias)


class QuantMultiheadAttention(nn.MultiheadAttention):
    """An ``nn.MultiheadAttention`` over one sequence, with quantized projections."""

    in_proj: PackedProjection

    @classmethod
    def from_float(cls, source: nn.MultiheadAttention, packed: LayerSpecs, out: LayerSpecs) -> Self:
        """Return ``source`` as a quantized attention; its Parameters are the very same objects.

        ``packed`` holds the specs of the projection in, ``out`` those of the projection out.
        """
        attention = cls(
            source.embed_dim,
            source.num_heads,
            dropout=source.dropout,
            bias=source.in_proj_bias is not None,
            batch_first=source.batch_first,
            device="meta",
        )
        attention.in_proj_weight, attention.in_proj_bias = (
            source.in_proj_weight,
            source.in_proj_bias,
        )
        del attention.out_proj  # to be registered after the projection in
        attention.in_proj = PackedProjection(attention, packed)
        attention.out_proj = source.out_proj
        if any(spec.quantized for spec in out):
            attention.out_proj = QuantLinear.from_float(source.out_proj, *out)  # type: ignore[assignment]
        # tells nn.TransformerEncoderLayer not to use a fused kernel, which would pass all this by
        attention._qkv_same_embed_dim = False
        return attention.train(source.training)

    def forward(  # noqa: PLR0917 (the signature is torch's)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what ``nn.MultiheadAttention`` returns, of (B, L, E) or (L, B, E) by batch_first.

        Raises:
            ValueError: query, key and value are not one and the same tensor.
        """
        if not (query is key and key is value):
            raise ValueError(
                "cross-attention has two inputs and one step size for both would fit neither: "
                "leave this layer float"
            )
        transposed = query.dim() == 3 and not self.batch_first
        x = query.transpose(0, 1) if transposed else query
        x = x if query.dim() == 3 else x[None]
        mask = _merged_mask(attn_mask, key_padding_mask, x, self.num_heads)
        heads = self.in_proj(x).view(*x.shape[:2], 3, self.num_heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, L, E / heads)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            weights = _attention_weights(q, k, mask)
            attended = F.dropout(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out = self.out_proj(attended.transpose(1, 2).flatten(2))
        if query.dim() == 2:
            return out[0], None if weights is None else weights[0]
        return out.transpose(0, 1) if transposed else out, weights


def can_be_quantized(attention: nn.MultiheadAttention) -> bool:
    """Return whether one packed weight projects queries, keys and values of one width."""
    plain = attention.bias_k is None and not attention.add_zero_attn
    return plain and attention._qkv_same_embed_dim


def _attention_weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return torch.softmax(scores if mask is None else scores + mask, -1)


def _merged_mask(
    attn_mask: Tensor | None, padding: Tensor | None, x: Tensor, heads: int
) -> Tensor | None:
    """Return both masks as one to add to the scores (B, heads, L, L), or None for none."""
    merged = None
    if attn_mask is not None:
        attn_mask = _additive_mask(attn_mask, x)
        merged = (
            attn_mask if attn_mask.dim() == 2 else attn_mask.view(-1, heads, *attn_mask.shape[1:])
        )
    if padding is not None:
        padding = _additive_mask(padding, x).reshape(x.shape[0], 1, 1, -1)
        merged = padding if merged is None else merged + padding
    return merged


def _additive_mask(mask: Tensor, x: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(mask, -torch.inf)

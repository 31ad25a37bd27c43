"""A vision transformer over a feature map: tokens in, self-attention, a map of the same shape out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import MLPBlock
from torch import nn
from torch.nn import functional as F

LINEAR_MODE = {2: "bilinear", 3: "trilinear"}


class SelfAttention(nn.Module):
    """Multi-head self-attention whose heads are ``dim // heads`` wide, also where that leaves a remainder.

    MONAI's attention wants ``dim`` to be divisible by ``heads``; MTMS-KD has 12 heads of 21 in 256 channels.

    Args:
        dim: channels of a token.
        heads: attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads
        self.qkv = nn.Linear(dim, 3 * heads * self.head_dim, bias=False)
        self.project = nn.Linear(heads * self.head_dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mix tokens ``(B, tokens, dim)``; returns the same shape."""
        batch, count, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).flatten(2))


class PostNormBlock(nn.Module):
    """Transformer block of the 2017 kind: layer norm after each residual sum.

    Args:
        dim: channels of a token.
        heads: attention heads.
        mlp_dim: hidden width of the perceptron.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads)
        self.attention_norm = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim)
        self.mlp_norm = nn.LayerNorm(dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Transform tokens ``(B, tokens, dim)``; returns the same shape."""
        tokens = self.attention_norm(tokens + self.attention(tokens))
        return self.mlp_norm(tokens + self.mlp(tokens))


class VisionTransformer(nn.Module):
    """Transforms a feature map through tokens and returns a map of the same shape.

    A learned CLS token goes along and is dropped at the end: no classifier reads it, but the others attend to it. The
    learned position embeddings belong to a grid and are interpolated linearly to maps of another size.

    Args:
        channels: channels of the map.
        grid: positions of the map along each spatial axis.
        whole_map: one token holds the whole map, which then must have the size ``grid`` (as published in MTMS-KD);
            otherwise every position is a token.
        dim: channels of a token.
        blocks: transformer blocks.
        heads: attention heads.
        mlp_dim: hidden width of each block's perceptron.

    Reference: Dosovitskiy et al. 2021, arXiv 2010.11929; as built in Biswas 2024, arXiv 2406.03173, chapter 3.2.
    """

    def __init__(
        self,
        channels: int,
        grid: Sequence[int],
        whole_map: bool = False,
        dim: int = 256,
        blocks: int = 8,
        heads: int = 12,
        mlp_dim: int = 2048,
    ) -> None:
        super().__init__()
        positions = 1
        for size in grid:
            positions *= size
        self.token_grid = (1,) * len(grid) if whole_map else tuple(grid)
        self.whole_map = whole_map
        self.interpolation = LINEAR_MODE[len(grid)]
        self.token_size = channels * positions if whole_map else channels
        self.embed = nn.Linear(self.token_size, dim)
        # One token has no neighbour to be told from: it keeps the published spread. Many start nearly alike, as in ViT.
        spread = 1.0 if whole_map else 0.02
        self.cls_token = nn.Parameter(spread * torch.randn(1, 1, dim))
        self.position_embeddings = nn.Parameter(spread * torch.randn(1 + (1 if whole_map else positions), dim))
        self.blocks = nn.Sequential(*(PostNormBlock(dim, heads, mlp_dim) for _ in range(blocks)))
        self.unembed = nn.Linear(dim, self.token_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform a map ``(B, channels, *spatial)``; returns the same shape."""
        # Axes counted from the front: the ONNX exporter misreads movedim(1, -1).
        by_position = x.movedim(1, x.ndim - 1)
        tokens = self.embed(by_position.reshape(x.shape[0], -1, self.token_size))
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        tokens = tokens + self.positions(list(x.shape[2:]))
        tokens = self.unembed(self.blocks(tokens)[:, 1:])
        return tokens.reshape(by_position.shape).movedim(x.ndim - 1, 1)

    def positions(self, spatial: list[int]) -> torch.Tensor:
        """The embeddings ``(1 + tokens, dim)`` of CLS and of the tokens of a map of size ``spatial``."""
        if self.whole_map:
            return self.position_embeddings
        cls, grid = self.position_embeddings[:1], self.position_embeddings[1:]
        grid = grid.T.reshape(1, -1, *self.token_grid)
        resized = F.interpolate(grid, size=spatial, mode=self.interpolation)
        return torch.cat([cls, resized[0].flatten(1).T])

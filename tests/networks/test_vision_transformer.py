from __future__ import annotations

import math

import pytest
import torch

from medkd.networks import count_parameters
from medkd.networks.vision_transformer import PostNormBlock, SelfAttention, VisionTransformer


def small(**arguments: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(channels=4, **{"dim": 8, "blocks": 2, "heads": 2, "mlp_dim": 16, **arguments})


def test_attention_equals_slow_loops() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(dim=7, heads=2).double().requires_grad_(False)
    tokens = torch.randn(2, 3, 7, dtype=torch.float64)
    query, key, value = (attention.qkv.weight @ tokens.mT).mT.split(6, dim=-1)
    heads = torch.zeros(2, 3, 6, dtype=torch.float64)
    for b, head, i in ((b, h, i) for b in range(2) for h in range(2) for i in range(3)):
        part = slice(3 * head, 3 * head + 3)
        scores = [math.exp(query[b, i, part] @ key[b, j, part] / math.sqrt(3)) for j in range(3)]
        for j in range(3):
            heads[b, i, part] += scores[j] / sum(scores) * value[b, j, part]
    torch.testing.assert_close(attention(tokens), attention.project(heads))


def test_published_block_counts_by_hand() -> None:
    # 12 heads of 21: qkv without bias, projection back, perceptron, two layer norms.
    by_hand = 256 * 3 * 252 + (252 * 256 + 256) + (256 * 2048 + 2048) + (2048 * 256 + 256) + 2 * 2 * 256
    assert count_parameters(PostNormBlock(256, 12, 2048)) == by_hand


def test_block_ends_in_layer_norm() -> None:
    torch.manual_seed(0)
    tokens = PostNormBlock(16, 2, 32)(5 + 3 * torch.randn(2, 3, 16))
    torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.var(dim=-1, correction=0), torch.ones(2, 3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("whole_map", "tokens"), [(True, 2), (False, 1 + 6)])
def test_one_token_holds_the_whole_map_or_every_position_is_one(whole_map: bool, tokens: int) -> None:
    network = small(grid=(2, 3), whole_map=whole_map)
    seen = []
    network.blocks.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    assert network(torch.randn(2, 4, 2, 3)).shape == (2, 4, 2, 3)
    assert seen == [(2, tokens, 8)]


def test_every_position_sees_every_other() -> None:
    network = small(grid=(3, 3)).double()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    network(x)[0, :, 0, 0].sum().backward()
    assert (x.grad.abs().sum(dim=1) > 1e-9).all()


def test_tokens_keep_their_place_in_the_map() -> None:
    network = small(grid=(2, 3))
    network.blocks = torch.nn.Identity()
    torch.nn.init.zeros_(network.position_embeddings)
    x = torch.randn(2, 4, 2, 3)
    torch.testing.assert_close(
        network(x)[1, :, 1, 2], network.unembed(network.embed(x[1, :, 1, 2])), rtol=1e-4, atol=1e-5
    )


def test_positions_are_learned_on_the_grid_and_interpolated_off_it() -> None:
    network = small(grid=(2, 2))
    learned = network.position_embeddings
    torch.testing.assert_close(network.positions((2, 2)), learned, rtol=0, atol=0)
    # The one position of a 1x1 map lies in the middle of the four.
    torch.testing.assert_close(network.positions((1, 1)), torch.stack([learned[0], learned[1:].mean(dim=0)]))
    # Twice as fine: the second of four rows lies a quarter of the way from the first learned row to the second.
    finer = network.positions((4, 2))[1:].reshape(4, 2, 8)
    torch.testing.assert_close(finer[1], 0.75 * learned[1:3] + 0.25 * learned[3:5])


def test_takes_volumes() -> None:
    assert small(grid=(2, 2, 2))(torch.randn(1, 4, 1, 3, 2)).shape == (1, 4, 1, 3, 2)

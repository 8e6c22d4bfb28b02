"""A small text encoder: BERT-mini."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from models.net import Net, Tensor, rectified


def bert_mini(net: Net) -> None:
    """BERT-mini, 128 tokens: 4 layers, width 256, 4 heads, Gelu by Erf, a pooled output."""
    tokens, width = (16 if net.tiny else 128), net.ch(256)
    ids = net.input("input_ids", (tokens,), TensorProto.INT64)
    mask = net.input("attention_mask", (tokens,), TensorProto.INT64)
    x = embed(net, ids, net.ch(30522), width)
    mask = net.op("Unsqueeze", mask, shape=(1, 1, tokens), consts={"axes": np.int64([1, 2])})
    mask = net.op("Cast", mask, to=TensorProto.FLOAT)
    mask = net.op("Sub", net.const("one", np.float32(1)), mask, shape=mask.shape, mean=0.0, var=1.0)
    mask = net.op("Mul", mask, consts={"lowest": np.float32(-10000)})
    for _ in range(4):
        x = net.layer_norm(net.add(attention(net, x, mask, heads=4), x))
        y = net.linear(gelu(net, net.linear(x, 4 * width)), width)
        x = net.layer_norm(net.add(y, x))
    first = net.op("Gather", x, shape=(width,), consts={"first": np.int64(0)}, axis=1)
    pooled_output = net.op("Tanh", net.gemm(first, 256))
    net.output(x, "last_hidden_state")
    net.output(pooled_output, "pooler_output")


def embed(net: Net, ids: Tensor, vocabulary: int, width: int) -> Tensor:
    """The normalized sum of word, position and token-type vectors: [batch, tokens, width]."""
    tokens = ids.shape[0]
    words, places = (net.dice.uniform((rows, width), -1, 1) for rows in (vocabulary, net.ch(512)))
    x = net.op("Gather", net.const("embeddings.word", words), ids, shape=(tokens, width),
               mean=0.0, var=1 / 3)
    place = net.op("Gather", net.const("embeddings.position", places), shape=(tokens, width),
                   mean=0.0, var=1 / 3, consts={"positions": np.arange(tokens)[None]})
    kind = net.dice.uniform((1, 1, width), -0.2, 0.2)  # one token type: its row is a constant
    return net.layer_norm(net.op("Add", net.add(x, place), consts={"token_type": kind}))


def attention(net: Net, x: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Multi-head self-attention and its output projection, on [batch, tokens, width]."""
    tokens, width = x.shape
    depth = width // heads
    q, k, v = (net.reshape(net.linear(x, width), tokens, heads, depth) for _ in range(3))
    scores = net.matmul(net.transpose(q, 2, 1, 3), net.transpose(k, 2, 3, 1), var=depth)
    scores = net.op("Div", scores, var=1.0, consts={"scale": np.float32(math.sqrt(depth))})
    weights = net.softmax(net.op("Add", scores, mask))
    # Weights of e^N(0, 1) average like about tokens / e equal ones.
    mixed = net.matmul(weights, net.transpose(v, 2, 1, 3), var=min(1.0, math.e / tokens))
    return net.linear(net.reshape(net.transpose(mixed, 2, 1, 3), tokens, width), width)


def gelu(net: Net, x: Tensor) -> Tensor:
    """x * (1 + erf(x / sqrt 2)) / 2 in elementary ops, as exporters write it at opset 17."""
    y = net.op("Erf", net.op("Div", x, consts={"sqrt2": np.float32(math.sqrt(2))}))
    y = net.op("Mul", x, net.op("Add", y, consts={"one": np.float32(1)}))
    return replace(net.op("Mul", y, consts={"half": np.float32(0.5)}), **rectified(x))

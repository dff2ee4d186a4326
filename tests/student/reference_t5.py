"""T5 in float64 numpy, one example at a time: dense, slow and without masks.

Padding and packing are defined here by leaving out what must not be seen: attention
runs over the real positions of one example alone.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

FAMILIES = {
    "t5_1_0": dict(mlp_activations=("relu",), logits_via_embedding=True),
    "t5_1_1": dict(mlp_activations=("gelu", "linear"), logits_via_embedding=False),
    "ul2": dict(mlp_activations=("silu", "linear"), logits_via_embedding=False),
    "umt5": dict(mlp_activations=("gelu", "linear"), relpos_per_layer=True),
}

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "linear": lambda x: x,
}


def random_params(config, seed: int) -> dict[str, Any]:
    """Unrolled float32 weights; embedding, head and biases of the published size."""
    rng = np.random.default_rng(seed)
    d, joined = config.emb_dim, config.num_heads * config.head_dim

    def normal(shape, scale):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def norm():
        return {"scale": rng.uniform(0.5, 1.5, d).astype(np.float32)}

    def attention():
        kernels = {
            "query": normal((d, joined), (d * config.head_dim) ** -0.5),
            "key": normal((d, joined), d**-0.5),
            "value": normal((d, joined), d**-0.5),
            "out": normal((joined, d), joined**-0.5),
        }
        return {name: {"kernel": kernel} for name, kernel in kernels.items()}

    def mlp():
        names = ["wi_0", "wi_1"] if len(config.mlp_activations) > 1 else ["wi"]
        kernels = {name: normal((d, config.mlp_dim), d**-0.5) for name in names}
        kernels["wo"] = normal((config.mlp_dim, d), config.mlp_dim**-0.5)
        return {name: {"kernel": kernel} for name, kernel in kernels.items()}

    def relpos():
        table = normal((config.num_heads, config.relpos_num_buckets), 1.0)
        return {"relpos_bias": {"rel_embedding": table}}

    def own():
        return relpos() if config.relpos_per_layer else {}

    def shared():
        return {} if config.relpos_per_layer else relpos()

    encoder: dict[str, Any] = {
        f"layers_{i}": {
            **own(),
            "pre_attention_layer_norm": norm(),
            "attention": attention(),
            "pre_mlp_layer_norm": norm(),
            "mlp": mlp(),
        }
        for i in range(config.num_encoder_layers)
    }
    decoder: dict[str, Any] = {
        f"layers_{i}": {
            **own(),
            "pre_self_attention_layer_norm": norm(),
            "self_attention": attention(),
            "pre_cross_attention_layer_norm": norm(),
            "encoder_decoder_attention": attention(),
            "pre_mlp_layer_norm": norm(),
            "mlp": mlp(),
        }
        for i in range(config.num_decoder_layers)
    }
    if not config.logits_via_embedding:
        decoder["logits_dense"] = {"kernel": normal((d, config.vocab_size), 1.0)}
    return {
        "token_embedder": {"embedding": normal((config.vocab_size, d), 1.0)},
        "encoder": {**encoder, **shared(), "encoder_norm": norm()},
        "decoder": {**decoder, **shared(), "decoder_norm": norm()},
    }


@dataclasses.dataclass
class Reference:
    """The network in float64."""

    config: Any
    params: dict[str, Any]

    def encode(self, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Hidden states [S D] of one example whose tokens stand at `positions`."""
        side = self.params["encoder"]
        x = self._embed(tokens)
        for i in range(self.config.num_encoder_layers):
            layer = side[f"layers_{i}"]
            owner = layer if self.config.relpos_per_layer else side
            bias = self._bias(owner, positions, bidirectional=True)
            y = self._norm(x, layer["pre_attention_layer_norm"])
            x = x + self._attend(layer["attention"], y, y, bias)
            y = self._norm(x, layer["pre_mlp_layer_norm"])
            x = x + self._mlp(layer["mlp"], y)
        return self._norm(x, side["encoder_norm"])

    def decode(
        self, encoded: np.ndarray, inputs: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Logits [L V] of one example."""
        side = self.params["decoder"]
        y = self._embed(inputs)
        for i in range(self.config.num_decoder_layers):
            layer = side[f"layers_{i}"]
            owner = layer if self.config.relpos_per_layer else side
            bias = self._bias(owner, positions, bidirectional=False)
            bias = np.where(positions[None] > positions[:, None], -np.inf, bias)
            x = self._norm(y, layer["pre_self_attention_layer_norm"])
            y = y + self._attend(layer["self_attention"], x, x, bias)
            x = self._norm(y, layer["pre_cross_attention_layer_norm"])
            y = y + self._attend(
                layer["encoder_decoder_attention"], x, encoded, np.float64(0)
            )
            x = self._norm(y, layer["pre_mlp_layer_norm"])
            y = y + self._mlp(layer["mlp"], x)
        y = self._norm(y, side["decoder_norm"])
        if self.config.logits_via_embedding:
            table = self.params["token_embedder"]["embedding"].astype(np.float64)
            return y @ table.T * self.config.emb_dim**-0.5
        return y @ self._kernel(side["logits_dense"])

    def _embed(self, tokens):
        return self.params["token_embedder"]["embedding"].astype(np.float64)[tokens]

    @staticmethod
    def _kernel(part):
        return np.asarray(part["kernel"], np.float64)

    @staticmethod
    def _norm(x, part):
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + 1e-6) * part["scale"].astype(np.float64)

    def _attend(self, part, inputs, attended, bias):
        def heads(name, x):
            y = x @ self._kernel(part[name])
            return y.reshape(len(y), self.config.num_heads, self.config.head_dim)

        q, k, v = (
            heads("query", inputs),
            heads("key", attended),
            heads("value", attended),
        )
        scores = np.einsum("qhd,khd->hqk", q, k) + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, v).reshape(len(q), -1)
        return mixed @ self._kernel(part["out"])

    def _mlp(self, part, x):
        names = ["wi_0", "wi_1"] if len(self.config.mlp_activations) > 1 else ["wi"]
        product = np.float64(1)
        for name, activation in zip(names, self.config.mlp_activations, strict=True):
            product = product * ACTIVATIONS[activation](x @ self._kernel(part[name]))
        return product @ self._kernel(part["wo"])

    def _bias(self, side, positions, *, bidirectional):
        table = side["relpos_bias"]["rel_embedding"].astype(np.float64)
        distances = positions[None] - positions[:, None]
        unique, inverse = np.unique(distances, return_inverse=True)
        buckets = [
            exact_bucket(
                int(distance),
                bidirectional,
                self.config.relpos_num_buckets,
                self.config.relpos_max_distance,
            )
            for distance in unique
        ]
        return table[:, np.array(buckets)[inverse.reshape(distances.shape)]]


def scan_params(params: dict[str, Any]) -> dict[str, Any]:
    """`params` with the layers of each stack joined along axis 1."""
    result = dict(params)
    for stack in ("encoder", "decoder"):
        rest = dict(params[stack])
        depth = sum(name.startswith("layers_") for name in rest)
        layers = [rest.pop(f"layers_{i}") for i in range(depth)]
        joined = jax.tree.map(lambda *values: np.stack(values, axis=1), *layers)
        result[stack] = rest | {stack: joined}
    return result


def exact_bucket(distance: int, bidirectional: bool, buckets: int, most: int) -> int:
    """The bucket in integer arithmetic: no logarithm, so no rounding at its borders."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    steps = buckets - exact
    # The last k < steps with exact * (most / exact)^(k / steps) <= distance.
    k = 0
    while k + 1 < steps and distance**steps * exact ** (k + 1) >= (
        exact**steps * most ** (k + 1)
    ):
        k += 1
    return first + exact + k


def shift_right(targets: np.ndarray) -> np.ndarray:
    """Decoder inputs: targets one later, 0 first."""
    return np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)

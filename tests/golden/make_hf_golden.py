"""Writes hf_t5.npz: what Hugging Face's T5 computes for tiny random models.

    python tests/golden/make_hf_golden.py      (needs CPU torch and transformers 5)

Per family: weights under Hugging Face's names, padded inputs, encoder states, logits,
and greedy and beam-4 generations. `test_student_hf_golden.py` compares ours with them.
"""

import pathlib
import sys
import tempfile

import numpy as np
import transformers

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "student"))

import hf_t5  # noqa: E402
import reference_t5  # noqa: E402

from specialize.student.network.transformer import T5Config  # noqa: E402

SIZES = dict(
    vocab_size=96,
    emb_dim=16,
    num_heads=3,
    head_dim=6,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=1,
)
# Weights with which some of the beams end before the last position.
SEEDS = {"t5_1_0": 16, "t5_1_1": 11, "ul2": 11, "umt5": 11}


def main() -> None:
    """Writes the file beside this script."""
    arrays: dict[str, np.ndarray] = {}
    for family, shape in reference_t5.FAMILIES.items():
        config = T5Config(**(SIZES | shape))
        params = reference_t5.random_params(config, SEEDS[family])
        rng = np.random.default_rng(12)
        x = rng.integers(2, 96, (4, 40))
        x[0, 25:] = 0
        x[1, :17] = 0
        x[2, rng.permutation(40)[:15]] = 0
        t = rng.integers(2, 96, (4, 12))
        t[0, 7:] = 0
        t[1, :3] = 0
        with tempfile.TemporaryDirectory() as folder:
            model = hf_t5.build(config, params, pathlib.Path(folder))
        encoded, logits = hf_t5.run(model, x, t)
        greedy = hf_t5.generate(model, x, 64)
        # Random weights hardly ever say EOS: declare an id that ends most beams.
        ids, counts = np.unique(greedy[:, 3:30], return_counts=True)
        beams = {
            int(i): hf_t5.generate(model, x, 64, num_beams=4, eos_token_id=int(i))
            for i in ids[np.argsort(-counts)][:8]
        }
        eos_id = max(beams, key=lambda i: (beams[i] == 0).any(axis=1).sum())
        found = {
            "inputs": x.astype(np.int32),
            "targets": t.astype(np.int32),
            "encoded": encoded,
            "logits": logits,
            "greedy": greedy.astype(np.int32),
            "eos_id": np.int32(eos_id),
            "greedy_eos": hf_t5.generate(model, x, 64, eos_token_id=eos_id),
            "beam": beams[eos_id],
            "beam_early": hf_t5.generate(
                model, x, 64, num_beams=4, eos_token_id=eos_id, early_stopping=True
            ),
        }
        state = {
            name: value.numpy()
            for name, value in model.state_dict().items()
            # Aliases of shared.weight.
            if not name.endswith("embed_tokens.weight")
            and not (name == "lm_head.weight" and config.logits_via_embedding)
        }
        arrays |= {f"{family}/{name}": value for name, value in found.items()}
        arrays |= {f"{family}/weights/{name}": value for name, value in state.items()}
    arrays["transformers"] = np.array(transformers.__version__)
    np.savez_compressed(HERE / "hf_t5.npz", **arrays)


if __name__ == "__main__":
    main()

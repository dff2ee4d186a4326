r"""A tiny llama whose every probability is known: `python tiny_llama.py OUT KIND`.

It is a whole llama for llama.cpp (embedding, one block of attention and feed-forward,
norm, output), but its block adds nothing, its embedding is one row a token, and its
output matrix holds the logits of a bigram grammar. So what a server should report is
known exactly, and what it writes are word problems' solutions, a third of them right.

KIND is the tokenizer: "gpt2" cuts by bytes (an "é" may be two tokens that are no text
by themselves), "llama" writes a space before the first word.
"""

import math
import pathlib
import sys

import numpy as np

KINDS = ("gpt2", "llama")
ANSWERS = ("24", "48", "72")
PAD, BEGIN, END = range(3)
WIDTH = 384
CONTEXT = 1024
_FLOOR = -12.0  # the logit of what the grammar does not allow

# What may follow a token, with weights. "" is the end, "<C3>" a byte. A token that is
# not here (the prompt's last) opens an answer.
_OPENING = {"\n": 6, "She": 2, " So": 1, "<F0>": 1}
_GRAMMAR: dict[str, dict[str, float]] = {
    "\n": {"She": 4, "So": 2, "The": 6},
    "She": {" sells": 3, " sold": 2, " se": 1},
    "So": {" she": 3, ",": 1},
    " So": {" she": 3, ",": 1},
    ",": {" she": 1},
    " she": {" sells": 2, " sold": 3, " se": 1},
    " se": {"lls": 3, "ts": 1},
    "lls": {" half": 1, " caf": 1},
    "ts": {" half": 1, " caf": 1},
    " sells": {" half": 4, " caf": 3, " 1": 2},
    " sold": {" half": 3, " caf": 4, " 1": 2},
    " 1": {"½": 2, "2": 1},
    "½": {" caf": 1},
    "2": {".": 1, "": 9},
    " half": {" of": 2, ".": 1},
    " of": {" them": 3, " the": 1},
    " the": {" caf": 1},
    " them": {".": 5, "\n": 1},
    " caf": {"<C3>": 3, "es": 1},  # the first byte of "é"
    "<C3>": {"<A9>": 1},
    "<A9>": {"s": 4, ".": 1},
    "s": {".": 3, ",": 1},
    "es": {".": 3, ",": 1},
    ".": {"\n": 9, " So": 1},
    "The": {" answer": 9, " ans": 1},
    " ans": {"wer": 1},
    "wer": {" is": 1},
    " answer": {" is": 1},
    " is": {" 2": 1, " 4": 1, " 7": 1},
    " 2": {"4": 1},
    " 4": {"8": 1},
    " 7": {"2": 1},
    "4": {"": 1},
    "8": {"": 1},
    "<F0>": {"<9F>": 1},  # "🙂" in four
    "<9F>": {"<99>": 1},
    "<99>": {"<82>": 1},
    "<82>": {"\n": 1},
}


def pieces() -> list[bytes]:
    """Every token's bytes: padding, begin and end of text (no bytes), bytes, words."""
    words: dict[bytes, None] = {}
    for before, after in _GRAMMAR.items():
        for text in (before, *after):
            if len(_bytes(text)) > 1:
                words[_bytes(text)] = None
    return [b"", b"", b"", *(bytes([value]) for value in range(256)), *words]


def logits() -> np.ndarray:
    """Logits of the next token after each, [tokens tokens]."""
    names = pieces()
    ids = {name: index for index, name in enumerate(names)} | {b"": END}
    table = np.full((len(names), len(names)), _FLOOR, np.float32)
    rows = {ids[_bytes(text)]: after for text, after in _GRAMMAR.items()}
    for index in range(len(names)):
        for text, weight in rows.get(index, _OPENING).items():
            table[index, ids[_bytes(text)]] = math.log(weight)
    return table


def logprobs() -> np.ndarray:
    """Natural logarithms of the probabilities of the next token, [tokens tokens]."""
    table = logits().astype(np.float64)
    return table - np.log(np.exp(table).sum(axis=1, keepdims=True))


def write(path: pathlib.Path, kind: str) -> None:
    """Writes the model as GGUF."""
    import gguf

    names, table = pieces(), logits()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(12)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(WIDTH // 12)
    writer.add_layer_norm_rms_eps(1e-12)
    writer.add_vocab_size(len(names))
    writer.add_tokenizer_model(kind)
    special = [b"<pad>", b"<s>", b"</s>"]
    if kind == "gpt2":
        writer.add_tokenizer_pre("gpt-2")
        visible = _visible_bytes()
        texts = [b"".join(visible[value] for value in name) for name in names[3:]]
        writer.add_token_merges([" ".join(visible[ord(c)].decode() for c in "Th")])
    else:
        texts = [b"<0x%02X>" % name[0] for name in names[3:259]]
        texts += [name.replace(b" ", "▁".encode()) for name in names[259:]]
        writer.add_token_scores([0.0] * len(names))
        writer.add_add_space_prefix(True)
    kinds = [gguf.TokenType.CONTROL] * 3
    kinds += [gguf.TokenType.NORMAL if kind == "gpt2" else gguf.TokenType.BYTE] * 256
    kinds += [gguf.TokenType.NORMAL] * (len(names) - 259)
    writer.add_token_list([*special, *texts])
    writer.add_token_types(kinds)
    writer.add_pad_token_id(PAD)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    embedding = np.eye(len(names), WIDTH, dtype=np.float32)
    # The norm before the output makes a row of one 1 as long as the square root of
    # its width.
    output = np.zeros((len(names), WIDTH), np.float32)
    output[:, : len(names)] = table.T / math.sqrt(WIDTH)
    keys = 2 * WIDTH // 12
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (keys, WIDTH),
        "attn_v": (keys, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (32, WIDTH),
        "ffn_up": (32, WIDTH),
        "ffn_down": (WIDTH, 32),
    }
    tensors = {"token_embd": embedding, "output": output}
    tensors["output_norm"] = np.ones(WIDTH, np.float32)
    for norm in ("attn_norm", "ffn_norm"):
        tensors[f"blk.0.{norm}"] = np.ones(WIDTH, np.float32)
    for name, shape in shapes.items():
        tensors[f"blk.0.{name}"] = np.zeros(shape, np.float32)
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[1:-1]) if text.startswith("<") else text.encode()


def _visible_bytes() -> list[bytes]:
    """The character of each byte: itself where it can be seen, else from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = iter(range(256, 512))
    return [
        chr(value if value in seen else next(unseen)).encode() for value in range(256)
    ]


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]), sys.argv[2])

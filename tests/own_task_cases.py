"""Tasks of one's own and the gin file of a tiny run, for tests of several rooms."""

import json
import random

THINGS = {"ice": "cold", "snow": "cold", "hail": "cold", "fire": "hot", "tea": "hot"}


def yes_no_task(
    question="q", *, cot="Question: {question}", files="", fields="", formats=""
):
    """A task file with columns, a wording and a closing phrase of its own."""
    return f"""
name = "cold"
{files}
[fields]
id = "n"
question = "{question}"
answer = {{ from = "label", values = {{ 1 = "yes", 0 = "no" }} }}
{fields}
[answer]
type = "yes_no"
[formats]
zero_shot_cot = "{cot}\\nReason first."
closing = "My verdict: {{answer}}."
{formats}
"""


def yes_no_rows(count, first):
    """(row, text of a teacher that is right) of each question."""
    draw = random.Random(first)
    for n in range(first, first + count):
        thing, word = draw.choice(list(THINGS)), draw.choice(["cold", "hot"])
        right, why = THINGS[thing] == word, f"{thing} is {THINGS[thing]}."
        question = f"Here are {n} pieces of {thing}. Is {thing} {word}?"
        row = {"n": n, "q": question, "label": int(right), "why": why}
        yield row, f"{why} My verdict: {'yes' if right else 'no'}."


def lengths(inputs, targets):
    """`TASK_FEATURE_LENGTHS` of a distillation task."""
    teacher = ("teacher_ids", "teacher_probs", "teacher_tail", "format_id")
    return {"inputs": inputs, **dict.fromkeys(("targets", *teacher), targets)}


def recipe(sizes, settings, *, tiny=True):
    """A gin file of two steps of training.

    Args:
        sizes: As `lengths` returns them.
        settings: Further lines.
        tiny: Whether the network is smaller than the miniature's.
    """
    network = """
network.T5Config.emb_dim = 16
network.T5Config.mlp_dim = 16
network.T5Config.num_encoder_layers = 1
network.T5Config.num_decoder_layers = 1
"""
    return f"""
from __gin__ import dynamic_registration
from specialize.student import network
include 't5x_configs/models/miniature.gin'
include 't5x_configs/data/corpus_four_formats.gin'
{network if tiny else ""}
TASK_FEATURE_LENGTHS = {sizes!r}
TRAIN_STEPS = 2
WARMUP_STEPS = 1
{settings}
"""


def write_lines(file, values):
    """Writes JSON lines."""
    file.write_text("".join(json.dumps(value) + "\n" for value in values))
    return file


def read_lines(file):
    """Reads JSON lines."""
    with open(file) as stream:
        return [json.loads(line) for line in stream]

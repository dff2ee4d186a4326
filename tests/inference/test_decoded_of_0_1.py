"""A half-decoded suite of version 0.1 is gone on with, or refused by version."""

import json

import pytest

from specialize import versions
from specialize.inference.engine import Engine, Generation
from specialize.inference.resumable import decode_to_file


class Silent(Engine):
    """Answers only what is asked of it, and remembers what that was."""

    def __init__(self):
        self.asked = []

    def generate(self, prompts, *, done=(), alternatives=0):
        for index in range(len(prompts)):
            if index not in done:
                self.asked.append(index)
                yield Generation(index, ("new",), (-1.0,), (1,), 0)


@pytest.fixture
def decoded(of_0_1):
    (path,) = (of_0_1 / "evaluation" / "decoded").iterdir()
    return path


def go_on(path, engine):
    settings = json.loads(path.read_text().splitlines()[0])["settings"]
    return decode_to_file(engine, ["q"] * 4, path, settings)


def test_what_0_1_decoded_is_not_decoded_again(decoded, of_0_1):
    engine = Silent()
    found = go_on(decoded, engine)
    assert engine.asked == []
    judged = (of_0_1 / "evaluation" / "gsm8k.zero_shot_cot.jsonl").read_text()
    texts = [json.loads(line)["prediction"] for line in judged.splitlines()]
    assert [line["texts"] for line in found] == [[text] for text in texts]
    assert found[0]["texts"] == ["rueruerueruerueruerue <extra_id_72>"]
    head = json.loads(decoded.read_text().splitlines()[0])
    assert head["version"] == 1 and head["settings"]["suite"] == "gsm8k:zero_shot_cot"


def test_what_a_kill_cut_off_is_decoded_and_nothing_else(decoded):
    lines = decoded.read_text().splitlines(keepends=True)
    cut = json.loads(lines[-1])["index"]
    decoded.write_text("".join(lines[:-1]) + lines[-1][:20])
    engine = Silent()
    found = go_on(decoded, engine)
    assert engine.asked == [cut]
    assert found[cut]["texts"] == ["new"]
    go_on(decoded, engine)  # the file of today, which states its version
    assert engine.asked == [cut]


@pytest.mark.parametrize("found", [2, "next"])
def test_a_newer_file_is_refused_and_left_alone(decoded, restate, refused, found):
    restate(decoded, line=0, version=found)
    before = decoded.read_bytes()
    refused(lambda: go_on(decoded, Silent()), versions.DECODED, decoded, found)
    assert decoded.read_bytes() == before

"""What we write for PEFT loads there and means the same, and the reverse.

Behind the marker `torch`: needs CPU torch and peft beside the project.
"""

import dataclasses

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_adapter_weights import SPEC, adapted, merged, random_adapters
from test_torch_exports import assert_close, our_logits, their_logits, tokens_for
from weight_cases import realistic

from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import peft as ours
from specialize.checkpoints.opening import open_checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.torch


def their_base(folder):
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("targets", [("attention", "mlp"), ("query", "decoder/mlp")])
def test_peft_loads_our_adapters_and_gives_our_logits(
    family, hf_folder, tmp_path, targets
):
    if not family.logits_via_embedding:
        targets = (*targets, "logits_dense")
    spec = dataclasses.replace(SPEC, targets=targets)
    base = hf_folder(family, realistic(family))
    trained, _ = random_adapters(adapted(family, spec))
    source = merged(open_checkpoint(str(base)), flatten_dict(trained), spec)
    folder = tmp_path / "peft"
    folder.mkdir()
    found = source.adapters
    ours.write_folder(folder, ours.matrices_of(found), found, str(base))
    model = peft.PeftModel.from_pretrained(their_base(base), str(folder)).eval()
    loaded = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(loaded) == 2 * len(found.pairs)
    texts = tokens_for(family)
    theirs = their_logits(model, *texts)
    assert_close(our_logits(family, folder, *texts), theirs)
    plain = their_logits(their_base(base), *texts)
    assert np.abs(theirs - plain).max() > 1e-2 * np.abs(plain).max()


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q", "v"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {
            "target_modules": ["o", "wo"],
            "rank_pattern": {"encoder.block.1.layer.0.SelfAttention.o": 5},
            "alpha_pattern": {"decoder.block.0.layer.1.EncDecAttention.o": 7},
        },
    ],
    ids=str,
)
def test_we_load_what_peft_saved_and_give_its_logits(
    family, hf_folder, tmp_path, fields
):
    torch.manual_seed(0)
    base = hf_folder(family, realistic(family))
    settings = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=3, lora_alpha=5, **fields)
    model = peft.get_peft_model(their_base(base), settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path / "theirs")
    texts = tokens_for(family)
    theirs = their_logits(model, *texts)
    assert_close(our_logits(family, tmp_path / "theirs", *texts), theirs)
    # And through a whole checkpoint, and through adapters that we write.
    convert(str(tmp_path / "theirs"), str(tmp_path / "whole"), to="hf")
    assert_close(our_logits(family, tmp_path / "whole", *texts), theirs)
    convert(str(tmp_path / "theirs"), str(tmp_path / "again"), to="peft")
    again = peft.PeftModel.from_pretrained(their_base(base), tmp_path / "again")
    assert_close(their_logits(again.eval(), *texts), theirs)

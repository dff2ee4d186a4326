"""The choices of command lines; imports nothing, so that --help is quick."""

# The four prompt formats of the paper: in-context/zero-shot x CoT/answer-only.
FORMATS = (
    "in_context_cot",
    "in_context_answer_only",
    "zero_shot_cot",
    "zero_shot_answer_only",
)

# The format of plain text to text, whose inputs are not made of problems.
TEXT = "text_to_text"

# Every format of a corpus's records, in the order of their ids, from 1.
RECORD_FORMATS = (*FORMATS, TEXT)

# The methods that align the teacher's tokens with the student's pieces.
ALIGNMENTS = ("bytes", "dtw")

# The layouts of foreign files; `importing.layouts` describes them.
LAYOUTS = ("ours", "notebook", "batch", "body", "vllm", "messages", "rows")

# What is done with the reasoning that a teacher writes before its answer.
REASONING = ("drop", "keep", "refuse")

# What becomes of text that the student's vocabulary cannot write.
UNWRITABLE = ("rewrite", "drop", "keep")

# How the student writes numbers: as its vocabulary does, or digit by digit.
DIGITS = ("whole", "single")

"""What a command line may choose between; imports nothing, so that --help is quick."""

# The four prompt formats of the paper: in-context/zero-shot x CoT/answer-only.
FORMATS = (
    "in_context_cot",
    "in_context_answer_only",
    "zero_shot_cot",
    "zero_shot_answer_only",
)

# How the teacher's tokens are aligned with the student's pieces.
ALIGNMENTS = ("bytes", "dtw")

"""What a judge may be told; imports nothing, so that `--help` is quick."""

# What kind of answer a question has.
ANSWER_TYPES = (
    "number",
    "choice",
    "boolean",
    "yes_no",
    "valid_invalid",
    "words",
    "brackets",
    "text",
)

# How answers are read: ours, or as the paper's code does.
RULES = ("exact", "reference")

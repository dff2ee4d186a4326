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

# Who reads an answer: our judge, or the one of the paper's code.
JUDGES = ("exact", "reference")

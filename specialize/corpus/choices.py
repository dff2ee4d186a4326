"""What a command line may choose between; imports nothing, so that --help is quick."""

# Whose layout a file of problems has.
DATASETS = ("gsm8k", "multiarith", "asdiv", "svamp", "bbh")

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

# How teacher tokens meet student tokens.
ALIGNMENTS = ("bytes", "dtw")

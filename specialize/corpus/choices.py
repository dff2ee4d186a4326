"""What a command line may choose between; imports nothing, so that --help is quick."""

# Whose layout a file of problems has.
DATASETS = ("gsm8k", "multiarith", "asdiv", "svamp", "bbh")

# How teacher tokens meet student tokens.
ALIGNMENTS = ("bytes", "dtw")

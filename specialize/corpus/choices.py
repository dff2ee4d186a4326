"""What a command line may choose between; imports nothing, so that --help is quick."""

# How teacher tokens meet student tokens.
ALIGNMENTS = ("bytes", "dtw")

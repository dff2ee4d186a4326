"""Names of files that several rooms use; `run_folder` has those of a run."""

# The manifest of a corpus folder.
CORPUS = "corpus.json"
# A SentencePiece model beside weights, in a folder of Hugging Face and of T5X.
VOCABULARIES = ("spiece.model", "sentencepiece.model")

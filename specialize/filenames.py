"""Names of files that several rooms know, beside those of a run (`run_folder`)."""

# What a corpus folder says about itself.
CORPUS = "corpus.json"
# A SentencePiece model beside weights: that of Hugging Face, that of T5X.
VOCABULARIES = ("spiece.model", "sentencepiece.model")

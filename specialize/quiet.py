"""First imports of libraries that would print, or take accelerators.

SeqIO uses TensorFlow for its input pipelines. On import its C++ code writes lines to
standard error that no setting stops, and on a GPU machine it would take the memory that
the training step needs.
"""

import importlib
import os
import sys
import tempfile
from types import ModuleType


def import_transformers() -> ModuleType:
    """Imports transformers, which advises to install PyTorch where it is absent."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    return importlib.import_module("transformers")


def import_tensorflow() -> None:
    """Imports TensorFlow and hides accelerators from it.

    What the import writes to standard error is shown only if the import fails.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.set_visible_devices([], "GPU")
            tf.config.set_visible_devices([], "TPU")
        except BaseException:
            said.seek(0)
            os.write(saved, said.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)

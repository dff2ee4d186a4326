"""`specialize evaluate`, `infer` and `report`."""

import argparse


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the evaluation commands."""

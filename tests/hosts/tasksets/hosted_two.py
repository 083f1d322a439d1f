"""A taskset that several agents play."""

from hosted_game import Numbers, Two

__all__ = ["Numbers", "Two"]

"""The proxy that the tests break connections with; it is the package's own."""

from openenv_async.benchmarking.chaos.proxy import ChaosProxy, Direction

__all__ = ["ChaosProxy", "Direction"]

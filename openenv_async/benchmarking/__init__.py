"""Load on a running server, and what it cost on both sides.

The loop is closed: each session takes its next step when the last one was answered, so the
offered load follows what the server can do, and the latencies are those at that load. Actions
are drawn before the clock starts. CPU per step is the figure that survives a noisy machine.
"""

from openenv_async.benchmarking.latencies import Latencies
from openenv_async.benchmarking.load import Load
from openenv_async.benchmarking.run import Report, bench
from openenv_async.benchmarking.usage import Usage

__all__ = ["Latencies", "Load", "Report", "Usage", "bench"]

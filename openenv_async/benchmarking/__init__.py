"""Load on a running server, and what it cost on both sides.

A sweep puts more and more load on it, until a bound breaks.

The loop is closed: each session takes its next step when the last one was answered, so the
offered load follows what the server can do, and the latencies are those at that load. Actions
are drawn before the clock starts. CPU per step is the figure that survives a noisy machine.
"""

from openenv_async.benchmarking.latencies import Latencies
from openenv_async.benchmarking.load import Load
from openenv_async.benchmarking.run import Report, bench
from openenv_async.benchmarking.sweep import Bounds, Level, SweepReport, sweep
from openenv_async.benchmarking.traces import RecordedEpisode, read_trace
from openenv_async.benchmarking.usage import Usage

__all__ = [
    "Bounds",
    "Latencies",
    "Level",
    "Load",
    "RecordedEpisode",
    "Report",
    "SweepReport",
    "Usage",
    "bench",
    "read_trace",
    "sweep",
]

"""Faults on purpose: a proxy that breaks connections, and a load under it that is audited.

Sessions play through a ``ChaosProxy`` that cuts, pauses and delays; with a server of this
machine its workers are killed and its process is stopped for moments, too. Every few steps an
episode is asked for its state: the steps that the environment executed, counted where it lives,
must be the steps that the client saw. An action that has a text carries a number of its own;
where the environment says it back, a reply to another request shows at once.

An episode that died with its worker, or whose session is lost for good, cannot be asked. It must
have said so by its type, and is counted apart.
"""

from openenv_async.benchmarking.chaos.audit import Audit, ChaosReport
from openenv_async.benchmarking.chaos.proxy import ChaosProxy
from openenv_async.benchmarking.chaos.run import run_chaos

__all__ = ["Audit", "ChaosProxy", "ChaosReport", "run_chaos"]

"""Faults on purpose: a proxy that breaks connections, and a load under it that is audited."""

from openenv_async.chaos.audit import Audit, ChaosReport, run_chaos
from openenv_async.chaos.proxy import ChaosProxy

__all__ = ["Audit", "ChaosProxy", "ChaosReport", "run_chaos"]

"""Pure arithmetic: what a model takes on a machine, and whether it fits. No files, no processes."""

from quietmind.plan.ledger import Ledger, Row
from quietmind.plan.plan import Ask, DeviceUse, Plan, Verdict, plan
from quietmind.plan.render import render, to_json

__all__ = ["Ask", "DeviceUse", "Ledger", "Plan", "Row", "Verdict", "plan", "render", "to_json"]

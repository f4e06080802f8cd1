"""Pure arithmetic: what a model takes on a machine, and whether it fits. No files, no processes."""

from quietmind.plan.coresident import Resident, plan_together
from quietmind.plan.ledger import Ledger, Row
from quietmind.plan.plan import Ask, DeviceUse, Plan, Verdict, plan
from quietmind.plan.render import render, to_json

__all__ = [
    "Ask",
    "DeviceUse",
    "Ledger",
    "Plan",
    "Resident",
    "Row",
    "Verdict",
    "plan",
    "plan_together",
    "render",
    "to_json",
]

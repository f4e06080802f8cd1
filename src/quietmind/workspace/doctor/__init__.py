"""What hinders this program here, and what would make it faster: each finding with the command that fixes it.

Every check is a function of what it looks at, in the module of its subject; this one gathers what they look at.
"""

from __future__ import annotations

from pathlib import Path

from quietmind.base.paths import models_folder
from quietmind.engine import sealed
from quietmind.machine.cgroup import cgroup_limits
from quietmind.machine.machine import Machine
from quietmind.machine.probe import probe
from quietmind.workspace.doctor import engines, files, host, models, system
from quietmind.workspace.doctor.finding import Finding

__all__ = ["Finding", "examine"]


def examine(workspace: Path, model: str, threads: int | None = None) -> list[Finding]:
    """Look at this computer and return what was found, subject by subject.

    ``model`` and ``threads`` are what the person's settings say. Takes some seconds: engines are asked what they are.
    """
    machine = probe()
    return [
        *engines.check(machine),
        *_host(machine, threads),
        *files.disk_space(models_folder(), workspace),
        *files.private(workspace, files.key_files(workspace)),
        *files.opens(workspace),
        *system.sealing(sealed.possible()),
        *system.check(),
        *models.check(model),
    ]


def _host(machine: Machine, threads: int | None) -> list[Finding]:
    limits = cgroup_limits()
    return [
        *host.memory(machine, limits, host.installed_memory()),
        *host.accelerators(machine),
        *host.cores(machine, limits, threads),
        *host.kernel(machine.host.numa_nodes),
        *host.swap(host.swap_used()),
        *host.process_limits(host.limits_of_process()),
    ]

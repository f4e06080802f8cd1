"""A script for several machines that run one model together: vLLM over Ray, or SGLang."""

from __future__ import annotations

import shlex

from quietmind.base.errors import UsageError
from quietmind.engine.launch_files.head import head
from quietmind.engine.launch_files.launch import Launch, Serving, serving
from quietmind.engine.launch_files.posix import command, environment, opening, requirements, settings

# What the first machine and the others are told that they are.
_ROLES = {"vllm": ("head", "worker"), "sglang": ("0", "1")}

_CONSENT = (
    "what the machines send each other leaves this one and is not encrypted, and whoever reaches their ports can run "
    "programs there: give them a network of their own, and say so with CONSENT=yes"
)

# Which of the machine's connections has the address $SELF; NCCL and Gloo would else choose any.
_ADDRESSES = """\
interface=$(ip -o addr show | awk -v self="$SELF" '{ split($4, address, "/"); if (address[1] == self) print $2 }')
[ -n "$interface" ] || fail "$SELF: no connection of this machine has this address; set SELF to one that has"
export NCCL_SOCKET_IFNAME="$interface" GLOO_SOCKET_IFNAME="$interface"
"""


def render_nodes(launch: Launch) -> str:
    """Return one script for all machines, which is told its role. Raises UsageError for engines that do not do this."""
    if launch.engine not in _ROLES:
        raise UsageError(f"{launch.engine} does not run on several machines; vllm and sglang do")
    started = serving(launch, several=True)
    first, other = _ROLES[launch.engine]
    wait = ", where Ray takes up to a minute to end" if launch.engine == "vllm" else ""
    return (
        "#!/bin/sh\n"
        + head(launch, f"Ctrl-C on every machine{wait}; PORT=... and MODEL=... change these")
        + "# run:      on each machine, with its own address as SELF and the head's as HEAD:\n"
        + f"#           CONSENT=yes HEAD=10.0.0.1 SELF=10.0.0.1 sh THIS-FILE {first}\n"
        + f"#           CONSENT=yes HEAD=10.0.0.1 SELF=10.0.0.2 sh THIS-FILE {other}\n"
        + "# warning:  what the machines send each other is not encrypted, and whoever reaches their ports can run\n"
        + "#           programs there. The address for questions is on the head's loopback alone\n\n"
        + opening()
        + f'[ "${{CONSENT:-}}" = yes ] || fail {shlex.quote(_CONSENT)}\n'
        + "".join(
            f"[ -n \"${{{name}:-}}\" ] || fail 'set {name} as the top of this file says'\n" for name in ("HEAD", "SELF")
        )
        + settings(launch)
        + requirements(started)
        + environment(started)
        + _ADDRESSES
        + (_ray(launch, started) if launch.engine == "vllm" else _ranks(started))
    )


def _ray(launch: Launch, started: Serving) -> str:
    split = launch.plan.split
    assert split is not None  # the caller has looked
    options = f'--node-ip-address="$SELF" --num-gpus={split.gpus_per_node} --disable-usage-stats --block'
    return f"""\
export VLLM_HOST_IP="$SELF"
RAY_PORT=${{RAY_PORT:-6379}}
command -v ray >/dev/null || fail 'ray: there is no such program here; install it beside vLLM'
case ${{1:-}} in
worker) exec ray start --address="$HEAD:$RAY_PORT" {options} ;;
head) ;;
*) fail 'say head or worker' ;;
esac

ray start --head --port="$RAY_PORT" --include-dashboard=false {options} &
ray=$!
engine=
trap 'kill $engine $ray 2>/dev/null || :; wait' EXIT
trap 'exit 0' INT TERM HUP
until ray status --address="$SELF:$RAY_PORT" 2>/dev/null | grep -q '/{split.gpus}.0 GPU'; do
    kill -0 $ray || fail 'ray has ended; its own words stand above'
    sleep 2
done
printf 'http://127.0.0.1:%s/v1, key in %s\\n' "$PORT" "$key"
export RAY_ADDRESS="$SELF:$RAY_PORT"
{command(started)} &
engine=$!
wait $engine
"""


def _ranks(started: Serving) -> str:
    return f"""\
case ${{1:-}} in
'' | *[!0-9]*) fail 'say which of the machines this is: 0 on the head, then 1, 2, ...' ;;
esac
[ "$1" != 0 ] || printf 'http://127.0.0.1:%s/v1, key in %s\\n' "$PORT" "$key"
exec {command(started)} \\
    --node-rank "$1" \\
    --dist-init-addr "$HEAD:${{MEETING_PORT:-20000}}"
"""

"""``--as compose``: a Docker Compose file whose engine has no way out of the machine.

The engine is on an internal network, from which Docker routes nothing outward, and publishes no port. A small proxy
stands on that network and on an ordinary one, and publishes the loopback's port alone. Form: the Compose specification
(github.com/compose-spec/compose-spec); ``configs.content`` takes Docker Compose 2.23.1 or newer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from quietmind.base.errors import UsageError
from quietmind.engine.launch_files.head import head
from quietmind.engine.launch_files.launch import (
    OFFLOADING,
    Launch,
    Serving,
    Slot,
    arguments,
    memory_limit,
    refuse_unwritable,
    require_whole_path,
    serving,
)
from quietmind.engine.launch_files.posix import MAKE_KEY

# The versions whose flags benchmarks/flags_accepted.py has checked; used where none is installed to go by.
_CHECKED = {"vllm": "0.33.0", "sglang": "0.5.23"}
_IMAGES = {"vllm": "vllm/vllm-openai", "sglang": "lmsysorg/sglang"}
# llama.cpp's own images are in a registry that is not Docker's own, and their tags are build numbers: which one, the
# person says, and compose asks for it where they have not.
_LLAMA_IMAGE = (
    "${LLAMA_CPP_IMAGE:?set it to an image of llama.cpp with the tag server%s, as its docs/docker.md has them}"
)
_LLAMA_VARIANTS = {"cuda": "-cuda", "rocm": "-rocm"}
_PROXY_IMAGE = "nginx:1.29-alpine"

_INSIDE = 8080  # the port in the container, which llama.cpp's image also asks for its health
_KEY_FILE = "/key/launch.key"
_KEY_CONFIG = "/key/launch.yaml"
_MODELS = "/models"


def render_compose(launch: Launch) -> str:
    """Return the compose file. Raises UsageError where Docker cannot reach the plan's devices."""
    require_whole_path(launch)
    launch = replace(launch, version=launch.version or _CHECKED.get(launch.engine))
    started = serving(launch)
    kinds = {use.device.rstrip("0123456789") for use in launch.plan.devices} & {"cuda", "rocm", "metal"}
    if "metal" in kinds:
        raise UsageError("containers have no access to Apple's GPU; use --as shell or --as python")
    if kinds == {"rocm"} and launch.engine not in OFFLOADING:
        raise UsageError(f"no official image of {launch.engine} for ROCm is known here; use --as shell")
    kind = next(iter(kinds), None)
    return (
        head(launch, "docker compose -f THIS-FILE down")
        + f"# start:    docker compose -f THIS-FILE up -d --wait; it answers on http://127.0.0.1:{launch.port}/v1\n"
        + "# key:      docker compose -f THIS-FILE exec engine cat /key/launch.key; made at the first start\n"
        + (
            "# image:    export LLAMA_CPP_IMAGE=..., the server image that llama.cpp's docs/docker.md names\n"
            if launch.engine in OFFLOADING
            else ""
        )
        + "# images:   of tags that move; once it runs, pin them by their digests (docker compose images)\n"
        + f"\nname: quietmind-{launch.port}\n\nservices:\n"
        + _key_service(launch, started, kind)
        + _engine_service(launch, started, kind)
        + _proxy_service(launch)
        + _NETWORKS
    )


def image(launch: Launch, kind: str | None) -> str:
    """Return the official image for the engine and the kind of accelerator, as a word of the file."""
    if launch.engine in OFFLOADING:
        return f'"{_LLAMA_IMAGE % _LLAMA_VARIANTS.get(kind or "", "")}"'
    return yaml_word(f"{_IMAGES[launch.engine]}:v{launch.version}")


def _key_service(launch: Launch, started: Serving, kind: str | None) -> str:
    config = f'; printf \'api-key: "%s"\\n\' "$(cat $key)" >{_KEY_CONFIG}' if Slot.KEY_CONFIG in started.words else ""
    script = f"umask 077; key={_KEY_FILE}; {MAKE_KEY}{config}"
    return (
        "  # Makes the key once, on a volume that only the engine has beside it.\n"
        "  key:\n"
        f"    image: {image(launch, kind)}\n"
        '    entrypoint: ["/bin/sh", "-euc"]\n'
        f"    command: [{yaml_word(script)}]\n"
        "    network_mode: none\n"
        '    volumes: ["key:/key"]\n\n'
    )


def _engine_service(launch: Launch, started: Serving, kind: str | None) -> str:
    mount, model = _mount(PurePosixPath(launch.model))
    slots = {
        Slot.MODEL: model,
        Slot.HOST: "0.0.0.0",  # noqa: S104  (of a network that only the proxy is on)
        Slot.PORT: str(_INSIDE),
        Slot.KEY_FILE: _KEY_FILE,
        Slot.KEY_CONFIG: _KEY_CONFIG,
    }
    groups = [[slots[word] if isinstance(word, Slot) else word for word in group] for group in arguments(started.words)]
    limit = memory_limit(launch)
    return (
        "  engine:\n"
        + f"    image: {image(launch, kind)}\n"
        + "    depends_on:\n      key:\n        condition: service_completed_successfully\n"
        + f"    entrypoint: [{', '.join(yaml_word(word) for word in _entrypoint(launch, started))}]\n"
        + "    command:\n"
        + "".join(f"      - {yaml_word(word)}\n" for group in groups for word in group)
        + "    environment:\n"
        + "".join(f"      {name}: {yaml_word(value)}\n" for name, value in started.environment.items())
        + "    networks: [sealed]\n"
        + "    # Names of the outside are not asked for: an internal network may still pass such questions on.\n"
        + '    dns: ["127.0.0.1"]\n'
        + "    volumes:\n"
        + f"      - type: bind\n        source: {yaml_word(mount)}\n"
        + f"        target: {_MODELS}\n        read_only: true\n"
        + '      - "key:/key:ro"\n'
        + "    cap_drop: [ALL]\n"
        + "    cap_add: [DAC_OVERRIDE] # the model's files may be readable by you alone\n"
        + '    security_opt: ["no-new-privileges:true"]\n'
        + "    ulimits:\n      core: 0\n"
        + ("" if launch.engine in OFFLOADING else "    ipc: private\n    shm_size: 16gb # between the processes\n")
        + "".join(_devices(launch, kind, limit))
        + "    healthcheck:\n"
        + f"      test: {_HEALTH[launch.engine in OFFLOADING]}\n"
        + "      interval: 5s\n      timeout: 5s\n      retries: 3\n"
        + "      start_period: 1h # hundreds of gigabytes come from a disk\n"
        + "    stop_grace_period: 20s\n"
        + "    restart: on-failure:3\n\n"
    )


_HEALTH = {
    True: f'["CMD", "curl", "-fsS", "http://127.0.0.1:{_INSIDE}/health"]',
    False: '["CMD", "python3", "-c", "import urllib.request as u; '
    f"u.urlopen('http://127.0.0.1:{_INSIDE}/health', timeout=4)\"]",
}


def _entrypoint(launch: Launch, started: Serving) -> tuple[str, ...]:
    if launch.engine in OFFLOADING:
        return ("/app/llama-server",)
    program = ("vllm", "serve") if launch.engine == "vllm" else ("python3", "-m", "sglang.launch_server")
    if started.key_variable is None:
        return program
    shell = f'{started.key_variable}=$(cat {_KEY_FILE}); export {started.key_variable}; exec "$@"'
    return ("/bin/sh", "-euc", shell, "sh", *program)


def _devices(launch: Launch, kind: str | None, limit: int | None) -> Iterator[str]:
    """Yield the memory limit, and the accelerators that the plan uses."""
    if kind == "rocm":
        yield '    devices: ["/dev/kfd", "/dev/dri"]\n    group_add: [video, render]\n'
    if limit is None and kind != "cuda":
        return
    yield "    deploy:\n      resources:\n"
    if limit is not None:
        yield f"        limits: # the host's part of the plan, and what it does not count\n          memory: {limit}b\n"
    if kind == "cuda":
        numbers = [use.device.removeprefix("cuda") or "0" for use in launch.plan.devices if use.device[:4] == "cuda"]
        ids = ", ".join(yaml_word(number) for number in numbers)
        yield (
            "        reservations:\n          devices:\n"
            f"            - driver: nvidia\n              device_ids: [{ids}]\n              capabilities: [gpu]\n"
        )


def _mount(model: PurePosixPath) -> tuple[str, str]:
    """Return the folder to mount, and the model's path in the container.

    The files of a Hugging Face cache are links from ``snapshots/REVISION`` into ``blobs``, which has to come along.
    """
    folder = model if model.suffix != ".gguf" else model.parent
    for above in (folder, *folder.parents):
        if above.parent.name == "snapshots":
            folder = above.parent.parent
            break
    inside = PurePosixPath(_MODELS) / model.relative_to(folder)
    return str(folder), str(inside)


def _proxy_service(launch: Launch) -> str:
    return (
        "  # The one way in: it stands on both networks and knows nothing but where to pass bytes on to.\n"
        "  door:\n"
        f"    image: {yaml_word(_PROXY_IMAGE)}\n"
        "    depends_on: [engine]\n"
        "    restart: on-failure:3\n"
        "    networks: [sealed, loopback]\n"
        f'    ports: ["127.0.0.1:{launch.port}:{_INSIDE}"]\n'
        "    configs:\n      - source: door\n        target: /etc/nginx/nginx.conf\n\n"
    )


_NETWORKS = f"""\
networks:
  sealed:
    internal: true
  loopback: {{}}

volumes:
  key: {{}}

configs:
  door:
    content: |
      events {{}}
      stream {{
        server {{
          listen {_INSIDE};
          proxy_pass engine:{_INSIDE};
          proxy_timeout 1h;
        }}
      }}
"""


def yaml_word(word: str) -> str:
    """Return ``word`` as a double-quoted YAML scalar in which Compose replaces nothing (its ``$`` are doubled)."""
    refuse_unwritable(word)
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$") + '"'

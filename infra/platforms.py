"""What the platforms sell and allow, looked up 2026-11-23; docs/deploy.md has the sources."""

from __future__ import annotations

MB = 2**20
# Render: memory in MB and processors of a plan, cheapest first.
RENDER_PLANS = {
    "free": (512, 0.1),
    "starter": (512, 0.5),
    "standard": (2048, 1.0),
    "pro": (4096, 2.0),
}
# US dollars without tax, each cloud's cheapest regions; what is free each month comes off first.
RENDER_MONTH = {"free": 0, "starter": 7, "standard": 25}
CLOUD_RUN_VCPU_S, CLOUD_RUN_GIB_S, CLOUD_RUN_MILLION = 0.000024, 0.0000025, 0.40
CLOUD_RUN_FREE_VCPU_S, CLOUD_RUN_FREE_GIB_S, CLOUD_RUN_FREE_MILLIONS = 180_000, 360_000, 2
CLOUD_RUN_ROUND_S = 0.1  # an instance's time is rounded up to this
LAMBDA_GB_S, LAMBDA_MILLION = 0.0000166667, 0.20
LAMBDA_FREE_GB_S, LAMBDA_FREE_MILLIONS = 400_000, 1
# Cloud Run: below one processor an instance takes one request at a time; less CPU, less memory.
CLOUD_RUN_LEAST_MB = 128
CLOUD_RUN_MOST_MB = ((0.5, 512), (1.0, 1024), (2.0, 4096), (4.0, 8192))  # below so many processors
CLOUD_RUN_MOST_S = 3600
# Lambda.
LAMBDA_MB = (128, 10240)
LAMBDA_MB_PER_CPU = 1769
LAMBDA_MOST_S = 900
# A function URL takes 6 MB of event: base64 makes 4 bytes of 3, and headers take some.
LAMBDA_IMAGE_BYTES = int(4.4 * MB)


def render_plan(memory_mb: int) -> str:
    """Name the cheapest plan with that memory.

    Raises: ValueError where none has it.
    """
    for plan, (has_mb, _) in RENDER_PLANS.items():
        if memory_mb <= has_mb:
            return plan
    raise ValueError(f"limits.toml: predict.memory_mb is {memory_mb}; Render's plans end at 4096")

"""Files of other packages that are never loaded, and therefore not deployed.

Determined by what a service has open after every format and route (`/proc/self/maps`,
`sys.modules`); the tests start the bundles and use all formats and routes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

ONLY = {
    # Only the library: 37 of its 45 MB are accelerators and the Python bindings.
    "ai_edge_litert": ("__init__.py", "libLiteRt.so"),
    # S3, and the services for credentials of roles and sign-ins: 2 of 28 MB.
    "botocore/data": (
        "_retry.json",
        "endpoints.json",
        "partitions.json",
        "sdk-default-configuration.json",
        "s3",
        "signin",
        "sso",
        "sso-oidc",
        "sts",
    ),
}
# Patterns below a package's folder.
NEVER = (
    "bin",
    "**/*.pyi",
    "**/*.pxd",
    "**/*.h",
    "**/*.a",
    "**/py.typed",
    "**/tests",
    "PIL/_imagingft*.so",
    "PIL/_imagingmath*.so",
    "PIL/_imagingmorph*.so",
    "PIL/_imagingtk*.so",
    "pillow.libs/libbrotli*",
    "pillow.libs/libfreetype*",
    "pillow.libs/libharfbuzz*",
    "pillow.libs/libpng*",
    "*.dist-info/RECORD",
    "*.dist-info/direct_url.json",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
)


def package(folder: Path) -> None:
    """Remove the unused files of an installed package; its licences stay."""
    for name, kept in ONLY.items():
        for path in sorted((folder / name).glob("*")):
            if path.name not in kept:
                _remove(path)
    for pattern in NEVER:
        for path in sorted(folder.glob(pattern)):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""Lookup of the model that the settings name, with download of a remote one.

The download runs in a child process: TLS takes 9 MB permanently, boto3 40 MB, Google's client
50 MB, and a process can be ended after a time-out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress

from macule.errors import BadCard, ModelUnavailable
from macule.registry import local, retention
from macule.settings import ModelLocation, Source, urls

log = logging.getLogger("macule")
# The child gets this process's sys.path, which platforms may have extended.
DOWNLOAD_CODE = (
    "import sys; sys.path[:] = sys.argv[1:]; from macule.registry import download; download.main()"
)


def find(where: ModelLocation) -> local.Weights:
    """Return the model after downloading it if it is remote, and checking its file.

    If the download fails, the last downloaded model from that URL is used, unless one is pinned.

    Raises: BadCard, ModelUnavailable.
    """
    if not isinstance(where, Source):
        return local.find(where)
    if "://" not in where.uri:
        return _check_pin(local.find(where.uri), where)
    root = _cache_dir(where)
    for folder in retention.folders(root) if where.sha256 else ():
        with suppress(ModelUnavailable):
            return _check_pin(local.find(folder), where)
    try:
        return _check_pin(local.find(_download(where, root)), where)
    except ModelUnavailable as error:
        last = None if where.sha256 else retention.active(root)
        if last is None:
            raise
        facts = {"event": "model_fallback", "slug": error.slug}
        log.warning("the last good model serves: %s", error, extra={"facts": facts})
        return local.find(last)


def _check_pin(found: local.Weights, source: Source) -> local.Weights:
    if source.sha256 and source.sha256 != found.card.sha256:
        raise ModelUnavailable(
            f"{found.card.file} does not match MODEL_SHA256: its sha256 begins "
            f"{found.card.sha256[:12]}."
        )
    return found


def _download(source: Source, root: str) -> str:
    """Download the model in a child process; return its folder."""
    import signal
    import subprocess

    request = {
        "address": source.uri,  # on standard input, as all users can see arguments
        "pinned": source.sha256,
        "root": root,
        "timeout_s": source.timeout_s,
    }
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", DOWNLOAD_CODE, *sys.path],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        raise ModelUnavailable(
            f"The process that downloads the model cannot be started ({error.strerror})."
        ) from error
    if done.returncode == -signal.SIGALRM:
        raise ModelUnavailable(
            f"The model was not downloaded from {urls.redact(source.uri)} within "
            f"{source.timeout_s:g} s (MODEL_TIMEOUT_S)."
        )
    if done.returncode != 0:
        raise ModelUnavailable(
            f"Downloading the model ended with code {done.returncode}"
            + (", probably for lack of memory." if done.returncode == -signal.SIGKILL else ".")
        )
    answer: dict[str, str] = json.loads(done.stdout)
    if "error" in answer:
        kind = BadCard if answer["slug"] == BadCard.slug else ModelUnavailable
        raise kind(answer["error"])
    return answer["folder"]


def _cache_dir(source: Source) -> str:
    """Return the cache folder of this URL, which no other user can write to."""
    import stat
    from hashlib import sha256
    from tempfile import gettempdir

    try:
        top = source.cache_dir or os.path.join(gettempdir(), f"macule-{os.geteuid()}")
        root = os.path.join(top, sha256(urls.redact(source.uri).encode()).hexdigest()[:16])
        for folder in (top, root):
            os.makedirs(folder, 0o700, exist_ok=True)
        found = [os.lstat(folder) for folder in ([root] if source.cache_dir else [top, root])]
    except OSError as error:
        raise ModelUnavailable(
            f"The model's cache cannot be created ({error.strerror}); see MODEL_CACHE_DIR."
        ) from error
    others = stat.S_IWGRP | stat.S_IWOTH
    if any(folder.st_uid != os.geteuid() or folder.st_mode & others for folder in found):
        raise ModelUnavailable("Other users can write to the model's cache; see MODEL_CACHE_DIR.")
    return root

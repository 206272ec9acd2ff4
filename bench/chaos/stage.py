"""Two services as a platform runs them: each process that ends is started again.

One keeps its queue in a file on a small disk of its own; one has a broker and workers.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from support.load_clients import children

ROOT = Path(__file__).resolve().parent.parent.parent
SERVE = [sys.executable, "-m", "infra.serve"]
WORK = [sys.executable, "-m", "macule.cli", "worker"]
LOOK_S = 0.05
STOP_S = 40.0
DISK_MB = 16


class Supervised:
    """A process that is started again whenever it ends; a *listener* stays open meanwhile, as with
    systemd, so that clients wait in its queue instead of being refused.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        log: Path,
        listener: socket.socket | None = None,
    ) -> None:
        self._command, self._environment, self._log = command, environment, log
        self._listener, self._over = listener, threading.Event()
        self.process = self._start()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def worker(self) -> int | None:
        """Return the youngest child of gunicorn, which serves requests."""
        return max(children(self.process.pid), default=None)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def end(self) -> int:
        """Stop for good; return the exit status."""
        self._over.set()
        self._thread.join()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            if self.process.poll() is not None:
                self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command, files = list(self._command), []
        if self._listener:
            files = [self._listener.fileno()]
            handed = f'exec 3<&{files[0]}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
            command = ["bash", "-c", handed, "bash", *command]
        with self._log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **self._environment},
                stdout=output,
                stderr=output,
                pass_fds=files,
            )


class Disk:
    """A file system of DISK_MB in memory, in mounts of this process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self._filler = folder, folder / "filler"
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
        self.mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0

    def fill(self) -> None:
        """Fill the disk completely."""
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while file.write(bytes(2**12)):
                pass

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


class Clock:
    """The services' time of day; needs a C compiler (see clock.c)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._file, library = folder / "offset", folder / "clock.so"
        self._file.write_bytes(bytes(8))
        source = Path(__file__).parent / "clock.c"
        words = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)]
        self.environment: dict[str, str] = {}
        if shutil.which("cc") and subprocess.run(words, check=False).returncode == 0:
            named = {"CLOCK_OFFSET_FILE": str(self._file)}
            self.environment = {"LD_PRELOAD": str(library), **named}

    def jump(self, seconds: int) -> None:
        """Shift the time by so many seconds."""
        with self._file.open("r+b") as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))


class Model:
    """A model folder whose file can be damaged and repaired."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / "layers/model/macule/weights", folder)
        self.folder, self._file = folder, folder / "model.tflite"
        self._whole = self._file.read_bytes()

    def damage(self) -> None:
        self._replace(self._whole[: len(self._whole) // 2])

    def mend(self) -> None:
        self._replace(self._whole)

    def _replace(self, content: bytes) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_bytes(content)
        beside.rename(self._file)


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.set_inheritable(True)
    return listener

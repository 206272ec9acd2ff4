"""A real Prometheus on a loopback port, and its promtool."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.load_clients import free_port
from support.service import need, until

Series = tuple[dict[str, str], float]


class Prometheus:
    """A server that scrapes and evaluates its rules each second."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as reply:
            return json.loads(reply.read())["data"]

    def ready(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=20).close()
        except (urllib.error.HTTPError, OSError):
            return False
        return True

    def query(self, expression: str) -> list[Series]:
        """Return the series of an expression, and the value of each."""
        found = self.ask("api/v1/query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of each alert that fires."""
        found = self.ask("api/v1/alerts")["alerts"]
        return [one["labels"] for one in found if one["state"] == "firing"]


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, int], rules: str) -> Iterator[Prometheus]:
    """Run a server that scrapes *targets*: jobs and their loopback ports."""
    program, port = need("prometheus", "prometheus"), free_port()
    (folder / "rules.yaml").write_text(rules)
    document = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{number}"]}]}
            for job, number in targets.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(json.dumps(document))  # JSON is valid YAML
    command = [program, f"--config.file={folder}/prometheus.yaml"]
    command += [f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{port}"]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        server = Prometheus(port)
        until(lambda: server.ready() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()[-3000:]
        yield server
    finally:
        process.terminate()
        process.wait(30)


def promtool(*words: str, text: str = "") -> str:
    """Return promtool's findings, "" if there are none."""
    command = [need("prometheus", "promtool"), *words]
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr if run.returncode else run.stderr

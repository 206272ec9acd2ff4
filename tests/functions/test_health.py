"""The health function: two routes, and nothing heavy in its process."""

import subprocess
from pathlib import Path

from service import FRAMEWORK, ROOT, running

HEAVY = "{'numpy', 'PIL', 'ai_edge_litert', 'flask', 'multipart', 'tensorflow'}"


def test_it_answers_health_and_memory_alone(tmp_path: Path) -> None:
    """Behind functions-framework /health/ and /memory/ answer; predict is not there."""
    with running(FRAMEWORK.replace("{name}", "health"), tmp_path) as service:
        assert service.call("GET", "/health").body == b"ok"
        memory = service.call("GET", "/memory/").json()
        assert service.call("POST", "/predict/", b"x").status == 404

    assert memory["model_loaded"] is False


def test_its_door_loads_nothing_heavy() -> None:
    """Importing the door and answering loads neither numpy nor Pillow nor a runtime."""
    code = f"""
import sys; sys.path.insert(0, '.')
from functions.health.main import handler
event = {{"httpMethod": "GET", "path": "/memory/", "headers": {{}}}}
assert handler(event, None)["statusCode"] == 200
print(*({HEAVY} & set(sys.modules)))
"""
    heavy = subprocess.check_output([".venv/bin/python", "-c", code], cwd=ROOT, text=True)

    assert heavy.strip() == ""

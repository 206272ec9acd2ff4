"""A common alternative: LitServe, with macule's decoder and runtime."""

import os

import litserve
from fastapi import Request


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """A form with an image in, probabilities out: LitServe takes no raw bodies."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        from macule.inference import runtime

        runtime.get_or_load(os.environ["MODEL_DIR"])

    def decode_request(self, request: Request) -> bytes:
        body: bytes = request["image"].file.read()  # type: ignore[index]
        return body

    def predict(self, body: bytes) -> list[float]:
        from floor_service import classify

        return classify(body)

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"probabilities": output}


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(api_path="/predict/"), accelerator="cpu", healthcheck_path="/health/"
    )
    server.run(
        port=int(os.environ["PORT"]),
        host="127.0.0.1",
        generate_client_file=False,
        log_level="error",
    )

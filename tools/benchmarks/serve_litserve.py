"""The same generator behind LitServe, with batches of the same size and patience."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import litserve
from starlette.responses import Response

from deploy import images
from deploy.runtimes import load_generator


class Faces(litserve.LitAPI):
    """POST /predict of `{"seed": 7}`. At module level, because LitServe's worker process unpickles it by name."""

    folder, threads = "", 0

    def setup(self, device: str) -> None:
        self.generator = load_generator(self.folder, threads=self.threads)

    def decode_request(self, request) -> int:  # an annotation would be taken for what FastAPI is to parse
        return int(request["seed"])

    def batch(self, inputs: list[int]) -> list[int]:
        return list(inputs)

    def predict(self, seeds: list[int]) -> list[Any]:
        return list(zip(seeds, images.to_uint8(self.generator.generate(seeds))))

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> Response:
        seed, levels = output
        content = images.encode(levels, ".png", f"seed {seed}, model {self.generator.model_id}")
        return Response(content, media_type="image/png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    faces = Faces(max_batch_size=32, batch_timeout=0.002)
    faces.folder, faces.threads = args.model, args.threads
    server = litserve.LitServer(faces, accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=args.port, num_api_servers=1, generate_client_file=False, log_level="warning")

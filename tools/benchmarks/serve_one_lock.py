"""The same generator behind FastAPI with one lock, as PaddleX serves."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from deploy import images
from deploy.runtimes import Runtime, load_generator


def png(generator: Runtime, seed: int, levels: Any) -> bytes:
    """The same bytes as everywhere else."""
    return images.encode(levels, ".png", f"seed {seed}, model {generator.model_id}")


def one_lock(folder: str, port: int, threads: int) -> None:
    """One request at a time: `paddlex --serve` holds an asyncio.Lock while a thread predicts and encodes."""
    import fastapi
    import uvicorn
    from starlette.concurrency import run_in_threadpool

    generator = load_generator(folder, threads=threads)
    lock = asyncio.Lock()
    app = fastapi.FastAPI()

    def predict(seed: int) -> bytes:
        return png(generator, seed, images.to_uint8(generator.generate([seed]))[0])

    @app.get("/faces/{seed}.png")
    async def face(seed: int) -> fastapi.Response:
        async with lock:
            content = await run_in_threadpool(predict, seed)
        return fastapi.Response(content, media_type="image/png")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    one_lock(args.model, args.port, args.threads)

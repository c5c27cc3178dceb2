"""The application: from a request to checked values, a job, and an answer. ASGI, with Starlette's routes."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from deploy import playground, walk
from deploy.manifest import ModelError
from deploy.serving import answers, openapi, requests
from deploy.serving.engine import Engine, Job, explain
from deploy.serving.metrics import Metrics
from deploy.serving.model import Model
from deploy.serving.problems import MEDIA_TYPE, ClientGone, Problem, received

PART = 65536  # bytes that are written before the client must have taken most of them
MAX_UNSENT = 64 << 20  # bytes of long answers that clients have not taken; beyond, no more are made
GRID_SEEDS, FRAMES, FPS, MAX_SCALE = 25, 60, 25, 4
FOREVER = "public, max-age=31536000, immutable"


@dataclass
class State:
    """What the server is doing; `model` is exchanged by a reload."""

    max_images: int
    model: Model | None = None
    is_draining: bool = False
    unsent: int = 0
    engine: Engine | None = None
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def max_body(self) -> int:
        """Bytes: room for `max_images` latents, 32 characters a number, and 64 KiB."""
        return 65536 + 32 * self.max_images * (self.model.latent_dim if self.model else 0)

    def served(self) -> Model:
        """The model. Raises Problem 503 as long as there is none."""
        if self.model is None:
            raise Problem(503, "the server is loading and verifying its model", {"retry-after": "1"})
        return self.model

    def ready(self) -> Model:
        """The same, for who decides whether to send requests here. Those that come late all the same are served."""
        if self.is_draining:
            raise Problem(503, "the server stops", {"retry-after": "1"})
        return self.served()


class Content(Response):
    """An answer of known length. A long one is written in parts, as fast as the client takes them."""

    def __init__(self, content: bytes, media_type: str, headers: dict[str, str] | None = None, status: int = 200):
        super().__init__(content, status, headers, media_type)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = self.body
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for i in range(0, len(body), PART) or [0]:
            more = i + PART < len(body)
            await send({"type": "http.response.body", "body": body[i : i + PART], "more_body": more})


class Service:
    """The ASGI application. Every error is a Problem, every answer is counted."""

    def __init__(self, state: State):
        self.state = state
        routes = [
            Route("/faces/{name}", self.face),
            Route("/grid.png", self.grid),
            Route("/walk.gif", self.walk),
            Route("/v1/faces", self.faces, methods=["POST"]),
            Route("/v1/score", self.score, methods=["POST"]),
            Route("/v1/model", self.describe),
            Route("/livez", self.live),
            Route("/readyz", self.readyz),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.schema),
            Route("/docs", self.docs),
            Route("/", self.home),
            Route("/{name}", self.page),
        ]
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        start, status = time.monotonic(), 0

        async def counted_send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-content-type-options", b"nosniff"))
            await send(message)

        scope["app"] = self  # Starlette then raises its errors instead of answering in plain text
        problem = None
        try:
            await self._router(scope, receive, counted_send)
        except ClientGone:
            self.state.metrics.gone.inc()
            return
        except HTTPException as error:
            problem = _of_starlette(error, scope)
        except Exception as error:  # explained to the client without a word about this machine
            problem = explain(error)
        finally:
            self.state.unsent -= scope.get("unsent", 0)
        if problem is not None and not status:
            await Response(problem.body(), problem.status, problem.headers, MEDIA_TYPE.decode())(
                scope, receive, counted_send
            )
        endpoint = getattr(scope.get("endpoint"), "__name__", "page" if "endpoint" in scope else "none")
        self.state.metrics.answered(endpoint, status, time.monotonic() - start)

    # ---- images -----------------------------------------------------------------------------------------------------

    async def face(self, request: Request) -> Response:
        """GET /faces/7.png"""
        name, _, extension = request.path_params["name"].rpartition(".")
        suffix = f".{extension}"
        if suffix not in (".png", ".jpg", ".webp"):
            raise Problem(404, f"/faces/7.png, .jpg or .webp was expected, received {received(request.url.path)}")
        seed = requests.seed(name)
        model, caching = self._model(request, requests.query(request, "model"), f"{seed}{suffix}")
        if caching.is_known:
            return caching.not_modified()
        job = Job(model, answers.one_image(suffix), [seed], is_long=False)
        return Content(await self._run(request, job), answers.MEDIA_TYPES[suffix], caching.headers)

    async def grid(self, request: Request) -> Response:
        """GET /grid.png?seeds=0-99"""
        query = requests.query(request, "seeds", "model")
        most = self.state.max_images
        seeds = requests.seeds(query.get("seeds", f"0-{min(GRID_SEEDS, most) - 1}"), most)
        model, caching = self._model(request, query, f"grid-{_digest(seeds)}")
        if caching.is_known:
            return caching.not_modified()
        return Content(await self._run(request, Job(model, answers.grid, seeds)), "image/png", caching.headers)

    async def walk(self, request: Request) -> Response:
        """GET /walk.gif?seeds=3,14,15&frames=60"""
        query = requests.query(request, "seeds", "frames", "fps", "scale", "model")
        most = min(self.state.max_images, walk.LONGEST_GIF)
        seeds = requests.seeds(query.get("seeds", "3,14,15" if most >= 3 else "3,14"), most)
        frames = requests.whole(query.get("frames"), "frames", min(FRAMES, most), 2, most)
        fps = requests.whole(query.get("fps"), "fps", FPS, 1, 50)
        scale = requests.whole(query.get("scale"), "scale", 2, 1, MAX_SCALE)
        if not 2 <= len(seeds) <= frames:
            raise Problem(422, f"2 seeds are expected at least, and a frame for each; received {len(seeds)}, {frames}")
        model, caching = self._model(request, query, f"walk-{_digest(seeds)}-{frames}-{fps}-{scale}")
        if caching.is_known:
            return caching.not_modified()
        try:
            walk.check_gif(frames)
        except ModelError as error:
            raise Problem(501, "this server's OpenCV cannot write .gif") from error
        z = walk.walk_latents(seeds, frames, model.latent_dim)
        job = Job(model, answers.gif(fps, scale), z=z)
        return Content(await self._run(request, job), "image/gif", caching.headers)

    async def faces(self, request: Request) -> Response:
        """POST /v1/faces"""
        model = self.state.served()
        body = await requests.body(request, self.state.max_body, "seeds", "latents", "format")
        name = body.get("format", "zip")
        if not isinstance(name, str) or name not in answers.FORMATS:
            raise Problem(422, f"format is one of {', '.join(answers.FORMATS)}, received {received(name)}")
        job = Job(model, answers.FORMATS[name], **self._inputs(model, body))
        return Content(await self._run(request, job), answers.MEDIA_TYPES[f".{name}"], {"x-model": model.tag})

    async def score(self, request: Request) -> Response:
        """POST /v1/score"""
        model = self.state.served()
        if model.discriminator is None:
            raise Problem(404, "no discriminator is exported; `python tools/export.py --network both` exports one")
        body = await requests.body(request, self.state.max_body, "seeds", "latents")
        job = Job(model, answers.scores, **self._inputs(model, body), with_scores=True)
        return Content(await self._run(request, job), "application/json", {"x-model": model.tag})

    def _inputs(self, model: Model, body: dict[str, Any]) -> dict[str, Any]:
        if ("seeds" in body) == ("latents" in body):
            raise Problem(422, "either seeds or latents are expected, received both or none of them")
        if "seeds" in body:
            return {"seeds": requests.seeds(body["seeds"], self.state.max_images)}
        return {"z": requests.latents(body["latents"], self.state.max_images, model.latent_dim)}

    async def _run(self, request: Request, job: Job) -> bytes:
        if job.is_long and self.state.unsent > MAX_UNSENT:
            raise Problem(429, f"clients have yet to take {self.state.unsent} bytes of answers", {"retry-after": "2"})
        assert self.state.engine is not None  # a model is there, so an engine is
        content = await self.state.engine.run(job, request.scope["extensions"]["gone"])
        if job.is_long:  # until it is written, or its client gone: see __call__
            request.scope["unsent"] = len(content)
            self.state.unsent += len(content)
        return content

    def _model(self, request: Request, query: dict[str, str], what: str) -> tuple[Model, Caching]:
        """The model, and how caches are told of its image. A model that is named must be the one that is served."""
        model = self.state.served()
        named = query.get("model")
        if named not in (None, model.tag):
            raise Problem(404, f"the model {received(named)} is not served; expected is {model.tag} or none")
        return model, Caching(f'"{model.tag}-{what}"', named is not None, request)

    # ---- about the server -------------------------------------------------------------------------------------------

    async def describe(self, request: Request) -> Response:
        """GET /v1/model"""
        return _json(self.state.served().describe(), {"cache-control": "no-cache"})

    async def live(self, request: Request) -> Response:
        """GET /livez"""
        return _json({"status": "alive"}, _NO_STORE)

    async def readyz(self, request: Request) -> Response:
        """GET /readyz"""
        model = self.state.ready()
        return _json({"status": "ready", "model": model.tag}, _NO_STORE)

    async def health(self, request: Request) -> Response:
        """GET /health, as PaddleX answers it."""
        self.state.ready()
        return _json({"logId": str(uuid.uuid4()), "errorCode": 0, "errorMsg": "Healthy"}, _NO_STORE)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics"""
        return Content(generate_latest(self.state.metrics.registry), CONTENT_TYPE_LATEST, dict(_NO_STORE))

    async def schema(self, request: Request) -> Response:
        """GET /openapi.json"""
        return _json(openapi.schema(self.state.max_images))

    async def docs(self, request: Request) -> Response:
        """GET /docs"""
        return Content(openapi.page(self.state.max_images, grid=False), "text/html", _PAGE)

    async def home(self, request: Request) -> Response:
        """GET /: the playground, where a browser can run the model itself; else a page with a grid."""
        if self.state.served().browser_files is None:
            return Content(openapi.page(self.state.max_images, grid=True), "text/html", _PAGE)
        return await self._file(request, playground.INDEX)

    async def page(self, request: Request) -> Response:
        """GET /main.js and the other files of the playground"""
        return await self._file(request, request.path_params["name"])

    async def _file(self, request: Request, name: str) -> Response:
        files = self.state.served().browser_files or {}
        content, described = files.get(name), self.state.served().browser_description
        if content is None:
            content = (await run_in_threadpool(playground.static_files)).get(name)
            described = await run_in_threadpool(playground.static_description)
        if content is None or not files:
            raise HTTPException(404)
        caching = Caching(f'"{described[name].sha256[:32]}"', False, request)
        if caching.is_known:
            return caching.not_modified()
        return Content(content, _media_type(name), caching.headers)


class Caching:
    """Headers for caches, and whether the client has the image already.

    An address that names its model never shows anything else: it may be kept for ever. One that does not shows another
    image after a reload, so a cache must ask, which costs a 304 and no image.
    """

    def __init__(self, etag: str, is_versioned: bool, request: Request):
        self.headers = {"etag": etag, "cache-control": FOREVER if is_versioned else "public, no-cache"}
        asked = ",".join(request.headers.getlist("if-none-match"))
        known = [part.strip().removeprefix("W/") for part in asked.split(",")]
        self.is_known = etag in known or "*" in known

    def not_modified(self) -> Response:
        """The answer without a body."""
        return Response(status_code=304, headers=self.headers)


_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
_NO_STORE = {"cache-control": "no-store"}
_PAGE = {"content-security-policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"}


def _json(value: Any, headers: dict[str, str] | None = None) -> Response:
    return Content(json.dumps(value, ensure_ascii=False).encode(), "application/json", headers)


def _media_type(name: str) -> str:
    return _MEDIA_TYPES.get(PurePath(name).suffix, "application/octet-stream")


def _digest(seeds: Sequence[int]) -> str:
    return hashlib.sha256(",".join(map(str, seeds)).encode()).hexdigest()[:16]


def _of_starlette(error: HTTPException, scope: Any) -> Problem:
    """404 and 405 of the routes."""
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        return Problem(405, f"{allowed} was expected, received {received(scope['method'])}", {"allow": allowed})
    return Problem(error.status_code, f"there is nothing at {received(scope['path'])}; see /docs")

"""The OpenAPI schema of the endpoints, and a page that shows it without a script or another site."""

from __future__ import annotations

import html
from typing import Any

from deploy.seed_ranges import MAX_SEED
from deploy.walk import LONGEST_GIF

_MODEL = {
    "name": "model",
    "in": "query",
    "schema": {"type": "string"},
    "description": "The tag of the model (see /v1/model). With it, caches keep the answer for ever.",
}
_SEED = {"type": "integer", "minimum": 0, "maximum": MAX_SEED}


def schema(max_images: int) -> dict[str, Any]:
    """OpenAPI 3.1; `max_images` is the most a request may ask for."""
    seeds = _query("seeds", f"Numbers and ranges, at most {max_images} images", {"type": "string"}, "0,7,10-19")
    seed = {"name": "seed", "in": "path", "required": True, "schema": _SEED}
    inputs: dict[str, Any] = {
        "seeds": {
            "description": "Numbers, or text such as 0,7,100-199. Either this or latents.",
            "oneOf": [{"type": "array", "items": _SEED, "maxItems": max_images}, {"type": "string"}],
        },
        "latents": {
            "description": "Rows of latent_dim numbers (see /v1/model), standard normal.",
            "type": "array",
            "maxItems": max_images,
            "items": {"type": "array", "items": {"type": "number", "minimum": -1000, "maximum": 1000}},
        },
    }
    form = {"format": {"enum": ["zip", "npz", "json"], "default": "zip", "description": "json: base64 of PNG files"}}
    faces: dict[str, Any] = {}
    for extension, media in (("png", "image/png"), ("jpg", "image/jpeg"), ("webp", "image/webp")):
        faces[f"/faces/{{seed}}.{extension}"] = {
            "get": _operation(f"The image of a seed as .{extension}", [seed, _MODEL], [media], *_IMAGE_STATUSES)
        }
    frames = _query("frames", f"2 .. {min(max_images, LONGEST_GIF)}", {"type": "integer"}, 60)
    fps = _query("fps", "Frames a second, 1 .. 50", {"type": "integer"}, 25)
    scale = _query("scale", "Each pixel becomes scale x scale, 1 .. 4", {"type": "integer"}, 2)
    grid = _operation("A grid of the images of some seeds", [seeds, _MODEL], ["image/png"], *_IMAGE_STATUSES)
    walk = _operation(
        "A video from face to face and back to the first",
        [seeds, frames, fps, scale, _MODEL],
        ["image/gif"],
        *(*_IMAGE_STATUSES, 501),
    )
    media = ["application/zip", "application/x-npz", "application/json"]
    many = _operation("Images of seeds or latents", [], media, 200, 400, 413, 415, 422, 429, 500, 503)
    many["requestBody"] = _body({**inputs, **form})
    score = _operation(
        "How real the discriminator finds the images, if one is exported",
        [],
        ["application/json"],
        *(200, 400, 404, 413, 415, 422, 429, 500, 503),
    )
    score["requestBody"] = _body(inputs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Faces from seeds",
            "version": "1",
            "description": "A seed is the same image, to the byte, in every answer of a model.",
        },
        "paths": {
            **faces,
            "/grid.png": {"get": grid},
            "/walk.gif": {"get": walk},
            "/v1/faces": {"post": many},
            "/v1/score": {"post": score},
            "/v1/model": {"get": _operation("The manifest of the export, and what runs it", [], [_JSON], 200, 503)},
            "/livez": {"get": _operation("The process lives", [], [_JSON], 200)},
            "/readyz": {"get": _operation("The model is loaded and verified on this machine", [], [_JSON], 200, 503)},
            "/health": {"get": _operation("The same in PaddleX's form", [], [_JSON], 200, 503)},
            "/metrics": {"get": _operation("For Prometheus", [], ["text/plain"], 200)},
        },
        "components": {
            "schemas": {
                "Problem": {
                    "type": "object",
                    "required": ["type", "title", "status", "detail"],
                    "properties": {
                        "type": {"type": "string"},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string", "description": "What was expected and what was received"},
                    },
                }
            }
        },
    }


_JSON = "application/json"
_WORDS = {
    200: "Done",
    304: "The client has it",
    400: "Not a JSON object",
    404: "Not here",
    413: "Too large",
    415: "A packed body",
    422: "A value that makes no sense",
    429: "The queue is full: try again after Retry-After seconds",
    500: "The model failed: the server's log says more",
    501: "This server's OpenCV cannot write .gif",
    503: "Not ready, or stopping",
}
_IMAGE_STATUSES = (200, 304, 404, 422, 429, 500, 503)


def _operation(summary: str, parameters: list[dict[str, Any]], media: list[str], *statuses: int) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in statuses:
        responses[str(status)] = answer = {"description": _WORDS[status]}
        if status == 200:
            answer["content"] = {name: {} for name in media}
        elif status >= 400:
            answer["content"] = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"summary": summary, "parameters": parameters, "responses": responses}


def _query(name: str, description: str, of: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": of, "description": description, "example": example}


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    of = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"required": True, "content": {_JSON: {"schema": of}}}


def page(max_images: int, grid: bool) -> bytes:
    """HTML: the endpoints, and a grid of images on top if asked for."""
    rows = []
    for path, operations in schema(max_images)["paths"].items():
        for method, operation in operations.items():
            names = [parameter["name"] for parameter in operation["parameters"]]
            body = operation.get("requestBody", {}).get("content", {}).get(_JSON, {}).get("schema", {})
            names += [f"{name} (JSON)" for name in body.get("properties", {})]
            cells = (f"{method.upper()} {path}", operation["summary"], ", ".join(names))
            rows.append("<tr><td><code>" + "</code><td>".join(html.escape(cell) for cell in cells))
    return _PAGE.format(image=_IMAGE if grid else "", rows="\n".join(rows)).encode()


_IMAGE = '<p><a href="/grid.png"><img src="/grid.png" alt="The images of the first seeds"></a>'
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Faces from seeds</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
td {{ padding: .2rem 1rem .2rem 0; vertical-align: top; border-top: 1px solid #8884 }}
img {{ image-rendering: pixelated; max-width: 100% }}
:root {{ color-scheme: light dark }}
</style>
<h1>Faces from seeds</h1>
{image}
<p>A seed is a whole number of 0 .. 4294967295, and the same image in every answer:
<a href="/faces/7.png">/faces/7.png</a>. The schema for tools is <a href="/openapi.json">/openapi.json</a>.</p>
<table>
{rows}
</table>
</html>
"""

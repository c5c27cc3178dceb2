"""What a client asked for, read with suspicion: every function returns checked values or raises Problem."""

from __future__ import annotations

import json
import math
import re
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from starlette.requests import ClientDisconnect, Request

from deploy.seed_ranges import MAX_SEED, Seeds
from deploy.serving.problems import ClientGone, Problem, received
from deploy.untrusted import refuse_constant

LARGEST_LATENT = 1000.0  # standard normal numbers are within +-7
LONGEST_NUMBER = 40  # characters; reading one of a million digits takes a Python before 3.11 minutes
_WHOLE = re.compile(r"\d{1,10}", re.ASCII)


def query(request: Request, *allowed: str) -> dict[str, str]:
    """The parameters of the address, each once and each known."""
    raw = request.scope["query_string"]
    try:
        pairs = parse_qsl(raw.decode("ascii"), True, bool(raw), errors="strict", max_num_fields=len(allowed))
    except ValueError as error:
        raise Problem(
            422, f"parameters name=value of {_names(allowed)} were expected, received {received(raw)}"
        ) from error
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed or name in found:
            what = "twice" if name in found else "unknown"
            raise Problem(422, f"the parameter {received(name)} is {what}; expected are {_names(allowed)}, each once")
        found[name] = value
    return found


def seed(text: str) -> int:
    """A seed of an address."""
    if not _WHOLE.fullmatch(text) or int(text) > MAX_SEED:
        raise Problem(422, f"a seed is a whole number of 0 .. {MAX_SEED}, received {received(text)}")
    return int(text)


def whole(text: str | None, name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number of an address."""
    if text is None:
        return default
    if not _WHOLE.fullmatch(text) or not lowest <= int(text) <= highest:
        raise Problem(422, f"{name} is a whole number of {lowest} .. {highest}, received {received(text)}")
    return int(text)


def seeds(value: Any, most: int) -> list[int]:
    """Seeds: text such as `0,7,100-199` or a list of whole numbers; at most `most`, each once."""
    if isinstance(value, str):
        try:
            found = Seeds.parse(value)
        except ValueError as error:
            sentence = f"seeds such as 0,7,100-199 were expected, received {received(value)}: {_reason(error)}"
            raise Problem(422, sentence) from error
        _count(len(found), most)
        return list(found)
    if not isinstance(value, list) or not value:
        raise Problem(422, f"seeds are a list of whole numbers or text such as '0,7,100-199', received {_kind(value)}")
    _count(len(value), most)
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_SEED:
            raise Problem(422, f"a seed is a whole number of 0 .. {MAX_SEED}, received {_kind(number)}")
    if len(set(value)) < len(value):
        raise Problem(422, "a seed is named twice; each is expected once")
    return value


def latents(value: Any, most: int, latent_dim: int) -> np.ndarray:
    """float32 [N, latent_dim] of N lists of finite numbers."""
    if not isinstance(value, list) or not value:
        raise Problem(422, f"latents are a list of lists of {latent_dim} numbers, received {_kind(value)}")
    _count(len(value), most)
    for i, row in enumerate(value):
        if not isinstance(row, list) or len(row) != latent_dim:
            raise Problem(422, f"latent {i} must have {latent_dim} numbers, received {_kind(row)}")
        for number in row:
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not is_number or not -LARGEST_LATENT <= number <= LARGEST_LATENT:  # NaN is in no range
                raise Problem(
                    422, f"latent {i}: numbers within +-{LARGEST_LATENT:g} are expected, received {_kind(number)}"
                )
    return np.array(value, np.float32)


async def body(request: Request, most: int, *allowed: str) -> dict[str, Any]:
    """The JSON object that was sent, of at most `most` bytes, with known keys only."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise Problem(415, f"a body that is not packed was expected, received {received(encoding)}")
    length = request.headers.get("content-length", "0")
    if len(length) > 15 or int(length) > most:  # the parser has seen that it is a number
        raise Problem(413, f"a body has at most {most} bytes, {received(length, 20)} were announced")
    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise Problem(413, f"a body has at most {most} bytes; more were received")
    except ClientDisconnect as error:
        raise ClientGone from error
    try:
        numbers = {"parse_int": _number(int), "parse_float": _number(float), "parse_constant": refuse_constant}
        value = json.loads(bytes(content), object_pairs_hook=_each_once, **numbers)
    except (ValueError, RecursionError) as error:
        raise Problem(
            400, f"a JSON object was expected, received {received(bytes(content))}: {_reason(error)}"
        ) from error
    if not isinstance(value, dict):
        raise Problem(400, f"a JSON object was expected, received {_kind(value)}")
    unknown = [name for name in value if name not in allowed]
    if unknown:
        raise Problem(422, f"the key {received(unknown[0])} is unknown; expected are {_names(allowed)}")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _number(convert: Any) -> Any:
    def read(text: str) -> Any:
        if len(text) > LONGEST_NUMBER:
            raise ValueError(f"a number of {len(text)} characters, {LONGEST_NUMBER} are allowed")
        return convert(text)

    return read


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else received(str(error), 80)


def _count(count: int, most: int) -> None:
    if count > most:
        raise Problem(422, f"at most {most} images a request, received {count}")


def _kind(value: Any) -> str:
    """A JSON value in a few words."""
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    return "null" if value is None else received(value)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) if names else "none"

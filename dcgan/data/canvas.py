"""What synthetic faces are painted on, and the shapes and colours that they are made of."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np

Colour = tuple[int, int, int]  # RGB

HEIGHT, WIDTH = 218, 178
_OVERSIZE = 2  # painted this many times larger, then shrunk: OpenCV's own smoothing leaves bumps on thick lines
_SHIFT = 4  # OpenCV's fixed point: 1/16 pixel
CIRCLE = np.stack([np.cos(np.deg2rad(np.arange(721))), np.sin(np.deg2rad(np.arange(721)))], axis=1)  # row: degree


class Canvas:
    """What is to be painted on an enlarged image, and the pose of the shapes of the face (points, float64 [N, 2]).

    Shapes are kept until `image`, so that the points of all of them are moved to their place at once: one by one, numpy
    takes longer for that than OpenCV for the painting.
    """

    def __init__(self, pose: np.ndarray) -> None:
        self._right, self._down, self._origin = pose * (_OVERSIZE << _SHIFT)
        self._points: list[np.ndarray] = []
        self._strokes: list[tuple[Colour, int, bool]] = []  # colour, thickness (0: fill), closed

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        self._points.append(points)
        self._strokes.append((colour, 0, True))

    def both(self, points: np.ndarray, colour: Colour) -> None:
        """Fill a shape and its mirror image."""
        self.fill(points, colour)
        self.fill(points * (-1, 1), colour)

    def stroke(self, points: np.ndarray, colour: Colour, width: float, closed: bool = False) -> None:
        self._points.append(points)
        self._strokes.append((colour, int(width * _OVERSIZE + 0.5), closed))

    def image(self) -> np.ndarray:
        """All shapes, in the order in which they came: RGB uint8 [218, 178, 3]."""
        image = np.empty((HEIGHT * _OVERSIZE, WIDTH * _OVERSIZE, 3), np.uint8)
        pixels = self._pixels(np.concatenate(self._points))
        start = 0
        for points, (colour, thickness, closed) in zip(self._points, self._strokes):
            shape = [pixels[start : start + len(points)]]
            start += len(points)
            if thickness:
                cv2.polylines(image, shape, closed, colour, thickness, cv2.LINE_8, _SHIFT)
            else:
                cv2.fillPoly(image, shape, colour, cv2.LINE_8, _SHIFT)
        return cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """In 1/16 pixels; the rounding also swallows the last bits, in which machines' cos and pow may differ."""
        return np.rint(points[:, :1] * self._right + points[:, 1:] * self._down + self._origin).astype(np.int32)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of colour b, the rest of a."""
    (r, g, b_), (red, green, blue) = a, b
    return int(r + (red - r) * share + 0.5), int(g + (green - g) * share + 0.5), int(b_ + (blue - b_) * share + 0.5)


def blend(colours: Sequence[Colour], share: float) -> Colour:
    """The colour at `share` (below 1) of the way through the list, between two neighbours."""
    position = share * (len(colours) - 1)
    return mix(colours[int(position)], colours[int(position) + 1], position % 1.0)


def dark(colour: Colour, share: float) -> Colour:
    """The colour in shadow, which is warmer than black would make it."""
    return mix(colour, (60, 20, 40), share)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def ellipse(x: float, y: float, rx: float, ry: float, start: int = 0, end: int = 360) -> np.ndarray:
    """Points [N, 2] every 9 degrees from `start` to `end`, clockwise from the right."""
    return CIRCLE[start : end + 1 : 9] * (rx, ry) + (x, y)


@functools.lru_cache(maxsize=64)  # some are the same in every face
def curve(*points: tuple[float, float]) -> np.ndarray:
    """A smooth line through the points (Catmull-Rom, 6 pieces between two), float64 [6 N - 5, 2]."""
    line = _spline(len(points)) @ np.array(points, np.float64)
    line.flags.writeable = False
    return line


@functools.cache
def _spline(count: int) -> np.ndarray:
    """How much each point of the line has of each of `count` points, float64 [6 N - 5, N]."""
    p = np.eye(count)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])[:, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    t = np.arange(6)[:, None] / 6
    line = b + t * (0.5 * (c - a) + t * ((a - 2.5 * b + 2 * c - 0.5 * d) + t * (1.5 * (b - c) + 0.5 * (d - a))))
    return np.concatenate([line.reshape(-1, count), p[-2]])

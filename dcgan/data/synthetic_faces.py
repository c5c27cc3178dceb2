"""Faces drawn with OpenCV from a seed: training data that needs no download, framed and aligned like CelebA's 178x218.

`describe` draws a face's attributes, `draw_face` paints them back to front, one function a feature. Features have their
coordinates in pixels from the point between the eyes, x to the right, y down; `Face.pose` maps these to the image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Callable

import numpy as np

from deploy.seeds import MAX_SEED, bits, check_seeds, keys

from .canvas import CIRCLE, Canvas, Colour, blend, box, curve, dark, ellipse, mix

EYE_LEVEL = (89.0, 112.0)  # x, y of the point between the eyes of CelebA's aligned faces
_CROWN = 60  # from the eyes up to the top of the skull

# Palettes, RGB. A value that stands in a list more than once is that much more frequent.
WHITE, INK, GOLD = (255, 255, 255), (34, 26, 32), (244, 200, 84)
BLUSH, TONGUE, THROAT = (236, 96, 96), (224, 104, 104), (110, 28, 40)
SKINS = ((255, 224, 200), (248, 205, 172), (236, 184, 146), (219, 160, 118), (190, 128, 88), (156, 100, 68),
         (120, 76, 54))  # fmt: skip
HAIRS = ((38, 32, 38),) * 3 + ((74, 46, 34),) * 3 + ((120, 72, 42),) * 2 + (
    (168, 96, 44), (206, 92, 40), (226, 176, 84), (244, 218, 150), (150, 150, 158), (232, 232, 232),
    (236, 112, 150), (74, 158, 170), (128, 92, 182))  # fmt: skip
IRISES = ((72, 44, 28), (110, 70, 36), (52, 110, 176), (66, 136, 88), (96, 112, 124))
LIPS = ((196, 84, 84), (178, 60, 72), (214, 100, 110), (160, 48, 62))
CLOTHES = ((214, 72, 72), (240, 150, 60), (246, 206, 92), (88, 168, 112), (52, 140, 150), (70, 110, 190), (44, 58, 96),
           (134, 92, 168), (232, 130, 160), (244, 240, 232), (60, 62, 70))  # fmt: skip
BACKGROUNDS = ((246, 222, 196), (250, 200, 180), (244, 178, 170), (250, 230, 150), (190, 224, 180), (150, 210, 200),
               (160, 208, 236), (120, 164, 216), (196, 186, 232), (230, 190, 220), (236, 236, 232),
               (92, 104, 136))  # fmt: skip
FRAMES = ((36, 34, 40), (36, 34, 40), (120, 60, 36), (190, 48, 56), (40, 84, 150), (212, 166, 70))

LOOSE = ("bob", "long", "wavy")  # hair that hides the ears
STYLES = LOOSE + ("short", "short", "quiff", "spiky", "curly", "afro", "buzz", "bald", "bun", "pigtails", "ponytail")
HAIRLINES = {  # from the right temple to the left: x as a share of the face's half width, y
    "swept": ((0.96, -14), (0.78, -30), (0.30, -38), (-0.20, -46), (-0.52, -50), (-0.72, -36), (-0.96, -14)),
    "fringe": ((0.96, -10), (0.86, -25), (0.45, -28), (0.0, -29), (-0.45, -28), (-0.86, -25), (-0.96, -10)),
    "parted": ((0.97, -8), (0.80, -26), (0.40, -40), (0.0, -55), (-0.40, -40), (-0.80, -26), (-0.97, -8)),
    "high": ((0.96, -14), (0.78, -32), (0.46, -44), (0.0, -48), (-0.46, -44), (-0.78, -32), (-0.96, -14)),
    "peak": ((0.96, -14), (0.77, -33), (0.42, -46), (0.0, -37), (-0.42, -46), (-0.77, -33), (-0.96, -14)),
}
MOUTHS = ("smile", "smile", "grin", "grin", "grin", "open", "open", "lips", "lips", "neutral", "sad", "oh")
BEARDS = ("none",) * 12 + ("full", "full", "stubble", "goatee", "moustache", "moustache")
GLASSES = ("none",) * 14 + ("round", "round", "square", "square", "sun")
PATTERNS = ("plain", "plain", "gradient", "gradient", "sun", "stripes", "split")


def _pick(options: Sequence) -> Any:
    return _attribute(lambda share: options[int(share * len(options))])


def _between(low: float, high: float) -> Any:
    return _attribute(lambda share: low + (high - low) * share)


def _attribute(from_uniform: Callable[[float], Any]) -> Any:
    """A dataclass field whose value is `from_uniform` of a number of [0, 1)."""
    return field(metadata={"from_uniform": from_uniform})


@dataclass(frozen=True)
class Face:
    """What one face looks like, each attribute drawn independently of the others. Lengths are pixels of the image."""

    skin: Colour = _attribute(lambda share: blend(SKINS, share))
    width: float = _between(45, 54)  # half of the face's
    chin: float = _between(60, 70)
    jaw: float = _between(1.9, 2.7)  # exponent of the lower outline: 2 is an ellipse, more is squarer
    hair: Colour = _pick(HAIRS)
    hair_style: str = _pick(STYLES)
    hair_volume: float = _between(5, 12)
    hairline: str = _pick(tuple(HAIRLINES))
    hair_side: int = _pick((-1, 1))  # of a parting or a ponytail; -1 is the image's left
    iris: Colour = _pick(IRISES)
    eye_distance: float = _between(20.5, 23.5)  # from the middle of the face to an eye
    eye_width: float = _between(12.5, 15)  # half of an eye's
    eye_height: float = _between(11, 14.5)
    eyelid: float = _pick((0, 0, 0, 0.15, 0.3))  # share of the eye's upper half that is closed
    gaze_x: float = _between(-1, 1)
    gaze_y: float = _between(-0.6, 0.6)
    brow_height: float = _between(20, 25)
    brow_tilt: float = _between(-4, 3)  # worried < 0 < stern
    brow_weight: float = _between(3.4, 6)
    nose: str = _pick(("button", "line", "wide"))
    nose_size: float = _between(0.8, 1.25)
    mouth: str = _pick(MOUTHS)
    mouth_width: float = _between(15, 21)  # half of the mouth's
    lips: Colour = _pick(LIPS)
    blush: float = _pick((0, 0, 0.25, 0.4))
    beard: str = _pick(BEARDS)
    glasses: str = _pick(GLASSES)
    frame: Colour = _pick(FRAMES)
    earrings: bool = _pick((False, False, True))
    clothes: Colour = _pick(CLOTHES)
    collar: str = _pick(("crew", "vee", "shirt", "turtle"))
    background: Colour = _pick(BACKGROUNDS)
    background_2: Colour = _pick(BACKGROUNDS)
    pattern: str = _pick(PATTERNS)
    light: float = _between(-1, 1)  # where it comes from: -1 is the image's left
    shift_x: float = _between(-3, 3)
    shift_y: float = _between(-3, 3)
    roll: float = _between(-0.08, 0.08)  # tangent of the angle, clockwise > 0
    yaw: float = _between(-4, 4)  # how far the features move sideways on the head
    scale: float = _between(0.96, 1.04)

    def pose(self) -> np.ndarray:
        """Where the face's coordinates are in the image, float64 [3, 2]: (x, y) -> x * row 0 + y * row 1 + row 2."""
        cos = self.scale / (1 + self.roll * self.roll) ** 0.5
        sin = cos * self.roll
        return np.array([(cos, sin), (-sin, cos), (EYE_LEVEL[0] + self.shift_x, EYE_LEVEL[1] + self.shift_y)])


def describe(index: int, seed: int = 0) -> Face:
    """The attributes of face `index` of the series `seed`, both 0 .. 4294967295 (ValueError otherwise)."""
    if not (isinstance(index, int) and 0 <= index <= MAX_SEED):
        index = int(check_seeds(index)[0])
    block, row = divmod(index, _BLOCK)
    shares = _shares(block, seed)[row]
    return Face(**{a.name: a.metadata["from_uniform"](share) for a, share in zip(fields(Face), shares)})


_BLOCK = 32  # faces: numpy takes about as long for the random numbers of one as for those of all


@functools.lru_cache(maxsize=64)
def _shares(block: int, seed: int) -> list[list[float]]:
    """What decides about the attributes of `_BLOCK` faces that follow each other: numbers of [0, 1)."""
    random = bits(keys(seed, block * _BLOCK + np.arange(_BLOCK)), len(fields(Face)))
    return (random / 2.0**32).tolist()


def draw_face(index: int, seed: int = 0) -> np.ndarray:
    """Face `index` of the series `seed`: RGB uint8 [218, 178, 3], the caller's to keep.

    A pure function of (seed, index), both 0 .. 4294967295 (ValueError otherwise), so any thread may draw any face.
    """
    face = describe(index, seed)
    canvas = Canvas(face.pose())
    for paint in (_background, _back_hair, _body, _ears, _head, _nose, _beard, _mouth, _eyes, _front_hair, _brows,
                  _glasses):  # fmt: skip
        paint(canvas, face)
    return canvas.image()


def _background(canvas: Canvas, face: Face) -> None:
    first, second = face.background, face.background_2
    canvas.fill(box(-150, -150, 150, 150), first)
    if face.pattern == "gradient":
        for y in range(-130, 130, 10):
            canvas.fill(box(-150, y, 150, y + 10), mix(first, second, (y + 130) / 260))
    elif face.pattern == "sun":
        canvas.fill(ellipse(0, -8, 82, 82), second)
    elif face.pattern == "stripes":
        for x in range(-150, 150, 50):
            canvas.fill(box(x, -150, x + 25, 150), second)
    elif face.pattern == "split":
        canvas.fill(box(-150, -150, 0, 150), second)


def _back_hair(canvas: Canvas, face: Face) -> None:
    """What hangs or stands behind the head."""
    colour, w, style = dark(face.hair, 0.18), face.width, face.hair_style
    if style in LOOSE:
        low, out = (face.chin, w + 16) if style == "bob" else (130, w + 19)
        half = curve((0, -64), (w * 0.72, -52), (w + 12, -14), (out, low * 0.6), (out - 3, low), (0, low))
        canvas.both(half, colour)
        for y in range(-10, 110, 20) if style == "wavy" else ():
            canvas.both(ellipse(w + 12, y, 13, 14), colour)
    elif style == "afro":
        for x, y in ellipse(0, -18, w + 8, 56, 144, 396)[::2]:
            canvas.fill(ellipse(x, y, 22, 22), colour)
    elif style == "bun":
        canvas.fill(ellipse(0, -_CROWN - 14, 20, 18), colour)
    elif style == "pigtails":
        canvas.both(curve((w - 6, -20), (w + 20, -14), (w + 28, 24), (w + 14, 62), (w + 6, 20)), colour)
    elif style == "ponytail":
        tail = curve((w - 20, -60), (w + 16, -48), (w + 30, 6), (w + 18, 76), (w + 10, 20), (w - 8, -20))
        canvas.fill(tail * (face.hair_side, 1), colour)


def _body(canvas: Canvas, face: Face) -> None:
    neck, top, shadow, seam = face.width * 0.46, face.chin + 10, dark(face.skin, 0.28), dark(face.clothes, 0.3)
    shoulder = curve((0, top + 8), (neck + 2, top + 4), (neck + 24, top + 14), (86, top + 24), (110, 150), (0, 150))
    canvas.both(shoulder, face.clothes)
    canvas.fill(box(-neck, 20, neck, top + 5), shadow)
    if face.collar == "turtle":
        canvas.fill(box(-neck - 3, top - 6, neck + 3, top + 14), face.clothes)
        canvas.stroke(ellipse(0, top - 8, neck, 8, 0, 180), seam, 2.5)
        return
    throat = ellipse(0, top + 4, neck, 12, 0, 180)
    if face.collar == "vee":
        throat = np.array([(neck, top + 4), (0, top + 34), (-neck, top + 4)])
    canvas.fill(throat, shadow)
    canvas.stroke(throat, seam, 2.5)
    if face.collar == "shirt":
        canvas.both(np.array([(2, top + 20), (neck - 2, top - 2), (neck + 9, top + 8), (neck - 2, top + 28)]), WHITE)


def _ears(canvas: Canvas, face: Face) -> None:
    for side in () if face.hair_style in LOOSE else (-1, 1):
        x = side * (face.width + 2) - 0.5 * face.yaw
        canvas.fill(ellipse(x, 4, 9, 14), dark(face.skin, 0.12))
        canvas.fill(ellipse(x, 4, 5, 9), dark(face.skin, 0.3))
        if face.earrings:
            canvas.fill(ellipse(x + 2 * side, 22, 5.5, 5.5), GOLD)


def _outline(face: Face) -> np.ndarray:
    """The head's edge, clockwise from the right: below the eyes a superellipse, then above them half an ellipse."""
    cos, sin = CIRCLE[0:360:6].T
    power = np.where(sin > 0, 2 / face.jaw, 1)
    x = face.width * np.sign(cos) * np.abs(cos) ** power
    return np.stack([x, np.where(sin > 0, face.chin * np.abs(sin) ** power, _CROWN * sin)], axis=1)


def _head(canvas: Canvas, face: Face) -> None:
    """Shadow first, then ever smaller and lighter copies that touch the outline on the side of the light."""
    outline, reach = _outline(face), np.array([face.width * face.light, -0.4 * face.chin])
    for inset, share in ((0, 0.2), (0.045, 0.13), (0.09, 0.065), (0.135, 0)):
        canvas.fill(outline * (1 - inset) + reach * inset, dark(face.skin, share))
    for side in (-1, 1) if face.blush else ():
        canvas.fill(ellipse(side * face.width * 0.62 + face.yaw, 24, 10, 7), mix(face.skin, BLUSH, face.blush))


def _nose(canvas: Canvas, face: Face) -> None:
    x, size, colour = 1.5 * face.yaw, face.nose_size, dark(face.skin, 0.34)
    if face.nose == "button":
        canvas.fill(ellipse(x, 17, 7.5 * size, 6 * size), colour)
        canvas.fill(ellipse(x, 15, 6.5 * size, 4.8 * size), dark(face.skin, 0.1))
    elif face.nose == "line":
        side = -1 if face.light > 0 else 1
        canvas.stroke(curve((1, -2), (4, 8), (7, 17), (0, 20), (-3, 19)) * (side * size, 1) + (x, 0), colour, 3.5)
    else:
        canvas.stroke(curve((-9, 15), (-7, 19.5), (0, 21.5), (7, 19.5), (9, 15)) * (size, 1) + (x, 0), colour, 3.5)


def _beard(canvas: Canvas, face: Face) -> None:
    colour = mix(face.skin, INK, 0.22) if face.beard == "stubble" else dark(face.hair, 0.2)
    if face.beard == "goatee":
        canvas.fill(ellipse(face.yaw, face.chin - 8, 15, 12), colour)
    elif face.beard in ("full", "stubble"):
        outline = _outline(face)
        inner = curve((-0.92, 2), (-0.74, 22), (-0.3, 25), (0.3, 25), (0.74, 22), (0.92, 2)) * (face.width, 1)
        canvas.fill(np.concatenate([outline[outline[:, 1] > 0] * (1.01, 1.05), inner]), colour)
    for side in (-1, 1) if face.beard in ("full", "goatee", "moustache") else ():
        half = curve((0, 23), (9, 23), (face.mouth_width + 4, 33), (8, 32), (0, 30))
        canvas.fill(half * (side, 1) + (1.3 * face.yaw, 0), colour)


def _mouth(canvas: Canvas, face: Face) -> None:
    middle, w, line = (1.1 * face.yaw, face.chin * 0.59), face.mouth_width, dark(face.lips, 0.65)
    if face.mouth in ("grin", "open"):
        depth = 14 if face.mouth == "grin" else 18
        shape = np.concatenate([curve((-w, -3), (0, 0), (w, -3)), ellipse(0, -3, w, depth, 0, 180)]) + middle
        canvas.fill(shape, WHITE if face.mouth == "grin" else THROAT)
        if face.mouth == "open":
            canvas.fill(ellipse(0, 10, w * 0.5, 5) + middle, TONGUE)
            canvas.fill(np.array([(3 - w, -2), (w - 3, -2), (w - 5, 4), (5 - w, 4)]) + middle, WHITE)
        canvas.stroke(shape, line, 3.5, closed=True)
    elif face.mouth == "lips":
        lips = curve((-w, 0), (-w * 0.3, -6), (0, -4), (w * 0.3, -6), (w, 0), (0, 10), (-w, 0))
        canvas.fill(lips + middle, face.lips)
        canvas.stroke(curve((-w, 0), (0, 1.5), (w, 0)) + middle, line, 2.5)
    elif face.mouth == "oh":
        canvas.fill(ellipse(0, 2, 10, 11) + middle, face.lips)
        canvas.fill(ellipse(0, 2, 6.5, 7.5) + middle, THROAT)
    else:
        bend = {"smile": 10, "neutral": 0.5, "sad": -7}[face.mouth]
        canvas.fill(ellipse(0, 5 + bend * 0.5, w * 0.5, 4.5) + middle, mix(face.skin, face.lips, 0.6))
        canvas.stroke(curve((-w, -bend / 2), (0, bend / 2), (w, -bend / 2)) + middle, line, 4.5)


def _eyes(canvas: Canvas, face: Face) -> None:
    size, look = np.array([face.eye_width, face.eye_height]), np.array([4 * face.gaze_x, 3 * face.gaze_y])
    ceiling = (-99, (face.eyelid - 1) * face.eye_height)  # nothing of the eye shows above its lid
    white, lid = (np.maximum(ellipse(0, 0, *size, *arc), ceiling) for arc in ((0, 360), (198, 342)))
    discs = []
    for radius, colour in ((8.4, dark(face.iris, 0.45)), (7, face.iris), (4.3, INK)):
        disc = (ellipse(0, 0, radius, radius) + look) / size
        disc *= size / np.maximum(1, np.hypot(*disc.T))[:, None]  # never out of the white
        discs.append((np.maximum(disc, ceiling), colour))
    shine, rim = ellipse(2.6, -2.6, 2.3, 2.3) + look, dark(face.skin, 0.22)
    for side in (-1, 1):
        middle = (side * face.eye_distance + face.yaw, 0)
        canvas.fill(ellipse(*middle, *(size + 1.5)), rim)
        canvas.fill(white + middle, WHITE)
        for disc, colour in discs:
            canvas.fill(disc + middle, colour)
        canvas.fill(shine + middle, WHITE)
        canvas.stroke(lid + middle, INK, 3.6)


def _front_hair(canvas: Canvas, face: Face) -> None:
    """The cap of hair between the top of the head and the hairline, and the locks beside the face."""
    style, w, side = face.hair_style, face.width, face.hair_side
    if style == "bald":
        return
    colour = mix(face.hair, face.skin, 0.35) if style == "buzz" else face.hair
    rise = 2 if style == "buzz" else face.hair_volume
    cap = ellipse(0, -2, w + 5, _CROWN + rise - 2, 180, 360)
    if style == "spiky":
        cap[2:-2:2] *= 1.2
    elif style == "quiff":
        cap[(cap[:, 0] * side > 10) & (cap[:, 1] < -40), 1] -= 10
    canvas.fill(np.concatenate([cap, (curve(*HAIRLINES[face.hairline]) * (w * side, 1))[::side]]), colour)
    if style in ("curly", "afro"):
        for x, y in ellipse(0, -4, w, _CROWN - 6, 189, 351)[::2]:
            canvas.fill(ellipse(x, y, 13, 12), colour)
    elif style in LOOSE:
        low = face.chin - 6 if style == "bob" else 130
        lock = curve((w - 4, -26), (w + 9, -16), (w + 16, low * 0.6), (w + 9, low), (w, 30), (w - 4, -26))
        canvas.both(lock, colour)
    if style not in ("buzz", "curly", "afro", "spiky"):
        shine = ellipse(0, -2, w - 7, _CROWN + rise - 9, 288, 315) * (1 if face.light > 0 else -1, 1)
        canvas.stroke(shine, mix(colour, WHITE, 0.25), 4)


def _brows(canvas: Canvas, face: Face) -> None:
    y, tilt, colour = -face.brow_height, face.brow_tilt, mix(dark(face.hair, 0.35), INK, 0.3)
    for side in (-1, 1):
        line = curve((-11, y + tilt), (0, y - 2.5), (12, y + 2 - tilt * 0.3)) * (side, 1)
        canvas.stroke(line + (side * face.eye_distance + face.yaw, 0), colour, face.brow_weight)


def _glasses(canvas: Canvas, face: Face) -> None:
    r = face.eye_distance - 3.5
    for side in () if face.glasses == "none" else (-1, 1):
        x = side * face.eye_distance + face.yaw
        lens = ellipse(x, 1, r, 17)
        if face.glasses != "round":
            lens = np.array([(-r, -13), (r, -13), (r - 2, 15), (2 - r, 15)]) + (x, 1)
        if face.glasses == "sun":
            canvas.fill(lens, INK)
            canvas.stroke(np.array([(x - 8, 8), (x + 4, -8)]), (120, 130, 150), 4)
        canvas.stroke(lens, face.frame, 4, closed=True)
        canvas.stroke(np.array([(x + side * r, -3), (side * (face.width + 2), -5)]), face.frame, 4)
        canvas.stroke(np.array([(face.yaw, -4), (face.yaw + side * 4, -3)]), face.frame, 4)

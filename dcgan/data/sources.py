"""Where images come from: a folder, a .zip read in place, or the word `cartoon`. Each is a `Source`.

A source lists its candidates once, in an order that does not depend on the machine, and gives one decoded image at a
time to any number of threads. Nothing is written here: names inside an archive are data, never paths.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import hashlib
import logging
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from deploy.untrusted import UnsafeFileError, open_file

from ..errors import DataError
from .decode import DEFAULT_LIMITS, Limits, beyond, decode_image
from .drawing_processes import FACES_EACH, DrawingProcesses
from .synthetic_faces import draw_face

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp")
_UNREAD_SUFFIXES = (".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".tif", ".tiff")  # images as well
CARTOON_COUNT = 6000  # faces of plain `cartoon`
ACCEPTED = "a folder of images, a .zip of them, a packed .npy, or the word cartoon (cartoon:COUNT)"


logger = logging.getLogger("dcgan.data")


class Source(abc.ABC):
    """`len(source)` candidates, some of which may turn out not to be images. Close it, or use it in a `with`."""

    kind: str  # "folder", "zip" or "cartoon"
    label: str  # a short name for people and file names

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def name(self, i: int) -> str:
        """Candidate i for people: a relative path without control characters, whatever the file is called."""

    @abc.abstractmethod
    def image(self, i: int) -> np.ndarray:
        """Candidate i as RGB uint8 [H, W, 3]; safe in several threads. Raises DataError or OSError with the reason."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A digest that changes when the source does, taken without reading the images."""

    def drawing_processes(self, count: int, size: int, crop: str) -> DrawingProcesses:
        """Up to `count` processes that make rows of a packed file beside the caller: none for files, which threads
        decode as fast."""
        return DrawingProcesses(0, 0, size, crop)

    def close(self) -> None:  # noqa: B027 - most have nothing to release
        """Release open files."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def open_source(data: str, limits: Limits = DEFAULT_LIMITS, seed: int = 0) -> Source:
    """The source that `data` names: a folder, a .zip, `cartoon` or `cartoon:COUNT` (drawn from `seed`).

    Raises DataError if there is no such thing, if it is of another kind, or if no file in it is called like an image.
    """
    if data == "cartoon" or data.startswith("cartoon:"):
        return CartoonSource(data, seed)
    if not data:
        raise DataError(f"no data named: expected {ACCEPTED}")
    path = Path(data)
    if path.is_dir():
        return FolderSource(path, limits)
    if not path.exists():
        raise DataError(f"there is no {data} (looked for {path.absolute()}): expected {ACCEPTED}")
    if path.suffix.lower() == ".npy":
        raise DataError(f"{data} is packed already: give it to --data of training as it is")
    if path.suffix.lower() != ".zip":
        raise DataError(f"{data} cannot be used as a source of images: expected {ACCEPTED}")
    return ZipSource(path, limits)


class FolderSource(Source):
    """Images in a folder and the folders below it. Hidden ones are left out; links that lead outside are refused."""

    kind = "folder"

    def __init__(self, root: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.label, self._limits = _printable(root.absolute().name), limits
        self._root = Path(os.path.realpath(root))
        self._names = _list_folder(self._root)
        if not self._names:
            raise DataError(f"no images in folder {root}: searched it and the folders in it for {_SUFFIXES}")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, i: int) -> str:
        return _printable(self._names[i])

    def image(self, i: int) -> np.ndarray:
        return decode_image(self._read(self._path(i)), self._limits)

    def _path(self, i: int) -> str:
        return os.path.join(self._root, self._names[i])  # Path's `/` takes as long as a tenth of decoding an image

    def _read(self, path: str) -> bytes:
        try:
            descriptor = os.open(path, _NO_LINK)
        except OSError as error:
            if not os.path.islink(path):
                if error.errno == errno.ENXIO:  # a socket
                    raise DataError("not a regular file") from None
                raise
            descriptor = os.open(self._target(path), _NO_LINK)
        try:
            return self._read_whole(descriptor)
        finally:
            os.close(descriptor)

    def _target(self, path: str) -> str:
        """Where a symbolic link leads."""
        target = os.path.realpath(path)
        if not Path(target).is_relative_to(self._root):
            raise DataError("a symbolic link that leads outside the folder: not followed")
        if os.path.isdir(target):
            raise DataError("a symbolic link to a folder: not followed")
        return target

    def _read_whole(self, descriptor: int) -> bytes:
        status = os.fstat(descriptor)  # of what is open: the name may be another file's by now
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a regular file")
        size, most = status.st_size, self._limits.max_file_bytes
        if size > most:
            raise beyond(f"{size} bytes", most, "--max-file-bytes", size)
        data = os.read(descriptor, size)
        while len(data) < size:
            more = os.read(descriptor, size - len(data))
            if not more:
                break
            data += more
        return data

    def fingerprint(self) -> str:
        """Of names, sizes and times of change, behind links too: about 3 seconds for 200,000 files.

        An archive or an editor may set the time of a file's content; the time of the last change to the file is the
        system's own. Not its inode: some network file systems give other ones each time they are mounted.
        """
        digest = hashlib.sha256()
        for i, name in enumerate(self._names):
            path = self._path(i)
            status = os.lstat(path)
            digest.update(os.fsencode(name) + b"\0" + _times(status))
            if stat.S_ISLNK(status.st_mode):
                with contextlib.suppress(OSError):  # it leads nowhere
                    digest.update(_times(os.stat(path)))
        return digest.hexdigest()


def _times(status: os.stat_result) -> bytes:
    return b"%d\0%d\0%d\n" % (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


_NO_LINK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class ZipSource(Source):
    """Images in a .zip, unpacked one at a time in memory, never onto the disk."""

    kind = "zip"

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.label, self._limits = _printable(path.stem), limits
        try:
            self._file = open_file(path)
        except UnsafeFileError as error:
            raise DataError(f"{path} is not a .zip: {error.strerror}") from None
        try:
            self._archive = zipfile.ZipFile(self._file)
        except (*_ZIP_ERRORS, OSError) as error:
            self._file.close()
            raise DataError(f"{path} is damaged or not a .zip ({error}): copy or fetch it again") from error
        entries = [entry for entry in self._archive.infolist() if _is_image(entry.filename)]
        _warn_of_unread([name for name in self._archive.namelist() if _is_image(name, _UNREAD_SUFFIXES)])
        wanted = set(_without_grids([entry.filename for entry in entries]))
        entries = [entry for entry in entries if entry.filename in wanted]
        self._entries = sorted(entries, key=lambda entry: (entry.filename, entry.header_offset))
        self._lock = threading.Lock()  # one handle: a second one would read the directory of all entries again
        if not self._entries:
            self.close()
            raise DataError(f"no images in {path}: searched it for {_SUFFIXES}")

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, i: int) -> str:
        return _printable(self._entries[i].filename)

    def image(self, i: int) -> np.ndarray:
        return decode_image(self._read(self._entries[i]), self._limits)

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        self._check(entry)
        try:
            with self._lock, self._archive.open(entry) as stream:
                data = stream.read(entry.file_size)  # read() alone would unpack all that a lying entry holds
        except _ZIP_ERRORS as error:
            raise DataError(f"damaged archive entry: {error}") from error
        if len(data) != entry.file_size:
            raise DataError(f"damaged archive entry: {len(data)} bytes instead of {entry.file_size}")
        return data

    def _check(self, entry: zipfile.ZipInfo) -> None:
        """Refuse, by what the archive's directory says, an entry that cannot or should not be unpacked."""
        limits = self._limits
        if entry.flag_bits & 1:
            raise DataError("encrypted: unpack the archive with its password first")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA's dictionary may be 4 GB
            raise DataError(f"compressed by method {entry.compress_type}: stored or deflated entries are expected")
        size, packed = entry.file_size, entry.compress_size
        if size > limits.max_file_bytes:
            raise beyond(f"unpacks to {size} bytes", limits.max_file_bytes, "--max-file-bytes", size)
        ratio = -(-size // max(1, packed))  # rounded up
        if size > 2**20 and ratio > limits.max_zip_ratio:
            what = f"unpacks from {packed} to {size} bytes, {ratio} times as many"
            raise beyond(what, limits.max_zip_ratio, "--max-zip-ratio", ratio)

    def fingerprint(self) -> str:
        """Of names, sizes and checksums in the archive's directory."""
        digest = hashlib.sha256()
        for entry in self._entries:
            name = entry.filename.encode("utf-8", "surrogatepass")
            digest.update(name + b"\0%d\0%d\n" % (entry.file_size, entry.CRC))
        return digest.hexdigest()

    def close(self) -> None:
        self._archive.close()
        self._file.close()


class CartoonSource(Source):
    """Synthetic faces: no files, the same on every start."""

    kind = label = "cartoon"

    def __init__(self, data: str = "cartoon", seed: int = 0) -> None:
        _, colon, count = data.partition(":")
        if colon and not (re.fullmatch("[0-9]{1,9}", count) and int(count)):
            raise DataError(f"cartoon:COUNT needs a whole number of faces from 1 to 999999999, received {data}")
        self._count, self._seed = int(count or CARTOON_COUNT), seed

    def __len__(self) -> int:
        return self._count

    def name(self, i: int) -> str:
        return f"cartoon-{i:06d}"

    def image(self, i: int) -> np.ndarray:
        return draw_face(i, self._seed)

    def drawing_processes(self, count: int, size: int, crop: str) -> DrawingProcesses:
        return DrawingProcesses(min(count, len(self) // FACES_EACH), self._seed, size, crop)

    def fingerprint(self) -> str:
        """Of count, seed and the first face, which changes when the drawing does."""
        return hashlib.sha256(b"%d %d " % (self._count, self._seed) + self.image(0).tobytes()).hexdigest()


_SUFFIXES = " ".join(IMAGE_SUFFIXES)
_ZIP_ERRORS = (  # what Python's zipfile raises for hostile archives
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, IndexError,
)  # fmt: skip


def _list_folder(root: Path) -> list[str]:
    """Sorted relative paths of all that is called like an image, and of linked folders, which reading will refuse."""
    names, unread, left_out = [], [], []
    for folder, subfolders, files in _walk(root):
        if folder != str(root) and _is_output(set(subfolders), set(files)):
            subfolders[:] = []
            left_out.append(Path(folder).relative_to(root).as_posix())
            continue
        linked = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        subfolders[:] = [name for name in subfolders if not _is_hidden(name)]
        inside = Path(folder).relative_to(root)
        names += [(inside / name).as_posix() for name in files if _is_image(name)]
        unread += [name for name in files if _is_image(name, _UNREAD_SUFFIXES)]
        names += [(inside / name).as_posix() for name in linked if not _is_hidden(name)]
    if left_out:
        shown = ", ".join(_printable(name) for name in sorted(left_out)[:3]) + (", ..." if len(left_out) > 3 else "")
        logger.warning("%d folders with runs or exports of this project left out: %s", len(left_out), shown)
    _warn_of_unread(unread)
    return sorted(_without_grids(names))


def _without_grids(names: list[str]) -> list[str]:
    """`names` without each grid.png that lies beside images of seeds: deploy/infer.py shows them all in it."""
    folders = {folder for folder, _, name in (name.rpartition("/") for name in names) if _SEED_IMAGE.fullmatch(name)}
    grids = {f"{folder}/grid.png".lstrip("/") for folder in folders}
    return [name for name in names if name not in grids]


_SEED_IMAGE = re.compile(r"seed-[0-9]{6,10}\.(png|jpg)")


def _is_output(folders: set[str], files: set[str]) -> bool:
    """Whether a folder is a run or an export of this project, whose images must not become training data."""
    is_run = "config.json" in files and ("metrics.jsonl" in files or "checkpoints" in folders or "samples" in folders)
    return is_run or "manifest.json" in files and bool(files & {"generator.onnx", "generator.pdiparams"})


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk, which calls itself for each level (before Python 3.12). Raises DataError where that is too deep."""
    try:
        yield from os.walk(root, onerror=_raise)
    except RecursionError:
        raise DataError(f"{root} has folders within folders, more than can be followed: move the images up") from None


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave out a folder that it cannot read


def _is_image(name: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> bool:
    """Whether a path ends in one of `suffixes` and nothing in it is hidden."""
    parts = name.split("/")
    return parts[-1].lower().endswith(suffixes) and not any(map(_is_hidden, parts))


def _warn_of_unread(names: Sequence[str]) -> None:
    """Count `names` by kind in one line: images of kinds that are not read, as a telephone's .heic and scans."""
    if names:
        kinds = Counter(name.rpartition(".")[2].lower() for name in names).most_common()
        shown = ", ".join(f"{count} .{kind}" for kind, count in kinds)
        logger.warning(
            "%d images of kinds that are not read left out (%s): save them as JPEG or PNG", len(names), shown
        )


def _is_hidden(part: str) -> bool:
    """Whether this is something a system keeps for itself (.thumbnails, the `._x.jpg` of macOS), not an image."""
    return part == "__MACOSX" or part.startswith(".") and not part.startswith("..")


def _printable(name: str) -> str:
    """`name` with control characters and undecodable bytes escaped, so that it can be printed and written as JSON."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)

"""`generator.params`: Paddle's own files are read, ours are read by Paddle, and a pickle is never run.

Attacks leave a canary file if any of their code runs; bombs are opened in a process whose time and memory are limited.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import paddle
import pytest

from dcgan.checkpoints import params
from dcgan.checkpoints.params import read_params, write_params
from dcgan.errors import CheckpointError
from dcgan.networks.generator import Generator

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "generator.params"


@pytest.fixture
def tensors() -> dict:
    draw = np.random.default_rng(0)
    return {
        "conv_1.weight": draw.normal(size=(3, 2, 4, 4)).astype(np.float32),
        "bn_1._mean": np.array([0.0, -1.5, np.inf], np.float32),
    }


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == np.asarray(tensor).dtype
        assert found[name].shape == np.shape(tensor)
        assert np.array_equal(found[name], tensor, equal_nan=True)
        assert found[name].flags["C_CONTIGUOUS"] and found[name].flags["WRITEABLE"]


# ---- to and from Paddle ---------------------------------------------------------------------------------------------


def small_generator() -> Generator:
    return Generator(latent_dim=5, base_channels=2, image_size=16)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_is_read(path, protocol):
    network = small_generator()
    paddle.save(network.state_dict(), str(path), protocol=protocol)
    assert_same(read_params(path), {name: tensor.numpy() for name, tensor in network.state_dict().items()})


def test_what_paddle_saves_of_a_plain_dict_of_tensors_is_read(path):
    network = small_generator()
    paddle.save(dict(network.state_dict()), str(path))
    assert set(read_params(path)) == set(network.state_dict())


def test_tensors_pickled_as_a_name_and_an_array_are_read(path, tensors):
    """How Paddle 2.1 and later spell a tensor inside other objects: (tuple, ((name, array),))."""

    class Tensor:
        def __init__(self, value):
            self.value = value

        def __reduce__(self):
            return tuple, (("conv2d_0.w_0", self.value),)

    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({name: Tensor(t) for name, t in tensors.items()}, protocol))
        assert_same(read_params(path), tensors)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_file_of_paddle_2_0_is_read(path, tensors, module):
    """Protocol 2, arrays by numpy 1, and a table of names that nobody needs."""
    table = {name: f"conv2d_transpose_{i}.w_0" for i, name in enumerate(tensors)}
    content = pickle.dumps({**tensors, "StructuredToParameterName@@": table}, protocol=2)
    path.write_bytes(re.sub(rb"numpy\._?core\.multiarray", module, content))
    assert module in path.read_bytes()
    assert_same(read_params(path), tensors)


def test_paddle_reads_ours_and_the_network_takes_it(path):
    first, second = small_generator(), small_generator()
    write_params(path, {name: tensor.numpy() for name, tensor in first.state_dict().items()})
    assert second.set_state_dict(paddle.load(str(path))) == ([], [])
    for name, tensor in second.state_dict().items():
        assert np.array_equal(tensor.numpy(), first.state_dict()[name].numpy())


def test_ours_can_be_loaded_by_the_numpy_of_the_tutorials_days(path, tensors):
    """numpy 1 has no module numpy._core (before 1.26); numpy 2 still knows numpy.core.multiarray, without complaint."""
    write_params(path, tensors)
    named = {argument for opcode, argument, _ in pickletools.genops(path.read_bytes()) if opcode.name == "GLOBAL"}
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(pickle.loads(path.read_bytes()), tensors)


def test_array_content_that_looks_like_a_module_name_is_kept(path):
    trap = np.frombuffer(b"cnumpy._core.multiarray\n".ljust(64) * 3, np.float32)
    write_params(path, {"a": np.ones(3, np.float32), "cnumpy._core": trap})
    assert_same(read_params(path), {"a": np.ones(3, np.float32), "cnumpy._core": trap})


@pytest.mark.parametrize(
    "tensor",
    [
        np.float32(3.5),
        np.ones((1, 1, 1, 1), np.float32),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        np.arange(10, dtype=np.float32)[::-3],
        np.arange(5, dtype=np.float64),
        np.arange(5, dtype=np.float16),
        np.arange(5, dtype=np.int32),
        np.arange(5, dtype=np.int64),
        np.array([np.nan, -0.0, 1e-45], np.float32),
        np.zeros((0, 3), np.float32),
    ],
    ids=lambda value: str(np.shape(value)) + str(value.dtype),
)
def test_round_trip_keeps_shape_type_and_values(path, tensor):
    write_params(path, {"t": tensor})
    assert_same(read_params(path), {"t": tensor})
    for protocol in (2, 3, 4):
        path.write_bytes(pickle.dumps({"t": np.asarray(tensor)}, protocol))
        assert_same(read_params(path), {"t": tensor})


def test_empty_dict_is_a_dict_of_arrays(path):
    write_params(path, {})
    assert read_params(path) == {}


def test_failed_write_leaves_the_old_file(path, tensors, monkeypatch):
    write_params(path, tensors)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deploy.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_params(path, {})
    assert_same(read_params(path), tensors)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# ---- what is not a dict of arrays -----------------------------------------------------------------------------------


class Spelled:
    """Pickles as an array whose state is given: what numpy would be told, true or not."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state


F4 = np.dtype("<f4")


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        "text",
        None,
        3,
        np.ones(3, np.float32),
        {"a": 1},
        {"a": "text"},
        {"a": None},
        {"a": [np.ones(2, np.float32)]},
        {"a": {"b": np.ones(2, np.float32)}},
        {"a": ("x", "y")},
        {"a": ()},
        {"a": (np.ones(2, np.float32),) * 3},
        {3: np.ones(2, np.float32)},
        {None: np.ones(2, np.float32)},
        {("a", "b"): np.ones(2, np.float32)},
        {b"a": np.ones(2, np.float32)},
        {"a": np.float32(1)},
        {"a": np.dtype("f4")},
        {"a": np.ndarray},
        {"a": np.array([{}, None], object)},
        {"a": np.array(["x", "yy"])},
        {"a": np.array([b"x", b"yy"])},
        {"a": np.arange(3, dtype=">f4")},
        {"a": np.arange(3, dtype=np.complex64)},
        {"a": np.zeros(2, [("x", "f4"), ("y", "i4")])},
        {"a": np.array(["2020-01-01"], "M8[D]")},
        {"a": np.ones(3, bool)},
        {"a": Spelled(1, (4,), F4, False, b"123")},
        {"a": Spelled(1, (2,), F4, False, b"1234")},
        {"a": Spelled(1, (-1,), F4, False, b"1234")},
        {"a": Spelled(1, (-1, -1), F4, False, b"1234")},
        {"a": Spelled(1, (2**62, 4), F4, False, b"")},
        {"a": Spelled(1, (2**32, 2**32), F4, False, b"")},
        {"a": Spelled(1, (2**2000, 2**2000), F4, False, b"1234")},
        {"a": Spelled(1, (0, 2**64), F4, False, b"")},
        {"a": Spelled(1, (0, -5), F4, False, b"")},
        {"a": Spelled(1, (1,) * 200, F4, False, b"1234")},
        {"a": Spelled(1, (1.0,), F4, False, b"1234")},
        {"a": Spelled(1, ("1",), F4, False, b"1234")},
        {"a": Spelled(1, "1", F4, False, b"1234")},
        {"a": Spelled(1, {1: 1}, F4, False, b"1234")},
        {"a": Spelled(1, None, F4, False, b"1234")},
        {"a": Spelled(1, (1,), "f4", False, b"1234")},
        {"a": Spelled(1, (1,), None, False, b"1234")},
        {"a": Spelled(1, (1,), np.ndarray, False, b"1234")},
        {"a": Spelled(1, (1,), F4, False, "1234")},
        {"a": Spelled(1, (1,), F4, False, None)},
        {"a": Spelled(1, (1,), F4, False, 4)},
        {"a": Spelled(1, (1,), F4, False, [1, 2, 3, 4])},
        {"a": Spelled(1, (1,), F4, False)},
        {"a": Spelled()},
        {"a": Spelled(1, (1,), F4, False, b"1234", 6)},
    ],
    ids=lambda value: re.sub(r"0x\w+", "", repr(value).replace("\n", " "))[:70],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_anything_but_a_dict_of_whole_arrays_is_refused_by_name(path, value, protocol):
    path.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(CheckpointError, match=r"generator\.params") as caught:
        read_params(path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_protocols_that_paddle_never_writes_are_refused(path, tensors):
    for protocol in (0, 1):
        path.write_bytes(pickle.dumps(tensors, protocol))
        with pytest.raises(CheckpointError, match=r"generator\.params was refused"):
            read_params(path)


@pytest.mark.parametrize("content", [b"", b"\x00", b".", b"PK\x03\x04", b"\x80\x02.", b"}", b"\xff" * 100])
def test_what_is_no_pickle_is_refused_by_name(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"generator\.params"):
        read_params(path)


def test_missing_file_and_folder_are_refused_by_name(path):
    with pytest.raises(CheckpointError, match=r"generator\.params"):
        read_params(path)
    path.mkdir()
    with pytest.raises(CheckpointError, match=r"generator\.params"):
        read_params(path)


def test_file_of_absurd_size_is_not_read(path):
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)  # a hole, not a terabyte
    with pytest.raises(CheckpointError, match=r"it has 1,099,511,627,776 bytes, more than the 4,294,967,296 that"):
        read_params(path)


def test_endless_device_is_not_read(path):
    if not Path("/dev/zero").exists():
        pytest.skip("no /dev/zero on this system")
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"generator\.params cannot be read: it is a device"):
        read_params(path)


def test_file_larger_than_memory_is_refused_by_name(path, tensors, monkeypatch):
    write_params(path, tensors)

    def no_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr("dcgan.checkpoints.params.read_file", no_memory)
    with pytest.raises(CheckpointError, match=r"generator\.params"):
        read_params(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_file_truncated_anywhere_is_refused(path, tensors, protocol):
    content = pickle.dumps(tensors, protocol)
    for length in [*range(0, len(content), 97), *range(40), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"generator\.params"):
            read_params(path)


# ---- attacks --------------------------------------------------------------------------------------------------------


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) + ((state,) if state is not None else ())

    def __reduce__(self):
        return self.parts


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def attacks(canary: Path) -> dict[str, bytes]:
    """Pickles by what they try. Each creates `canary` when loaded by pickle, or would if its last step were reached."""
    import builtins
    import functools
    import operator
    import os

    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    command, program = text(shell), text(code)
    by_pickler = {
        "os.system": Runs(os.system, shell),
        "eval": Runs(builtins.eval, f"open({str(canary)!r}, 'w')"),
        "exec": Runs(builtins.exec, code),
        "open": Runs(builtins.open, str(canary), "w"),
        "import": Runs(builtins.__import__, "this"),
        "getattr": Runs(builtins.getattr, np.ndarray, "dumps"),
        "subprocess": Runs(subprocess.Popen, ["touch", str(canary)]),
        "partial": Runs(functools.partial, os.system, shell),
        "methodcaller": Runs(operator.methodcaller, "touch"),
        "numpy load": Runs(np.load, str(canary)),
        "numpy save": Runs(np.save, str(canary), np.ones(1)),
        "numpy tofile": Runs(np.ndarray.tofile, np.ones(1), str(canary)),
        "numpy memmap": Runs(np.memmap, str(canary), "u1", "w+", 0, (1,)),
        "pathlib": Runs(Path.touch, canary),
        "nested pickle": Runs(pickle.loads, pickle.dumps(Runs(os.system, shell))),
        "in a state": Runs(np.dtype, "f4", state=(3, "<", Runs(os.system, shell))),
        "our own functions": Runs(write_params, str(canary), {}),
        "bytearray": bytearray(10),
        "set": {1, 2},
        "complex": 1j,
    }
    found = {}
    for name, payload in by_pickler.items():
        for protocol in (0, 2, 4):
            found[f"{name}, protocol {protocol}"] = pickle.dumps({"conv_1.weight": payload}, protocol)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    found.update(
        {
            "GLOBAL posix": b"\x80\x02cposix\nsystem\n" + command + b"\x85R.",
            "GLOBAL nt": b"\x80\x02cnt\nsystem\n" + command + b"\x85R.",
            "STACK_GLOBAL": b"\x80\x04" + text("posix") + text("system") + b"\x93" + command + b"\x85R.",
            "INST": b"(" + command + b"iposix\nsystem\n.",
            "OBJ": b"(cposix\nsystem\n" + command + b"o.",
            "NEWOBJ": b"\x80\x02cposix\nsystem\n" + command + b"\x85\x81.",
            "NEWOBJ_EX": b"\x80\x04cposix\nsystem\n" + command + b"\x85}\x92.",
            "NEWOBJ of an allowed class": b"\x80\x02cnumpy\nndarray\n)\x81.",
            "EXT1": b"\x80\x02\x82\x01.",
            "PERSID": b"Pposix.system\n.",
            "BINPERSID": command + b"Q.",
            "dotted STACK_GLOBAL": b"\x80\x04" + text("numpy") + text("ndarray.__class__.__base__") + b"\x93.",
            "dotted GLOBAL": b"\x80\x04cnumpy\nndarray.tofile\n.",
            "our module by name": b"\x80\x02cdcgan.checkpoints.params\nMAX_BYTES\n.",
            "stand-ins by name": b"\x80\x02cdcgan.checkpoints.params\n_ArraysOnly\n.",
            "REDUCE of a string": b"\x80\x02" + text("os.system") + command + b"\x85R.",
            "REDUCE of a tuple": b"\x80\x02))R.",
            "REDUCE of a made array": b"\x80\x02" + array + b")R.",
            "REDUCE with arguments that are no tuple": b"\x80\x02cnumpy\nndarray\n}R.",
            "BUILD with a dict": b"\x80\x02}" + text("a") + array + b"}" + text("build") + program + b"sbs.",
            "BUILD on a class": b"\x80\x02cnumpy\nndarray\n}" + text("__reduce__") + program + b"sb.",
            "BUILD of slots on a class": b"\x80\x02cnumpy\nndarray\nN}" + text("build") + program + b"s\x86b.",
            "BUILD on a class, setstate": b"\x80\x02cnumpy\nndarray\n}" + text("__setstate__") + program + b"sb.",
            "BUILD on _codecs.encode": b"\x80\x02c_codecs\nencode\n}" + text("__code__") + program + b"sb.",
            "BUILD on a dict": b"\x80\x02}}" + text("__class__") + program + b"sb.",
            "BUILD of slots on a tuple": b"\x80\x02)N}" + text("__class__") + program + b"s\x86b.",
            "BUILD with an empty state on a tuple": b"\x80\x02)}b.",
            "codec that unpacks": b"\x80\x02}" + text("a") + b"c_codecs\nencode\n" + program + text("zip") + b"\x86Rs.",
            "codec by keyword": b"\x80\x02c_codecs\nencode\n(" + program + text("rot13") + text("strict") + b"tR.",
            "tuple of a dict": b"\x80\x02cbuiltins\ntuple\n}\x85R.",
            "scalar with a pickle inside": b"\x80\x02cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n"
            + text("O8")
            + b"\x85R"
            + b"C\x20"
            + pickle.dumps(os.system)[:32].ljust(32)
            + b"tR.",
            "copyreg": b"\x80\x02ccopyreg\n_reconstructor\n(cnumpy\nndarray\nc__builtin__\nobject\nNtR.",
            "SETITEM on an array": b"\x80\x02" + array + text("x") + program + b"s.",
            "SETITEMS on a class": b"\x80\x02cnumpy\nndarray\n(" + text("x") + program + b"u.",
            "APPEND": b"\x80\x02]" + program + b"a.",
            "ADDITEMS": b"\x80\x04\x8f(" + program + b"\x90.",
            "POP and DUP": b"\x80\x02}20.",
            "terminal control": b"\x80\x04" + text("\x1b[2Jos\n\r") + text("system\x07") + b"\x93.",
            "long name": b"\x80\x04" + text("x" * 100_000) + text("system") + b"\x93.",
            "long key": b"\x80\x02}" + text("x" * 100_000) + b"K\x01s.",
            "hidden after the end": pickle.dumps({"a": 1}) + pickle.dumps(Runs(os.system, shell)),
            "memo never filled": b"\x80\x02h\x05.",
            "mark only": b"\x80\x02(.",
            "mark as a value": b"\x80\x02}" + text("a") + b"(s.",
            "mark kept in the memo": b"\x80\x02}(q\x00" + text("a") + b"h\x00u.",
            "odd number of items": b"\x80\x02}(" + text("a") + b"u.",
            "dict in itself": b"\x80\x02}q\x00" + text("a") + b"h\x00s.",
            "nothing on the stack": b"\x80\x02s.",
            "bytes of absurd size": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x.",
            "long number": b"I" + b"z" * 100_000 + b"\n.",
            "long string": b"S" + b"z" * 100_000 + b"\n.",
            "text of absurd size": b"\x80\x04\x8d" + b"\xff" * 8 + b"x.",
        }
    )
    return found


def test_no_attack_runs_anything(path, tmp_path, tensors):
    """One loop, not a hundred tests: after each attack the reader must also still read a good file."""
    canary, good = tmp_path / "canary", tmp_path / "good.params"
    write_params(good, tensors)
    before = set(sys.modules)
    for name, content in attacks(canary).items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"generator\.params") as caught:
            pytest.fail(f"{name} was accepted: {read_params(path)}")
        message = str(caught.value)
        assert message.isprintable() and len(message) < 1000, name
        assert not canary.exists(), name
        assert_same(read_params(good), tensors)
    assert "this" not in set(sys.modules) - before


def test_some_attacks_do_run_when_pickle_loads_them(tmp_path):
    """Else the test above would prove nothing."""
    canary = tmp_path / "canary"
    found = attacks(canary)
    for name in ("open, protocol 2", "exec, protocol 4", "pathlib, protocol 4"):
        pickle.loads(found[name])
        assert canary.exists(), name
        canary.unlink()


def test_refusal_says_what_was_asked_for_and_that_nothing_else_is_read(path, tmp_path):
    path.write_bytes(attacks(tmp_path / "canary")["os.system, protocol 2"])
    with pytest.raises(CheckpointError, match=r"generator\.params was refused: .*(posix|nt).system.*dict of arrays"):
        read_params(path)


BOMBS = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from dcgan.errors import CheckpointError
from dcgan.checkpoints.params import read_params

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
for path in sorted(Path(sys.argv[2]).iterdir()):
    start = time.process_time()
    try:
        answer = "read " + str(len(read_params(path)))
    except CheckpointError as error:
        answer = str(error).partition(path.name)[2]
    print(path.name, answer, int(time.process_time() - start), sep="|", flush=True)
"""


def bombs() -> dict[str, bytes]:
    """Small files that would take hours or all memory: by sharing one part thousands of times, or by nesting."""
    number = 8 << 20
    shared = b"X" + number.to_bytes(4, "little") + b"a" * number + b"q\x01"
    calls = b"(" + b"h\x00h\x01\x85R" * 3000
    array = np.zeros(number // 4, np.float32)
    doubling = b"K\x01q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(100))
    huge = b"\x8a\xff" + b"\xff" * 254 + b"\x7fq\x01"
    spelled = b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n)R(K\x01"
    f4 = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R"
    return {
        "key of doubled tuples": b"\x80\x02}(" + doubling + b"tK\x01s.",
        "value of doubled tuples": b"\x80\x02}X\x01\x00\x00\x00a(" + doubling + b"ts.",
        "shape of doubled tuples": spelled + b"(" + doubling + b"t" + f4 + b"\x89C\x00tbs.",
        "function of doubled tuples": b"\x80\x04" + doubling + b"X\x05\x00\x00\x00numpyhd\x93.",
        "function of nested tuples": b"\x80\x04X\x05\x00\x00\x00numpy)" + b"\x85" * 19_000 + b"\x93.",
        "shape of huge numbers": spelled + b"(" + huge + b"h\x01" * 18_000 + b"t" + f4 + b"\x89C\x04abcdtbs.",
        "one array under many names": pickle.dumps({f"{i}": array for i in range(3000)}, 4),
        "one text encoded often": b"\x80\x02}c_codecs\nencode\nq\x00" + shared + calls + b"t.",
        "one text made a tuple often": b"\x80\x02}cbuiltins\ntuple\nq\x00" + shared + calls + b"t.",
        "nested tuples": b"\x80\x02)" + b"\x85" * 19_000 + b".",
        "key of nested tuples": b"\x80\x02})" + b"\x85" * 19_000 + b"K\x01s.",
        "nested dicts": b"\x80\x02}" + b"X\x01\x00\x00\x00a}" * 9_000 + b"s" * 9_000 + b".",
        "memo of absurd size": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        "frame of absurd size": b"\x80\x04\x95" + b"\xff" * 8 + b"K\x01.",
        "many marks": b"\x80\x02" + b"(" * 19_000 + b".",
        "many instructions": b"\x80\x02}" + b"q\x00" * 5_000_000 + b".",
        "many numbers": b"\x80\x02}(" + b"K\x01" * 5_000_000 + b"t.",
    }


def test_bombs_take_neither_time_nor_memory(tmp_path):
    pytest.importorskip("resource", reason="only Unix can limit a process")
    (tmp_path / "bombs").mkdir()
    for name, content in bombs().items():
        (tmp_path / "bombs" / name).write_bytes(content)
    command = [sys.executable, "-c", BOMBS, str(ROOT), str(tmp_path / "bombs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == sorted(bombs()), done.stderr[-500:]
    for name, answer, seconds in rows:  # running out of memory would be told in other words
        assert answer.startswith(" was refused: ") and int(seconds) <= 10, (name, answer, seconds)


# ---- fuzz -----------------------------------------------------------------------------------------------------------

OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]


def mutated(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 1] = rng.choice(OPCODES)
        elif kind == 2:
            changed[at:at] = b"".join(rng.choices(OPCODES, k=rng.choice([1, 2, 5])))
        elif kind == 3:
            del changed[at : at + rng.choice([1, 2, 9])]
        else:
            start = rng.randrange(len(content))
            changed[at:at] = content[start : start + rng.randrange(1, 80)]
    return bytes(changed)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_mutated_files_give_arrays_or_a_checkpoint_error(path, protocol):
    small = {"conv_1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bn_1._mean": np.ones(2)}
    original = pickle.dumps({**small, "StructuredToParameterName@@": {"a": "b"}}, protocol)
    rng = random.Random(protocol)
    outcomes = set()
    for _ in range(400):
        content = mutated(original, rng)
        path.write_bytes(content)
        try:
            found = read_params(path)
        except CheckpointError as error:
            assert "generator.params" in str(error) and len(str(error)) < 1000
            outcomes.add("refused")
        else:
            assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in found.items())
            assert sum(array.nbytes for array in found.values()) <= len(content)
            outcomes.add("read")
    assert outcomes == {"refused", "read"}


@pytest.mark.parametrize("protocol", [2, 4])
def test_any_pickle_of_instructions_at_random_is_refused_or_read(path, protocol):
    """Instructions that are allowed, in any order, with arguments of the right length."""
    good = pickle.dumps({"a": np.arange(3, dtype=np.float32), "b": np.ones(2)}, protocol)
    starts = [position for _, _, position in pickletools.genops(good)]
    pieces = [good[a:b] for a, b in zip(starts, starts[1:])]
    extra = [b"N", b"\x88", b"\x89", b"(", b")", b"}", b"\x85", b"\x86", b"\x87", b"t", b"b", b"R", b"s", b"u"]
    rng = random.Random(protocol)
    for _ in range(400):
        shuffled = list(pieces)
        for _ in range(rng.choice([1, 2, 4, 40])):
            i, j = rng.randrange(len(shuffled)), rng.randrange(len(shuffled))
            shuffled[i] = rng.choice([shuffled[j], rng.choice(extra)])
        path.write_bytes(b"".join(shuffled) + b".")
        try:
            found = read_params(path)
        except CheckpointError:
            continue
        assert all(isinstance(array, np.ndarray) for array in found.values())


def test_reader_never_hands_the_file_to_pickle(path, tensors, monkeypatch):
    write_params(path, tensors)
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_: pytest.fail("pickle was asked"))
    assert_same(read_params(path), tensors)
    assert not hasattr(params, "Unpickler")
    assert io.BytesIO(path.read_bytes()).read(2) == b"\x80\x02"

"""Machine code: made once, kept on disk, never taken from a file that is not right."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import code_kernels
from code_kernels import Add, Baked, Broken, Call, Count, Wide, add, fused, outside
from llvmlite import ir
from random_graphs import random_graph

import isograd
from isograd.backends.llvm import cache, jit
from isograd.backends.llvm.cache import Store, default_folder
from isograd.backends.llvm.ir import I64, i64
from isograd.backends.llvm.jit import Codes, Target
from isograd.backends.llvm.program import Native
from isograd.engine.plan import plan
from isograd.nn import Activation, Dense, LayerNorm, Network, build

posix = pytest.mark.skipif(os.name != "posix", reason="processes and owners of POSIX systems")
x86 = pytest.mark.skipif(
    not jit.host().triple.startswith("x86_64"), reason="runs code for older processors of its kind"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "code"


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    counter = Count()
    monkeypatch.setattr(jit, "compiled", counter)
    return counter


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# --- in one process


def test_a_kernel_is_compiled_once(count: Count) -> None:
    codes = Codes(None)
    first = codes.addresses([Add(2), Add(3), Add(2)])
    assert set(first) == {Add(2), Add(3)}
    assert codes.addresses([Add(3)])[Add(3)] == first[Add(3)]
    assert add(codes, 2) == 3.0
    assert add(codes, 3) == 4.0
    assert len(count.kernels) == 2
    assert codes.addresses([]) == {}


def test_many_threads_compile_a_kernel_once(count: Count) -> None:
    codes, found = Codes(None), []

    def work(seed: int) -> None:
        terms = random.Random(seed).sample(range(6), 6)
        found.append({term: add(codes, term) for term in terms})

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{term: 1.0 + term for term in range(6)}] * 8
    assert len(count.kernels) == 6


def test_a_kernel_that_cannot_be_built_leaves_nothing_behind(folder: Path) -> None:
    codes = Codes(Store(folder))
    with pytest.raises(ArithmeticError):
        codes.addresses([Broken(), Add(1)])
    assert add(codes, 1) == 2.0


def test_a_function_that_is_not_there_is_an_error_and_no_abort(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codes = Codes(Store(folder))
    with pytest.raises(jit.Unavailable, match="must be there"):
        codes.addresses([Call("tests_nowhere")])
    assert "tests_nowhere" in capfd.readouterr().err
    assert add(codes, 1) == 2.0


def test_code_with_an_address_in_it_is_not_kept(folder: Path, count: Count) -> None:
    byte = np.uint8([7])
    kernel = Baked(byte.ctypes.data)
    for _ in range(2):
        codes = Codes(Store(folder))
        address = codes.addresses([kernel])[kernel]
        assert code_kernels.call(address, np.zeros(1, np.uint8))[0] == 7
    assert len(count.kernels) == 2
    assert not folder.exists() or not files(folder)


# --- from one process to the next


def start(home: Path) -> subprocess.Popen[str]:
    """`code_kernels.main` in a new process."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", code_kernels.__file__],
        env={**os.environ, "ISOGRAD_CACHE": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[list[float], int]:
    """Its results, and how many kernels it compiled."""
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    results, compiled = out.rsplit(" ", 1)
    return [float(x) for x in results.strip("[]").split(",")], int(compiled)


RESULTS = [*(1.0 + term for term in range(1, 9)), 2.0**-24]


def test_the_next_process_compiles_nothing(tmp_path: Path) -> None:
    """Calls of functions outside of the code included."""
    assert finish(start(tmp_path)) == (RESULTS, 10)
    assert finish(start(tmp_path)) == (RESULTS, 0)


@pytest.mark.slow
def test_four_processes_at_once(tmp_path: Path) -> None:
    for process in [start(tmp_path) for _ in range(4)]:
        results, compiled = finish(process)
        assert results == RESULTS
        assert compiled <= 10
    assert finish(start(tmp_path)) == (RESULTS, 0)


FAR = 1 << 36  # 64 GiB: no jump of 32 bits leads there from where systems put libraries


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for memory at an address")
def test_code_calls_functions_that_lie_far_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made, and fetched: a function of ours is copied to where no short jump leads."""
    import llvmlite.binding as llvm

    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(I64, []), "leaf")
    ir.IRBuilder(function.append_basic_block()).ret(i64(12345))
    leaf = jit.machine_of(jit.host()).emit_object(llvm.parse_assembly(str(module)))
    sections = llvm.ObjectFileRef.from_data(leaf).sections()
    text = max((s.data() for s in sections if s.is_text()), key=len)
    mmap = ctypes.CDLL(None).mmap
    mmap.restype, mmap.argtypes = ctypes.c_size_t, [ctypes.c_size_t] * 6
    address = mmap(FAR, 4096, 7, 0x22, 2**64 - 1, 0)  # read, write, run; private, no file
    if address != FAR:
        pytest.skip("no memory there")
    ctypes.memmove(address, text, len(text))
    monkeypatch.setitem(code_kernels.OUTSIDE, "tests_far", address)
    for _ in range(2):
        codes = Codes(Store(folder))
        assert outside(codes, "tests_far") == 12345
        assert abs(codes.addresses([Call("tests_far")])[Call("tests_far")] - address) > 2**31
    assert len(files(folder)) == 1


def forked(work: Callable[[], Any]) -> int:
    """Run in a child process; its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child does not use threads
        child = os.fork()
    if child:
        return child
    signal.alarm(30)  # one that hangs ends by this signal
    status = 1
    try:
        if work() is not False:
            status = 0
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """The exit code of a child, below 0 if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@posix
def test_a_child_uses_what_was_made_and_makes_more(folder: Path) -> None:
    codes = Codes(Store(folder))
    assert add(codes, 1) == 2.0
    child = forked(lambda: add(codes, 1) == 2.0 and add(codes, 5) == 6.0)
    assert ended(child) == 0
    assert add(codes, 5) == 6.0


@posix
def test_a_child_of_a_process_that_compiles_does_not_hang(count: Count) -> None:
    codes = Codes(None)
    worker = threading.Thread(target=lambda: codes.addresses([Add(n) for n in range(40)]))
    worker.start()
    while not count.kernels:
        time.sleep(0.0001)
    children = [forked(lambda: add(codes, -1) == 0.0) for _ in range(3)]
    assert [ended(child) for child in children] == [0] * 3
    worker.join()


# --- which code is taken


def test_every_part_of_a_key_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target("x86_64-unknown-linux-gnu", "znver4", "+avx,+fma", 32)
    other = Target("aarch64-unknown-linux-gnu", "znver3", "+avx,-fma", 16)
    names = ("triple", "cpu", "features", "width")
    targets = [target, *(replace(target, **{n: getattr(other, n)}) for n in names)]
    keys = [jit.key("kernel", t) for t in targets] + [jit.key("kernels", target)]
    for module, name, value in (
        ("isograd.backends.llvm.jit", "_SOURCES", "edited"),
        ("llvmlite", "__version__", "0.0"),
        ("llvmlite.binding", "llvm_version_info", (1, 2, 3)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[module], name, value)
            jit._maker.cache_clear()
            keys.append(jit.key("kernel", target))
    jit._maker.cache_clear()
    assert len(set(keys)) == len(keys) == 9
    assert jit.key("kernel", target) == keys[0]


def test_an_edited_generator_has_another_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "llvm"
    shutil.copytree(Path(jit.__file__).parent, copy)
    monkeypatch.setattr(jit, "files", lambda package: copy)
    before = jit._sources()
    assert jit._sources() == before
    edited = copy / "fused.py"
    edited.write_text(edited.read_text() + "\n")
    after = jit._sources()
    (copy / "new.py").write_text("")
    assert len({before, after, jit._sources()}) == 3


def test_code_of_unknown_sources_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a program that was packed into one file."""
    for folder in (tmp_path, tmp_path / "nowhere"):
        monkeypatch.setattr(jit, "files", lambda package, folder=folder: folder)
        assert jit._sources() is None
    assert jit.process.__wrapped__()._store is not None
    monkeypatch.setattr(jit, "_SOURCES", None)
    assert jit.process.__wrapped__()._store is None


OLD = {"x86-64": 16, "x86-64-v3": 32}


@x86
@pytest.mark.parametrize("cpu", OLD)
def test_code_for_another_processor_is_not_taken(
    cpu: str, folder: Path, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it lost; on the older, fma is a call of the C library."""
    assert fused(Codes(Store(folder))) == 2.0**-24
    here = jit.host()
    for compiled in (2, 2):
        with monkeypatch.context() as patch:
            patch.setattr(jit, "host", lambda: Target(here.triple, cpu, "", OLD[cpu]))
            assert fused(Codes(Store(folder))) == 2.0**-24
        assert len(count.kernels) == compiled
    assert fused(Codes(Store(folder))) == 2.0**-24
    assert len(count.kernels) == 2


REGISTERS = {"skylake-avx512": (64, "zmm"), "haswell": (32, "ymm"), "x86-64": (16, "xmm")}


@x86
@pytest.mark.parametrize("cpu", REGISTERS)
def test_vectors_are_as_wide_as_the_processor_has_them(cpu: str) -> None:
    """LLVM is shy of 512 bits by itself, but not where the code asks for them."""
    import llvmlite.binding as llvm

    width, register = REGISTERS[cpu]
    module = ir.Module()
    Wide().build(module, "wide", width)
    target = Target("x86_64-unknown-linux-gnu", cpu, "", width)
    assembly = jit.machine_of(target).emit_assembly(llvm.parse_assembly(str(module)))
    assert [r for _, r in REGISTERS.values() if r in assembly] == [register]


# --- files that are not right

BODY = random.Random(1).randbytes(3000)
KEY = "a" * 64
FILE = KEY + ".isograd"


def whole(folder: Path) -> bytes:
    """A file as it is written."""
    Store(folder).put(KEY, BODY)
    assert Store(folder).get(KEY) == BODY
    return (folder / FILE).read_bytes()


def test_a_damaged_file_is_not_there(folder: Path) -> None:
    content, path, rng = whole(folder), folder / FILE, random.Random(2)
    start, stop = len(content) - len(BODY), len(content)
    lengths = {*range(start + 5), stop - 1, *rng.sample(range(stop), 100)}
    damaged = [content[:length] for length in lengths] + [content + b"\0"]
    for at in [*range(start + 5), *rng.sample(range(stop), 200)]:
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.randrange(8)
        damaged.append(bytes(flipped))
    for bad in damaged:
        path.write_bytes(bad)
        assert Store(folder).get(KEY) is None
    path.write_bytes(content)
    assert Store(folder).get(KEY) == BODY


def test_a_file_under_another_name_is_not_taken(folder: Path) -> None:
    whole(folder)
    os.rename(folder / FILE, folder / ("b" * 64 + ".isograd"))
    assert Store(folder).get("b" * 64) is None


DAMAGE: dict[str, Callable[[Path, bytes], Any]] = {
    "empty": lambda path, old: path.write_bytes(b""),
    "cut": lambda path, old: path.write_bytes(old[:-1]),
    "flipped": lambda path, old: path.write_bytes(old[:-9] + bytes([old[-9] ^ 4]) + old[-8:]),
    "another version's": lambda path, old: path.write_bytes(old.replace(b"code 1", b"code 0", 1)),
    "text": lambda path, old: path.write_text("code"),
    "gone": lambda path, old: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_code_is_made_anew(
    damage: Callable[[Path, bytes], Any], folder: Path, count: Count
) -> None:
    assert add(Codes(Store(folder)), 1) == 2.0
    (path,) = files(folder)
    content = path.read_bytes()
    damage(path, content)
    for _ in range(2):
        assert add(Codes(Store(folder)), 1) == 2.0
    assert len(count.kernels) == 2
    assert path.read_bytes()[: len(content) // 2] == content[: len(content) // 2]


def test_a_folder_in_place_of_a_file(folder: Path, count: Count) -> None:
    assert add(Codes(Store(folder)), 1) == 2.0
    (path,) = files(folder)
    path.unlink()
    path.mkdir()
    assert add(Codes(Store(folder)), 1) == 2.0
    assert len(count.kernels) == 2
    assert files(folder) == [path]


@posix
def test_killed_while_it_writes(folder: Path) -> None:
    """Whatever the moment, a file is whole or not there."""
    rng = random.Random(3)
    keys = [f"{n:064d}" for n in range(40)]

    def body(key: str) -> bytes:
        return key.encode() * 3000

    def work() -> None:
        store = Store(folder)
        while True:
            for key in keys:
                store.put(key, body(key))

    for _ in range(15):
        child = forked(work)
        while not folder.exists():
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert all(Store(folder).get(key) in (None, body(key)) for key in keys)
        for path in files(folder):
            assert path.stem in keys or path.name.startswith(".")
    assert any(Store(folder).get(key) for key in keys)


# --- folders that are not right


def works_without(codes: Codes, match: str) -> None:
    """It says why once, and works."""
    with pytest.warns(RuntimeWarning, match=match) as said:
        found = [add(codes, 1), add(codes, 2)]
    assert found == [2.0, 3.0]
    assert len(said) == 1
    assert "ISOGRAD_CACHE" in str(said[0].message)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    works_without(Codes(Store(tmp_path / "file" / "code")), "cannot be made")
    works_without(Codes(Store(tmp_path / "file")), "cannot be made")


def test_no_home(count: Count, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    works_without(Codes(Store(Path("~/.cache/isograd/code"))), "has no home")
    assert not files(tmp_path)


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_folder_where_others_may_write(mode: int, folder: Path, count: Count) -> None:
    assert add(Codes(Store(folder)), 1) == 2.0
    folder.chmod(mode)
    works_without(Codes(Store(folder)), "others may write")
    assert len(files(folder)) == 1
    assert len(count.kernels) == 3


@posix
def test_a_file_that_others_may_write_is_not_read(folder: Path) -> None:
    whole(folder)
    (folder / FILE).chmod(0o666)
    assert Store(folder).get(KEY) is None


@posix
@pytest.mark.parametrize(
    ("owner", "mode", "trusted"),
    [
        (1000, 0o700, True),
        (1000, 0o755, True),
        (1000, 0o775, False),
        (1000, 0o757, False),
        (0, 0o755, True),
        (0, 0o1777, False),
        (1001, 0o700, False),
    ],
)
def test_whose_files_are_trusted(
    owner: int, mode: int, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cache._trusted(os.stat_result((mode, 1, 1, 1, owner, 1000, 0, 0, 0, 0))) is trusted


@posix
def test_the_folder_is_closed_to_others(folder: Path) -> None:
    whole(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**kwargs: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(cache.tempfile, "mkstemp", refuse)
    works_without(Codes(Store(folder)), os.strerror(errno.EROFS))


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, number: int, mode: str) -> None:
            self.file = os.fdopen(number, mode)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, "open", Full, raising=False)
    works_without(Codes(Store(folder)), os.strerror(errno.ENOSPC))
    assert not files(folder)


@pytest.mark.parametrize(
    ("platform", "env", "want"),
    [
        ("linux", {"ISOGRAD_CACHE": "/a"}, "/a/code"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/isograd/code"),
        ("linux", {"XDG_CACHE_HOME": "x"}, "/home/me/.cache/isograd/code"),
        ("linux", {"ISOGRAD_CACHE": ""}, "/home/me/.cache/isograd/code"),
        ("darwin", {}, "/home/me/Library/Caches/isograd/code"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/isograd/code"),
        ("win32", {}, "/home/me/AppData/Local/isograd/code"),
    ],
)
@posix
def test_where_the_folder_is(
    platform: str, env: dict[str, str], want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ISOGRAD_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **env}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert default_folder() == Path(want)


def test_what_was_unused_for_longest_makes_room(folder: Path) -> None:
    body, now = b"x" * 1000, time.time()
    store = Store(folder)
    for n in range(10):
        store.put(f"key{n}", body)
        os.utime(folder / f"key{n}.isograd", (now, now - (20 - n) * 86400))
    stale, fresh = folder / ".stale.isograd", folder / ".fresh.isograd"
    stale.write_bytes(b"")
    os.utime(stale, (now, now - 2 * 86400))
    fresh.write_bytes(b"")
    foreign = folder / "foreign"
    foreign.write_bytes(b"x" * 500)
    os.utime(foreign, (0, 0))
    assert Store(folder).get("key0") == body  # used, and so kept
    later = Store(folder, limit=8000)
    later.put("new", body)
    names = {path.stem for path in files(folder)}
    assert {"key0", "new", "key9", ".fresh", "foreign"} <= names
    assert not {"key1", "key2", "key3", "key4", ".stale"} & names
    assert sum(path.stat().st_size for path in files(folder)) <= 8000


# --- hosts without native code


def test_without_llvmlite() -> None:
    script = """if True:
        import sys
        sys.modules["llvmlite"] = None
        from isograd.backends.llvm import jit
        print(jit.available())
        try:
            jit.addresses([object()])
        except jit.Unavailable as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("pip install llvmlite") == 2


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("llvmlite.__version__", "0.44.0", "0.44.0 is too old"),
        ("llvmlite.binding.check_jit_execution", OSError(13, "not permitted"), "not permitted"),
        ("llvmlite.binding.get_host_cpu_features", RuntimeError("no features"), "no features"),
        ("llvmlite.binding.Target.from_default_triple", RuntimeError("no target"), "no target"),
    ],
)
def test_why_there_is_no_native_code(
    name: str, value: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise value

    assert jit.available() is None
    monkeypatch.setattr(name, fail if isinstance(value, Exception) else value)
    assert says in str(jit.available.__wrapped__())


# --- kernels of training steps on other processors

ELSEWHERE = {
    "x86-64": ("x86_64-unknown-linux-gnu", "x86-64", 16, 18, 0x3E),
    "x86-64-v3": ("x86_64-unknown-linux-gnu", "x86-64-v3", 32, 18, 0x3E),
    "AArch64": ("aarch64-unknown-linux-gnu", "generic", 16, 18, 0xB7),
    "Apple": ("arm64-apple-macosx14.0.0", "apple-m1", 16, 4, 0x0C),
    "Windows": ("x86_64-pc-windows-msvc", "x86-64-v3", 32, 0, 0x64),
}
"""Triple, processor, bytes of a vector; the place and value of the byte that names the processor in
the header of ELF (e_machine, EM_X86_64 and EM_AARCH64), Mach-O (CPU_TYPE_ARM64) and COFF
(IMAGE_FILE_MACHINE_AMD64)."""


@pytest.fixture(scope="module")
def kernels() -> list[Any]:
    """Of random graphs and of the gradient of a network."""
    layers = (Dense(20), LayerNorm(), Activation("gelu"), Dense(10), Activation("tanh"), Dense(3))
    model = build(Network(layers), 12, 3)
    params = {name: isograd.ArraySpec(shape) for name, shape in model.shapes.items()}
    graphs = [random_graph(seed, dtype) for seed in range(4) for dtype in (np.float32, np.float64)]
    graphs.append(
        isograd.trace(
            isograd.grad(lambda p, x: isograd.functions.sum(model(p, x) ** 2)),
            params,
            isograd.ArraySpec((19, 12)),
        )
    )
    found: list[Any] = []

    def addresses(wanted: Any) -> dict[Any, int]:
        found.extend(wanted)
        return dict.fromkeys(found, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "addresses", addresses)
        for graph in graphs:
            Native(plan(graph))  # it is not run
    return list(dict.fromkeys(found))


def floats(value: Any) -> bool:
    """Whether there is a float in nested containers."""
    if isinstance(value, tuple | list):
        return any(map(floats, value))
    return isinstance(value, float)


def test_equal_kernels_make_the_same_code(kernels: list[Any]) -> None:
    """They hold no floats, of which 0.0 and −0.0 are equal."""
    assert not [kernel for kernel in kernels if floats(astuple(kernel))]
    assert floats(("a", [1, (2.0,)]))


@pytest.mark.parametrize("place", ELSEWHERE.values(), ids=ELSEWHERE)
def test_every_kernel_can_be_made_for_other_processors(
    place: tuple[str, str, int, int, int], kernels: list[Any]
) -> None:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple, cpu, width, at, number = place
    target = Target(triple, cpu, "", width)
    machine = jit.machine_of(target)
    assert len(kernels) > 20
    for kernel in kernels:
        code, portable = jit.compiled(kernel, "kernel", target, machine)
        assert code[at] == number
        assert b"kernel" in code
        assert portable, kernel

"""Machine code of kernels: made once per process and kept on disk for the next.

A kernel is told from another by its repr. Its object file is kept under a key that covers
everything the bytes depend on: the kernel, the sources of this folder, LLVM, and the processor with
all its features. Imports without llvmlite; `available` says whether it is there.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import sys
import threading
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from isograd.backends.llvm.cache import Store, default_folder
from isograd.errors import IsogradError

if TYPE_CHECKING:
    pass


class Unavailable(IsogradError):
    """This host cannot run native code."""


class Kernel(Protocol):
    """A hashable value; its repr tells it from every kernel that it does not equal.

    It holds no floats: 0.0 equals −0.0, but makes other code.
    If it calls functions that this project names, its module has `symbols() -> dict[str, int]`:
    their addresses.
    """

    def build(self, module: Any, name: str, width: int) -> None:
        """Append `void name(void **pointers)` to a module, for vectors of `width` bytes."""


K = TypeVar("K", bound=Kernel)

_OLDEST = (0, 45)


@cache
def available() -> str | None:
    """Why there is no native code on this host; None if there is."""
    if struct.calcsize("P") != 8:
        return "native code is for processors of 64 bits"
    try:
        import llvmlite
        import llvmlite.binding as llvm
    except ImportError:
        return "llvmlite is not installed: pip install llvmlite"
    except OSError as error:
        return f"llvmlite cannot be loaded: {error}"
    version = llvmlite.__version__
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < _OLDEST:
        return f"llvmlite {version} is too old: pip install -U llvmlite"
    try:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.Target.from_default_triple()
        llvm.get_host_cpu_features()
        llvm.check_jit_execution()
    except (RuntimeError, OSError) as error:
        return f"LLVM cannot make code for this host: {error}"
    return None


@dataclass(frozen=True, slots=True)
class Target:
    """A processor that code is made for.

    Attributes:
        triple: architecture, vendor and system, as LLVM names them.
        cpu: its name.
        features: what it has and has not, sorted, as LLVM lists them.
        width: of its vectors, in bytes.
    """

    triple: str
    cpu: str
    features: str
    width: int


def machine_of(target: Target) -> Any:
    """What LLVM makes code with."""
    import llvmlite.binding as llvm

    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, jit=True, codemodel="jitdefault"
    )


@cache
def host() -> Target:
    """This processor with all its features.

    Raises:
        Unavailable: there is no native code on this host.
    """
    if (why := available()) is not None:
        raise Unavailable("native code needs LLVM and a processor that it knows", came=why)
    import llvmlite.binding as llvm

    found = llvm.get_host_cpu_features()
    width = 64 if found.get("avx512f") else 32 if found.get("avx") else 16
    return Target(llvm.get_default_triple(), llvm.get_host_cpu_name(), found.flatten(), width)


def vector_bytes() -> int:
    """Bytes of the host's widest vector registers."""
    return host().width


def compiled(kernel: Kernel, name: str, target: Target, machine: Any) -> tuple[bytes, bool]:
    """The object file of a kernel, and whether other processes can use it.

    Args:
        kernel: what it does.
        name: its symbol.
        target: what it is for.
        machine: of the target.
    """
    import llvmlite.binding as llvm
    from llvmlite import ir

    module = ir.Module(name)
    module.triple, module.data_layout = target.triple, str(machine.target_data)
    kernel.build(module, name, target.width)
    text = str(module)
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    optimise(parsed, machine)
    return machine.emit_object(parsed), _ADDRESS.search(text) is None


_ADDRESS = re.compile(r"inttoptr \(?i64 \d")


def optimise(parsed: Any, machine: Any) -> None:
    """LLVM's passes, without those that kernels leave nothing to.

    Kernels choose their vectors and unroll by themselves. LLVM's own attempts, on the loops over
    what vectors leave, doubled the time to compile and did not change that of training steps.
    """
    import llvmlite.binding as llvm

    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_interleaving = options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)


def _sources() -> str | None:
    """A digest of the files that make code: an edited one never meets code made before.

    None where they are not files, as in programs that were packed into one.
    """
    digest, count = hashlib.sha256(), 0
    try:
        for file in sorted(files(__package__ or "").iterdir(), key=lambda file: file.name):
            if file.name.endswith((".py", ".pyc")):
                content, count = file.read_bytes(), count + 1
                digest.update(f"{file.name} {len(content)}\n".encode() + content)
    except OSError:
        return None
    return digest.hexdigest() if count else None


# At import: what is read later may no longer be what runs.
_SOURCES = _sources()


def key(kernel: Kernel, target: Target) -> str:
    """The symbol of a kernel: a digest of everything that its machine code depends on."""
    kind = type(kernel)
    identity = f"{_maker(target)} {kind.__module__}.{kind.__qualname__} {kernel!r}"
    return "k" + hashlib.sha256(identity.encode()).hexdigest()


@cache
def _maker(target: Target) -> str:
    import llvmlite
    import llvmlite.binding as llvm

    parts = (_SOURCES, llvmlite.__version__, llvm.llvm_version_info, astuple(target))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A child must not inherit LLVM in the middle of something.
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
    )


@cache
def _linker() -> Any:
    import llvmlite.binding as llvm

    # As LLVM itself chooses: its newer linker but for Windows' format.
    new = "windows" not in host().triple
    return llvm.create_lljit_compiler(machine_of(host()), use_jit_link=new)


# What is loaded stays: nobody knows who still holds an address.
_LIBRARIES: list[Any] = []


class Codes:
    """A table of kernels that are in memory as machine code; that stays there for good.

    Args:
        store: where object files are kept between processes; None keeps none.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._known: dict[Any, int] = {}

    def addresses(self, kernels: Iterable[K]) -> dict[K, int]:
        """As the function of that name."""
        wanted = dict.fromkeys(kernels)
        with _LOCK:
            missing = [kernel for kernel in wanted if kernel not in self._known]
            if missing:
                self._load(missing)
            return {kernel: self._known[kernel] for kernel in wanted}

    def _load(self, missing: list[Any]) -> None:
        target = host()
        import llvmlite.binding as llvm

        machine = machine_of(target)
        names = {kernel: key(kernel, target) for kernel in missing}
        library = llvm.JITLibraryBuilder().add_current_process()
        for kernel, name in names.items():
            code = self._store.get(name) if self._store else None
            if code is None:
                code, portable = compiled(kernel, name, target, machine)
                if self._store and portable:
                    self._store.put(name, code)
            library.add_object_img(code).export_symbol(name)
        for module in {type(kernel).__module__ for kernel in missing}:
            for symbol, address in getattr(sys.modules[module], "symbols", dict)().items():
                library.import_symbol(symbol, address)
        number = len(_LIBRARIES)
        _LIBRARIES.append(None)  # a name is used up even where linking fails
        try:
            linked = library.link(_linker(), f"library{number}")
        except RuntimeError as error:
            raise Unavailable(
                "every function that native code calls must be there", came=str(error)
            ) from error
        _LIBRARIES[number] = linked
        self._known |= {kernel: linked[name] for kernel, name in names.items()}


@cache
def process() -> Codes:
    """The kernels of this process."""
    return Codes(Store(default_folder()) if _SOURCES else None)


def addresses(kernels: Iterable[K]) -> dict[K, int]:
    """Where the machine code of kernels lies, made or fetched if need be; for good.

    Args:
        kernels: any number, repeated or not.

    Returns:
        the address of `void name(void **pointers)` of each.

    Raises:
        Unavailable: there is no native code on this host.
    """
    return process().addresses(kernels)

# SPDX-License-Identifier: Apache-2.0
"""Makes what the virtual machine boots from: QEMU, kernel, modules, initramfs, root image.

No booting here. Two stages, each in a folder of the cache named for all that goes into it: what
comes from Debian, and what is made of that with the files beside this module.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

from tests.vm import cpio
from tests.vm import packages

HERE = pathlib.Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]

TOOLS = ("qemu-system-x86", "e2fsprogs")
GUEST = ("python3", "nvme-cli", "busybox-static", "e2fsprogs", "util-linux", "mount",
         "libudev1", "libc-bin")
COMPILER = ("gcc-12", "make")
KERNEL_META, HEADERS_META = "linux-image-amd64", "linux-headers-amd64"

MODULES = ("crc32c_generic", "virtio_blk", "ext4", "9p", "9pnet_virtio", "nvme", "igb", "igbvf",
           "vfio_pci", "vfio_iommu_type1", "mdev")
SAMPLES = ("mtty", "mdpy", "mbochs")
OWN = ("labgpu",)
LOADED = (*MODULES, *SAMPLES, *OWN)

GUEST_PYTHON = "3.11"
WHEELS = ("os-resource-classes", "os-traits", "oslo.privsep", "pytest", "pyudev", "PyYAML")
"""What the driver layer and its tests import; lower bounds are those of requirements.txt."""

UNNEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl", "usr/lib/perl",
            "usr/share/lintian", "usr/share/bash-completion", "usr/lib/x86_64-linux-gnu/perl",
            "usr/lib/x86_64-linux-gnu/perl-base", "usr/lib/systemd", "usr/share/i18n")

LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio")

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Ready:
    """All that a machine boots from."""

    tools: pathlib.Path
    kernel: pathlib.Path
    initramfs: pathlib.Path
    root: pathlib.Path
    versions: str

    def command(self, program: str) -> list[str]:
        return tool(self.tools, program)


def tool(root: pathlib.Path, program: str) -> list[str]:
    """Return the words that start an unpacked program, with its own C library."""
    paths = ":".join(str(root / path) for path in LIBRARIES)
    return [str(root / LOADER), "--library-path", paths, str(root / program)]


def ready(cache: pathlib.Path, say: Say, *, refresh: bool = False) -> Ready:
    """Return what the cache has, made now where it is missing. Raises CannotHave."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        _lock(lock.fileno(), say)
        debian = _stage(cache, "debian", _debian_key(), lambda place: _from_debian(place, say),
                        refresh=refresh)
        image = _stage(cache, "image", _image_key(debian),
                       lambda place: _image(debian, place, say), refresh=refresh)
    return Ready(debian / "tools", debian / "vmlinuz", image / "initramfs", image / "root.img",
                 (debian / "versions").read_text())


def _lock(descriptor: int, say: Say) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Waiting for another run that prepares the same")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _stage(cache: pathlib.Path, name: str, key: str, make: Callable[[pathlib.Path], None], *,
           refresh: bool) -> pathlib.Path:
    place = cache / f"{name}-{key}"
    if refresh or not place.is_dir():
        for old in cache.glob(f"{name}-*"):
            shutil.rmtree(old)
        unfinished = cache / f"{name}-unfinished"
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(place)
    return place


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _debian_key() -> str:
    return _key(packages.SUITE, TOOLS, GUEST, COMPILER, MODULES, SAMPLES, UNNEEDED, 1)


def _image_key(debian: pathlib.Path) -> str:
    files = [*sorted((HERE / "guest").iterdir()), *sorted((HERE / "modules").iterdir()),
             HERE / "recipe.py", HERE / "cpio.py"]
    return _key(debian.name, (debian / "versions").read_text(), LOADED, _requirements(),
                [(file.name, file.read_bytes()) for file in files], 1)


# --- what comes from Debian --------------------------------------------------------------------


def _from_debian(place: pathlib.Path, say: Say) -> None:
    say(f"Asking {packages.MIRROR} for its packages")
    debs = place / "debs"
    apt = packages.Apt(debs)
    apt.update()
    image = apt.dependencies(KERNEL_META)[0]
    headers = apt.dependencies(HEADERS_META)[0]
    release = image.removeprefix("linux-image-")
    series = ".".join(release.split(".")[:2])
    beside = [name for name in apt.dependencies(headers)
              if name.startswith(("linux-kbuild-", "linux-headers-"))]
    sets = [("tools", TOOLS, packages.NEWER, True), ("root", GUEST, packages.SUITE, True),
            ("compiler", COMPILER, packages.SUITE, True),
            ("kernel", [image], packages.NEWER, False),
            ("headers", [headers, *beside], packages.NEWER, False),
            ("source", [f"linux-source-{series}"], packages.NEWER, False)]
    found: dict[str, list[pathlib.Path]] = {}
    for name, wanted, suite, closure in sets:
        say(f"Downloading {', '.join(wanted)}")
        download = apt.with_dependencies if closure else apt.alone
        found[name] = download(name, wanted, suite)
    say("Unpacking")
    for name in ("tools", "root"):
        packages.unpack(found[name], place / name)
        _trim(place / name)
    # the compiler is started by the host's loader, so it gets the host's C library
    packages.unpack([file for file in [*found["compiler"], *found["headers"]]
                     if not file.name.startswith("libc6_")], place / "build")
    _trim(place / "build")
    packages.unpack(found["kernel"], place / "kernel")
    shutil.copy(place / "kernel/boot" / f"vmlinuz-{release}", place / "vmlinuz")
    _collect_modules(place / "kernel/usr/lib/modules" / release, place / "modules")
    _extract_samples(found["source"][0], place / "samples")
    (place / "release").write_text(release)
    (place / "versions").write_text("".join(
        f"{name}\n" for name in sorted({file.name for files in found.values() for file in files})))
    for name in ("debs", "kernel"):
        shutil.rmtree(place / name)


def _trim(root: pathlib.Path) -> None:
    for name in UNNEEDED:
        shutil.rmtree(root / name, ignore_errors=True)


def _collect_modules(tree: pathlib.Path, place: pathlib.Path) -> None:
    """Copy the wanted modules, and those that they need, uncompressed."""
    known = {_module_name(path): path for path in tree.rglob("*.ko*")}
    built_in = {_module_name(pathlib.Path(line))
                for line in (tree / "modules.builtin").read_text().splitlines()}
    place.mkdir()
    pending = list(MODULES)
    while pending:
        name = pending.pop()
        target = place / f"{name}.ko"
        if name in built_in or target.exists():
            continue
        data = known[name].read_bytes()
        data = lzma.decompress(data) if known[name].suffix == ".xz" else data
        target.write_bytes(data)
        pending += _needed(data)


def _module_name(path: pathlib.Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _needed(module: bytes) -> list[str]:
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    names = match[1].decode().split(",") if match else []
    return [name.replace("-", "_") for name in names if name]


def _extract_samples(deb: pathlib.Path, place: pathlib.Path) -> None:
    """Take the sample modules out of the kernel's sources; xz need not be installed for it."""
    place.mkdir()
    with (subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)],
                           stdout=subprocess.PIPE) as package,
          subprocess.Popen(["tar", "-xO", "--wildcards", "./usr/src/linux-source-*.tar.xz"],
                           stdin=package.stdout, stdout=subprocess.PIPE) as archive,
          subprocess.Popen(["tar", "-x", "--strip-components=3", "--wildcards", "-C", str(place),
                            "*/samples/vfio-mdev/*"], stdin=subprocess.PIPE) as samples):
        assert archive.stdout is not None
        assert samples.stdin is not None
        with lzma.open(archive.stdout) as source:
            shutil.copyfileobj(source, samples.stdin, 1 << 20)
    if package.returncode or archive.returncode or samples.returncode:
        raise packages.CannotHave(f"{deb.name} holds no samples/vfio-mdev")


# --- what is made of it ------------------------------------------------------------------------


def _image(debian: pathlib.Path, place: pathlib.Path, say: Say) -> None:
    say(f"Building {', '.join((*SAMPLES, *OWN))} for {(debian / 'release').read_text()}")
    modules = place / "modules"
    shutil.copytree(debian / "modules", modules)
    _build_modules(debian, place / "work", modules)
    say("Making the initramfs")
    _initramfs(debian, modules, place / "initramfs")
    say(f"Installing {', '.join(WHEELS)} for the guest")
    root = place / "root"
    shutil.copytree(debian / "root", root, symlinks=True)
    for name in ("project", "out", "lab", "proc", "sys", "dev", "run", "tmp", "mnt", "root"):
        (root / name).mkdir(exist_ok=True)
    shutil.copy(HERE / "guest/start", root / "lab/start")
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("busybox")
    _install_wheels(root / "lab/site")
    say("Making the root image")
    _root_image(debian / "tools", root, place / "root.img")
    for name in ("work", "root", "modules"):
        shutil.rmtree(place / name)


def _build_modules(debian: pathlib.Path, work: pathlib.Path, target: pathlib.Path) -> None:
    work.mkdir()
    for name in SAMPLES:
        shutil.copy(debian / "samples" / f"{name}.c", work)
    for file in [*(debian / "samples").glob("*.h"), *(HERE / "modules").glob("*.c")]:
        shutil.copy(file, work)
    (work / "Makefile").write_text("".join(f"obj-m += {name}.o\n" for name in (*SAMPLES, *OWN)))
    sources = (debian / "build/usr/src").resolve()
    headers = sources / f"linux-headers-{(debian / 'release').read_text()}"
    common = next(sources.glob("linux-headers-*-common"))
    # with it the modules would get type information, by a program that is not here
    (headers / "vmlinux").unlink(missing_ok=True)
    # Debian's names the place where it would be installed
    (headers / "Makefile").write_text(f"include {common}/Makefile\n")
    binaries, libraries = debian / "build/usr/bin", debian / "build" / LIBRARIES[0]
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}",
                   "LD_LIBRARY_PATH": str(libraries), "LC_ALL": "C"}
    done = subprocess.run(["make", "-C", str(headers), f"M={work}", "-j2", "modules"],
                          env=environment, capture_output=True, text=True)
    if done.returncode:
        raise packages.CannotHave(f"the kernel modules can't be built:\n{done.stderr[-2000:]}")
    for name in (*SAMPLES, *OWN):
        subprocess.run(["objcopy", "--strip-debug", str(work / f"{name}.ko"),
                        str(target / f"{name}.ko")], env=environment, check=True)


def _initramfs(debian: pathlib.Path, modules: pathlib.Path, target: pathlib.Path) -> None:
    entries = [cpio.directory(name) for name in ("dev", "proc", "sys", "bin", "modules", "new")]
    entries.append(cpio.console())
    entries.append(cpio.file("bin/busybox", (debian / "root/usr/bin/busybox").read_bytes()))
    entries.append(cpio.file("init", (HERE / "guest/init").read_bytes()))
    order = list(_load_order(modules))
    entries.append(cpio.file("modules/order", "".join(f"{name}\n" for name in order).encode()))
    entries += [cpio.file(f"modules/{name}.ko", (modules / f"{name}.ko").read_bytes())
                for name in order]
    # not compressed: the guest would take longer to unpack it than the host to read it
    target.write_bytes(cpio.archive(entries))


def _load_order(modules: pathlib.Path) -> Iterator[str]:
    done: set[str] = set()

    def visit(names: Iterable[str]) -> Iterator[str]:
        for name in names:
            path = modules / f"{name}.ko"
            if name not in done and path.exists():
                done.add(name)
                yield from visit(_needed(path.read_bytes()))
                yield name

    yield from visit(LOADED)


def _requirements() -> list[str]:
    lines = (CHECKOUT / "requirements.txt").read_text().splitlines()
    bounds = {re.split(r"[^\w.-]", line)[0].lower(): line for line in lines}
    return [bounds.get(name.lower(), name) for name in WHEELS]


def _install_wheels(target: pathlib.Path) -> None:
    tag = f"cp{GUEST_PYTHON.replace('.', '')}"
    platforms = [f"--platform={name}" for name in
                 ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")]
    abis = [f"--abi={name}" for name in (tag, "abi3", "none")]
    _pip(["install", "--quiet", "--target", str(target), "--only-binary=:all:",
          f"--python-version={GUEST_PYTHON}", "--implementation=cp", *platforms, *abis,
          *_requirements()])


def _pip(arguments: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], text=True,
                          capture_output=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    if done.returncode:
        raise packages.CannotHave(f"pip can't get the guest's libraries: {done.stderr.strip()}")


def _root_image(tools: pathlib.Path, root: pathlib.Path, target: pathlib.Path) -> None:
    # Python finds libraries by their cache
    subprocess.run([str(root / "usr/sbin/ldconfig"), "-r", str(root)], check=True)
    used = sum(path.lstat().st_size + 4096 for path in root.rglob("*"))
    with target.open("wb") as stream:
        stream.truncate(used * 5 // 4 + (32 << 20))
    done = subprocess.run([*tool(tools, "sbin/mke2fs"), "-q", "-t", "ext4", "-O", "^has_journal",
                           "-d", str(root), str(target)], capture_output=True, text=True)
    if done.returncode:
        raise packages.CannotHave(f"mke2fs failed: {done.stderr.strip()}")

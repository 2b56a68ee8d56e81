"""Run pytest in an emulated machine that has AVX-512, AVX-512 BF16 and AMX.

``python tests/bochs/emulate.py -- -q tests/kernels/network`` builds Bochs, makes a disk of this
Python, its packages and this checkout, boots Linux from it and runs pytest there. What the machine
prints is shown as it comes. Nothing outside of the work folder is written, nothing needs root.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import importlib.util
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
PATCH = HERE / "bochs-3.0-amx.patch"
GUEST = HERE / "guest"

# Programs that must be installed, and Debian's packages of them.
TOOLS = {
    "apt-get": "apt",
    "c++": "build-essential",
    "cpio": "cpio",
    "dpkg-deb": "dpkg",
    "git": "git",
    "make": "build-essential",
    "mke2fs": "e2fsprogs",
    "patch": "dpkg-dev",
    "xorriso": "xorriso",
    "xz": "xz-utils",
}

# The Python distributions that are copied to the machine, if they are installed here.
DISTRIBUTIONS = shlex.split("""
    attrs exceptiongroup filelock fsspec hypothesis iniconfig jinja2 markupsafe ml_dtypes mpmath
    networkx numpy onnx packaging pillow pluggy protobuf pygments pytest rich safetensors
    setuptools sortedcontainers sympy tomli torch tqdm typing_extensions
""")
NEEDED = {"hypothesis", "numpy", "pytest", "torch"}
UNUSED = shutil.ignore_patterns(  # of the standard library and of the distributions
    *shlex.split("config-* dist-packages ensurepip idlelib include lib2to3 site-packages test")
)

# The disk's driver and its file system, in the order of their dependencies.
MODULES = shlex.split("""
    scsi_common scsi_mod libata ata_piix sd_mod crc32c_generic jbd2 crc16 mbcache ext4
""")

CONFIGURE = shlex.split("""
    --with-nogui --enable-x86-64 --enable-cpu-level=6 --enable-smp --enable-fpu --enable-avx
    --enable-evex --enable-amx --enable-cet --enable-uintr --enable-protection-keys
    --enable-monitor-mwait --enable-perfmon --enable-pci --enable-long-phy-address
    --enable-all-optimizations --disable-docbook --disable-logging
""")

EXITED = re.compile(rb"\nemulated: pytest exited with (\d+)\r?\n")  # guest/init prints it


class EmulationError(Exception):
    """The machine could not be made, or died before pytest was done."""


def say(text: str) -> None:
    """Tell what happens now."""
    print(f"emulated: {text}", flush=True)


def call(*command: str | Path, cwd: Path | None = None, given: str = "", **env: str) -> str:
    """Run a program silently and return what it printed.

    Raises
    ------
    EmulationError
        With the end of its output, if it fails.
    """
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, input=given, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        words = shlex.join(map(str, command))
        raise EmulationError(f"{words} exited with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def once(target: Path, make: Callable[[Path], object]) -> Path:
    """Make a folder unless it is there; it gets its name when it is complete."""
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="new-") as folder:
            made = Path(folder, "made")
            made.mkdir()
            make(made)
            made.rename(target)
    return target


def package(work: Path, pattern: str, *download: str) -> Path:
    """Find the last such file of WORK/packages, downloaded first where there is none."""
    folder = work / "packages"
    if not any(folder.glob(pattern)):
        say(shlex.join(download))
        try:
            call(*download, cwd=folder)
        except EmulationError as error:
            raise EmulationError(f"{error}\nOr put {pattern} into {folder}.") from None
    if not any(folder.glob(pattern)):
        raise EmulationError(f"apt has no {pattern} here: put it into {folder}")
    return max(folder.glob(pattern))


def unpacked(work: Path, name: str, pattern: str = "") -> Path:
    """Unpack a binary package of Debian; it needs no installation."""
    file = package(work, pattern or f"{name}_*.deb", "apt-get", "download", name)
    return once(work / file.stem, lambda made: call("dpkg-deb", "-x", file, made))


def kernel(work: Path) -> Path:
    """Unpack Debian's kernel 6.12; 6.1 was seen to hang, others were not tried."""
    pattern, name = "linux-image-6.12*-amd64_*.deb", ""
    if not any((work / "packages").glob(pattern)):
        depends = call("apt-cache", "depends", "linux-image-amd64")
        found = re.search(r"Depends: (linux-image-6\.12\S+)", depends)
        if found is None:
            raise EmulationError(f"apt has no {pattern} here: put it into {work / 'packages'}")
        name = found[1]
    return unpacked(work, name, pattern)


def bochs(work: Path) -> Path:
    """Build the emulator, once for each state of the patch and of the options."""
    state = hashlib.sha256(PATCH.read_bytes() + shlex.join(CONFIGURE).encode()).hexdigest()[:12]

    def make(made: Path) -> None:
        download = ["apt-get", "source", "--download-only", "bochs"]
        archive = package(work, "bochs_3.0*.orig.tar.*", *download)
        say("building Bochs, once; it takes some minutes")
        source = made / "source"
        source.mkdir()
        call("tar", "-xf", archive, "-C", source, "--strip-components=1")
        call("patch", "-p1", "-i", PATCH, cwd=source)
        call("./configure", *CONFIGURE, cwd=source, CXXFLAGS="-O2")
        call("make", f"-j{len(os.sched_getaffinity(0))}", cwd=source)
        (source / "bochs").rename(made / "bochs-amx")
        shutil.rmtree(source)

    return once(work / f"bochs-{state}", make) / "bochs-amx"


def make_iso(work: Path, run: Path) -> None:
    """Write boot.iso: isolinux, the kernel and an initramfs that mounts the disk."""
    linux, busybox, initramfs = kernel(work), unpacked(work, "busybox-static"), run / "initramfs"
    for name in ("bin", "dev", "modules", "new", "proc", "sys"):
        (initramfs / name).mkdir(parents=True)
    shutil.copy(next(busybox.glob("**/bin/busybox")), initramfs / "bin")
    shutil.copy(GUEST / "init", initramfs)
    (initramfs / "init").chmod(0o755)
    for number, name in enumerate(MODULES):
        module = next(linux.glob(f"**/kernel/**/{name}.ko.xz"), None)
        if module is None:
            raise EmulationError(f"{linux.name} has no module {name}")
        content = lzma.decompress(module.read_bytes())
        (initramfs / "modules" / f"{number:02}-{name}.ko").write_bytes(content)
    names = "\n".join(str(path.relative_to(initramfs)) for path in sorted(initramfs.rglob("*")))
    call("cpio", "-o", "-H", "newc", "-O", run / "initrd", cwd=initramfs, given=names)

    loader, iso = run / "iso" / "isolinux", run / "iso"
    loader.mkdir(parents=True)
    (iso / "initrd.gz").write_bytes(gzip.compress((run / "initrd").read_bytes()))
    shutil.copy(next(linux.glob("boot/vmlinuz-*")), iso / "vmlinuz")
    shutil.copy(unpacked(work, "isolinux") / "usr/lib/ISOLINUX/isolinux.bin", loader)
    modules = unpacked(work, "syslinux-common") / "usr/lib/syslinux/modules/bios"
    shutil.copy(modules / "ldlinux.c32", loader)
    shutil.copy(GUEST / "isolinux.cfg", loader)
    options = "-b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4"
    words = ["-as", "mkisofs", "-quiet", *options.split(), "-boot-info-table"]
    call("xorriso", *words, "-o", run / "boot.iso", iso)


def copy_python(root: Path) -> Path:
    """Copy the interpreter, its library and the distributions; return the interpreter's path."""
    python, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    copy_file(python, root)
    shutil.copytree(library, inside(root, library), symlinks=True, ignore=UNUSED)
    # The modules are put where Hypothesis expects installed packages. Elsewhere it would take them
    # for modules under test, and read all of torch in search of constants.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = inside(root, Path(call(python, "-I", "-c", code).strip()))
    packages.mkdir(parents=True)
    for name in DISTRIBUTIONS:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name in NEEDED:
                raise EmulationError(f"{name} is not installed for {sys.executable}") from None
            continue
        tops = {file.parts[0] for file in distribution.files or []}
        for top in tops - {"..", "__pycache__", "bin"}:
            source = Path(str(distribution.locate_file(top)))
            if source.is_dir():
                shutil.copytree(source, packages / top, ignore=UNUSED, dirs_exist_ok=True)
            elif source.is_file():
                shutil.copy2(source, packages)
    return python


def copy_checkout(root: Path) -> None:
    """Copy what git tracks or would track, as it is now, and the built extension module."""
    listed = call("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=CHECKOUT)
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():  # not deleted
            (root / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, root / "checkout" / name)
    sys.dont_write_bytecode = True  # fastdiff is imported, which changes nothing in the checkout
    sys.path.append(str(CHECKOUT))
    native = importlib.util.find_spec("fastdiff._native")
    if native is None or native.origin is None:
        raise EmulationError(f"fastdiff is not built for {sys.executable}: pip install -e .")
    shutil.copy(native.origin, root / "checkout" / "fastdiff")


def copy_libraries(root: Path, python: Path) -> None:
    """Copy the shared libraries that the files below root need and do not bring along."""
    files = [inside(root, python), *(path for path in root.rglob("*.so*") if path.is_file())]
    env = {**os.environ, "LD_LIBRARY_PATH": ""}  # which the machine has not
    listed = subprocess.run(["ldd", *files], env=env, capture_output=True, text=True).stdout
    for found in re.findall(r"^\t(?:\S+ => )?(/.+) \(0x", listed, re.MULTILINE):
        if not Path(found).is_relative_to(root):
            copy_file(Path(found), root)
    copy_file(Path("/etc/ld.so.cache"), root)


def copy_file(source: Path, root: Path) -> None:
    """Copy a file of this machine to the same place below root, unless it is there."""
    target = inside(root, source)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def inside(root: Path, path: Path) -> Path:
    """Return the place below root of an absolute path."""
    return root / path.relative_to("/")


def make_disk(run: Path, files: list[Path], arguments: list[str]) -> None:
    """Write disk.img: Python, the checkout, some files and the script that runs pytest."""
    root = run / "root"
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("dev", "proc", "root", "sys", "tmp"):
        (root / name).mkdir()
    python = copy_python(root)
    copy_checkout(root)
    for file in files:
        shutil.copy(file, root / "checkout")
    copy_libraries(root, python)
    shutil.copy(run / "initramfs" / "bin" / "busybox", root / "bin" / "sh")
    words = f"python={shlex.quote(str(python))}\nset -- {shlex.join(arguments)}\n"
    (root / "run.sh").write_text(words + (GUEST / "run.sh").read_text())
    # Compiling to bytecode takes seconds on this machine, and minutes in the emulated one. Some
    # files of torch are templates, which do not compile.
    compiler = [sys.executable, "-m", "compileall", "-q", "-s", str(root), "-p", "/"]
    subprocess.run([*compiler, root], capture_output=True)
    used = sum(path.lstat().st_size + 4096 for path in root.rglob("*")) / 2**20
    size = f"{1.1 * used + 512:.0f}M"
    call("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", root, run / "disk.img", size)
    shutil.rmtree(root)


def boot(emulator: Path, run: Path) -> int:
    """Run the machine, show what it prints, and return the exit status of pytest."""
    reader, writer = os.pipe()
    serial = f"com1: enabled=1, mode=file, dev=/dev/fd/{writer}\n"
    (run / "bochsrc").write_text((GUEST / "bochsrc").read_text() + serial)
    with (run / "bochs.out").open("wb") as said:
        machine = subprocess.Popen(
            [emulator, "-q", "-f", "bochsrc"], cwd=run, pass_fds=[writer],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
    os.close(writer)
    seen = b""
    try:
        while piece := os.read(reader, 65536):
            sys.stdout.buffer.write(piece.replace(b"\r", b""))
            sys.stdout.flush()
            seen = (seen + piece)[-8192:]
            if found := EXITED.search(seen):
                return int(found[1])
            if b"Kernel panic - not syncing" in seen:
                raise EmulationError("the kernel of the machine panicked")
    finally:
        machine.kill()
        machine.wait()
        os.close(reader)
    output = (run / "bochs.out").read_text(errors="replace")[-2000:]
    raise EmulationError(f"Bochs ended before pytest did:\n{output}")


def emulate(work: Path, run: Path, files: list[Path], arguments: list[str]) -> int:
    """Make what is missing, boot, and return the exit status of pytest."""
    emulator = bochs(work)
    shutil.copy(unpacked(work, "bochsbios") / "usr/share/bochs/BIOS-bochs-latest", run / "bios")
    shutil.copy(unpacked(work, "vgabios") / "usr/share/vgabios/vgabios.bin", run / "vgabios")
    say("making the disk, in a minute or two")
    make_iso(work, run)
    make_disk(run, files, arguments)
    say("booting; Python answers after some minutes")
    return boot(emulator, run)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Run pytest in an emulated machine that has AVX-512, AVX-512 BF16 and AMX.",
        usage="%(prog)s [--work FOLDER] [--keep] -- PYTEST_ARGUMENT...",
        epilog="The exit status is pytest's, or 125 if the machine could not be made or died.",
    )
    parser.add_argument(
        "--work", type=Path, default=CHECKOUT / "build" / "bochs", metavar="FOLDER",
        help="where all is made, and kept for the next run (default: build/bochs of the "
        "checkout); Debian's packages are looked for in its folder packages, then downloaded",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the images and logs of this run")
    parser.add_argument("--file", type=Path, action="append", default=[], metavar="FILE",
                        help="put another file into the root of the checkout there")  # fmt: skip
    parser.add_argument("arguments", nargs="+", metavar="PYTEST_ARGUMENT",
                        help="of pytest, which runs in the root of the checkout")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Do what the command line asks for."""
    options = parse()
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin{os.pathsep}/sbin"  # of mke2fs
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        packages = " ".join(sorted({TOOLS[name] for name in missing}))
        print(f"emulate.py: no {', '.join(missing)}: apt install {packages}", file=sys.stderr)
        return 125
    work = options.work.resolve()
    (work / "packages").mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(dir=work, prefix="run-"))
    try:
        return emulate(work, run, options.file, options.arguments)
    except EmulationError as error:
        print(f"emulate.py: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130
    finally:
        if options.keep:
            say(f"kept {run}")
        else:
            shutil.rmtree(run)


if __name__ == "__main__":
    sys.exit(main())

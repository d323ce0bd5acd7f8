"""An ARM64 Python with ncnn, numpy and onnxruntime on a PC: user-mode emulation, one folder, nothing system-wide.

    python bench/arm_setup.py [ROOT]      (default: $ONNXSLIM_ARM_ROOT, else ~/.cache/onnxslim-yolo-arm)

Debian's packages (qemu-user-static for this machine, python3.11 and its libraries for arm64) are downloaded by apt-get
with lists of its own and unpacked; PyPI's aarch64 wheels are unpacked beside them, at the versions of this Python's
own packages. Needs a Debian of release 12 (bookworm) or one that can reach its archive, dpkg-deb, pip. Not root.

It leaves ROOT/arm-python, a launcher for `--run-on`:

    ROOT/arm-python a76 -c 'import ncnn'      a Raspberry Pi 5's core: with fp16 arithmetic
    ROOT/arm-python a72 …                     a Pi 4's: without
    ROOT/arm-python a53 …                     a Pi 3's
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

RELEASE = "bookworm"
ARCHIVES = (
    f"deb [signed-by={{key}}] http://deb.debian.org/debian {RELEASE} main",
    f"deb [signed-by={{key}}] http://deb.debian.org/debian-security {RELEASE}-security main",
)
KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
LIBRARIES = (
    *("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0"),
    *("liblzma5", "libuuid1", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libx11-6", "libxcb1", "libxau6", "libxdmcp6", "libbsd0", "libmd0"),  # ncnn's wheels of 2023 link it
)
WHEELS = ("ncnn", "numpy", "onnxruntime")
CORES = {"a76": "cortex-a76", "a72": "cortex-a72", "a53": "cortex-a53"}

LAUNCHER = """#!/bin/sh
# A Python of the emulated core $1, isolated from this machine's own packages; more arguments are Python's.
root=$(dirname "$(readlink -f "$0")")
case "$1" in
{cases}
  *) echo "usage: $0 {names} [python's arguments]" >&2; exit 2 ;;
esac
shift
exec "$root/qemu/usr/bin/qemu-aarch64-static" -cpu "$cpu" -L "$root/arm64" -E PYTHONPATH="$root/site" \\
  -E PYTHONHOME="$root/arm64/usr" -E LD_LIBRARY_PATH= -E OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}" \\
  "$root/arm64/usr/bin/python3.11" "$@"
"""


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default_root()
    root.mkdir(parents=True, exist_ok=True)
    root = root.resolve()
    host = _output("dpkg", "--print-architecture")
    debs(root, host, ("qemu-user-static",), root / "qemu")
    debs(root, "arm64", LIBRARIES, root / "arm64")
    wheels(root / "site")
    launcher = root / "arm-python"
    cases = "\n".join(f"  {name}) cpu={cpu} ;;" for name, cpu in CORES.items())
    launcher.write_text(LAUNCHER.format(cases=cases, names="|".join(CORES)))
    launcher.chmod(0o755)
    said = _output(launcher, "a76", "-c", "import ncnn, numpy, platform; print(platform.machine(), ncnn.__version__)")
    print(f"{launcher}: {said}")


def default_root() -> Path:
    """Where the emulated Python lies unless said otherwise."""
    return Path(os.environ.get("ONNXSLIM_ARM_ROOT") or Path.home() / ".cache" / "onnxslim-yolo-arm")


def debs(root: Path, architecture: str, packages: tuple[str, ...], into: Path) -> None:
    """Download packages of an architecture with apt's own checks, and unpack them into a folder."""
    apt = root / "apt" / architecture
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text("".join(line.format(key=KEY) + "\n" for line in ARCHIVES))
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "none",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    archives = apt / "cache" / "archives"
    _run("apt-get", *options, "-q", "update", cwd=archives)
    _run("apt-get", *options, "-q", "download", *packages, cwd=archives)
    into.mkdir(parents=True, exist_ok=True)
    for deb in sorted(archives.glob("*.deb")):
        _run("dpkg-deb", "-x", deb, into, cwd=archives)
        deb.unlink()


def wheels(site: Path) -> None:
    """Unpack the aarch64 wheels of the versions that are installed here."""
    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    platforms = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
    choices = [word for name in platforms for word in ("--platform", name)]
    kind = ("--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", *choices)
    _run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", *kind, "--target", site, *wanted)


def _run(*command: object, cwd: Path | None = None) -> None:
    subprocess.run([str(word) for word in command], check=True, cwd=cwd, stdout=subprocess.DEVNULL)


def _output(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()

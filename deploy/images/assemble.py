#!/usr/bin/env python3
"""Makes the root directory of an image from its list of files, and its SBOM beside it.

    deploy/images/assemble.py IMAGE BUILD ROOT [--sbom FILE]
    deploy/images/assemble.py coordinator build/release /tmp/root

IMAGE is one of the *.files beside this script, BUILD a build folder of the tree, ROOT a folder that must not exist yet.
The Dockerfiles copy that folder into an empty image; tests/images runs programs in it. Needs Debian's dpkg, ldd, strip.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

import sbom

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parents[1]
USER = 65532
# Where kernels/shared_library.cc looks besides the system's own folders.
LIBRARY_FOLDERS = ["/usr/lib/x86_64-linux-gnu", "/usr/local/cuda/lib64", "/opt/tessera/cuda/nvidia/cu13/lib",
                   "/opt/tessera/cuda/nvidia/nccl/lib"]
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}


def fail(message):
    sys.exit(f"assemble.py: {message}")


def libraries_of(program):
    """Paths of the shared libraries that the loader gives this program, the loader among them."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    found = []
    for line in listed.splitlines():
        match = re.match(r"\s*(\S+) => (\S+)|\s*(/\S+) \(", line)
        if not match or "linux-vdso" in line:
            continue
        if match.group(2) == "not":
            fail(f"{program}: {line.strip()}")
        found.append(match.group(2) or match.group(3))
    return found


class Root:
    """The folder that becomes an image's root."""

    def __init__(self, folder):
        self.folder = folder
        self.sources = set()  # files of this system that went in, for licences and SBOM
        for link, target in LINKS.items():
            (folder / target).mkdir(parents=True, exist_ok=True)
            (folder / link).symlink_to(target)

    def place(self, source, target):
        """Copies a file under its name in the image; a link's target comes under the link's name."""
        to = self.folder / target.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(source), to)
        to.chmod(0o755 if os.access(source, os.X_OK) else 0o644)

    def library(self, path):
        if path in self.sources:
            return
        self.sources.add(path)
        # /lib is a link to /usr/lib, here as in the image.
        target = path if path.startswith(("/usr/", "/lib")) else f"/usr/lib/x86_64-linux-gnu/{os.path.basename(path)}"
        self.place(path, re.sub(r"^/(lib\w*)/", r"/usr/\1/", target))

    def program(self, source):
        target = f"/usr/bin/{source.name}"
        self.place(source, target)
        subprocess.run(["strip", self.folder / target.lstrip("/")], check=True)
        for path in libraries_of(source):
            self.library(path)

    def opened(self, name):
        """A library that a program opens by name."""
        for folder in LIBRARY_FOLDERS:
            path = os.path.join(folder, name)
            if os.path.exists(path):
                self.library(path)
                for needed in libraries_of(path):
                    self.library(needed)
                return
        fail(f"{name} is in none of {', '.join(LIBRARY_FOLDERS)}; deploy/install-deps.sh --cuda installs it")

    def basics(self):
        etc = self.folder / "etc"
        etc.mkdir(exist_ok=True)
        (etc / "passwd").write_text(f"root:x:0:0:root:/:/nologin\ntessera:x:{USER}:{USER}:tessera:/tmp:/nologin\n")
        (etc / "group").write_text(f"root:x:0:\ntessera:x:{USER}:\n")
        (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
        for name in ("tmp", "proc", "sys", "dev", "models"):
            (self.folder / name).mkdir(exist_ok=True)
        (self.folder / "tmp").chmod(0o1777)

    def size(self):
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())


def fill(root, image, build):
    for line in (HERE / f"{image}.files").read_text().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "program" and len(words) == 2:
            source = build / "bin" / words[1]
            if not source.exists():
                fail(f"{source} is not built")
            root.program(source)
        elif words[0] == "library" and len(words) == 2:
            root.opened(words[1])
        elif words[0] == "copy" and len(words) == 3:
            source = TREE / words[1]
            for path in [source] if source.is_file() else sorted(source.rglob("*")):
                if path.is_file():
                    root.place(path, str(pathlib.Path(words[2]) / path.relative_to(source)))
        elif words == ["certificates"]:
            root.sources.add(sbom.CERTIFICATES)
            root.place(sbom.CERTIFICATES, sbom.CERTIFICATES)
        else:
            fail(f"{image}.files: cannot read {line!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", choices=sorted(path.stem for path in HERE.glob("*.files")))
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("--sbom", type=pathlib.Path, help="ROOT.spdx.json unless given")
    options = parser.parse_args()
    if options.root.exists():
        fail(f"{options.root} is there already")
    options.root.mkdir(parents=True)
    root = Root(options.root)
    root.basics()
    fill(root, options.image, options.build)
    packages = sbom.packages_of(root.sources)
    sbom.copy_licences(packages, TREE, options.root)
    listing = options.sbom or options.root.with_name(options.root.name + ".spdx.json")
    listing.write_text(sbom.document(options.image, packages, TREE))
    print(f"{options.image}: {root.size() / 1e6:.1f} MB, {len(packages)} packages, {listing}")


if __name__ == "__main__":
    main()

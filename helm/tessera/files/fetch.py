"""Fetches a model's safetensors, configuration and tokenizer into a folder: REPOSITORY REVISION FOLDER PIP_PACKAGE.

Runs in the chart's job. The folder appears under its name when all is there, never before.
"""

import os
import subprocess
import sys

WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "LICENSE*", "USE_POLICY*", "README.md"]


def main(repository, revision, folder, package):
    if os.path.isdir(folder):
        print(f"{folder} is there already")
        return
    if package:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--target", "/tmp/packages",
                        package], check=True)
        sys.path.insert(0, "/tmp/packages")
    from huggingface_hub import snapshot_download
    # The same unfinished folder every time, so that a job that starts over goes on where it was.
    unfinished = f"{folder}.unfinished"
    snapshot_download(repository, revision=revision, local_dir=unfinished, allow_patterns=WANTED)
    if not any(name.endswith(".safetensors") for name in os.listdir(unfinished)):
        sys.exit(f"{repository}@{revision} has no safetensors")
    os.rename(unfinished, folder)
    print(f"{repository}@{revision} is in {folder}")


main(*sys.argv[1:])

"""Writes copies of sources with all planted bugs in them, each behind a switch that is read at run time.

    plant.py SOURCE_ROOT OUTPUT_DIR

Fails when an original text is not in its file exactly once: then the code has moved on and mutants.py must follow.
The production sources are only read.
"""

import pathlib
import sys

from mutants import MUTANTS


def planted_texts(root):
    texts = {}
    for number, (name, file, original, bug) in enumerate(MUTANTS, start=1):
        text = texts.get(file) or (root / file).read_text()
        if text.count(original) != 1:
            raise SystemExit(f"plant.py: mutant {name}: its original is {text.count(original)} times in {file}")
        if "MUTANT" not in bug:
            raise SystemExit(f"plant.py: mutant {name} is always on")
        texts[file] = text.replace(original, bug.replace("MUTANT", f"::tessera::Planted({number})"))
    return texts


def write_if_changed(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main():
    root, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for file, text in planted_texts(root).items():
        write_if_changed(output / file, '#include "tests/simulation/mutants/planted.h"\n' + text)
    names = "".join(f'    "{name}",\n' for name, *_ in MUTANTS)
    write_if_changed(output / "planted_names.cc",
                     "// Written by plant.py.\n"
                     '#include "tests/simulation/mutants/planted.h"\n\n'
                     "namespace tessera {\n\n"
                     f"const char* const kPlantedNames[] = {{\n{names}}};\n"
                     f"const int kPlantedCount = {len(MUTANTS)};\n\n"
                     "}  // namespace tessera\n")


if __name__ == "__main__":
    main()

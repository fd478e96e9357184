"""Writes copies of sources with all planted bugs in them, each behind a switch that is read at run time.

    plant.py SOURCE_ROOT OUTPUT_DIR

Fails when an original text is not in its file exactly once: then the code has moved on and mutants.py must follow.
The production sources are only read.
"""

import pathlib
import sys

from mutants import MUTANTS


def planted(number, kind, original, bug):
    if kind == "value":
        return f"(::tessera::Planted({number}) ? ({bug}) : ({original}))"
    if kind == "do":
        return f"  if (::tessera::Planted({number})) {{\n{bug}  }} else {{\n{original}  }}\n"
    raise SystemExit(f"plant.py: mutant {number} has the unknown kind {kind}")


def main():
    root, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    texts = {}
    for number, (name, file, kind, original, bug) in enumerate(MUTANTS, start=1):
        text = texts.get(file) or (root / file).read_text()
        if text.count(original) != 1:
            raise SystemExit(f"plant.py: mutant {name}: its original is {text.count(original)} times in {file}")
        texts[file] = text.replace(original, planted(number, kind, original, bug))
    for file, text in texts.items():
        target = output / file
        target.parent.mkdir(parents=True, exist_ok=True)
        text = '#include "tests/simulation/mutants/planted.h"\n' + text
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
    names = "".join(f'    "{name}",\n' for name, *_ in MUTANTS)
    table = ("// Written by plant.py.\n"
             '#include "tests/simulation/mutants/planted.h"\n\n'
             "namespace tessera {\n\n"
             f"const char* const kPlantedNames[] = {{\n{names}}};\n"
             f"const int kPlantedCount = {len(MUTANTS)};\n\n"
             "}  // namespace tessera\n")
    (output / "planted_names.cc").write_text(table)


if __name__ == "__main__":
    main()

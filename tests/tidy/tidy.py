"""Checks the house rules on the tree this file lies in: python3 tests/tidy/tidy.py"""

import pathlib
import subprocess
import sys

import rules

ROOT = pathlib.Path(__file__).resolve().parents[2]


def read_tree(root):
    """Tracked and new files, as {path: text}; ignored and binary ones left out."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True).stdout.splitlines()
    tree = {}
    for path in listed:
        try:
            tree[path] = (root / path).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return tree


def main():
    tree = read_tree(ROOT)
    problems = [problem for check in rules.CHECKS for problem in check(tree)]
    print("\n".join(problems))
    print(f"{len(tree)} files, {len(rules.CHECKS)} rules, {len(problems)} problems")
    return 1 if problems or not tree else 0


if __name__ == "__main__":
    sys.exit(main())

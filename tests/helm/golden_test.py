"""The examples, rendered, are what is kept in golden/. After a wanted change: python3 tests/helm/golden_test.py --update"""

import difflib
import pathlib
import sys
import unittest

from rendering import RENDERED, text

GOLDEN = pathlib.Path(__file__).with_name("golden")


class GoldenTest(unittest.TestCase):
    def test_examples(self):
        self.assertEqual(sorted(path.name for path in GOLDEN.iterdir()), [path.name for path in RENDERED])
        for path in RENDERED:
            with self.subTest(example=path.name):
                wanted = (GOLDEN / path.name).read_text().splitlines()
                difference = list(difflib.unified_diff(wanted, text(path).splitlines(), "golden", "rendered", lineterm=""))
                self.assertEqual(difference, [], "\n" + "\n".join(difference[:80]))


if __name__ == "__main__":
    if "--update" in sys.argv:
        for example in RENDERED:
            (GOLDEN / example.name).write_text(text(example))
    else:
        unittest.main()

"""Every rule finds a violation planted for it, and leaves an innocent neighbour alone."""

import unittest

import rules

GOOD = "// What this is.\n"


class RulesTest(unittest.TestCase):
    def check(self, rule, bad, good):
        self.assertTrue(rule(bad), "the planted violation was not found")
        self.assertEqual(rule(good), [])

    def test_include_directions(self):
        self.check(rules.include_directions,
                   {"coordinator/sched/a.cc": '#include "worker/engine.h"\n'},
                   {"coordinator/sched/a.cc": '#include "coordinator/kv/block.h"\n'})
        self.check(rules.include_directions,
                   {"kernels/cpu/a.cc": '#include "kernels/cuda/b.h"\n'},
                   {"kernels/cpu/a.cc": '#include "kernels/ops.h"\n#include "base/check.h"\n'})
        self.check(rules.include_directions,
                   {"models/a.cc": '#include "tessera/cluster/v1/step.pb.h"\n'},
                   {"worker/a.cc": '#include "tessera/cluster/v1/step.pb.h"\n'})
        self.check(rules.include_directions,
                   {"worker/a.cc": '#include "tests/golden/golden.h"\n'},
                   {"tests/worker/a.cc": '#include "coordinator/sched/request.h"\n'})

    def test_file_sizes(self):
        self.check(rules.file_sizes, {"a.cc": "x\n" * 501}, {"a.cc": "x\n" * 500})

    def test_columns(self):
        self.check(rules.columns, {"a.cc": "x" * 101}, {"a.cc": "x" * 100})

    def test_function_sizes(self):
        body = "  f();\n"
        long_one = "void F(int a) {\n" + body * 80 + "}\n"
        self.check(rules.function_sizes, {"worker/a.cc": long_one},
                   {"worker/a.cc": "namespace n {\n" + ("void G() {\n" + body * 60 + "}\n") * 3 + "}\n"})
        self.assertEqual(rules.function_sizes({"kernels/cpu/a.cc": long_one}), [])
        member = "class C {\n  int F() const {\n" + body * 80 + "  }\n};\n"
        self.assertTrue(rules.function_sizes({"worker/a.h": member}))
        misleading = 'void F() {\n  const char* s = "{{{";  // }}}\n' + body * 60 + "}\n"
        self.assertEqual(rules.function_sizes({"worker/a.cc": misleading}), [])

    def test_backend_conditionals(self):
        self.check(rules.backend_conditionals, {"worker/a.cc": "#ifdef TESSERA_CUDA\n#endif\n"},
                   {"kernels/cuda/cuda.h": "#ifndef TESSERA_KERNELS_CUDA_CUDA_H_\n#endif\n"})

    def test_opening_comments(self):
        self.check(rules.opening_comments, {"a.cc": "#include <vector>\n"}, {"a.cc": GOOD})

    def test_include_guards(self):
        self.check(rules.include_guards, {"base/a.h": GOOD + "#pragma once\n"},
                   {"base/a.h": GOOD + "#ifndef TESSERA_BASE_A_H_\n"})

    def test_virtual_interfaces(self):
        self.check(rules.virtual_interfaces,
                   {"worker/a.h": "class Thing {\n  virtual int F() const = 0;\n};\n"},
                   {"worker/a.h": "class Ops {\n  virtual int F() = 0;\n  int x = 0;\n};\n",
                    "worker/b.h": "class Box {\n  int x GUARDED_BY(mutex_) = 0;\n};\n"})

    def test_marks(self):
        self.check(rules.marks, {"a.cc": "// TODO later\n"}, {"a.cc": "// done\n"})
        self.assertTrue(rules.marks({"worker/utils.h": GOOD}))

    def test_versions(self):
        cmake = "project(tessera VERSION 1.2.3 LANGUAGES CXX)"
        header = 'inline constexpr char kVersion[] = "%s";'
        self.check(rules.versions, {"CMakeLists.txt": cmake, "base/version.h": header % "1.2.4"},
                   {"CMakeLists.txt": cmake, "base/version.h": header % "1.2.3"})

    def test_readme_decisions(self):
        rooms = ("models", "kernels", "worker", "coordinator", "cli", "deploy", "tests", "proto")
        good = {f"{room}/README.md": "# x\n## Decisions\n" for room in rooms}
        self.check(rules.readme_decisions, {**good, "cli/README.md": "# x\n"}, good)


if __name__ == "__main__":
    unittest.main()

"""The house rules that a machine can check, one function each.

Every check takes the tree as {path: text} (paths relative to the repository root) and returns a list of
"path:line: what is wrong" strings. tidy.py runs them on the tree; tidy_test.py plants violations.
"""

import re

SOURCE = re.compile(r"\.(cc|h|cu|cuh)$")
CODE = re.compile(r"\.(cc|h|cu|cuh|rs|py|sh|cmake|proto)$|(^|/)CMakeLists\.txt$")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
KERNEL_LINES_MAX = 120
COLUMNS_MAX = 100

# Which folder may include which others, besides itself, base/ and the generated proto headers. The longest
# matching key decides.
MAY_INCLUDE = {
    "base": [],
    "models": [],
    "kernels": [],
    "kernels/cpu": ["kernels"],
    "kernels/cuda": ["kernels"],
    "kernels/bench": ["kernels", "kernels/cpu", "kernels/cuda"],
    "worker": ["models", "kernels", "worker/comm"],
    "worker/comm": ["kernels"],
    "worker/comm/bench": ["kernels", "worker/comm"],
    "coordinator/text": [],
    "coordinator/telemetry": [],
    "coordinator/console": [],
    "coordinator/kv": ["models"],
    "coordinator/sched": ["models", "coordinator/kv"],
    "coordinator/sched/bench": ["models", "coordinator/kv", "coordinator/sched"],
    "coordinator/ledger/book": ["coordinator/sched"],
    "coordinator/ledger": ["coordinator/ledger/book", "coordinator/sched"],
    "coordinator/engine": ["coordinator/ledger/book", "coordinator/sched", "coordinator/telemetry"],
    "coordinator/cluster": ["models", "coordinator/sched", "coordinator/telemetry"],
    "coordinator/sim": ["models", "coordinator/ledger/book", "coordinator/sched",
                        "coordinator/cluster"],
    "coordinator/tenants": ["coordinator/sched", "coordinator/engine", "coordinator/telemetry"],
    "coordinator/api": ["models", "coordinator/console", "coordinator/text", "coordinator/sched",
                        "coordinator/engine",
                        "coordinator/ledger", "coordinator/ledger/book", "coordinator/telemetry",
                        "coordinator/tenants"],
    "coordinator/admin": ["coordinator/api", "coordinator/ledger", "coordinator/telemetry",
                          "coordinator/tenants"],
    "coordinator": ["models", "coordinator/admin", "coordinator/api", "coordinator/cluster",
                    "coordinator/engine",
                    "coordinator/ledger", "coordinator/ledger/book", "coordinator/sched",
                    "coordinator/telemetry", "coordinator/tenants", "coordinator/text"],
    "cli": ["models"],
}
# base/ is for everyone; these folders may also see the words of proto/.
MAY_SEE_PROTO = {"worker", "coordinator", "cli", "tests"}

# Files that may see more than their folder: the one place where a rank's backend is chosen, and the one
# command that reads what the coordinator has written.
FILE_MAY_INCLUDE = {"worker/device.cc": ["kernels/cpu"], "cli/usage.cc": ["coordinator/ledger"]}

# The house's five, and no sixth without a reason in writing: in the Decisions of that README.
VIRTUAL_INTERFACES = {"Ops", "Communicator", "StepExecutor", "Clock", "TextModel"}
INTERFACES_WITH_REASON = {"Weight": "kernels/README.md", "HostCommunicator": "worker/comm/README.md"}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
BACKEND = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b.*\b(\w*(?:CUDA|NCCL|AVX|AMX)\w*)", re.M)
MARKS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def folder_of(path):
    return path.rsplit("/", 1)[0] if "/" in path else ""


def room_of(folder):
    """The longest key of MAY_INCLUDE that is this folder or above it."""
    while folder and folder not in MAY_INCLUDE:
        folder = folder_of(folder)
    return folder


def include_directions(tree):
    problems = []
    for path, text in tree.items():
        room = room_of(folder_of(path))
        if not SOURCE.search(path) or not room:
            continue
        for match in INCLUDE.finditer(text):
            target = match.group(1)
            where = f"{path}:{line_of(text, match.start())}"
            if target.startswith("tessera/"):
                if path.split("/")[0] not in MAY_SEE_PROTO:
                    problems.append(f"{where}: {room} may not include proto ({target})")
                continue
            if target.startswith("tests/"):
                problems.append(f"{where}: nothing includes tests ({target})")
                continue
            target_room = room_of(folder_of(target))
            allowed = MAY_INCLUDE[room] + FILE_MAY_INCLUDE.get(path, [])
            if target_room in ("", "base", room) or target_room in allowed:
                continue
            problems.append(f"{where}: {room} may not include {target_room} ({target})")
    return problems


def file_sizes(tree):
    problems = []
    for path, text in tree.items():
        lines = text.count("\n")
        if CODE.search(path) and lines > FILE_LINES_MAX:
            problems.append(f"{path}:1: {lines} lines, at most {FILE_LINES_MAX}")
    return problems


def columns(tree):
    problems = []
    for path, text in tree.items():
        if not SOURCE.search(path) and not path.endswith(".proto"):
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > COLUMNS_MAX:
                problems.append(f"{path}:{number}: {len(line)} columns, at most {COLUMNS_MAX}")
    return problems


def blank_out(text):
    """The text with comments, strings and character literals replaced by blanks, newlines kept."""
    pattern = re.compile(
        r'R"(?P<tag>[^()\s]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\''
        r"|//[^\n]*|/\*.*?\*/",
        re.S,
    )
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def functions(text):
    """(first line, number of lines) of every function body, by counting braces."""
    clean = re.sub(r"^\s*#.*?(?<!\\)$", lambda m: re.sub(r"[^\n]", " ", m.group(0)),
                   blank_out(text), flags=re.M | re.S)
    found, stack, statement_start = [], [], 0
    for offset, char in enumerate(clean):
        if char == "{":
            head = clean[statement_start:offset].strip()
            inside = any(kind == "function" for kind, _ in stack)
            container = re.match(
                r"(template\s*<.*>\s*)?(inline\s+)?(namespace|class|struct|enum|union|extern)\b",
                head, re.S)
            is_function = not inside and not container and "(" in head and not head.endswith("=")
            stack.append(("function" if is_function else "other", offset))
            statement_start = offset + 1
        elif char == "}":
            if stack:
                kind, start = stack.pop()
                if kind == "function":
                    first = line_of(clean, start)
                    found.append((first, line_of(clean, offset) - first + 1))
            statement_start = offset + 1
        elif char == ";":
            statement_start = offset + 1
    return found


def function_sizes(tree):
    problems = []
    for path, text in tree.items():
        if not SOURCE.search(path):
            continue
        limit = KERNEL_LINES_MAX if path.startswith("kernels/") else FUNCTION_LINES_MAX
        if path.startswith("tests/"):
            limit = KERNEL_LINES_MAX
        for first, lines in functions(text):
            if lines > limit:
                problems.append(f"{path}:{first}: a function of {lines} lines, at most {limit}")
    return problems


def backend_conditionals(tree):
    """Which backend is built is CMake's choice of file, never an #if."""
    problems = []
    for path, text in tree.items():
        if not SOURCE.search(path):
            continue
        for match in BACKEND.finditer(text):
            if match.group(1).endswith("_H_"):
                continue
            problems.append(f"{path}:{line_of(text, match.start())}: #if on {match.group(1)}")
    return problems


def opening_comments(tree):
    problems = []
    for path, text in tree.items():
        if SOURCE.search(path) and not text.startswith("//"):
            problems.append(f"{path}:1: a file opens with what it owns and who calls it")
    return problems


def include_guards(tree):
    problems = []
    for path, text in tree.items():
        if not path.endswith(".h"):
            continue
        guard = re.sub(r"[/.\-]", "_", path).upper() + "_"
        if f"#ifndef TESSERA_{guard}" not in text:
            problems.append(f"{path}:1: the include guard should be TESSERA_{guard}")
    return problems


def virtual_interfaces(tree):
    problems = []
    for path, text in tree.items():
        if not SOURCE.search(path) or path.startswith("tests/"):
            continue
        clean = blank_out(text)
        for match in re.finditer(r"\bvirtual\b[^;{}]*\)[^;{}()]*=\s*0\s*;", clean):
            names = re.findall(r"\b(?:class|struct)\s+(\w+)[^;{()]*\{", clean[:match.start()])
            name = names[-1] if names else "?"
            reason = tree.get(INTERFACES_WITH_REASON.get(name, ""), "")
            if name not in VIRTUAL_INTERFACES and f"`{name}`" not in reason:
                problems.append(
                    f"{path}:{line_of(text, match.start())}: {name} is a new virtual interface")
    return sorted(set(problems))


def marks(tree):
    problems = []
    for path, text in tree.items():
        if not CODE.search(path) or path.startswith("tests/tidy/"):
            continue
        for match in MARKS.finditer(text):
            problems.append(f"{path}:{line_of(text, match.start())}: {match.group(1)}")
        if re.search(r"(^|/)utils?\.(h|cc)$", path):
            problems.append(f"{path}:1: name the file after what it holds")
    return problems


def versions(tree):
    """base/version.h says what CMakeLists.txt says."""
    project = re.search(r"project\(tessera VERSION ([0-9.]+)", tree.get("CMakeLists.txt", ""))
    header = re.search(r'kVersion\[\] = "([^"]+)"', tree.get("base/version.h", ""))
    if not project or not header or project.group(1) != header.group(1):
        return ["base/version.h:1: differs from the version in CMakeLists.txt"]
    return []


def readme_decisions(tree):
    """Every top room has a README that ends with its decisions."""
    problems = []
    for room in ("models", "kernels", "worker", "coordinator", "cli", "deploy", "tests", "proto"):
        text = tree.get(f"{room}/README.md", "")
        headings = re.findall(r"^## (.+)$", text, re.M)
        if not headings or headings[-1].strip() != "Decisions":
            problems.append(f"{room}/README.md:1: should exist and end with `## Decisions`")
    return problems


CHECKS = [include_directions, file_sizes, columns, function_sizes, backend_conditionals,
          opening_comments, include_guards, virtual_interfaces, marks, versions, readme_decisions]

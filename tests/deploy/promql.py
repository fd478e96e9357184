"""Which metrics and labels a PromQL expression names, and which there are. Enough of the grammar for that, no more."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "coordinator/telemetry/METRICS.md"
ROW = re.compile(r"^\| `(tessera_\w+)` \| (counter|gauge|histogram) \| ([\w, ]*) \|", re.M)
# Put there by whoever scrapes or evaluates.
SCRAPE_LABELS = {"job", "instance"}
# What others export: Prometheus itself, and dcgm-exporter with its default counters.
OTHERS = {
    "up": SCRAPE_LABELS,
    "ALERTS": {"alertname", "alertstate"},
    **{f"DCGM_FI_{name}": {"gpu", "Hostname"} for name in (
        "DEV_XID_ERRORS", "DEV_ROW_REMAP_FAILURE", "DEV_POWER_USAGE", "DEV_GPU_TEMP", "DEV_NVLINK_BANDWIDTH_TOTAL",
        "PROF_PIPE_TENSOR_ACTIVE", "PROF_DRAM_ACTIVE")},
}
KEYWORDS = {"by", "on", "ignoring", "without", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}
GROUPING = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^()]*)\)")
SELECTOR = re.compile(r"([A-Za-z_:][\w:]*)\s*\{([^{}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"')
NAME = re.compile(r"(?<![\w:.$])[A-Za-z_:][\w:]*")


def exported():
    """{series name: labels} of everything that METRICS.md lists, the parts of histograms by themselves."""
    series = {}
    for name, kind, labels in ROW.findall(REFERENCE.read_text()):
        labels = set(filter(None, labels.split(", "))) | SCRAPE_LABELS
        if kind != "histogram":
            series[name] = labels
            continue
        series[f"{name}_bucket"] = labels | {"le"}
        series[f"{name}_sum"] = series[f"{name}_count"] = labels
    return series


def names_and_labels(expr):
    """({name: labels it is selected by}, labels that anything is grouped by)."""
    grouped = {label.strip() for group in GROUPING.findall(expr) for label in group.split(",")} - {""}
    rest = GROUPING.sub(" ", expr)
    selected = {}

    def take(match):
        selected.setdefault(match.group(1), set()).update(MATCHER.findall(match.group(2)))
        return " "
    rest = SELECTOR.sub(take, rest)
    rest = re.sub(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]', " ", rest)
    for match in NAME.finditer(rest):
        is_function = re.match(r"\s*\(", rest[match.end():])
        # "5m" and "1e6" are numbers; names do not begin with a digit.
        if match.group() not in KEYWORDS and not is_function:
            selected.setdefault(match.group(), set())
    return selected, grouped


def complaints(expr, known):
    """What is wrong with the names in the expression; `known` as exported() gives it."""
    selected, grouped = names_and_labels(expr)
    found = [f"no metric is called {name}" for name in selected if name not in known]
    for name, labels in selected.items():
        found += [f"{name} has no label {label}" for label in labels - known.get(name, labels)]
    there = set().union(*(known.get(name, set()) for name in selected))
    found += [f"nothing here has the label {label}" for label in grouped - there]
    return found

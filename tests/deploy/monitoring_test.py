"""Dashboards, rules and runbooks hang together: every metric they name is exported, every alert has a page and a test.

Run with Prometheus' promtool the rules are checked and every alert fired; without it those tests skip and say so.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import yaml

from promql import OTHERS, ROOT, complaints, exported, names_and_labels

DEPLOY = ROOT / "deploy"
RULE_FILES = [DEPLOY / "prometheus/recording.yml", DEPLOY / "prometheus/alerts.yml"]
RULE_TESTS = pathlib.Path(__file__).with_name("alerts_test.yml")
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
# Where deploy/install-deps.sh unpacks Debian's package.
UNPACKED = pathlib.Path(os.environ.get("TESSERA_PROMETHEUS_ROOT", "/opt/tessera/prometheus")) / "usr/bin"


def tool(name):
    """The path of promtool or prometheus, or skips."""
    found = shutil.which(name) or shutil.which(name, path=str(UNPACKED))
    if found is None:
        raise unittest.SkipTest(f"{name} is neither on PATH nor in {UNPACKED}; deploy/install-deps.sh puts it there")
    return found


def rules():
    return [rule for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def known_series():
    """Exported ones, those of others, and what the recording rules make of them."""
    known = {**exported(), **OTHERS}
    for rule in rules():
        if "record" not in rule:
            continue
        _, grouped = names_and_labels(rule["expr"])
        known.setdefault(rule["record"], set()).update(grouped | set(rule.get("labels", {})))
    return known


class NamesTest(unittest.TestCase):
    def test_the_reference_is_read(self):
        series = exported()
        self.assertGreater(len(series), 80)
        self.assertEqual(series["tessera_requests_slo_total"], {"model_name", "slo", "met", "job", "instance"})
        self.assertIn("le", series["tessera_step_rows_bucket"])
        self.assertNotIn("tessera_step_rows", series)

    def test_wrong_names_are_found(self):
        known = {"a_total": {"x", "job"}, "b": {"y"}}
        self.assertEqual(complaints('sum by (x) (rate(a_total{job="1"}[5m])) / 1e6 or b{y=~"q|r"} > 0', known), [])
        self.assertEqual(complaints("rate(c_total[5m])", known), ["no metric is called c_total"])
        self.assertEqual(complaints('b{z="1"}', known), ["b has no label z"])
        self.assertEqual(complaints("sum by (y) (a_total)", known), ["nothing here has the label y"])
        self.assertEqual(complaints("time() - b offset 5m", known), [])

    def test_every_rule_names_what_there_is(self):
        known = known_series()
        for rule in rules():
            with self.subTest(rule=rule.get("record") or rule["alert"]):
                self.assertEqual(complaints(rule["expr"], known), [])

    def test_every_panel_names_what_there_is(self):
        known = known_series()
        for path in DASHBOARDS:
            dashboard = json.loads(path.read_text())
            for panel in panels(dashboard):
                for target in panel["targets"]:
                    with self.subTest(dashboard=path.name, panel=panel["title"]):
                        self.assertEqual(complaints(target["expr"], known), [])

    def test_the_runbooks_name_what_there_is(self):
        known = known_series()
        families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
        for path in (DEPLOY / "runbooks").glob("*.md"):
            for name in re.findall(r"\b(?:tessera_|tessera:|DCGM_)[\w:]+", path.read_text()):
                with self.subTest(page=path.name):
                    self.assertTrue(name in known or name in families, name)


class DashboardsTest(unittest.TestCase):
    def test_they_are_what_is_written_in_the_script(self):
        subprocess.run([sys.executable, "-B", DEPLOY / "grafana/dashboards.py", "--check"], check=True)

    def test_they_are_alike(self):
        self.assertEqual(len(DASHBOARDS), 6)
        uids = set()
        for path in DASHBOARDS:
            dashboard = json.loads(path.read_text())
            with self.subTest(dashboard=path.name):
                uids.add(dashboard["uid"])
                self.assertEqual(dashboard["tags"], ["tessera"])
                self.assertEqual(dashboard["links"][0]["tags"], ["tessera"])
                variables = {one["name"]: one for one in dashboard["templating"]["list"]}
                self.assertEqual(variables["datasource"]["type"], "datasource")
                self.assertTrue(variables["model_name"]["multi"])
                titles = [panel["title"] for panel in panels(dashboard)]
                self.assertEqual(len(titles), len(set(titles)))
        self.assertEqual(len(uids), 6)

    def test_every_panel_says_what_it_shows(self):
        known = exported()
        for path in DASHBOARDS:
            for panel in panels(json.loads(path.read_text())):
                with self.subTest(dashboard=path.name, panel=panel["title"]):
                    self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                    defaults = panel["fieldConfig"]["defaults"]
                    self.assertTrue(defaults["unit"])
                    self.assertEqual(defaults["noValue"], "No traffic")
                    self.assertIn("null+nan", json.dumps(defaults["mappings"]))
                    for target in panel["targets"]:
                        expr = target["expr"]
                        self.assertNotRegex(expr, r"\[\d+s\]", "a window of its own")
                        self.assertEqual(target["datasource"]["uid"], "${datasource}")
                        for name in names_and_labels(expr)[0]:
                            family = re.sub(r"_(bucket|sum|count)$", "", name) if name not in OTHERS else name
                            named = family if name.startswith("tessera_") else name
                            if name in known or name in OTHERS:
                                self.assertIn(named, panel["description"])
                            # Where a metric is of a model, the panel can be narrowed to some.
                            if "model_name" in known.get(name, ()) and "group_left (currency)" not in expr:
                                self.assertIn("$model_name", expr)

    def test_panels_do_not_overlap(self):
        for path in DASHBOARDS:
            taken = set()
            for panel in json.loads(path.read_text())["panels"]:
                at = panel["gridPos"]
                self.assertLessEqual(at["x"] + at["w"], 24)
                cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
                self.assertFalse(cells & taken, f"{path.name}: {panel['title']}")
                taken |= cells


class AlertsTest(unittest.TestCase):
    def alerts(self):
        return {rule["alert"]: rule for rule in rules() if "alert" in rule}

    def test_every_alert_has_its_page_and_every_page_its_alert(self):
        alerts = self.alerts()
        self.assertGreaterEqual(len(alerts), 16)
        for name, rule in alerts.items():
            with self.subTest(alert=name):
                self.assertIn(rule["labels"]["severity"], ("page", "ticket"))
                self.assertTrue(rule["annotations"]["summary"] and rule["annotations"]["description"])
                self.assertEqual(rule["annotations"]["runbook_url"], f"deploy/runbooks/{name}.md")
                page = (ROOT / rule["annotations"]["runbook_url"]).read_text()
                self.assertTrue(page.startswith(f"# {name}\n"))
                for heading in ("## Look", "## Do", "## When it is over"):
                    self.assertIn(heading, page)
        pages = {path.stem for path in (DEPLOY / "runbooks").glob("Tessera*.md")}
        self.assertEqual(pages, set(alerts))

    def test_every_alert_is_fired_by_a_test(self):
        fired = set()
        for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
            for check in test["promql_expr_test"]:
                if check["exp_samples"] and 'alertstate="firing"' in check["expr"]:
                    fired.update(re.findall(r'alertname="(\w+)"', check["expr"]))
        self.assertEqual(fired, set(self.alerts()))

    def test_promtool_accepts_the_rules(self):
        for arguments in (["check", "rules", *RULE_FILES], ["check", "config", DEPLOY / "prometheus/prometheus.yml"]):
            ran = subprocess.run([tool("promtool"), *map(str, arguments)], capture_output=True, text=True)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    def test_promtool_fires_every_alert(self):
        ran = subprocess.run([tool("promtool"), "test", "rules", RULE_TESTS], capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)

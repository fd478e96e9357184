"""What the dashboards have in common: variables, links between them, and how a panel becomes Grafana's JSON."""

TAG = "tessera"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# A quantity that nobody asked for has no value; saying so beats an empty panel or NaN.
NO_TRAFFIC = "No traffic"


def query(expr, legend=""):
    return {"expr": expr, "legend": legend}


def panel(title, description, unit, *queries, kind="timeseries", width=12, height=8, stacked=False, decimals=None,
          maximum=None, thresholds=(), instant=False):
    """One panel; `thresholds` are (from value, color). Positions are given by layout()."""
    return {"title": title, "description": description, "unit": unit, "queries": queries, "kind": kind,
            "width": width, "height": height, "stacked": stacked, "decimals": decimals, "maximum": maximum,
            "thresholds": thresholds, "instant": instant or kind in ("stat", "table")}


def stat(title, description, unit, expr, **more):
    return panel(title, description, unit, query(expr), kind="stat", width=4, height=4, **more)


def row(title):
    return {"row": title}


def quantiles(metric, labels='model_name=~"$model_name"', by="model_name", of=(0.5, 0.95, 0.99)):
    legend = "{{" + by + "}} p%g"
    return [query(f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{{{labels}}}[$__rate_interval])))",
                  legend % (q * 100)) for q in of]


def mean(metric, labels='model_name=~"$model_name"', by="model_name"):
    return (f"sum by ({by}) (rate({metric}_sum{{{labels}}}[$__rate_interval]))"
            f" / sum by ({by}) (rate({metric}_count{{{labels}}}[$__rate_interval]))")


def rate(metric, by="model_name", labels='model_name=~"$model_name"'):
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def _field_config(spec):
    steps = [{"color": "text" if spec["kind"] == "stat" else "green", "value": None}]
    steps += [{"color": color, "value": value} for value, color in spec["thresholds"]]
    defaults = {
        "unit": spec["unit"],
        "noValue": NO_TRAFFIC,
        "mappings": [{"type": "special", "options": {"match": "null+nan", "result": {"text": NO_TRAFFIC}}}],
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if spec["kind"] == "stat" else "palette-classic"},
    }
    if spec["decimals"] is not None:
        defaults["decimals"] = spec["decimals"]
    if spec["kind"] == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {
            "lineWidth": 1, "fillOpacity": 40 if spec["stacked"] else 8, "showPoints": "never", "spanNulls": False,
            "stacking": {"mode": "normal" if spec["stacked"] else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if spec["thresholds"] else "off"},
        }
    if spec["maximum"] is not None:
        defaults["max"] = spec["maximum"]
    return {"defaults": defaults, "overrides": []}


def _options(kind):
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value",
                "graphMode": "area", "textMode": "auto", "wideLayout": True}
    if kind == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    return {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"}}


def _panel_json(spec, panel_id, x, y):
    targets = []
    for number, one in enumerate(spec["queries"]):
        target = {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": one["expr"],
                  "legendFormat": one["legend"] or "__auto"}
        if spec["instant"]:
            target.update({"instant": True, "range": spec["kind"] == "stat"})
        if spec["kind"] == "table":
            target["format"] = "table"
        targets.append(target)
    return {"id": panel_id, "type": spec["kind"], "title": spec["title"], "description": spec["description"],
            "datasource": DATASOURCE, "gridPos": {"x": x, "y": y, "w": spec["width"], "h": spec["height"]},
            "fieldConfig": _field_config(spec), "options": _options(spec["kind"]), "targets": targets}


def layout(specs):
    """Left to right, top to bottom, in the order they are written."""
    placed, x, y, line = [], 0, 0, 0
    for panel_id, spec in enumerate(specs, 1):
        if "row" in spec:
            y, x, line = y + line, 0, 0
            placed.append({"id": panel_id, "type": "row", "title": spec["row"], "collapsed": False, "panels": [],
                           "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
            y += 1
            continue
        if x + spec["width"] > 24:
            y, x, line = y + line, 0, 0
        placed.append(_panel_json(spec, panel_id, x, y))
        x, line = x + spec["width"], max(line, spec["height"])
    return placed


def _label_variable(name, metric):
    definition = f"label_values({metric}, {name})"
    return {"name": name, "label": name, "type": "query", "datasource": DATASOURCE, "definition": definition,
            "query": {"query": definition, "refId": name}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
            "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "options": []}


def dashboard(uid, title, description, *specs):
    return {
        "uid": uid, "title": title, "description": description, "tags": [TAG], "schemaVersion": 39, "version": 1,
        "editable": True, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "timezone": "", "annotations": {"list": []},
        "links": [{"type": "dashboards", "title": "Tessera", "tags": [TAG], "asDropdown": True, "includeVars": True,
                   "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""}],
        "templating": {"list": [
            {"name": "datasource", "label": "datasource", "type": "datasource", "query": "prometheus",
             "current": {}, "options": [], "hide": 0, "refresh": 1},
            _label_variable("model_name", "tessera_model_ready"),
            _label_variable("group", "tessera_rank_up"),
        ]},
        "panels": layout(specs),
    }

// Line charts of the last minutes, drawn as SVG. One LineChart per figure of the page; it keeps its
// points itself, and they are gone with the page. With the pointer, or focused and with the arrow
// keys, a chart tells the values of a moment.

import { element, svg } from "./dom.js";

const POINTS_MAX = 150;
const SPANS = [60, 120, 300]; // seconds: the first that holds all points
const GAP_SECONDS = 10; // that nobody has asked for
const HEIGHT = 132;
const MARGIN = { top: 8, right: 8, bottom: 18, left: 52 };

// The smallest of 1, 2, 2.5, 5 times a power of ten that is not below.
function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 2.5, 5, 10].find((step) => step * power >= value * 0.999999);
}

export class LineChart {
  // series: [{key, label}], drawn in the styles of .series-0, -1, -2; `format` tells a value.
  constructor(figure, { title, series, format }) {
    Object.assign(this, { title, series, format, points: [], cursor: null });
    this.when = element("span", { class: "when" });
    this.readings = series.map(() => element("b", {}, "–"));
    const legend = element("ul", { class: "legend" }, ...series.map(({ label }, i) =>
      element("li", {}, element("i", { class: `swatch series-${i}` }), `${label} `, this.readings[i])));
    this.plot = element("div", { class: "plot", tabindex: "0", role: "img" });
    figure.replaceChildren(
      element("figcaption", {}, element("h3", {}, title, this.when), legend), this.plot);
    this.plot.addEventListener("pointermove", (event) => this.pointAt(event.offsetX));
    this.plot.addEventListener("pointerleave", () => this.moveTo(null));
    this.plot.addEventListener("blur", () => this.moveTo(null));
    this.plot.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  clear() {
    this.points = [];
    this.cursor = null;
    this.draw();
  }

  // values: {key: number or null}, time in seconds.
  push(time, values) {
    this.points.push({ time, values });
    while (this.points.length > POINTS_MAX || this.points[0].time < time - SPANS[SPANS.length - 1]) {
      this.points.shift();
      if (this.cursor !== null) this.cursor = Math.max(0, this.cursor - 1);
    }
    this.draw();
  }

  onKey(event) {
    const last = this.points.length - 1;
    const now = this.cursor ?? last;
    const moves = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1),
                    Home: 0, End: last, Escape: null };
    if (last < 0 || !(event.key in moves)) return;
    event.preventDefault();
    this.moveTo(moves[event.key]);
  }

  pointAt(x) {
    if (!this.points.length) return;
    const distance = (point) => Math.abs(this.x(point.time) - x);
    let best = 0;
    this.points.forEach((point, i) => {
      if (distance(point) < distance(this.points[best])) best = i;
    });
    this.moveTo(best);
  }

  moveTo(cursor) {
    if (cursor === this.cursor) return;
    this.cursor = cursor;
    this.draw();
  }

  get width() {
    return Math.max(160, this.plot.clientWidth);
  }
  get end() {
    return this.points.length ? this.points[this.points.length - 1].time : 0;
  }
  get span() {
    const age = this.points.length ? this.end - this.points[0].time : 0;
    return SPANS.find((span) => span >= age) ?? SPANS[SPANS.length - 1];
  }
  x(time) {
    const inner = this.width - MARGIN.left - MARGIN.right;
    return MARGIN.left + inner * (1 - (this.end - time) / this.span);
  }

  draw() {
    const shown = this.points[this.cursor ?? this.points.length - 1];
    const told = this.series.map(({ key }) => {
      const value = shown?.values[key] ?? null;
      return value === null ? "–" : this.format(value);
    });
    told.forEach((text, i) => (this.readings[i].textContent = text));
    this.when.textContent =
      this.cursor === null ? "" : `${Math.round(this.end - shown.time)} s ago`;
    this.plot.setAttribute("aria-label", `${this.title}, last ${this.span / 60} min; ${
      this.cursor === null ? "now" : this.when.textContent}: ${
      this.series.map(({ label }, i) => `${label} ${told[i]}`).join(", ")}`);
    this.plot.replaceChildren(this.picture());
  }

  picture() {
    const values = this.points.flatMap((point) => this.series.map(({ key }) => point.values[key]));
    const most = Math.max(0, ...values.filter((value) => value !== null));
    const top = most > 0 ? niceCeiling(most) : 1;
    const inner = HEIGHT - MARGIN.top - MARGIN.bottom;
    const y = (value) => MARGIN.top + inner * (1 - value / top);
    const root = svg("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, width: this.width,
                              height: HEIGHT, "aria-hidden": "true" });
    for (const part of [0, 0.5, 1]) {
      const at = y(top * part);
      root.append(svg("line", { class: "grid", x1: MARGIN.left, x2: this.width - MARGIN.right,
                                y1: at, y2: at }));
      const label = most > 0 || part === 0 ? this.format(top * part) : "";
      root.append(svg("text", { class: "tick", x: MARGIN.left - 6, y: at + 4,
                                "text-anchor": "end" }, label));
    }
    for (const [ago, text, anchor] of [[this.span, `${this.span / 60} min ago`, "start"],
                                       [0, "now", "end"]]) {
      root.append(svg("text", { class: "tick", x: this.x(this.end - ago), y: HEIGHT - 4,
                                "text-anchor": anchor }, text));
    }
    this.series.forEach(({ key }, i) =>
      root.append(svg("path", { class: `line series-${i}`, d: this.path(key, y) })));
    if (this.cursor !== null) {
      const at = this.x(this.points[this.cursor].time);
      root.append(svg("line", { class: "cursor", x1: at, x2: at, y1: MARGIN.top,
                                y2: HEIGHT - MARGIN.bottom }));
    }
    return root;
  }

  // A gap where nothing was measured; a moment on its own is a dot.
  path(key, y) {
    let path = "";
    let drawn = -Infinity; // when the point before was, if it has a value
    for (const { time, values } of this.points) {
      const value = values[key];
      if (value !== null) {
        const at = `${this.x(time).toFixed(1)} ${y(value).toFixed(1)}`;
        path += time - drawn < GAP_SECONDS ? `L${at}` : `M${at}h0`;
      }
      drawn = value === null ? -Infinity : time;
    }
    return path;
  }
}

// Reads the Prometheus text format that GET /metrics answers with, and takes rates and quantiles from
// two of its snapshots. Pure: no page, no network.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

function parseLabels(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\[n"\\]/g, (escape) => ESCAPES[escape]);
  }
  return labels;
}

export class Snapshot {
  constructor(text) {
    this.families = new Map(); // name -> [{labels, value}]
    for (const line of text.split("\n")) {
      const match = line.startsWith("#") ? null : LINE.exec(line);
      if (!match) continue;
      const [, name, labels, value] = match;
      if (!this.families.has(name)) this.families.set(name, []);
      this.families.get(name).push({ labels: parseLabels(labels ?? ""), value: Number(value) });
    }
  }

  // Those that have all labels of `match`.
  samples(name, match = {}) {
    const wanted = Object.entries(match);
    return (this.families.get(name) ?? []).filter(({ labels }) =>
      wanted.every(([label, value]) => labels[label] === value));
  }

  sum(name, match) {
    return this.samples(name, match).reduce((total, sample) => total + sample.value, 0);
  }

  // The distinct values of a label.
  values(name, label) {
    return [...new Set(this.samples(name).map(({ labels }) => labels[label]))];
  }

  get uptime() {
    return this.sum("tessera_uptime_seconds");
  }
}

// Per second between two snapshots of one server; null where no time has passed.
export function rate(older, newer, name, match) {
  const seconds = newer.uptime - older.uptime;
  if (!(seconds > 0)) return null;
  return Math.max(0, newer.sum(name, match) - older.sum(name, match)) / seconds;
}

// [upper bound, how many at most that], of what came between the two snapshots.
function cumulative(older, newer, name, match) {
  const counts = new Map();
  const add = (snapshot, sign) => {
    for (const { labels, value } of snapshot.samples(`${name}_bucket`, match)) {
      const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
      counts.set(bound, (counts.get(bound) ?? 0) + sign * value);
    }
  };
  add(newer, 1);
  add(older, -1);
  return [...counts].sort(([a], [b]) => a - b);
}

// Estimated within a bucket as Prometheus does it; null where nothing came. What lies beyond the last
// bound is shown as that bound.
export function quantile(older, newer, name, match, q) {
  const counts = cumulative(older, newer, name, match);
  const total = counts.length ? counts[counts.length - 1][1] : 0;
  if (!(total > 0)) return null;
  const rank = q * total;
  let [lower, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= rank && count > below) {
      if (bound === Infinity) return lower;
      return lower + ((bound - lower) * (rank - below)) / (count - below);
    }
    [lower, below] = [bound === Infinity ? lower : bound, count];
  }
  return lower;
}

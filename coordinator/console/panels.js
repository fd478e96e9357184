// The panels that show how things stand: tiles, groups and ranks, KV map, queues, tenants and cost.
// Each function draws one panel anew from what one poll has brought: `state` is the answer of
// /console/state, `now` the snapshot of /metrics, `then` the one some seconds before (or null: the
// first poll), `match` the labels of the models that are shown.

import { rate, quantile } from "./metrics.js";
import { element, tellBytes, tellMoney, tellNumber, tellSeconds, tellShare } from "./dom.js";

const RANKS_SHOWN_MAX = 64;
const TENANTS_SHOWN_MAX = 20;
const KV_CELLS = 192; // of one map

const TTFT = "tessera_time_to_first_token_seconds";
const GPU = "tessera_gpu_seconds_total";
const DEVICE_KINDS = ["compute", "collective", "sample", "overhead", "idle"];
const COST_KINDS = [
  ["prefill", "Prefill"], ["decode", "Decode"], ["recompute", "Recompute"], ["overrun", "Overrun"],
  ["padding", "Padding"], ["capture", "Capture"], ["recovery", "Recovery"], ["load", "Load"],
  ["idle_bubble", "Idle: bubble"], ["idle_host", "Idle: host"], ["idle_none", "Idle: no work"]];

const orDash = (value, tell) => (value === null || value === undefined ? "–" : tell(value));
const modelsOf = (state, match) =>
  state.models.filter((model) => !match.model_name || model.name === match.model_name);
const groupsOf = (state, match) =>
  state.groups.filter((group) => !match.model_name || group.model === match.model_name);
const sumOf = (list, read) => list.reduce((total, item) => total + read(item), 0);
const more = (left, what) =>
  left > 0 ? [element("p", { class: "note" }, `${left} more ${what} are not shown`)] : [];

// A bar of parts that fill it together; [class, share, what it is].
function stack(parts, label) {
  const bar = element("div", { class: "stack", role: "img", "aria-label": label });
  const all = sumOf(parts, ([, share]) => Math.max(0, share));
  for (const [name, share, title] of parts) {
    if (!(share > 0)) continue;
    const part = element("i", { class: name, title });
    part.style.flexGrow = share / all; // below 1 in sum they would not fill the bar
    bar.append(part);
  }
  return bar;
}

export function drawTiles(node, { state, now, then, match }) {
  const models = modelsOf(state, match);
  const blocks = groupsOf(state, match).flatMap((group) => (group.ready ? group.kv : []));
  const held = sumOf(blocks, (kv) => kv.held) / Math.max(1, sumOf(blocks, (kv) => kv.total));
  const tokens = then && rate(then, now, "tessera_generation_tokens_total", match);
  const first = then && quantile(then, now, TTFT, match, 0.95);
  const next = then && quantile(then, now, "tessera_inter_token_latency_seconds", match, 0.95);
  const good = now.sum("tessera_requests_slo_total", { ...match, slo: "all", met: "true" });
  const all = now.sum("tessera_requests_slo_total", { ...match, slo: "all" });
  const tiles = [
    ["tokens", "Tokens/s", orDash(tokens, tellNumber), "generated"],
    ["running", "Running", tellNumber(sumOf(models, (m) => m.running)), "sequences"],
    ["waiting", "Waiting", tellNumber(sumOf(models, (m) => m.waiting)), "requests"],
    ["first", "First token", orDash(first, tellSeconds), "p95, last 10 s"],
    ["next", "Next token", orDash(next, tellSeconds), "p95, last 10 s"],
    ["kv", "KV held", tellShare(held), "of all blocks"],
    ["good", "Within targets", all > 0 ? tellShare(good / all) : "–", "since the start"]];
  node.replaceChildren(...tiles.map(([name, title, value, unit]) =>
    element("div", { class: "tile", "data-tile": name },
      element("dt", {}, title), element("dd", {}, value, element("small", {}, unit)))));
}

function rankRow({ state, now, then }, group, rank) {
  const match = { group: String(group.group), rank };
  const up = now.sum("tessera_rank_up", match) > 0;
  const silent = state.time - now.sum("tessera_rank_last_progress_timestamp_seconds", match);
  const seconds = DEVICE_KINDS.map((kind) =>
    [kind, then ? rate(then, now, "tessera_rank_device_seconds_total", { ...match, kind }) : 0]);
  const all = sumOf(seconds, ([, share]) => share);
  const told = seconds.filter(([, share]) => share > 0)
    .map(([kind, share]) => `${kind} ${tellShare(share / all)}`).join(", ");
  const busy = all > 0 ? 1 - seconds[4][1] / all : null;
  return element("tr", { "data-rank": rank },
    element("th", { scope: "row" }, element("span", { class: up ? "dot ok" : "dot bad" }),
      `${rank} ${up ? "up" : "down"}`),
    element("td", { class: "wide" }, stack(seconds.map(([kind, share]) =>
      [`device-${kind}`, share, kind]), `Device time: ${told || "not known yet"}`)),
    element("td", {}, orDash(busy, tellShare)),
    element("td", {}, orDash(then && rate(then, now, "tessera_rank_steps_total", match), tellNumber)),
    element("td", {}, tellBytes(now.sum("tessera_rank_resident_bytes", match))),
    element("td", {}, `${tellSeconds(Math.max(0, Math.round(silent * 10) / 10))} ago`));
}

function groupCard(poll, group, ranks) {
  const step = group.last_step;
  const model = poll.state.models.find(({ name }) => name === group.model);
  const told = [`${tellNumber(group.running)} running`, `${tellNumber(group.steps)} steps`];
  if (step) {
    told.push(`last step ${tellSeconds(step.measured_seconds)}, ` +
              `${tellSeconds(step.predicted_seconds)} predicted`);
  }
  if (!group.ready) told.push(`silent for ${tellSeconds(group.silent_seconds)}`);
  const head = ["Rank", "Device time", "Busy", "Steps/s", "Memory", "Last step"];
  return element("article", { class: "group", "data-group": group.group },
    element("h3", {}, element("span", { class: group.ready ? "dot ok" : "dot bad" }),
      `Group ${group.group} · ${group.model} · ${group.ready ? "ready" : "not ready"}`),
    element("p", { class: "note" }, told.join(" · ")),
    element("p", { class: "note" }, `${model.architecture} · ${model.dtype} · context ${
      model.context_max.toLocaleString("en")} tokens · tensor parallel ${model.tensor_parallel}`),
    element("table", { class: "ranks" },
      element("thead", {}, element("tr", {}, ...head.map((text, i) =>
        element("th", { scope: "col", class: i === 1 ? "wide" : null }, text)))),
      element("tbody", {}, ...ranks.map((rank) => rankRow(poll, group, rank)))));
}

export function drawGroups(node, poll) {
  const groups = groupsOf(poll.state, poll.match);
  let room = RANKS_SHOWN_MAX;
  let left = 0;
  const cards = groups.flatMap((group) => {
    const ranks = poll.now.samples("tessera_rank_up", { group: String(group.group) })
      .map(({ labels }) => labels.rank).sort((a, b) => a - b);
    const shown = ranks.slice(0, room);
    room -= shown.length;
    left += ranks.length - shown.length;
    return ranks.length === 0 || shown.length > 0 ? [groupCard(poll, group, shown)] : [];
  });
  if (!cards.length) cards.push(element("p", { class: "note" }, "No group of ranks has joined yet."));
  node.replaceChildren(...cards, ...more(left, "ranks"),
                       ...more(poll.state.left_out.groups, "groups"));
}

// So many cells of each kind that what is there at all has one.
function kvCells({ total, held, cached }, cells) {
  const part = (blocks) => (blocks > 0 ? Math.max(1, Math.round((blocks / total) * cells)) : 0);
  const first = Math.min(cells, part(held));
  const second = Math.min(cells - first, part(cached));
  return [["held", first], ["cached", second], ["empty", cells - first - second]];
}

function kvMap(group, kv, index, cells, blockTokens) {
  const shown = Math.min(cells, kv.total);
  const empty = kv.total - kv.held - kv.cached;
  const told = `${tellNumber(kv.held)} held, ${tellNumber(kv.cached)} cached, ` +
               `${tellNumber(empty)} empty of ${tellNumber(kv.total)} blocks`;
  const map = element("div", { class: "kv-map", role: "img", "aria-label": told });
  for (const [kind, count] of kvCells(kv, shown)) {
    for (let i = 0; i < count; ++i) map.append(element("i", { class: `kv-${kind}` }));
  }
  const tokens = blockTokens > 0 ? ` · ${tellNumber(kv.total * blockTokens)} tokens` : "";
  const name = group.kv.length > 1 ? `Group ${group.group}, KV group ${index}` : `Group ${group.group}`;
  return element("div", { class: "kv", "data-kv": `${group.group}.${index}` },
    element("h3", {}, name, group.ready ? "" : " (not ready)"), map,
    element("p", { class: "note" }, `${told}${tokens} · a cell is ${
      kv.total === shown ? "a block" : `${tellNumber(kv.total / shown)} blocks`}`));
}

export function drawKv(node, { state, now, match }) {
  const groups = groupsOf(state, match).filter((group) => sumOf(group.kv, (kv) => kv.total) > 0);
  const maps = sumOf(groups, (group) => group.kv.length);
  const cells = Math.max(24, Math.floor((KV_CELLS * 4) / Math.max(4, maps)));
  const drawn = groups.flatMap((group) => {
    const tokens = now.sum("tessera_kv_cache_block_tokens", { model_name: group.model });
    return group.kv.map((kv, index) => kvMap(group, kv, index, cells, tokens));
  });
  if (!drawn.length) drawn.push(element("p", { class: "note" }, "No group has a KV cache yet."));
  node.replaceChildren(...drawn);
}

export function drawQueue(node, { state, now, match }) {
  const rows = modelsOf(state, match).map((model) => {
    const of = { model_name: model.name };
    const most = now.sum("tessera_sequences_max", of) *
      Math.max(1, state.groups.filter((group) => group.model === model.name && group.ready).length);
    const name = element("tr", {}, element("th", { scope: "rowgroup", colspan: "5" },
      element("span", { class: model.ready ? "dot ok" : "dot bad" }), model.name,
      model.ready ? "" : element("small", { class: "reason" }, model.reason)));
    return element("tbody", { "data-model": model.name }, name, element("tr", {},
      element("td", {}, tellNumber(model.waiting)),
      element("td", {}, tellNumber(model.waiting_tokens)),
      element("td", {}, tellSeconds(now.sum("tessera_oldest_waiting_seconds", of))),
      element("td", {}, `${tellNumber(model.running)} / ${tellNumber(most)}`),
      element("td", {}, tellNumber(model.preemptions))));
  });
  const head = ["Waiting", "Tokens owed", "Oldest", "Running", "Preempted"];
  const refused = now.samples("tessera_admission_rejections_total", match)
    .filter(({ value }) => value > 0)
    .map(({ labels, value }) => `${labels.reason.replaceAll("_", " ")} ${tellNumber(value)}`);
  const ended = new Map();
  for (const { labels, value } of now.samples("tessera_requests_total", match)) {
    ended.set(labels.finish_reason, (ended.get(labels.finish_reason) ?? 0) + value);
  }
  const endings = [...ended].filter(([, count]) => count > 0)
    .map(([reason, count]) => `${reason} ${tellNumber(count)}`);
  node.replaceChildren(
    element("table", { class: "queue" }, element("thead", {}, element("tr", {},
      ...head.map((text) => element("th", { scope: "col" }, text)))), ...rows),
    element("p", { class: "note" }, `Ended since the start: ${endings.join(", ") || "none"}. `,
      `Refused: ${refused.join(", ") || "none"}.`));
}

// {model: {currency, hour}}; only what the server has a price for.
function pricesOf(now) {
  return new Map(now.samples("tessera_gpu_hourly_price").map(({ labels, value }) =>
    [labels.model_name, { currency: labels.currency, hour: value }]));
}

// What GPU-seconds cost at today's prices, as text; "–" where some of them have no price.
function costOf(samples, prices) {
  const sums = new Map();
  for (const { labels, value } of samples) {
    const price = prices.get(labels.model_name);
    if (!price) return "–";
    sums.set(price.currency, (sums.get(price.currency) ?? 0) + (value * price.hour) / 3600);
  }
  return [...sums].map(([currency, amount]) => tellMoney(amount, currency)).join(" + ") || "–";
}

export function drawTenants(node, { state, now, then }) {
  const prices = pricesOf(now);
  const flying = new Map(state.tenants.map(({ tenant, in_flight }) => [tenant, in_flight]));
  const names = new Set([...now.values("tessera_tenant_requests_total", "tenant"),
                         ...state.tenants.filter((t) => t.in_flight > 0).map((t) => t.tenant)]);
  const seconds = (tenant) => now.sum(GPU, { tenant });
  const sorted = [...names].sort((a, b) => seconds(b) - seconds(a));
  const rows = sorted.slice(0, TENANTS_SHOWN_MAX).map((tenant) => element(
    "tr", { "data-tenant": tenant },
    element("th", { scope: "row" }, tenant),
    element("td", {}, orDash(flying.get(tenant), tellNumber)),
    element("td", {}, orDash(
      then && rate(then, now, "tessera_tenant_generation_tokens_total", { tenant }), tellNumber)),
    element("td", {}, tellNumber(now.sum("tessera_tenant_prompt_tokens_total", { tenant }) +
                                 now.sum("tessera_tenant_generation_tokens_total", { tenant }))),
    element("td", {}, tellSeconds(seconds(tenant))),
    element("td", {}, costOf(now.samples(GPU, { tenant }), prices))));
  const head = ["Tenant", "In flight", "Tokens/s", "Tokens", "GPU time", "Cost"];
  node.replaceChildren(
    rows.length ? element("table", {}, element("thead", {}, element("tr", {},
      ...head.map((text) => element("th", { scope: "col" }, text)))), element("tbody", {}, ...rows))
      : element("p", { class: "note" }, "No request has ended yet."),
    ...more(sorted.length - rows.length, "tenants"));
}

export function drawCost(node, { now, then }) {
  const prices = pricesOf(now);
  const all = now.sum(GPU);
  const used = COST_KINDS.filter(([kind]) => now.sum(GPU, { kind }) >= 1e-6); // not rounding's dust
  const share = (kind) => now.sum(GPU, { kind }) / all;
  const bar = stack(used.map(([kind, label]) => [`gpu-${kind}`, share(kind), label]),
    `GPU time by kind: ${used.map(([kind, label]) => `${label} ${tellShare(share(kind))}`).join(", ")}`);
  const legend = element("ul", { class: "legend kinds" }, ...used.map(([kind, label]) =>
    element("li", { "data-kind": kind }, element("i", { class: `swatch gpu-${kind}` }), `${label} `,
      element("b", {}, tellSeconds(now.sum(GPU, { kind }))),
      prices.size ? ` ${costOf(now.samples(GPU, { kind }), prices)}` : "")));
  const idle = then && sumOf(["idle_bubble", "idle_host", "idle_none"], (kind) =>
    rate(then, now, GPU, { kind }) ?? 0);
  const total = then && rate(then, now, GPU);
  const tokens = now.sum("tessera_prompt_tokens_total") + now.sum("tessera_generation_tokens_total");
  const notes = [];
  if (total > 0) notes.push(`Busy in the last 10 s: ${tellShare(Math.max(0, 1 - idle / total))}.`);
  notes.push(`Since the start ${tellSeconds(all)} of GPU time (a CPU rank counts as a device)` +
             (prices.size ? `, ${costOf(now.samples(GPU), prices)}, idle included.` : "."));
  if (prices.size && tokens > 0) {
    const perMillion = now.samples(GPU).map(({ labels, value }) =>
      ({ labels, value: (value * 1e6) / tokens }));
    notes.push(`A million tokens, prompts and answers, idle included: ${costOf(perMillion, prices)}.`);
  }
  notes.push(prices.size
    ? `At the prices that hold now: ${[...prices].map(([model, { currency, hour }]) =>
        `${tellMoney(hour, currency)} per device-hour of ${model}`).join(", ")}. Energy that is paid apart is not in it.`
    : "No prices are set (--price-file): time is counted, money is not.");
  node.replaceChildren(bar, legend, element("p", { class: "note" }, notes.join(" ")));
}

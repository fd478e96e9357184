// The console: asks /console/state and /metrics every two seconds and hands what came to the panels
// and charts. Keeps nothing but the theme (local storage) and an API key, if the server wants one
// (session storage: gone with the tab). Hidden or paused, it asks nothing.

import { Chat } from "./chat.js";
import { LineChart } from "./charts.js";
import { element, tellNumber, tellSeconds } from "./dom.js";
import { quantile, rate, Snapshot } from "./metrics.js";
import { drawCost, drawGroups, drawKv, drawQueue, drawTenants, drawTiles } from "./panels.js";

const POLL_MS = 2000;
const ANSWER_MS = 5000;
const WINDOW_SECONDS = 10; // that rates and quantiles are taken over
const KEY = "tessera-console-key";
const THEME = "tessera-console-theme";
const THEMES = ["auto", "light", "dark"];

const byId = (id) => document.getElementById(id);

// Storage may be switched off.
function stored(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}
function store(storage, name, value) {
  try {
    if (value) window[storage].setItem(name, value);
    else window[storage].removeItem(name);
  } catch {
    // It lasts as long as the page, then.
  }
}

let apiKey = stored("sessionStorage", KEY) ?? "";
let paused = false;
let timer = null;
let snapshots = []; // of the last WINDOW_SECONDS
let last = null; // what the panels show

function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  return fetch(path, { ...options, headers, cache: "no-store" });
}

const quantiles = [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]];
const latency = (id, title, metric) => ({
  metric,
  chart: new LineChart(byId(id), {
    title, format: tellSeconds, series: quantiles.map(([key]) => ({ key, label: key })) }) });
const latencies = [
  latency("chart-first", "Time to first token", "tessera_time_to_first_token_seconds"),
  latency("chart-next", "Time between tokens", "tessera_inter_token_latency_seconds")];
const tokensChart = new LineChart(byId("chart-tokens"), {
  title: "Tokens per second", format: tellNumber,
  series: [{ key: "out", label: "generated" }, { key: "in", label: "prompt" }] });
const loadChart = new LineChart(byId("chart-load"), {
  title: "Requests", format: tellNumber,
  series: [{ key: "running", label: "running" }, { key: "waiting", label: "waiting" }] });
const charts = [...latencies.map(({ chart }) => chart), tokensChart, loadChart];

function pushPoints({ now, then, match }) {
  if (!then) return;
  for (const { metric, chart } of latencies) {
    const values = quantiles.map(([key, q]) => [key, quantile(then, now, metric, match, q)]);
    chart.push(now.uptime, Object.fromEntries(values));
  }
  tokensChart.push(now.uptime, { out: rate(then, now, "tessera_generation_tokens_total", match),
                                 in: rate(then, now, "tessera_prompt_tokens_total", match) });
  loadChart.push(now.uptime, { running: now.sum("tessera_requests_running", match),
                               waiting: now.sum("tessera_requests_waiting", match) });
}

function forget() {
  snapshots = [];
  for (const chart of charts) chart.clear();
}

function tell(kind, text) {
  const status = byId("status");
  if (status.textContent !== text) status.textContent = text; // said once, not at every poll
  status.className = `status ${kind}`;
}

function tellHealth(state) {
  const stuck = state.models.find((model) => !model.ready);
  if (state.draining) tell("warn", "Draining");
  else if (stuck) tell("bad", `Not ready: ${stuck.name}: ${stuck.reason}`);
  else tell("ok", "Ready");
}

function setFilter(names) {
  const filter = byId("filter");
  const wanted = ["", ...names];
  byId("filter-box").hidden = names.length < 2;
  if (wanted.join("\n") === [...filter.options].map((option) => option.value).join("\n")) return;
  const chosen = filter.value;
  filter.replaceChildren(...wanted.map((name) =>
    element("option", { value: name }, name || "All models")));
  filter.value = names.includes(chosen) ? chosen : "";
}

function draw(poll) {
  drawTiles(byId("tiles"), poll);
  drawGroups(byId("groups-body"), poll);
  drawKv(byId("kv-body"), poll);
  drawQueue(byId("queue-body"), poll);
  drawTenants(byId("tenants-body"), poll);
  drawCost(byId("cost-body"), poll);
  byId("version").textContent = `${poll.state.version}, up ${tellSeconds(poll.state.uptime_seconds)}`;
}

function show(state, now) {
  if (snapshots.length && now.uptime < snapshots[snapshots.length - 1].uptime) forget(); // restarted
  snapshots.push(now);
  while (snapshots[0].uptime < now.uptime - WINDOW_SECONDS - POLL_MS / 2000) snapshots.shift();
  const names = state.models.map((model) => model.name);
  setFilter(names);
  chat.setModels(names);
  const model = byId("filter").value;
  last = { state, now, then: snapshots.length > 1 ? snapshots[0] : null,
           match: model ? { model_name: model } : {} };
  draw(last);
  pushPoints(last);
  tellHealth(state);
  document.body.classList.remove("stale");
}

// `wrong`: one was given already.
function wantKey(wrong) {
  byId("key-box").hidden = false;
  byId("key-toggle").hidden = false;
  byId("key-toggle").setAttribute("aria-expanded", "true");
  byId("key-said").textContent =
    wrong ? "The server does not know this key." : "This server asks for an API key.";
  if (wrong) byId("key").focus();
  tell("warn", "API key needed");
  document.body.classList.add("stale");
}

async function poll() {
  const signal = AbortSignal.timeout(ANSWER_MS);
  const answer = await ask("console/state", { signal });
  if (answer.status === 401) {
    wantKey(apiKey !== "");
    return false;
  }
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const state = await answer.json();
  show(state, new Snapshot(await (await ask("metrics", { signal })).text()));
  return true;
}

async function turn() {
  timer = null;
  if (paused || document.hidden) return;
  let goesOn = true;
  try {
    goesOn = await poll();
  } catch (error) {
    tell("bad", error instanceof TypeError || error.name === "TimeoutError"
      ? "No answer from the server" : `Trouble: ${error.message}`);
    document.body.classList.add("stale");
  }
  if (goesOn && timer === null) timer = setTimeout(turn, POLL_MS);
}

function restart() {
  if (timer !== null) clearTimeout(timer);
  turn();
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  store("localStorage", THEME, theme === "auto" ? "" : theme);
}

byId("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  if (paused) tell("warn", "Paused");
  else restart();
});
byId("filter").addEventListener("change", () => {
  forget();
  restart();
});
byId("key-toggle").addEventListener("click", () => {
  const box = byId("key-box");
  box.hidden = !box.hidden;
  byId("key-toggle").setAttribute("aria-expanded", String(!box.hidden));
  if (!box.hidden) byId("key").focus();
});
byId("key-box").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = byId("key").value.trim();
  byId("key").value = "";
  store("sessionStorage", KEY, apiKey);
  byId("key-box").hidden = true;
  byId("key-toggle").hidden = false;
  byId("key-toggle").setAttribute("aria-expanded", "false");
  byId("key-toggle").focus();
  forget();
  restart();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) restart();
});

const chat = new Chat(byId("chat"), ask);
setTheme(THEMES.find((theme) => theme === stored("localStorage", THEME)) ?? "auto");
byId("key-toggle").hidden = !apiKey;
turn();

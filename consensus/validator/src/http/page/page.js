// The live view. Asks this validator for /v1/live once a second while somebody looks, and writes
// text and attributes only, never markup.
"use strict";

const INTERVAL_MS = 1000;
const RETRY_MS = 3000;
// From this score on, of 100, a peer is not marked.
const SCORE_GOOD = 50;
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
const say = (id, text) => {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
};

function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function shape(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function row(cells) {
  const line = element("tr");
  for (const [text, className] of cells) line.append(element("td", text, className));
  return line;
}

const millis = (value) =>
  value === null || value === undefined ? "-" : `${value < 100 ? value.toFixed(1) : Math.round(value)} ms`;

function rate(value) {
  return value < 10 ? value.toFixed(1) : count.format(Math.round(value));
}

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? n : n.toFixed(1)} ${units[unit]}`;
}

// A round number not below `value`, for the top of an axis.
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 5, 10]) if (value <= step * power) return step * power;
  return 10 * power;
}

// Draws series of [name, class, values] where a value may be null.
function chart(id, series, unit) {
  const svg = byId(id);
  const [width, height, left, bottom, top] = [600, 180, 52, 22, 10];
  const all = series.flatMap(([, , values]) => values).filter((value) => value !== null);
  const most = ceiling(Math.max(0, ...all));
  const long = Math.max(2, series[0][2].length);
  const x = (i) => left + ((width - left - 6) * i) / (long - 1);
  const y = (value) => height - bottom - ((height - bottom - top) * value) / most;
  const parts = [];
  for (const part of [0, 0.5, 1]) {
    const at = y(most * part);
    parts.push(shape("line", { class: "axis", x1: left, x2: width - 6, y1: at, y2: at }));
    const label = most * part;
    parts.push(shape("text", { class: "tick", x: left - 6, y: at + 4, "text-anchor": "end" }, count.format(label)));
  }
  parts.push(shape("text", { class: "tick", x: left, y: height - 5 }, `${long} s ago`));
  parts.push(shape("text", { class: "tick", x: width - 6, y: height - 5, "text-anchor": "end" }, "now"));
  for (const [, className, values] of series) {
    let path = "";
    let pen = "M";
    values.forEach((value, i) => {
      if (value === null) {
        pen = "M";
        return;
      }
      path += `${pen}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    });
    parts.push(shape("path", { class: `line ${className}`, d: path || "M0 0" }));
  }
  svg.replaceChildren(...parts);
  const last = series.map(([name, , values]) => {
    const value = values.at(-1);
    return `${name} ${value === null || value === undefined ? "unknown" : rate(value)}${unit}`;
  });
  svg.setAttribute("aria-label", `Last ${long} seconds; now ${last.join(", ")}; scale to ${count.format(most)}`);
}

let names = [];
let before = null;

const name = (index) => names[index] ?? `validator ${index}`;

function show(live) {
  const { status, samples } = live;
  names = status.peers.map((peer) => peer.name);
  const last = samples.at(-1);
  document.title = `${status.validator_name} at ${status.height} - Falconet`;
  say("network", status.name);
  say("who", `seen from ${status.validator_name}, Falconet ${status.version}, ${status.scheme}, chain ${status.chain_id.slice(0, 12)}`);
  badge(live.not_ready === null, live.not_ready === null ? "ready" : `not ready: ${live.not_ready}`);
  say("height", count.format(status.height));
  say("round", count.format(status.round));
  say("leader", name(status.leader));
  say("tps", last ? rate(last.tx_per_s) : "-");
  say("p50", millis(live.latency.p50_ms));
  say("p99", millis(live.latency.p99_ms));
  say("reached", `${status.peers.filter((peer) => peer.connected).length} of ${status.peers.length}`);
  say("uptime", span(live.uptime_s));
  if (samples.length > 1) charts(samples);
  validators(status);
  blocks(live.blocks);
  // Asked twice within one interval of the sampler, the answer is the same.
  if (live.uptime_s !== before?.uptime_s) {
    stages(live);
    before = live;
  }
  queues(live.queues);
  packetFilter(live.xdp);
}

// Where [xdp] asks for a filter: what it let pass and what it dropped, and why.
function packetFilter(xdp) {
  byId("filter").hidden = !xdp;
  if (!xdp) return;
  const total = `passed ${count.format(xdp.passed)}, redirected ${count.format(xdp.redirected)}, dropped ${count.format(xdp.dropped)}`;
  say("filter-total", xdp.attached ? `${xdp.device}, ${xdp.mode}: ${total} packets` : `${xdp.device}: not attached`);
  const seen = Object.entries(xdp.causes).filter(([, packets]) => packets > 0);
  seen.sort((a, b) => b[1] - a[1]);
  byId("causes").replaceChildren(
    ...seen.map(([cause, packets]) => row([[cause.replaceAll("_", " "), ""], [count.format(packets), "number"]])),
  );
}

function charts(samples) {
  const all = (field) => samples.map((sample) => sample[field]);
  chart("throughput", [["transactions", "a", all("tx_per_s")]], " a second");
  chart("latency", [["p50", "a", all("p50_ms")], ["p99", "b", all("p99_ms")]], " ms");
  const rounds = samples.map((sample, i) => {
    const previous = samples[i - 1];
    if (!previous || sample.time_ms <= previous.time_ms) return null;
    return Math.max(0, ((sample.round - previous.round) * 1000) / (sample.time_ms - previous.time_ms));
  });
  chart("rounds", [["rounds", "a", rounds], ["blocks", "b", all("blocks_per_s")]], " a second");
}

function validators(status) {
  byId("validators").replaceChildren(
    ...status.peers.map((peer) => {
      let link = peer.connected ? "connected" : "not connected";
      if (peer.index === status.validator) link = "this validator";
      else if (peer.connected && peer.path) link += `, ${peer.path.tier}, ${millis(peer.path.rtt_us / 1000)}`;
      const banned = peer.banned_until_ms > Date.now();
      let score = Number.isFinite(peer.score) ? String(Math.round(peer.score)) : "-";
      if (banned) score += `, banned for ${span((peer.banned_until_ms - Date.now()) / 1000)}`;
      return row([
        [String(peer.index), ""],
        [peer.name, ""],
        [link, peer.connected ? "up" : "down"],
        [score, banned || peer.score < SCORE_GOOD ? "number down" : "number"],
        [peer.index === status.leader ? "leader" : "", ""],
      ]);
    }),
  );
}

function blocks(list) {
  byId("blocks").replaceChildren(
    ...list.map((block) => {
      const line = row([
        [count.format(block.height), "number"],
        [span((Date.now() - block.time_ms) / 1000), "number"],
        [count.format(block.round), "number"],
        [name(block.author), ""],
        [count.format(block.transactions), "number"],
        [bytes(block.bytes), "number"],
        [`${block.id.slice(0, 16)}…`, "id"],
      ]);
      line.lastChild.title = block.id;
      return line;
    }),
  );
}

// Shares of the time since the last answer; since the start for the first one.
function stages(live) {
  const earlier = new Map((before?.stages ?? []).map((stage) => [stage.stage, stage]));
  byId("stages").replaceChildren(
    ...live.stages.map((stage) => {
      const then = earlier.get(stage.stage) ?? { busy_s: 0, waiting_s: 0, back_pressured_s: 0 };
      const spent = ["busy_s", "back_pressured_s", "waiting_s"].map((key) => Math.max(0, stage[key] - then[key]));
      const sum = spent.reduce((a, b) => a + b, 0) || 1;
      const [busy, pressed] = spent.map((time) => time / sum);
      const percent = (share) => `${(100 * share).toFixed(0)} %`;
      const line = row([
        [stage.stage, ""],
        [String(stage.threads), "number"],
        [percent(busy), "number"],
        [percent(pressed), "number"],
      ]);
      const bar = shape("svg", { class: "share", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
      bar.append(
        shape("rect", { class: "rest", width: 100, height: 8 }),
        shape("rect", { class: "busy", width: 100 * busy, height: 8 }),
        shape("rect", { class: "pressed", x: 100 * busy, width: 100 * pressed, height: 8 }),
      );
      const cell = element("td");
      cell.append(bar);
      line.append(cell);
      return line;
    }),
  );
}

function queues(list) {
  byId("queues").replaceChildren(
    ...list.map((queue) =>
      row([
        [queue.queue, ""],
        [queue.stage, ""],
        [count.format(queue.depth), queue.depth > 0.9 * queue.limit ? "number down" : "number"],
        [count.format(queue.limit), "number"],
      ]),
    ),
  );
}

function badge(good, text) {
  byId("state").className = `badge ${good ? "good" : "bad"}`;
  say("state", text);
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error?.message ?? `status ${answer.status}`);
  return body;
}

let asking = false;
let timer;

async function turn() {
  clearTimeout(timer);
  if (document.hidden || asking) return;
  asking = true;
  let wait = INTERVAL_MS;
  try {
    show(await ask("v1/live"));
  } catch (error) {
    badge(false, `no answer: ${error.message}`);
    wait = RETRY_MS;
  }
  asking = false;
  timer = setTimeout(turn, wait);
}

async function find(event) {
  event.preventDefault();
  const id = byId("txid").value.trim().toLowerCase();
  const out = byId("path");
  if (!/^[0-9a-f]{64}$/.test(id)) {
    out.replaceChildren(element("p", "An id has 64 hexadecimal digits; it is in the answer to every submission."));
    return;
  }
  history.replaceState(null, "", `#${id}`);
  try {
    const tx = await ask(`v1/transactions/${id}`);
    if (tx.status === "pending") {
      out.replaceChildren(element("p", "Admitted here, on its way into a block. Ask again shortly."));
      return;
    }
    const block = await ask(`v1/blocks/${tx.height}`);
    const list = element("ol");
    const step = (text) => list.append(element("li", text));
    step(`Admitted by ${name(tx.lane)}, who owns lane ${tx.lane}`);
    step(`Batched: number ${count.format(tx.index)} in batch ${count.format(tx.seq)} of the lane, held by a quorum before it was ordered`);
    step(`Ordered: block ${count.format(tx.height)}, round ${count.format(block.round)}, proposed by ${name(block.author)} at ${new Date(block.time_ms).toISOString()}`);
    step(`Executed: ${tx.outcome.replaceAll("_", " ")}`);
    step(block.state_commitment ? `State after the block: ${block.state_commitment}` : "State after the block: no longer kept here");
    const proof = element("a", "proof for offline verification");
    proof.href = `v1/transactions/${id}?proof=true`;
    const last = element("li");
    last.append("Provable: ", proof);
    list.append(last);
    out.replaceChildren(list);
  } catch (error) {
    out.replaceChildren(element("p", error.message));
  }
}

byId("find").addEventListener("submit", find);
document.addEventListener("visibilitychange", turn);
if (/^#[0-9a-f]{64}$/.test(location.hash)) {
  byId("txid").value = location.hash.slice(1);
  byId("find").requestSubmit();
}
turn();

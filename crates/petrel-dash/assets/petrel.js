// The live page of one job: one snapshot a second from its stream, the past from its history.

import { $, bytes, clock, count, dollars, duration, element, grouped, latency, latencyParts, put, share, totalDollars, usable } from "/format.js";

// A server of many jobs shows this page as /jobs/NAME, the server of one job as /.
const JOB = location.pathname.startsWith("/jobs/") ? location.pathname.slice("/jobs/".length) : null;
const API = JOB === null ? "/api/v1" : "/api/v1/jobs/" + JOB;
const HORIZONS_S = [5, 15, 30, 60, 120];
const HISTORY_S = 600;
const STALE_AFTER_MS = 5000;
const SILENT_AFTER_MS = 15_000;
const GAP_MS = 6000; // A longer silence between two points is drawn as a gap.

// What is known?

let latest = null;
let points = []; // Oldest first, one a second, as /api/v1/history gives them.
let rangeS = 300;
let hoverMs = null;

function remember(snapshot) {
  latest = snapshot;
  while (points.length && points[points.length - 1].time_ms >= snapshot.time_ms) points.pop();
  points.push(snapshot);
  const oldest = snapshot.time_ms - HISTORY_S * 1000;
  while (points.length && points[0].time_ms <= oldest) points.shift();
  // The lists of an old snapshot are not drawn again: keep its figures only.
  const before = points[points.length - 2];
  if (before && before.decisions) {
    points[points.length - 2] = Object.fromEntries(Object.entries(before).filter(([, value]) => usable(value)));
  }
}
function pointAt(timeMs) {
  let low = 0;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].time_ms < timeMs) low = middle + 1; else high = middle;
  }
  const after = points[low];
  const before = points[low - 1];
  const nearest = before && timeMs - before.time_ms < after.time_ms - timeMs ? before : after;
  return nearest && Math.abs(nearest.time_ms - timeMs) <= GAP_MS ? nearest : null;
}
/** Forecast quantiles at a time to come, linear between horizons. */
function forecastAt(timeMs) {
  if (!latest || !latest.forecast) return null;
  const aheadS = (timeMs - latest.time_ms) / 1000;
  const now = [latest.arrival_rate, latest.arrival_rate, latest.arrival_rate];
  let [fromS, from] = [0, now];
  for (let row = 0; row < HORIZONS_S.length; row += 1) {
    const [toS, to] = [HORIZONS_S[row], latest.forecast[row]];
    if (aheadS <= toS) {
      const part = (aheadS - fromS) / (toS - fromS);
      return to.map((value, column) => from[column] + (value - from[column]) * part);
    }
    [fromS, from] = [toS, to];
  }
  return null;
}

// How is it drawn?

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["card", "ink", "muted", "line", "blue", "teal", "amber", "red", "grey", "shade"]) {
    colours[name] = style.getPropertyValue("--" + name).trim();
  }
}
/** Ticks from 0 at 1, 2 or 5 times a power of ten; the last one is at or above `top`. */
function ticksTo(top, whole) {
  let step = 10 ** Math.floor(Math.log10(top / 5));
  for (const factor of [1, 2, 5, 10]) {
    if (top / (step * factor) <= 5) { step *= factor; break; }
  }
  if (whole) step = Math.max(1, Math.ceil(step));
  const ticks = [0];
  while (ticks[ticks.length - 1] < top * 0.999) ticks.push((ticks.length) * step);
  return ticks;
}

class Chart {
  /** `series`: key, name, colour, legend mark, format; `draw(chart)` paints between grid and cross-hair. */
  constructor(name, settings) {
    this.canvas = $("chart-" + name);
    this.pen = this.canvas.getContext("2d");
    Object.assign(this, { futureS: 0, whole: false, name }, settings);
    this.values = this.series.map((series) => {
      const value = element("b", { textContent: "–" });
      value.dataset.testid = "legend-" + name + "-" + series.key.replaceAll("_", "-");
      const mark = element("i", { className: series.colour + " " + (series.mark || "") });
      mark.setAttribute("aria-hidden", "true");
      document.getElementById("legend-" + name).append(element("li", {}, mark, series.name + " ", value));
      return value;
    });
    this.canvas.addEventListener("pointermove", (event) => {
      hover(this.timeAt(event.clientX - this.canvas.getBoundingClientRect().left));
    });
    this.canvas.addEventListener("pointerleave", () => hover(null));
    this.canvas.addEventListener("blur", () => hover(null));
    this.canvas.addEventListener("keydown", (event) => {
      const stepS = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (stepS && latest) {
        const first = latest.time_ms - rangeS * 1000;
        const last = latest.time_ms + this.futureS * 1000;
        hover(Math.min(last, Math.max(first, (hoverMs ?? latest.time_ms) + stepS * 1000)));
        event.preventDefault();
      } else if (event.key === "Escape") hover(null);
    });
    new ResizeObserver(schedule).observe(this.canvas);
  }
  x(timeMs) { return this.left + ((timeMs - this.firstMs) / (this.lastMs - this.firstMs)) * (this.right - this.left); }
  y(value) { return this.bottom - (value / this.top) * (this.bottom - this.ceiling); }
  timeAt(x) {
    const part = (x - this.left) / (this.right - this.left);
    return part < 0 || part > 1 ? null : this.firstMs + part * (this.lastMs - this.firstMs);
  }
  shown() { return points.filter((point) => point.time_ms >= this.firstMs - 1500); }

  paint() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const density = window.devicePixelRatio || 1;
    if (!latest || !width) return;
    if (this.canvas.width !== Math.round(width * density) || this.canvas.height !== Math.round(height * density)) {
      this.canvas.width = Math.round(width * density);
      this.canvas.height = Math.round(height * density);
    }
    const pen = this.pen;
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "11px " + getComputedStyle(document.body).fontFamily;
    pen.lineJoin = "round";
    this.firstMs = latest.time_ms - rangeS * 1000;
    this.lastMs = latest.time_ms + this.futureS * 1000;
    Object.assign(this, { right: width - 6, ceiling: 8, bottom: height - 20 });
    const most = Math.max(this.floor(), ...this.shown().map((point) => this.highest(point)).filter(usable));
    const ticks = ticksTo(most * 1.03, this.whole);
    this.top = ticks[ticks.length - 1];
    const labels = ticks.map((tick) => this.tick(tick));
    this.left = Math.ceil(Math.max(...labels.map((label) => pen.measureText(label).width))) + 10;
    this.grid(ticks, labels);
    pen.save();
    pen.beginPath();
    pen.rect(this.left, 0, this.right - this.left, this.bottom + 1);
    pen.clip();
    this.draw(this);
    pen.restore();
    this.crossHair();
    this.speak();
  }
  grid(ticks, labels) {
    const pen = this.pen;
    if (this.futureS) {
      pen.fillStyle = colours.shade;
      pen.fillRect(this.x(latest.time_ms), this.ceiling, this.right - this.x(latest.time_ms), this.bottom - this.ceiling);
    }
    pen.lineWidth = 1;
    pen.strokeStyle = colours.line;
    pen.fillStyle = colours.muted;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    ticks.forEach((tick, index) => {
      const y = Math.round(this.y(tick)) + 0.5;
      pen.beginPath();
      pen.moveTo(this.left, y);
      pen.lineTo(this.right, y);
      pen.stroke();
      pen.fillText(labels[index], this.left - 6, y);
    });
    const roomy = (this.right - this.left) / (rangeS + this.futureS);
    const stepS = [30, 60, 120, 300].find((step) => step * roomy >= 64 && (step > 30 || rangeS <= 120)) || 300;
    pen.textAlign = "center";
    for (let aheadS = Math.floor(this.futureS / stepS) * stepS; aheadS >= -rangeS; aheadS -= stepS) {
      const x = this.x(latest.time_ms + aheadS * 1000);
      const minutes = Math.abs(aheadS) % 60 ? Math.abs(aheadS) + " s" : Math.abs(aheadS) / 60 + " min";
      const label = aheadS === 0 ? "now" : (aheadS < 0 ? "−" : "+") + minutes;
      const half = pen.measureText(label).width / 2;
      if (x - half < this.left - 8) continue;
      pen.fillText(label, Math.min(x, this.right - half), this.bottom + 12);
    }
    if (this.futureS) {
      pen.strokeStyle = colours.grey;
      pen.beginPath();
      pen.moveTo(this.x(latest.time_ms), this.ceiling);
      pen.lineTo(this.x(latest.time_ms), this.bottom);
      pen.stroke();
    }
  }
  /** Runs of points without a gap, as [x, y] lists. */
  runs(value, stepped) {
    const runs = [];
    let run = null;
    let before = null;
    for (const point of this.shown()) {
      const height = value(point);
      if (!usable(height)) { run = null; continue; }
      const at = [this.x(point.time_ms), this.y(height)];
      if (!run || point.time_ms - before.time_ms > GAP_MS) runs.push(run = []);
      else if (stepped) run.push([at[0], run[run.length - 1][1]]);
      run.push(at);
      before = point;
    }
    return runs;
  }
  line(value, colour, { width = 1.8, dash = [], stepped = false } = {}) {
    const pen = this.pen;
    pen.strokeStyle = colours[colour];
    pen.lineWidth = width;
    pen.setLineDash(dash);
    for (const run of this.runs(value, stepped)) {
      pen.beginPath();
      run.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.stroke();
    }
    pen.setLineDash([]);
  }
  area(high, low, fill, alpha, stepped = false) {
    const pen = this.pen;
    pen.fillStyle = fill;
    pen.globalAlpha = alpha;
    const lows = this.runs(low, stepped);
    this.runs(high, stepped).forEach((run, index) => {
      pen.beginPath();
      run.forEach(([x, y], at) => (at ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      [...lows[index]].reverse().forEach(([x, y]) => pen.lineTo(x, y));
      pen.fill();
    });
    pen.globalAlpha = 1;
  }
  level(value, colour, label) {
    const pen = this.pen;
    const y = Math.round(this.y(value)) + 0.5;
    pen.strokeStyle = colours[colour];
    pen.lineWidth = 1.4;
    pen.setLineDash([5, 4]);
    pen.beginPath();
    pen.moveTo(this.left, y);
    pen.lineTo(this.right, y);
    pen.stroke();
    pen.setLineDash([]);
    pen.fillStyle = colours[colour];
    pen.textAlign = "left";
    pen.textBaseline = "bottom";
    pen.fillText(label, this.left + 6, y - 2);
  }
  crossHair() {
    if (hoverMs === null || hoverMs < this.firstMs || hoverMs > this.lastMs) return;
    const pen = this.pen;
    const x = Math.round(this.x(hoverMs)) + 0.5;
    pen.strokeStyle = colours.muted;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, this.ceiling);
    pen.lineTo(x, this.bottom);
    pen.stroke();
    const point = hoverMs <= latest.time_ms ? pointAt(hoverMs) : null;
    if (!point) return;
    for (const series of this.series) {
      const value = series.dot && series.dot(point);
      if (!usable(value)) continue;
      pen.beginPath();
      pen.arc(x, this.y(value), 3.5, 0, 7);
      pen.fillStyle = colours[series.colour];
      pen.strokeStyle = colours.card;
      pen.lineWidth = 1.5;
      pen.fill();
      pen.stroke();
    }
  }
  speak() {
    const future = hoverMs !== null && hoverMs > latest.time_ms;
    const point = hoverMs === null ? latest : future ? null : pointAt(hoverMs);
    const spoken = this.series.map((series, index) => {
      const text = series.text(point, future ? hoverMs : latest.time_ms);
      if (this.values[index].textContent !== text) this.values[index].textContent = text;
      return series.name + " " + text;
    });
    this.canvas.setAttribute("aria-label", this.label + ", last " + rangeS / 60 + " minutes. " + spoken.join(", ") + ".");
  }
}

function hatch(pen, colour) {
  const tile = element("canvas", { width: 6, height: 6 });
  const ink = tile.getContext("2d");
  ink.strokeStyle = colour;
  ink.lineWidth = 1.6;
  ink.beginPath();
  for (const shift of [-6, 0, 6]) { ink.moveTo(shift, 6); ink.lineTo(shift + 6, 0); }
  ink.stroke();
  return pen.createPattern(tile, "repeat");
}
const figure = (key, format) => ({ text: (point) => (point ? format(point[key]) : "–"), dot: (point) => point[key] });
const fanText = (quantiles) => (quantiles ? count(Math.round(quantiles[0])) + " – " + count(Math.round(quantiles[2])) : "–");

/** In the legend: the forecast 30 s ahead of now, or at the time pointed at; none for the past. */
function spokenForecast(point, timeMs) {
  if (point && point !== latest) return null;
  return forecastAt(point ? timeMs + 30_000 : timeMs);
}

function makeCharts() {
  const rate = (value) => count(usable(value) ? Math.round(value) : value);
  return [
    new Chart("arrivals", {
      label: "Arrival rate with forecast", futureS: 120, tick: count,
      series: [
        { key: "arrival_rate", name: "arriving", colour: "blue", ...figure("arrival_rate", rate) },
        { key: "processed_rate", name: "processed", colour: "teal", ...figure("processed_rate", rate) },
        { key: "forecast_median", name: "forecast median", colour: "blue", mark: "dashed",
          text: (point, timeMs) => { const fan = spokenForecast(point, timeMs); return fan ? rate(fan[1]) : "–"; } },
        { key: "forecast_range", name: "10 – 90 %", colour: "blue", mark: "block",
          text: (point, timeMs) => fanText(spokenForecast(point, timeMs)) },
      ],
      floor: () => Math.max(10, ...(latest.forecast || []).map((row) => row[2]).filter(usable)),
      highest: (point) => Math.max(point.arrival_rate, point.processed_rate),
      draw: (chart) => {
        chart.area((point) => point.arrival_rate, () => 0, colours.blue, 0.08);
        chart.line((point) => point.arrival_rate, "blue", { width: 2.4 });
        chart.line((point) => point.processed_rate, "teal", { width: 1.4 });
        if (!latest.forecast) return;
        const pen = chart.pen;
        const path = (column) => [[latest.time_ms, latest.arrival_rate],
          ...HORIZONS_S.map((seconds, row) => [latest.time_ms + seconds * 1000, latest.forecast[row][column]])]
          .map(([timeMs, value]) => [chart.x(timeMs), chart.y(value)]);
        pen.beginPath();
        path(2).forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
        path(0).reverse().forEach(([x, y]) => pen.lineTo(x, y));
        pen.fillStyle = colours.blue;
        pen.globalAlpha = 0.22;
        pen.fill();
        pen.globalAlpha = 1;
        pen.strokeStyle = colours.blue;
        pen.lineWidth = 1.8;
        pen.setLineDash([5, 4]);
        pen.beginPath();
        path(1).forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
        pen.stroke();
        pen.setLineDash([]);
      },
    }),
    new Chart("executors", {
      label: "Executors", whole: true, tick: (value) => grouped(value),
      series: [
        { key: "running", name: "running", colour: "teal", mark: "block", ...figure("executors_running", count) },
        { key: "starting", name: "starting", colour: "amber", mark: "block", text: (point) => (point ? count(point.executors_starting) : "–") },
        { key: "target", name: "asked for", colour: "ink", mark: "dashed", text: (point) => (point ? count(point.executors_target) : "–") },
      ],
      floor: () => 4,
      highest: (point) => Math.max(point.executors_running + point.executors_starting, point.executors_target),
      draw: (chart) => {
        const all = (point) => point.executors_running + point.executors_starting;
        chart.area((point) => point.executors_running, () => 0, colours.teal, 0.4, true);
        chart.area(all, (point) => point.executors_running, hatch(chart.pen, colours.amber), 0.9, true);
        chart.line((point) => point.executors_running, "teal", { stepped: true, width: 1.6 });
        chart.line((point) => point.executors_target, "ink", { stepped: true, width: 1.4, dash: [4, 3] });
      },
    }),
    new Chart("latency", {
      label: "Latency from event time to commit", tick: (ms) => (ms === 0 ? "0" : ms < 1000 ? ms + " ms" : ms / 1000 + " s"),
      series: [
        { key: "p50", name: "p50", colour: "grey", ...figure("latency_p50_ms", latency) },
        { key: "p95", name: "p95", colour: "blue", ...figure("latency_p95_ms", latency) },
        { key: "p99", name: "p99", colour: "amber", ...figure("latency_p99_ms", latency) },
      ],
      floor: () => Math.max(100, latest.slo.p95_ms * 1.15),
      highest: (point) => point.latency_p99_ms,
      draw: (chart) => {
        const pen = chart.pen;
        pen.fillStyle = colours.red;
        pen.globalAlpha = 0.1;
        chart.shown().forEach((point, index, shown) => {
          if (!(point.latency_p95_ms > latest.slo.p95_ms)) return;
          const endMs = index + 1 < shown.length ? Math.min(shown[index + 1].time_ms, point.time_ms + GAP_MS) : point.time_ms + 1000;
          pen.fillRect(chart.x(point.time_ms), chart.ceiling, chart.x(endMs) - chart.x(point.time_ms), chart.bottom - chart.ceiling);
        });
        pen.globalAlpha = 1;
        chart.line((point) => point.latency_p99_ms, "amber", { width: 1.4 });
        chart.line((point) => point.latency_p50_ms, "grey", { width: 1.4 });
        chart.line((point) => point.latency_p95_ms, "blue", { width: 2 });
        chart.level(latest.slo.p95_ms, "red", "objective " + latency(latest.slo.p95_ms));
      },
    }),
    new Chart("backlog", {
      label: "Backlog", tick: count,
      series: [{ key: "backlog", name: "waiting", colour: "amber", ...figure("backlog_records", rate) }],
      floor: () => 100,
      highest: (point) => point.backlog_records,
      draw: (chart) => {
        chart.area((point) => point.backlog_records, () => 0, colours.amber, 0.14);
        chart.line((point) => point.backlog_records, "amber");
      },
    }),
    new Chart("cost", {
      label: "Cost rate", tick: (value) => dollars(value, value > 0 && value < 0.1 ? 3 : 2),
      series: [
        { key: "rate", name: "now", colour: "teal", ...figure("cost_usd_per_hour", (value) => dollars(value) + "/h") },
        { key: "total", name: "so far", colour: "grey", mark: "none", text: (point) => (point ? totalDollars(point.cost_usd) : "–") },
      ],
      floor: () => 0.2,
      highest: (point) => point.cost_usd_per_hour,
      draw: (chart) => {
        chart.area((point) => point.cost_usd_per_hour, () => 0, colours.teal, 0.12, true);
        chart.line((point) => point.cost_usd_per_hour, "teal", { stepped: true });
      },
    }),
  ];
}

let charts = [];
let scheduled = false;
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => { scheduled = false; charts.forEach((chart) => chart.paint()); });
}
function hover(timeMs) {
  hoverMs = timeMs;
  if (timeMs === null || !latest) {
    put("read-out", "Point at a chart, or focus it and use the arrow keys, to read past values.");
  } else {
    const aheadS = Math.round((timeMs - latest.time_ms) / 1000);
    const words = aheadS > 0 ? ", forecast for " + duration(aheadS) + " ahead" : aheadS < 0 ? ", " + duration(-aheadS) + " ago" : "";
    put("read-out", clock(timeMs) + words);
  }
  schedule();
}

// Which element shows what?

/** What an operator has to know before reading any figure; empty when all is well. */
function noticeWords(now) {
  if (now.heard_ms === null) return "No heartbeat yet: the figures begin with the first one.";
  if (now.time_ms - now.heard_ms > SILENT_AFTER_MS) {
    return "No heartbeat since " + clock(now.heard_ms) + ": the figures below are that old.";
  }
  if (now.mode === "fallback") return "The engine scales by itself, as it did not hear from the controller.";
  if (now.mode === "holding") return "The engine holds its executors, as it did not hear from the controller.";
  if (now.advice_only) return "Advice only: decisions are shown, the engine scales by itself.";
  if (now.pinned_executors !== null) return "Pinned to " + count(now.pinned_executors) + " executors by the operator.";
  if (now.executors_missing) return count(now.executors_missing) + " executors that were asked for did not come in their time.";
  return "";
}

function showFigures(now) {
  put("job", now.job || "–");
  put("engine", now.engine || "embedded");
  put("mode", now.heard_ms === null ? "–" : now.mode);
  $("mode").className = now.heard_ms === null ? "" : "mode " + now.mode;
  const notice = noticeWords(now);
  put("notice", notice);
  $("notice").hidden = notice === "";
  put("policy", now.policy);
  put("trace", now.trace);
  $("trace-fact").hidden = now.trace === "";
  put("domain", now.domain);
  $("domain-fact").hidden = now.domain === "";
  put("uptime", duration(now.time_s));
  put("clock", clock(now.time_ms));
  $("burst-state").hidden = !now.manual_burst;
  $("burst-stop").disabled = !now.manual_burst;
  put("arrival-rate", count(Math.round(now.arrival_rate)));
  put("processed-rate", count(Math.round(now.processed_rate)));
  put("burst-probability", share(now.burst_probability));
  put("forecast-30s", now.forecast ? fanText(now.forecast[2]) : "no forecast yet");
  put("executors-running", count(now.executors_running));
  put("executors-starting", count(now.executors_starting));
  put("executors-target", count(now.executors_target));
  put("limits", now.limits.min_executors + " – " + now.limits.max_executors);
  const [figureText, unit] = latencyParts(now.latency_p95_ms);
  put("latency-p95", figureText);
  put("latency-p95-unit", unit);
  const over = now.latency_p95_ms > now.slo.p95_ms;
  $("latency-tile").dataset.state = over ? "over" : "met";
  put("objective-verdict", (over ? "over the " : "within ") + latency(now.slo.p95_ms));
  const met = now.intervals_total - now.intervals_over_objective;
  put("intervals-met", now.intervals_total ? grouped((100 * met) / now.intervals_total, 1) + " %" : "–");
  put("backlog", count(Math.round(now.backlog_records)));
  put("backlog-seconds", now.arrival_rate > 0 ? grouped(now.backlog_records / now.arrival_rate, 1) + " s" : "–");
  put("cost-rate", usable(now.cost_usd_per_hour) ? grouped(now.cost_usd_per_hour, 2) : "–");
  put("cost-total", totalDollars(now.cost_usd));
  put("budget", now.limits.budget_usd_per_hour < 1e6 ? dollars(now.limits.budget_usd_per_hour) + "/h" : "none");
  put("produced", grouped(now.records_produced));
  put("acknowledged", grouped(now.records_acknowledged));
  put("in-sink", grouped(now.records_in_sink));
  put("duplicates", grouped(now.duplicates));
  put("dead-letter", grouped(now.dead_letter));
  put("alerts-total", grouped(now.alerts_total));
  put("tier", now.tier);
  put("codec", now.codec);
  put("capacity", now.executor_capacity > 0 ? count(Math.round(now.executor_capacity)) : "–");
  put("provisioning-note", now.provisioning_note);
}

/** Replaces a list only when it changed, so that a selection or a scroll position stays. */
const listsShown = new Map();
function fill(target, items, make, empty) {
  const state = JSON.stringify(items);
  if (listsShown.get(target) === state) return;
  listsShown.set(target, state);
  target.replaceChildren(...(items.length ? items.map(make) : [empty]));
}
const emptyLine = (text) => element("li", { className: "empty", textContent: text });
const emptyRow = (text, columns) => element("tr", {}, element("td", { className: "empty", textContent: text, colSpan: columns }));
const cell = (text, className = "") => element("td", { textContent: text, className });

function showDecision(decision) {
  const { executors_before: before, executors: after } = decision;
  const direction = after > before ? "up" : after < before ? "down" : "";
  const change = direction ? before + " → " + after : "keep " + after;
  const head = element("p", { className: "head" },
    element("b", { className: direction, textContent: change }),
    element("span", { textContent: decision.tier + ", " + decision.codec }),
    element("span", { className: "end", textContent: "#" + decision.id + "  " + clock(decision.time_ms) }));
  head.title = "decided in " + grouped(decision.took_us, 1) + " µs";
  const item = element("li", {}, head, element("p", { textContent: decision.reason }));
  if (decision.effect) item.append(element("p", { className: "effect", textContent: decision.effect }));
  return item;
}
function showAlert(alert) {
  return element("li", {},
    element("p", { className: "head" }, element("span", { textContent: alert.domain }),
      element("span", { className: "end", textContent: clock(alert.time_ms) })),
    element("p", {}, element("b", { textContent: alert.device_id }), " " + alert.message));
}
function showExecutor(executor) {
  const startUp = executor.registered_ms === null ? "–" : latency(executor.registered_ms - executor.requested_ms);
  const used = element("meter", { min: 0, max: 1, value: executor.cpu_utilisation || 0 });
  used.setAttribute("aria-label", "CPU of executor " + executor.id);
  const usedCell = executor.phase === "running" || executor.phase === "draining"
    ? element("td", {}, used, share(executor.cpu_utilisation) + " %") : cell("–");
  return element("tr", {},
    cell(String(executor.id)), cell(executor.phase, "phase " + executor.phase),
    cell(duration((latest.time_ms - executor.requested_ms) / 1000), "number"), cell(startUp, "number"),
    cell(executor.emulated_delay_s > 0 ? grouped(executor.emulated_delay_s, 1) + " s" : "none", "number"), usedCell);
}
function showGateway(gateway) {
  return element("tr", {},
    cell(gateway.gateway), cell(count(Math.round(gateway.arrival_rate)), "number"),
    cell(count(gateway.queued_records), "number"), cell(bytes(gateway.queued_bytes), "number"),
    cell(gateway.throttled ? "slowed" : "free", gateway.throttled ? "warn" : ""),
    cell(grouped(gateway.age_s, 1) + " s", "number" + (gateway.age_s > 5 ? " warn" : "")));
}
function show(snapshot) {
  remember(snapshot);
  showFigures(snapshot);
  fill($("decisions"), snapshot.decisions, showDecision, emptyLine("No decision yet."));
  fill($("alerts"), snapshot.alerts, showAlert, emptyLine("No alert yet."));
  listsShown.delete($("executors")); // Its ages move on with every second.
  fill($("executors"), snapshot.executors, showExecutor, emptyRow("No executor.", 6));
  fill($("gateways"), snapshot.gateways, showGateway, emptyRow("No gateway has reported yet.", 6));
  schedule();
}

// Is the server there?

let lastHeardMs = 0;
let retryAfterMs = 1000;
function connection(state, words) {
  document.body.dataset.connection = state;
  put("connection", words);
}
async function loadHistory() {
  const reply = await fetch(API + "/history?seconds=" + HISTORY_S);
  if (!reply.ok) throw new Error((await reply.json()).error);
  const past = (await reply.json()).points;
  const newest = past.length ? past[past.length - 1].time_ms : -Infinity;
  points = past.concat(points.filter((point) => point.time_ms > newest));
}
async function connect() {
  try {
    await loadHistory();
  } catch (error) {
    // A server that answers says why; one that does not is away.
    return disconnected(error instanceof TypeError ? "Disconnected, trying again" : error.message);
  }
  const stream = new EventSource(API + "/stream");
  stream.addEventListener("snapshot", (event) => {
    lastHeardMs = Date.now();
    retryAfterMs = 1000;
    connection("live", "Live");
    show(JSON.parse(event.data));
  });
  // Own retries: the history has to be read again, or the charts would keep a gap.
  stream.addEventListener("error", () => { stream.close(); disconnected("Disconnected, trying again"); });
}
function disconnected(words) {
  connection("disconnected", words);
  setTimeout(connect, retryAfterMs);
  retryAfterMs = Math.min(retryAfterMs * 2, 10_000);
}
setInterval(() => {
  if (document.body.dataset.connection === "live" && Date.now() - lastHeardMs > STALE_AFTER_MS) {
    connection("stale", "No news for " + STALE_AFTER_MS / 1000 + " s");
  }
}, 1000);

// What can be asked for? A burst of the built-in devices, or a number of executors.

/** Posts a command of the form `name` and writes under it what came of it; `fields` are marked when they are to blame. */
async function send(name, command, fields, done, headers = {}) {
  const result = $(name + "-result");
  try {
    const reply = await fetch(API + "/" + name, {
      method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(command),
    });
    const answer = await reply.json();
    result.dataset.state = reply.ok ? "done" : "refused";
    for (const field of fields) $(name + "-" + field).setAttribute("aria-invalid", String(answer.field === field));
    result.textContent = reply.ok ? done : answer.error;
  } catch {
    result.dataset.state = "refused";
    result.textContent = "Not sent: the server does not answer.";
  }
}
const sendBurst = (command, done) => send("burst", command, ["factor", "seconds"], done);
function sendPin(executors, done) {
  const token = $("pin-token").value;
  return send("pin", { executors }, ["executors"], done, token ? { authorization: "Bearer " + token } : {});
}
function number(id) {
  const text = $(id).value.trim();
  return text === "" ? null : Number(text);
}
$("burst-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [factor, seconds] = [number("burst-factor"), number("burst-seconds")];
  sendBurst({ action: "start", factor, seconds }, "Started: " + factor + " times the rate for " + seconds + " s.");
});
$("burst-stop").addEventListener("click", () => sendBurst({ action: "stop" }, "Stopped: back to the trace."));
$("pin-form").addEventListener("submit", (event) => {
  event.preventDefault();
  // An empty field must not unpin: the server is to name it.
  const executors = number("pin-executors") ?? "";
  sendPin(executors, "Pinned to " + executors + " executors.");
});
$("pin-stop").addEventListener("click", () => sendPin(null, "The policy decides again."));

// Begin.

$("overview").hidden = JOB === null;
$("burst").hidden = JOB !== null;
$("pin").hidden = JOB === null;
$("state-link").href = API + "/state";
if (JOB !== null) {
  $("metrics-link").href = "/metrics?job=" + JOB;
  document.title = "Petrel: " + decodeURIComponent(JOB);
}
readColours();
charts = makeCharts();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); schedule(); });
for (const input of document.getElementsByName("range")) {
  if (input.checked) rangeS = Number(input.value);
  input.addEventListener("change", () => { rangeS = Number(input.value); schedule(); });
}
connect();

// The overview of all jobs: the server searches, sorts and cuts; this asks for one page of rows every two seconds.

import { $, clock, count, duration, element, grouped, latency, put } from "/format.js";

const ROWS = 100;
const EVERY_MS = 2000;
const TYPING_MS = 150;

// What is asked for? It stands in the address, so that a reload or a link shows the same.

const given = new URLSearchParams(location.search);
const wanted = {
  search: given.get("search") ?? "",
  show: given.get("show") === "attention" ? "attention" : "all",
  sort: given.get("sort") ?? "job",
  order: given.get("order") === "descending" ? "descending" : "ascending",
  first: Math.max(0, Math.floor(Number(given.get("first")) / ROWS) * ROWS) || 0,
};

function ask(changes) {
  // Another question begins at its first row.
  Object.assign(wanted, "first" in changes ? {} : { first: 0 }, changes);
  const defaults = { search: "", show: "all", sort: "job", order: "ascending", first: 0 };
  const asked = Object.entries(wanted).filter(([name, value]) => value !== defaults[name]);
  history.replaceState(null, "", asked.length ? "?" + new URLSearchParams(asked) : location.pathname);
  return load();
}

// How does a row look?

const cell = (text, className = "") => element("td", { textContent: text, className });

function executors(job) {
  const starting = job.executors_starting ? " +" + count(job.executors_starting) : "";
  const shown = cell(count(job.executors_running) + starting + " / " + count(job.executors_target), "number");
  shown.title = job.executors_running + " running, " + job.executors_starting + " starting, " + job.executors_target + " asked for";
  return shown;
}

function latencyCell(job) {
  if (!(job.latency_p95_ms > 0)) return cell("–", "number");
  const shown = cell(latency(job.latency_p95_ms) + " / " + latency(job.slo_p95_ms), "number");
  if (job.latency_p95_ms > job.slo_p95_ms) shown.className += " over";
  return shown;
}

function heard(job, now) {
  if (job.heard_ms === null) return cell("none yet", "number");
  const ageMs = now.time_ms - job.heard_ms;
  if (ageMs <= now.silent_after_ms) return cell(duration(ageMs / 1000) + " ago", "number");
  return cell("none since " + clock(job.heard_ms), "number warn");
}

function notes(job) {
  const words = [];
  if (job.advice_only) words.push("advice: " + count(job.executors_target) + " executors");
  if (job.pinned_executors !== null) words.push("pinned to " + count(job.pinned_executors));
  if (job.executors_missing) words.push(count(job.executors_missing) + " did not come");
  return cell(words.join(", "), "words");
}

function row(job, now) {
  const link = element("a", { href: "/jobs/" + encodeURIComponent(job.job), textContent: job.job });
  const mode = job.mode === null ? cell("–")
    : element("td", {}, element("span", { className: "mode " + job.mode, textContent: job.mode }));
  return element("tr", {}, element("td", {}, link), cell(job.mode === null ? "–" : job.engine || "embedded"), mode,
    cell(job.policy), executors(job), latencyCell(job), cell(count(Math.round(job.processed_rate)), "number"),
    cell(count(job.lag_records), "number"), cell(grouped(job.cost_usd_per_hour, 2), "number"), heard(job, now), notes(job));
}

function show(now) {
  put("total-jobs", grouped(now.totals.jobs));
  put("total-over", grouped(now.totals.over_objective));
  put("total-silent", grouped(now.totals.silent));
  put("total-own", grouped(now.totals.on_their_own));
  put("total-running", grouped(now.totals.executors_running));
  put("total-target", grouped(now.totals.executors_target));
  put("total-lag", count(now.totals.lag_records));
  const isNarrowed = now.matching !== now.totals.jobs;
  put("matching", isNarrowed ? grouped(now.matching) + " of " + grouped(now.totals.jobs) : "");
  const nothing = now.totals.jobs ? "No job matches." : "No job has sent a heartbeat yet.";
  const empty = () => element("tr", {}, element("td", { className: "empty", textContent: nothing, colSpan: 11 }));
  $("jobs").replaceChildren(...(now.jobs.length ? now.jobs.map((job) => row(job, now)) : [empty()]));
  const last = now.first + now.jobs.length;
  put("page-of", now.jobs.length ? grouped(now.first + 1) + " – " + grouped(last) + " of " + grouped(now.matching) : "");
  $("earlier").disabled = now.first === 0;
  $("later").disabled = last >= now.matching;
  for (const head of document.querySelectorAll("th[data-sort]")) {
    head.setAttribute("aria-sort", head.dataset.sort === wanted.sort ? wanted.order : "none");
  }
}

// When is it asked?

let asking = 0;
async function load() {
  const question = (asking += 1);
  try {
    const reply = await fetch("/api/v1/jobs?" + new URLSearchParams({ ...wanted, limit: ROWS }));
    const answer = await reply.json();
    if (question !== asking) return; // A later question is on its way.
    if (!reply.ok) throw new Error(answer.error);
    // The list has become shorter than where this page was.
    if (!answer.jobs.length && answer.matching) {
      await ask({ first: Math.floor((answer.matching - 1) / ROWS) * ROWS });
      return;
    }
    show(answer);
    document.body.dataset.connection = "live";
    put("connection", "Live");
  } catch (error) {
    if (question !== asking) return;
    document.body.dataset.connection = "disconnected";
    put("connection", error instanceof TypeError ? "Disconnected, trying again" : error.message);
  }
}

async function keepLoading() {
  if (!document.hidden) await load();
  setTimeout(keepLoading, EVERY_MS);
}

let typing = null;
$("search").value = wanted.search;
$("attention").checked = wanted.show === "attention";
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => ask({ search: $("search").value }), TYPING_MS);
});
$("search-form").addEventListener("submit", (event) => event.preventDefault());
$("attention").addEventListener("change", () => ask({ show: $("attention").checked ? "attention" : "all" }));
for (const head of document.querySelectorAll("th[data-sort]")) {
  head.querySelector("button").addEventListener("click", () => {
    const isSame = head.dataset.sort === wanted.sort;
    // The largest first, where that is what one looks for.
    const begin = ["executors", "latency", "processed", "lag", "cost"].includes(head.dataset.sort) ? "descending" : "ascending";
    const turned = wanted.order === "ascending" ? "descending" : "ascending";
    ask({ sort: head.dataset.sort, order: isSame ? turned : begin });
  });
}
$("earlier").addEventListener("click", () => ask({ first: Math.max(0, wanted.first - ROWS) }));
$("later").addEventListener("click", () => ask({ first: wanted.first + ROWS }));
keepLoading();

// How is a figure written, and where? Shared by both pages.

export const $ = (id) => document.getElementById(id);

export const usable = (value) => typeof value === "number" && Number.isFinite(value);
export const grouped = (value, digits = 0) =>
  value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function count(value) {
  if (!usable(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return grouped(value / 1e9, 2) + " G";
  if (size >= 1e7) return grouped(value / 1e6, 2) + " M";
  return grouped(value, size > 0 && size < 10 && !Number.isInteger(value) ? 1 : 0);
}
export function latencyParts(ms) {
  if (!usable(ms)) return ["–", ""];
  return ms >= 1000 ? [grouped(ms / 1000, ms >= 99_950 ? 0 : ms >= 9995 ? 1 : 2), "s"] : [grouped(ms), "ms"];
}
export const latency = (ms) => latencyParts(ms).join(" ").trim();
export const dollars = (value, digits = 2) => (usable(value) ? "$" + grouped(value, digits) : "–");
export const totalDollars = (value) => dollars(value, usable(value) && value < 1 ? 4 : 2);
export function bytes(value) {
  if (!usable(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (value >= 1000 && step < units.length - 1) { value /= 1000; step += 1; }
  return grouped(value, step > 0 && value < 100 ? 1 : 0) + " " + units[step];
}
export function duration(seconds) {
  if (!usable(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  const two = (part) => String(part).padStart(2, "0");
  if (whole < 60) return whole + " s";
  if (whole < 3600) return Math.floor(whole / 60) + " min " + two(whole % 60) + " s";
  return Math.floor(whole / 3600) + " h " + two(Math.floor((whole % 3600) / 60)) + " min";
}
export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
export const share = (value) => (usable(value) ? grouped(value * 100) : "–");

export function put(id, text) {
  const target = $(id);
  if (target.textContent !== text) target.textContent = text;
}
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

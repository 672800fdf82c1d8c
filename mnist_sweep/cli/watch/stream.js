// What comes from the server: a stream of messages, which is opened again when it is lost; and what goes there.
"use strict";

// Behind the #, the token is not sent with the page's own address.
const token = new URLSearchParams(location.hash.slice(1)).get("token") || "";
const rights = token ? { Authorization: `Bearer ${token}` } : {};
// The server says something every 10 s.
const SILENCE = 25_000, LONGEST_PAUSE = 5_000;
// A page that nobody sees gives its connection back after this time: a browser has six for each server.
const AWAY = 60_000;

const byId = (id) => document.getElementById(id);

/** Sets a text, if it is another one: the browser would lay out the page again. */
function say(part, text) {
  if (part.textContent !== text) part.textContent = text;
}

function hide(part, hidden) {
  if (part.hidden !== hidden) part.hidden = hidden;
}

/** Makes an element: `make("li", { className: "x" }, "text", child)`. */
function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function trouble(text) {
  say(byId("trouble"), text);
  hide(byId("trouble"), !text);
}

async function seen() {
  while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

async function read(path, take) {
  const ending = new AbortController();
  let away = 0;
  const watchAway = () => {
    clearTimeout(away);
    if (document.hidden) away = setTimeout(() => ending.abort(), AWAY);
  };
  document.addEventListener("visibilitychange", watchAway);
  watchAway();
  let timer = setTimeout(() => ending.abort(), SILENCE);
  try {
    const answer = await fetch(path, { headers: rights, signal: ending.signal, cache: "no-store" });
    if (!answer.ok) {
      const { error } = await answer.json().catch(() => ({ error: answer.statusText }));
      trouble(error);
      hide(byId("waiting"), true);
      return answer.status;
    }
    trouble("");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return 0;
      clearTimeout(timer);
      timer = setTimeout(() => ending.abort(), SILENCE);
      // A message may come in many pieces.
      const messages = (rest + value).split("\n\n");
      rest = messages.pop();
      for (const message of messages) if (message.startsWith("data: ")) take(JSON.parse(message.slice(6)));
    }
  } finally {
    clearTimeout(timer);
    clearTimeout(away);
    document.removeEventListener("visibilitychange", watchAway);
  }
}

/** Reads a stream for as long as the page is open. */
async function follow(path, take) {
  let pause = 500;
  for (;;) {
    await seen();
    const since = performance.now();
    let status = 0;
    try {
      status = await read(path, take);
    } catch (error) {
      if (!(error instanceof TypeError || error.name === "AbortError")) throw error;
    }
    if (status === 401) return;
    if (document.hidden) continue;
    if (!status) trouble("The connection to watch is lost; trying again …");
    pause = performance.now() - since > 10_000 ? 500 : Math.min(2 * pause, LONGEST_PAUSE);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** Asks for a change of the sweep, and shows the answer. Returns whether it was done. */
async function ask(name, wish, answer) {
  answer.className = "answer";
  say(answer, "…");
  try {
    const given = await fetch(`/steer?name=${encodeURIComponent(name)}`, {
      method: "POST", headers: { ...rights, "Content-Type": "application/json" }, body: JSON.stringify(wish),
    });
    const said = await given.json();
    answer.className = said.error ? "answer refused" : "answer done";
    say(answer, said.error || said.done);
    return !said.error;
  } catch {
    answer.className = "answer refused";
    say(answer, "The connection to watch is lost; try again");
    return false;
  }
}

function duration(seconds) {
  if (seconds > 0 && seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600).toLocaleString("en")} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

/** An estimate, without a precision that it does not have. */
const about = (seconds) => duration(seconds < 60 ? Math.round(seconds) : seconds < 600 ? 10 * Math.round(seconds / 10) : 60 * Math.round(seconds / 60)).replace(" 00 s", "");

function bytes(amount) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let k = 0;
  while (amount >= 1000 && k < units.length - 1) { amount /= 1000; k++; }
  return `${amount >= 100 || k === 0 ? amount.toFixed(0) : amount.toFixed(1)} ${units[k]}`;
}

const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const figure = (v) => (typeof v !== "number" ? "–" : v === 0 || (Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5) ? v.toFixed(4) : number(v));
const shown = (v) => (v === null || v === undefined ? "–" : typeof v === "number" ? number(v) : v);
const listed = (values) => values.map(([name, value]) => `${name}=${shown(value)}`).join("  ");

// The leaderboard, and what it shares with the parallel coordinates: which trials are shown, and which one is highlighted.
// A trial's index is its place in the leaderboard, the best first.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const size = data.trials.length;
const chart = document.getElementById("parallel");
const table = document.getElementById("trials");
const rows = table ? [...table.tBodies[0].rows] : [];
const shown = new Uint8Array(size).fill(1);
const listeners = [];
let lit = null;
let due = 0;

/** Shows only the trials for which `keep(i)` holds; `filters` are their descriptions: {text, clear}. */
function filter(keep, filters) {
  let count = 0;
  for (let i = 0; i < size; i++) {
    const now = keep(i) ? 1 : 0;
    count += now;
    shown[i] = now;
  }
  // Hiding the rows of a large table takes too long to do it on every movement of the pointer.
  clearTimeout(due);
  due = setTimeout(hideRows, 80);
  const text = count === size ? data.count : `${count.toLocaleString("en")} of ${data.count}`;
  for (const line of document.querySelectorAll(".count")) if (line.textContent !== text) line.textContent = text;
  const list = document.getElementById("brushes");
  while (list.children.length > filters.length) list.lastChild.remove();
  filters.forEach((one, i) => {
    if (!list.children[i]) list.append(document.createElement("li"));
    const item = list.children[i];
    if (!item.firstChild) item.append(Object.assign(document.createElement("button"), { type: "button" }));
    item.firstChild.textContent = `${one.text} ×`;
    item.firstChild.setAttribute("aria-label", `Remove the filter ${one.text}`);
    item.firstChild.onclick = one.clear;
  });
  document.getElementById("clear").hidden = filters.length === 0;
}

function hideRows() {
  rows.forEach((row, i) => {
    if (row.hidden === Boolean(shown[i])) row.hidden = !shown[i];
  });
  const first = table.querySelector("tbody tr[tabindex]");
  if (!first || first.hidden) startAt([...table.tBodies[0].rows].find((row) => !row.hidden));
}

/** Highlights a trial in the chart and in the table; null for none. */
function light(i) {
  if (i === lit) return;
  if (lit !== null) rows[lit].classList.remove("lit");
  lit = i;
  if (i !== null) rows[i].classList.add("lit");
  for (const listener of listeners) listener(i);
}

function goTo(i) {
  startAt(rows[i]);
  rows[i].focus({ preventScroll: true });
  rows[i].scrollIntoView({ block: "nearest" });
}

// ---- sorting

function sortBy(column, descending) {
  const values = data.columns[column].values;
  const sign = descending ? -1 : 1;
  const order = [...rows.keys()].sort((a, b) => {
    const [x, y] = [values[a], values[b]];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return (typeof x === "number" ? x - y : x < y ? -1 : x > y ? 1 : 0) * sign || a - b;
  });
  table.tBodies[0].append(...order.map((i) => rows[i]));
  [...table.tHead.rows[0].cells].forEach((cell, i) => {
    if (i === column) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

// ---- rows: the Tab key stops at one of them, and the arrow keys go up and down

function startAt(row) {
  for (const other of table.querySelectorAll("tbody tr[tabindex]")) other.removeAttribute("tabindex");
  if (row) row.tabIndex = 0;
}

function listen() {
  [...table.tHead.rows[0].cells].forEach((cell, i) => {
    cell.firstElementChild.addEventListener("click", () => {
      const before = cell.getAttribute("aria-sort");
      sortBy(i, before === null ? data.columns[i].descending : before === "ascending");
    });
  });

  const body = table.tBodies[0];
  const placeOf = new Map(rows.map((row, i) => [row, i]));
  const rowAt = (target) => (target instanceof Element ? target.closest("tbody tr") : null);

  body.addEventListener("pointerover", (event) => light(rowAt(event.target) ? placeOf.get(rowAt(event.target)) : null));
  body.addEventListener("pointerleave", () => light(null));
  body.addEventListener("focusin", (event) => light(placeOf.get(rowAt(event.target))));
  body.addEventListener("focusout", () => light(null));
  body.addEventListener("keydown", (event) => {
    const step = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[event.key];
    let row = rowAt(event.target);
    if (!step || !row) return;
    do row = row[step];
    while (row && row.hidden);
    event.preventDefault();
    if (row) goTo(placeOf.get(row));
  });
  startAt(rows[0]);
}

if (table) listen();

// ---- plots: each mark has a title, which is shown at once instead of after a second, and on touch screens too

function marks() {
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
  const placeOf = new Map(data.trials.map((trial, i) => [trial, i]));
  let pointed = null;

  function leave() {
    if (pointed) pointed.title.textContent = pointed.text;
    if (pointed && pointed.place !== undefined) light(null);
    pointed = null;
    tip.hidden = true;
  }

  function titleOf(target) {
    for (let part = target; part instanceof SVGElement; part = part.parentNode) {
      const title = part.firstElementChild;
      if (title && title.tagName === "title") return title;
    }
    return null;
  }

  for (const plot of document.querySelectorAll(".plot")) {
    plot.addEventListener("pointerover", (event) => {
      leave();
      const title = titleOf(event.target);
      if (!title) return;
      const trial = /^trial (\d+)/.exec(title.textContent);
      pointed = { title, text: title.textContent, place: trial ? placeOf.get(Number(trial[1])) : undefined };
      // Otherwise the browser would show it, too.
      title.textContent = "";
      tip.textContent = pointed.text;
      tip.hidden = false;
      if (pointed.place !== undefined) light(pointed.place);
    });
    plot.addEventListener("pointermove", (event) => {
      const right = event.clientX + 14 + tip.offsetWidth > innerWidth;
      tip.style.left = `${Math.max(4, event.clientX + (right ? -14 - tip.offsetWidth : 14))}px`;
      tip.style.top = `${Math.max(4, event.clientY - 14 - tip.offsetHeight)}px`;
    });
    plot.addEventListener("pointerleave", leave);
  }
}

marks();

// ---- links: the browser does not follow them in MLflow's frame, whose address is a blob URL

if (window !== window.top) {
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const target = document.getElementById(link.hash.slice(1));
      target.tabIndex = -1;
      target.focus({ preventScroll: true });
      target.scrollIntoView();
    });
  }
}

// ---- commands

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    getSelection().selectAllChildren(code);
    let text = "Copied";
    try {
      // The clipboard API may be missing in a file or in MLflow's frame.
      if (!document.execCommand("copy")) await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
      text = "Press Ctrl+C";
    }
    button.textContent = text;
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}

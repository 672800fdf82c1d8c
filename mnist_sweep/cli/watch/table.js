// The leaderboard. Only the rows that can be seen exist, however many trials there are.
"use strict";

const ROW = 30, MORE_ROWS = 6;

function leaderboardTable(scroll, model, point) {
  const table = scroll.querySelector("table");
  const [columnsOf, head, body] = [table.querySelector("colgroup"), table.tHead.rows[0], table.tBodies[0]];
  const [above, below] = [0, 1].map(() => make("tr", { className: "room" }, make("td")));
  body.append(above, below);
  const pool = [];
  let columns = [], sorted = [], by = null, heading = "", longest = [];
  // The trials whose texts have been measured.
  const measured = new Set();

  function wanted() {
    const found = [
      { heading: "rank", number: true, value: (row) => row.rank ?? null },
      { heading: "trial", number: true, value: (row) => row.n },
      ...model.space.map((one, k) => ({ heading: one.short, title: `${one.name} = ${one.domain}${one.when ? ` if ${one.when}` : ""}`, number: one.low !== undefined || (one.values || []).every((v) => typeof v === "number"), value: (row) => (row.v[k] === undefined ? null : row.v[k]) })),
      { heading: model.metric, number: true, value: (row) => row.score, text: figure, descending: model.maximize },
    ];
    if (model.order.again) found.push({ heading: "on new seeds", number: true, value: (row) => model.order.again[row.n] ?? null });
    (model.order.others || []).forEach((name, k) => found.push({ heading: name, number: true, value: (row) => (model.order.scores[row.n] || [])[k] ?? null, text: figure }));
    found.push(
      { heading: "best epoch", number: true, value: (row) => row.best ?? null },
      { heading: "parameters", number: true, value: (row) => row.size ?? null, text: (v) => v.toLocaleString("en") },
      { heading: "status", value: (row) => row.s, title: "How it ended; hover over one to see why." },
      { heading: "time", number: true, value: (row) => row.time ?? null, text: duration },
    );
    return found;
  }

  const textOf = (column, row) => {
    const value = column.value(row);
    return value === null || value === undefined ? "–" : column.text ? column.text(value) : shown(value);
  };

  function header() {
    const key = columns.map((column) => column.heading).join("\n");
    if (key === heading) return;
    heading = key;
    head.replaceChildren(...columns.map((column, k) => {
      const button = make("button", { type: "button", title: column.title || "" }, column.heading);
      button.addEventListener("click", () => {
        by = by && by.k === k ? { k, down: !by.down } : { k, down: Boolean(column.descending) };
        draw();
      });
      const cell = make("th", { scope: "col", className: `${column.number ? "number" : ""} ${column.heading === "trial" ? "trial" : ""}` }, button);
      return cell;
    }));
    columnsOf.replaceChildren(...columns.map(() => make("col")));
    for (const row of pool) row.remove();
    pool.length = 0;
    measured.clear();
    longest = columns.map((column) => column.heading.length + 4);
  }

  /** Columns as wide as their widest text, so that they don't move while the table is scrolled. */
  function widths() {
    const before = measured.size;
    for (const row of model.rows) {
      if (measured.has(row.n)) continue;
      measured.add(row.n);
      columns.forEach((column, k) => (longest[k] = Math.max(longest[k], textOf(column, row).length)));
    }
    if (measured.size === before) return;
    let total = 0;
    columns.forEach((column, k) => {
      const most = longest[k];
      const width = Math.min(most, 34) * 7.8 + 20;
      total += width;
      const text = `${Math.round(width)}px`;
      if (columnsOf.children[k].style.width !== text) columnsOf.children[k].style.width = text;
    });
    table.style.width = `${Math.round(total)}px`;
  }

  function draw() {
    columns = wanted();
    header();
    widths();
    sorted = model.rows.filter((row) => row.kept !== false);
    if (by) {
      const { value } = columns[by.k], sign = by.down ? -1 : 1;
      const keyed = sorted.map((row, i) => [value(row), i, row]);
      keyed.sort(([a, i], [b, j]) => {
        if (a === null || b === null) return (a === null) - (b === null) || i - j;
        return (typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0) * sign || i - j;
      });
      sorted = keyed.map(([, , row]) => row);
    }
    [...head.cells].forEach((cell, k) => {
      if (by && by.k === k) cell.setAttribute("aria-sort", by.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    table.setAttribute("aria-rowcount", sorted.length + 1);
    fill();
  }

  function fill() {
    const first = Math.max(0, Math.floor(scroll.scrollTop / ROW) - MORE_ROWS);
    const last = Math.min(sorted.length, Math.ceil((scroll.scrollTop + scroll.clientHeight) / ROW) + MORE_ROWS);
    const count = Math.max(0, last - first);
    while (pool.length < count) {
      const row = make("tr", {}, ...columns.map((column, k) => make(k === 1 ? "th" : "td", { className: column.number ? "number" : "" })));
      row.addEventListener("pointerenter", () => point(row.trial));
      pool.push(row);
      below.before(row);
    }
    pool.forEach((row, i) => {
      hide(row, i >= count);
      if (i >= count) return;
      const trial = sorted[first + i];
      row.trial = trial.n;
      const mark = `${trial.n === model.best ? "winner" : ""} ${trial.n === model.lit ? "lit" : ""}`;
      if (row.className !== mark) row.className = mark;
      columns.forEach((column, k) => {
        const cell = row.cells[k];
        let text = textOf(column, trial);
        if (k === 1 && (model.order.front || []).includes(trial.n)) text += " ●";
        say(cell, text);
        const title = column.heading === "status" ? trial.reason || "" : "";
        if (cell.title !== title) cell.title = title;
        if (column.heading === "status" && cell.className !== `status ${trial.s}`) cell.className = `status ${trial.s}`;
      });
    });
    room(above, first);
    room(below, sorted.length - first - count);
  }

  function room(row, count) {
    const height = `${count * ROW}px`;
    if (row.firstChild.style.height !== height) row.firstChild.style.height = height;
    hide(row, count === 0);
  }

  let due = 0;
  scroll.addEventListener("scroll", () => { due ||= requestAnimationFrame(() => { due = 0; fill(); }); });
  body.addEventListener("pointerleave", () => point(null));
  return { draw, fill };
}

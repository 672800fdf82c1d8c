// The page of a sweep, or of all of them.
"use strict";

const MOST_RUNNING = 24, MOST_SLOTS = 64, MOST_LINES = 100, KEPT_LINES = 300;
const link = (name) => `/${name ? `?sweep=${encodeURIComponent(name)}` : ""}${location.hash}`;
const clockTime = (seconds) => {
  const date = new Date(1000 * seconds);
  const today = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  return today ? time : `${date.toLocaleDateString([], { month: "short", day: "numeric" })} ${time}`;
};

/** The best score, how much is done, and what is left, in words. */
function progressOf(head, now) {
  const total = head.most === null || head.most === undefined ? "" : ` of ${head.most.toLocaleString("en")}`;
  const elapsed = Math.max(0, (head.until ?? now) - head.started);
  return { done: `${head.ended.toLocaleString("en")}${total}`, part: head.most ? Math.min(1, head.ended / head.most) : 0, elapsed };
}

const WORDS = { running: "running", starting: "starting", complete: "complete", stopped: "stopped", failed: "failed", interrupted: "was killed" };
const badge = (part, phase, paused) => {
  say(part, paused && phase === "running" ? "paused" : WORDS[phase]);
  const style = `badge ${phase === "complete" ? "completed" : phase === "interrupted" ? "failed" : paused ? "paused" : phase}`;
  if (part.className !== style) part.className = style;
};
/** What a trial without an end is: a sweep that was stopped or killed has left it. */
const unended = (phase) => (phase === "running" || phase === "starting" ? "running" : "interrupted");

// ---- one sweep

function sweepPage(name) {
  const model = {
    head: {}, space: [], slots: [], order: { trials: [] }, why: "", story: [],
    trials: new Map(), curves: new Map(), running: [], rows: [], scored: [],
    best: null, lit: null, metric: "", maximize: true,
    isRunning: (n) => model.trials.get(n)?.s === "running",
  };
  const dirty = new Set();
  let due = 0, offset = 0, version = 0, boardDue = 0;
  const charts = {};
  const steer = steering(name, model);

  function point(n) {
    if (n === model.lit) return;
    model.lit = n;
    for (const chart of [charts.curves, charts.scores, charts.parallel]) chart.over();
    charts.table.fill();
    readout();
  }

  function readout() {
    const row = model.trials.get(model.lit);
    if (!row) return say(byId("readout"), "Point at a curve, a dot or a row to see its trial.");
    const values = model.space.map((one, k) => [one.short, row.v[k]]).filter(([, value]) => value !== null && value !== undefined);
    const status = row.s === "running" ? unended(model.head.phase) : row.s;
    say(byId("readout"), [`Trial ${row.n}`, status, row.score === null ? "" : `${model.metric} ${figure(row.score)}`, listed(values), row.reason || ""].filter(Boolean).join(" · "));
  }

  charts.curves = curvesChart(byId("curves"), model, point);
  charts.scores = scoresChart(byId("scores"), model, point);
  charts.parallel = parallelChart(byId("parallel"), model, point, filtered);
  charts.table = leaderboardTable(byId("board"), model, point);

  let filterKey = "", tableDue = 0;
  function filtered(count, filters) {
    const every = counted(model.rows.length, "trial");
    say(document.querySelector("#parallel-part .count"), count === model.rows.length ? every : `${count.toLocaleString("en")} of ${every}`);
    const key = filters.map((one) => one.text).join("\n");
    if (key !== filterKey) {
      filterKey = key;
      byId("brushes").replaceChildren(...filters.map((one) => {
        const button = make("button", { type: "button", textContent: `${one.text} ×`, ariaLabel: `Remove the filter ${one.text}` });
        button.addEventListener("click", one.clear);
        return make("li", {}, button);
      }));
    }
    // In a frame of its own.
    tableDue ||= requestAnimationFrame(() => { tableDue = 0; charts.table.draw(); });
  }

  // ---- what comes

  function take(message) {
    if (message.all) {
      model.trials.clear();
      model.curves.clear();
      model.story = [];
    }
    version++;
    for (const part of ["head", "space", "slots", "order", "why"]) {
      if (message[part] === undefined) continue;
      model[part] = message[part];
      dirty.add(part);
    }
    if (message.head) {
      offset = message.head.now - Date.now() / 1000;
      model.metric = message.head.objective || "";
      model.maximize = message.head.maximize !== false;
      model.best = message.head.best ? message.head.best.trial : null;
    }
    for (const row of message.trials || []) model.trials.set(row.n, row);
    for (const [n, first, kept, values] of message.curves || []) grow(n, first, kept, values);
    if (message.trials) dirty.add("trials");
    if (message.story) {
      model.story.push(...message.story);
      model.story.splice(0, Math.max(0, model.story.length - KEPT_LINES));
      dirty.add("story");
    }
    if (message.trials || message.order) arrange(Boolean(message.order));
    due ||= requestAnimationFrame(draw);
  }

  function grow(n, first, kept, values) {
    let curve = model.curves.get(n);
    if (!curve || !kept) {
      curve = { first, values: [], low: Infinity, high: -Infinity, of: 1, version };
      model.curves.set(n, curve);
    }
    curve.values.length = Math.min(curve.values.length, kept);
    for (const value of values) {
      curve.values.push(value);
      if (value === null) continue;
      curve.low = Math.min(curve.low, value);
      curve.high = Math.max(curve.high, value);
    }
    curve.of = model.trials.get(n)?.of || curve.first + curve.values.length - 1;
    curve.version = version;
  }

  function arrange(ended) {
    model.running = [];
    for (const row of model.trials.values()) if (row.s === "running") model.running.push(row.n);
    if (!ended) return;
    model.rows = [];
    model.order.trials.forEach((n, i) => {
      const row = model.trials.get(n);
      if (!row) return;
      row.rank = i < model.order.ranks ? i + 1 : null;
      model.rows.push(row);
    });
    model.scored = model.rows.filter((row) => row.score !== null && row.s !== "running").map((row) => [row.n, row.score]).sort(([a], [b]) => a - b);
  }

  // ---- drawing, once per frame at most

  function draw() {
    due = 0;
    const has = (...parts) => parts.some((one) => dirty.has(one));
    hide(byId("waiting"), true);
    hide(byId("sweep"), false);
    if (has("head")) top();
    if (has("head", "why", "space")) steer.draw();
    if (has("trials", "head", "why")) running();
    if (has("trials")) readout();
    if (has("slots")) slots();
    if (has("trials", "head")) charts.curves.draw();
    if (has("order", "space", "head") && !boardDue) boardDue = setTimeout(boards, model.rows.length > 200 ? 1000 : 100);
    if (has("story")) story();
    dirty.clear();
  }

  /** What changes only when a trial ends, at most once a second. */
  function boards() {
    boardDue = 0;
    requestAnimationFrame(() => {
      charts.scores.draw();
      requestAnimationFrame(() => {
        hide(byId("parallel-part"), model.rows.length < 2 || !model.space.length);
        hide(byId("board-part"), !model.rows.length);
        say(byId("board-count"), model.rows.length ? counted(model.rows.length, "trial") : "");
        // It draws the table, whose rows it filters.
        if (model.rows.length > 1 && model.space.length) charts.parallel.draw();
        else charts.table.draw();
      });
    });
  }

  function top() {
    const { head } = model;
    document.title = `${head.best && head.best.score ? `${head.best.score} · ` : ""}${name}`;
    say(byId("name"), name);
    badge(byId("phase"), head.phase, head.paused);
    if (head.trouble) trouble(head.trouble);
    if (head.ended === undefined) return;
    say(byId("reason"), head.phase === "running" ? "" : head.reason || "");
    say(byId("resume"), head.phase === "running" ? "" : head.resume || "");
    hide(byId("to-resume"), head.phase === "running" || !head.resume);
    say(byId("best-of"), `Best ${head.objective}`);
    say(byId("best"), head.best ? head.best.score || "–" : "–");
    const about = head.best ? [`trial ${head.best.trial}`, listed(head.best.values), head.best.verdict, head.tested] : ["no trial has ended yet"];
    say(byId("best-about"), about.filter(Boolean).join(" · "));
    say(byId("curves-title"), `${head.objective} by epoch`);
    say(byId("scores-title"), `${head.objective} by trial`);
    byId("curves").setAttribute("aria-label", `${head.objective} of each epoch, a curve for each trial`);
    byId("scores").setAttribute("aria-label", `Best ${head.objective} of each trial`);
    tick();
    const failed = [head.failed ? `${head.failed} failed` : "", head.refused ? `${head.refused} refused` : "", head.retraining ? `${head.retrained} retrained to compare the best` : ""];
    say(byId("done-about"), [head.running ? `${head.running} ${unended(head.phase)}` : "", ...failed].filter(Boolean).join(" · "));
    byId("done-about").classList.toggle("bad", head.failed > 0);
    say(byId("busy"), head.phase === "running" ? `${head.running} of ${head.slots} busy` : "–");
    say(byId("busy-about"), head.limit === null || head.limit === undefined ? "" : `limited to ${head.limit}`);
  }

  function tick() {
    const { head } = model;
    if (head.ended === undefined) return;
    const now = Date.now() / 1000 + offset;
    const { done, part: share, elapsed } = progressOf(head, now);
    say(byId("done"), done);
    byId("done-bar").style.transform = `scaleX(${share.toFixed(4)})`;
    const ended = head.phase !== "running";
    const left = head.left === null || head.left === undefined ? null : Math.max(0, head.left - (now - head.now));
    say(byId("left-of"), ended ? "Took" : "Time left");
    say(byId("left"), ended ? duration(elapsed) : head.paused ? "paused" : left === null ? "not known yet" : `about ${about(left)}`);
    say(byId("left-about"), ended ? `ended ${clockTime(head.until ?? now)}` : `${duration(elapsed)} so far`);
  }
  setInterval(() => { if (!document.hidden && model.head.phase === "running") tick(); }, 1000);

  // ---- trials that run

  const cards = new Map();
  function running() {
    hide(byId("running-part"), !model.running.length && !(model.head.queued || []).length);
    say(byId("running-title"), unended(model.head.phase) === "running" ? "Running" : "Interrupted");
    say(byId("running-count"), String(model.running.length));
    const shownOnes = model.running.slice(0, MOST_RUNNING);
    for (const [n, card] of cards) {
      if (shownOnes.includes(n)) continue;
      card.item.remove();
      cards.delete(n);
    }
    for (const n of shownOnes) card(n);
    const hidden = model.running.length - shownOnes.length;
    hide(byId("running-more"), hidden === 0);
    if (hidden) say(byId("running-more"), `And ${counted(hidden, "more trial")}.`);
    const queued = (model.head.queued || []).map((one) => `Next: trial ${one.trial}, added by ${one.by}: ${listed(one.values)}`);
    if (byId("queued").textContent !== queued.join("")) byId("queued").replaceChildren(...queued.map((text) => make("li", { textContent: text })));
  }

  function card(n) {
    const row = model.trials.get(n);
    let found = cards.get(n);
    if (!found) {
      const parts = {
        title: make("strong"), where: make("small"), score: make("b"), values: make("p"), bar: make("i"), place: make("span"),
        curve: make("canvas"), answer: make("span", { className: "answer" }),
      };
      parts.answer.setAttribute("role", "status");
      const stop = steer.stopper(n, parts.answer);
      const item = make("li", { className: "card" },
        make("div", { className: "who" }, parts.title, parts.where), parts.score, parts.curve, parts.values,
        make("div", { className: "far" }, make("div", { className: "track" }, parts.bar), parts.place, stop), parts.answer);
      item.dataset.trial = n;
      item.addEventListener("pointerenter", () => point(n));
      item.addEventListener("pointerleave", () => point(null));
      found = { item, stop, ...parts };
      cards.set(n, found);
      byId("running").append(item);
    }
    say(found.title, `Trial ${n}`);
    say(found.where, [row.confirms === undefined ? "" : `retrains ${row.confirms}`, row.by ? `added by ${row.by}` : "", row.slot].filter(Boolean).join(" · "));
    say(found.score, row.score === null ? "–" : figure(row.score));
    const values = model.space.map((one, k) => [one.short, row.v[k]]).filter(([, value]) => value !== null && value !== undefined);
    say(found.values, listed(values));
    found.bar.style.transform = `scaleX(${Math.min(1, row.e / Math.max(row.of, 1)).toFixed(4)})`;
    say(found.place, row.stopping ? "stops after this epoch" : `epoch ${row.place}`);
    hide(found.stop, Boolean(model.why) || Boolean(row.stopping) || row.confirms !== undefined);
    const curve = model.curves.get(n);
    if (curve && found.drawn !== curve.version) {
      found.drawn = curve.version;
      spark(found.curve, curve.values, colours.blue);
    }
  }

  // ---- slots

  const slotItems = [];
  const FIGURES = [
    ["CPU", (one) => one.cpu_percent, (one) => `${Math.round(one.cpu_percent)} %`, (one) => one.cpu_percent / 100],
    ["Memory", (one) => one.memory_bytes, (one) => bytes(one.memory_bytes), (one) => (one.memory_total_bytes ? one.memory_bytes / one.memory_total_bytes : 0)],
    ["GPU", (one) => one.gpu_percent, (one) => `${Math.round(one.gpu_percent)} %`, (one) => one.gpu_percent / 100],
    ["GPU memory", (one) => one.gpu_memory_bytes, (one) => bytes(one.gpu_memory_bytes), (one) => (one.gpu_memory_total_bytes ? one.gpu_memory_bytes / one.gpu_memory_total_bytes : 0)],
    ["Power", (one) => one.watts, (one) => `${Math.round(one.watts)} W`, () => null],
  ];
  function slots() {
    hide(byId("slots-part"), !model.slots.length);
    const some = model.slots.slice(0, MOST_SLOTS);
    while (slotItems.length > some.length) slotItems.pop().item.remove();
    some.forEach((one, i) => {
      if (!slotItems[i]) {
        const parts = { title: make("strong"), device: make("small"), does: make("span"), rows: FIGURES.map(([label]) => {
          const [bar, text] = [make("i"), make("span")];
          const line = make("div", { className: "use", hidden: true }, make("span", { textContent: label }), make("div", { className: "track" }, bar), text);
          return { line, bar, text };
        }) };
        slotItems[i] = { ...parts, item: make("li", { className: "slot" }, make("div", { className: "who" }, parts.title, parts.device, parts.does), ...parts.rows.map((row) => row.line)) };
        byId("slots").append(slotItems[i].item);
      }
      const found = slotItems[i];
      say(found.title, one.name);
      // `gpu0` needs no `GPU 0`.
      say(found.device, one.device.replace(" ", "").toLowerCase() === one.name ? "" : one.device);
      const busy = one.trial !== undefined;
      say(found.does, busy ? `trial ${one.trial}, epoch ${one.epoch}/${one.epochs}` : "idle");
      found.item.classList.toggle("idle", !busy);
      FIGURES.forEach(([, has, text, share], k) => {
        const row = found.rows[k];
        hide(row.line, has(one) === undefined);
        if (has(one) === undefined) return;
        say(row.text, text(one));
        const part = share(one);
        hide(row.bar.parentNode, part === null);
        if (part !== null) row.bar.style.transform = `scaleX(${Math.max(0, Math.min(1, part)).toFixed(3)})`;
      });
    });
    const hidden = model.slots.length - some.length;
    hide(byId("slots-more"), hidden === 0);
    if (hidden) say(byId("slots-more"), `${counted(hidden, "more slot")}.`);
  }

  // ---- the story

  function story() {
    const only = byId("only").checked;
    const lines = model.story.filter(([, mark]) => !only || (mark !== "trial" && mark !== "slot")).slice(-MOST_LINES).reverse();
    const list = byId("story");
    while (list.children.length > lines.length) list.lastChild.remove();
    lines.forEach(([time, mark, text], i) => {
      const item = list.children[i] || list.appendChild(make("li", {}, make("time"), make("span")));
      if (item.className !== mark) item.className = mark;
      say(item.firstChild, clockTime(time));
      say(item.lastChild, text);
    });
  }
  byId("only").addEventListener("change", story);

  dark.addEventListener("change", () => {
    readColours();
    charts.curves.draw(true);
    for (const found of cards.values()) found.drawn = -1;
    running();
    boards();
  });
  readout();
  byId("all").href = link("");
  follow(`/sweep?name=${encodeURIComponent(name)}`, take);
}

// ---- all sweeps

function overviewPage() {
  const items = new Map();
  let message = { sweeps: [] }, offset = 0;

  function item(one) {
    let found = items.get(one.name);
    if (!found) {
      const parts = { name: make("a", { href: link(one.name) }), phase: make("span"), best: make("strong"), of: make("small"), bar: make("i"), done: make("span"), left: make("span"), curve: make("canvas") };
      found = { ...parts, item: make("li", {}, make("h2", {}, parts.name, " ", parts.phase), make("div", { className: "score" }, parts.best, parts.of), parts.curve,
        make("div", { className: "far" }, make("div", { className: "track" }, parts.bar), parts.done), make("p", {}, parts.left)) };
      items.set(one.name, found);
    }
    const now = Date.now() / 1000 + offset;
    const { done, part: share, elapsed } = progressOf(one, now);
    say(found.name, one.name);
    badge(found.phase, one.phase, one.paused);
    found.item.classList.toggle("runs", one.phase === "running");
    say(found.best, one.best && one.best.score ? one.best.score : "–");
    say(found.of, one.best ? `${one.objective}, trial ${one.best.trial}` : one.objective);
    found.bar.style.transform = `scaleX(${share})`;
    hide(found.bar.parentNode, one.phase !== "running" || !one.most);
    say(found.done, `${done} ${one.most === null && one.ended === 1 ? "trial" : "trials"}${one.running ? `, ${one.running} ${unended(one.phase)}` : ""}${one.failed ? `, ${one.failed} failed` : ""}`);
    const left = one.left === null || one.left === undefined ? null : Math.max(0, one.left - (now - message.now));
    say(found.left, one.phase === "running"
      ? [one.paused ? "paused" : left === null ? "" : `about ${about(left)} left`, `${duration(elapsed)} so far`].filter(Boolean).join(" · ")
      : [`${clockTime(one.until ?? one.time)}, after ${duration(elapsed)}`, one.reason].filter(Boolean).join(" · "));
    hide(found.curve, !one.scores || one.scores.length < 2);
    const drawn = JSON.stringify(one.scores);
    if (one.scores && found.drawn !== drawn && found.curve.clientWidth) {
      found.drawn = drawn;
      spark(found.curve, one.scores, colours.winner);
    }
    return found.item;
  }

  function draw() {
    hide(byId("waiting"), true);
    hide(byId("overview"), false);
    const { sweeps, more } = message;
    hide(byId("none"), sweeps.length > 0);
    const running = sweeps.filter((one) => one.phase === "running").length;
    document.title = running ? `${counted(running, "sweep")} running` : "Sweeps";
    const names = new Set(sweeps.map((one) => one.name));
    for (const [name, found] of items) {
      if (names.has(name)) continue;
      found.item.remove();
      items.delete(name);
    }
    const list = byId("sweeps");
    sweeps.forEach((one, i) => {
      const found = item(one);
      if (list.children[i] !== found) list.insertBefore(found, list.children[i] || null);
      item(one);
    });
    say(byId("more"), more ? `${counted(more, "older sweep")} not shown; name one: watch NAME/TIME` : "");
  }

  setInterval(() => { if (!document.hidden && message.sweeps.some((one) => one.phase === "running")) draw(); }, 1000);
  follow("/sweeps", (found) => {
    message = found;
    offset = found.now - Date.now() / 1000;
    requestAnimationFrame(draw);
  });
}

const wanted = new URLSearchParams(location.search).get("sweep");
if (wanted) sweepPage(wanted);
else overviewPage();

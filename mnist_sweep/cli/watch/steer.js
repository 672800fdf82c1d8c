// The buttons and forms that change a running sweep. Each sends what `steer` would, and shows the sweep's answer.
"use strict";

const FORMS = { "open-add": "add", "open-budget": "budget", "open-narrow": "narrow", "open-slots": "use" };
const BUDGET = {
  "search.max_trials": ["Trials", "such as 80", "no limit"],
  "search.time_budget": ["Time", "such as 2h or 30m", "no limit"],
  "search.target": ["Target", "the score at which the sweep ends", "none"],
  "search.max_failures": ["Failures in a row", "after which the sweep ends", "no limit"],
};

function steering(name, model) {
  const top = byId("answer");
  const answerOf = (form) => form.querySelector(".answer");
  const known = {};

  byId("pause").addEventListener("click", () => ask(name, { do: model.head.paused ? "continue" : "pause" }, top));
  for (const [opener, id] of Object.entries(FORMS)) {
    byId(opener).addEventListener("click", () => toggle(byId(id).hidden ? id : null));
  }

  function toggle(open) {
    for (const [opener, id] of Object.entries(FORMS)) {
      hide(byId(id), id !== open);
      byId(opener).setAttribute("aria-expanded", String(id === open));
      if (id !== open) continue;
      say(answerOf(byId(id)), "");
      fillForm(id, true);
      const first = byId(id).querySelector("input, select");
      if (first) first.focus({ preventScroll: true });
    }
  }

  function field(label, control, hint) {
    return make("label", {}, make("span", { textContent: label }), control, make("small", { textContent: hint || "" }));
  }

  function input(key, value, more = {}) {
    const made = make("input", { name: key, value, autocomplete: "off", spellcheck: false, autocapitalize: "off", ...more });
    made.dataset.was = value;
    return made;
  }

  const MAKERS = {
    add: () => model.space.map((one) => {
      const hint = [one.options ? "" : one.domain, one.when ? `only if ${one.when}` : ""].filter(Boolean).join("; ");
      if (!one.options) return field(one.short, input(one.name, "", { placeholder: "chosen for you", inputMode: one.low !== undefined ? "decimal" : "text" }), hint);
      const select = make("select", { name: one.name }, make("option", { value: "", textContent: "chosen for you" }),
        ...one.options.map((text, i) => make("option", { value: one.written[i], textContent: text })));
      return field(one.short, select, hint);
    }),
    budget: () => Object.entries(model.head.budget || {}).map(([key, value]) => field(BUDGET[key][0], input(key, value === "null" ? "" : value, { placeholder: BUDGET[key][2] }), BUDGET[key][1])),
    narrow: () => model.space.filter((one) => one.low !== undefined || one.options).map((one) => {
      const group = make("fieldset", {}, make("legend", { textContent: one.short }));
      group.dataset.name = one.name;
      if (one.low !== undefined) {
        const now = one.narrowed && one.narrowed.low !== undefined ? one.narrowed : one;
        group.append(input("low", String(now.low), { inputMode: "decimal", ariaLabel: `${one.short} from` }), " to ", input("high", String(now.high), { inputMode: "decimal", ariaLabel: `${one.short} to` }));
      } else {
        const kept = one.narrowed && one.narrowed.written;
        one.written.forEach((text, i) => {
          const box = make("input", { type: "checkbox", value: text, checked: !kept || kept.includes(text) });
          box.dataset.was = String(box.checked);
          group.append(make("label", { className: "option" }, box, ` ${one.options[i]}`));
        });
      }
      group.append(make("small", { textContent: one.domain }));
      return group;
    }),
    use: () => [field("Slots to use", input("slots", String(model.head.limit ?? model.head.slots), { type: "number", min: 0, inputMode: "numeric" }), "0 gives all of them back for a while")],
  };

  /** Makes a form's fields, unless it is open: what was typed stays. */
  function fillForm(id, anyway = false) {
    const key = JSON.stringify(id === "budget" ? model.head.budget : id === "use" ? [model.head.limit, model.head.slots] : model.space);
    if (!anyway && (!byId(id).hidden || known[id] === key)) return;
    known[id] = key;
    byId(id).querySelector(".fields").replaceChildren(...MAKERS[id]());
  }

  const given = (form) => [...form.querySelectorAll("input[name], select[name]")];

  const WISHES = {
    add: (form) => {
      const values = given(form).filter((one) => one.value.trim()).map((one) => `${one.name}=${one.value.trim()}`);
      return values.length ? { do: "add", values } : "Give at least one value";
    },
    budget: (form) => {
      const settings = given(form).filter((one) => one.value.trim() !== one.dataset.was).map((one) => `${one.name}=${one.value.trim() || "null"}`);
      return settings.length ? { do: "set", settings } : "Nothing has changed";
    },
    narrow: (form) => {
      const settings = [];
      for (const group of form.querySelectorAll("fieldset")) {
        const ends = [...group.querySelectorAll("input[name]")], boxes = [...group.querySelectorAll("input[type=checkbox]")];
        if (ends.some((one) => one.value.trim() !== one.dataset.was)) {
          const [low, high] = ends.map((one) => one.value.trim());
          settings.push(`${group.dataset.name}=${low === high ? low : `interval(${low}, ${high})`}`);
        } else if (boxes.some((one) => String(one.checked) !== one.dataset.was)) {
          const kept = boxes.filter((one) => one.checked).map((one) => one.value);
          if (!kept.length) return `${group.firstChild.textContent}: keep at least one value`;
          settings.push(`${group.dataset.name}=choice(${kept.join(", ")})`);
        }
      }
      return settings.length ? { do: "set", settings } : "Nothing has changed";
    },
    use: (form) => ({ do: "slots", slots: Number(given(form)[0].value) }),
  };

  for (const id of Object.values(FORMS)) {
    byId(id).addEventListener("submit", async (event) => {
      event.preventDefault();
      const form = byId(id), wish = WISHES[id](form);
      if (typeof wish === "string") {
        answerOf(form).className = "answer refused";
        say(answerOf(form), wish);
        return;
      }
      const button = form.querySelector("button[type=submit]");
      button.disabled = true;
      await ask(name, wish, answerOf(form));
      button.disabled = false;
    });
  }

  /** A button that stops a trial when it is pressed twice: on a phone, one press is easily made by mistake. */
  function stopper(n, answer) {
    const button = make("button", { type: "button", className: "stop", textContent: "Stop", ariaLabel: `Stop trial ${n}` });
    let timer = 0;
    button.addEventListener("click", async () => {
      clearTimeout(timer);
      if (!button.classList.contains("sure")) {
        button.classList.add("sure");
        button.textContent = "Really stop?";
        timer = setTimeout(calm, 4000);
        return;
      }
      calm();
      button.disabled = true;
      if (!(await ask(name, { do: "stop", trial: n }, answer))) button.disabled = false;
    });
    function calm() {
      button.classList.remove("sure");
      button.textContent = "Stop";
    }
    return button;
  }

  function draw() {
    const open = model.head.phase === "running" && !model.why;
    hide(byId("steer"), !open);
    const readOnly = model.head.phase === "running" && model.why;
    hide(byId("read-only"), !readOnly);
    if (readOnly) say(byId("read-only"), `Read-only: ${model.why}.`);
    if (!open) return;
    say(byId("pause"), model.head.paused ? "Continue" : "Pause");
    for (const id of ["open-add", "open-narrow"]) hide(byId(id), !model.space.length);
    for (const id of Object.values(FORMS)) fillForm(id);
  }

  return { draw, stopper };
}

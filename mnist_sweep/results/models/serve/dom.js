// What the modules of the page share.

export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export const percent = (p) => {
  // Not rounded to 100 % unless it is certain.
  return `${p >= 0.9995 && p < 1 ? "> 99.9" : (100 * p).toFixed(1)} %`;
};

// A number in four digits, as the command line prints it.
export const rounded = (value) => {
  if (Math.abs(value) >= 1e4 && Math.abs(value) < 1e15) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
};

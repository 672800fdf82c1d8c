// The axes of the parallel coordinates: the height of each value, ticks and colours.

const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
];

function viridis(t) {
  const x = Math.max(0, Math.min(1, t)) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(x), VIRIDIS.length - 2);
  return `rgb(${VIRIDIS[i].map((c, k) => Math.round(c + (VIRIDIS[i + 1][k] - c) * (x - i))).join()})`;
}

function number(value) {
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e7 && Number.isInteger(value)) return value.toLocaleString("en");
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return String(Number(value.toPrecision(3)).toExponential()).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

/** For each kind of axis, its scale and the inverse. With `error`, 0.99 is as far from 0.9 as 0.9 is from 0. */
const SCALES = {
  linear: [(v) => v, (x) => x],
  log: [Math.log10, (x) => 10 ** x],
  error: [(v) => -Math.log10(Math.max(1 - v, 1e-4)), (x) => 1 - 10 ** -x],
};

function ticks(kind, low, high) {
  if (low === high) return [low];
  const inside = (values) => values.filter((v) => v >= low - 1e-12 && v <= high + 1e-12);
  if (kind === "linear") {
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((m) => power * m >= rough);
    const first = Math.ceil(low / step);
    return inside([...Array(8).keys()].map((k) => Number(((first + k) * step).toPrecision(12))));
  }
  const spread = (most, list) => {
    for (const digits of list) {
      const found = inside(digits);
      if (found.length >= 3 && found.length <= most) return found;
    }
    return ticks("linear", low, high);
  };
  if (kind === "error") {
    const fine = [0, 0.2, 0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999];
    return spread(9, [fine, fine.filter((v, i) => i % 2 === 0)]);
  }
  const decades = [...Array(40).keys()].map((k) => k - 20);
  const make = (digits) => decades.flatMap((k) => digits.map((d) => Number(`${d}e${k}`)));
  return spread(8, [make([1, 2, 5]), make([1, 3]), make([1])]);
}

/** An axis of numbers: the height of a value, the value at a height, and its ticks. */
function scaleOf(kind, low, high) {
  const [there, back] = SCALES[kind];
  const [bottom, top] = [there(low), there(high)];
  const height = (v) => (bottom === top ? 0.5 : (there(v) - bottom) / (top - bottom));
  const at = (h) => back(bottom + h * (top - bottom));
  return { height, at, ticks: ticks(kind, at(0), at(1)).map((v) => [height(v), number(v)]) };
}

function axisOf(column) {
  const { values, heading, axis: kind, options, turned } = column;
  const axis = { heading, values, flip: turned, range: null, none: false, hasNone: values.includes(null) };
  if (kind === "choice") {
    axis.choice = true;
    axis.step = 1 / options.length;
    axis.heights = values.map((v) => (v === null ? null : (v + 0.5) / options.length));
    axis.ticks = options.map((text, i) => [(i + 0.5) / options.length, text]);
    axis.about = (low, high) => {
      const inside = axis.ticks.filter(([height]) => height >= low && height <= high).map(([, text]) => text);
      return inside.length ? inside.join(", ") : "none";
    };
    return axis;
  }
  const present = values.filter((v) => v !== null);
  const low = present.reduce((a, b) => Math.min(a, b), Infinity);
  const high = present.reduce((a, b) => Math.max(a, b), -Infinity);
  const scale = scaleOf(kind, low, high);
  axis.step = 0.05;
  axis.heights = values.map((v) => (v === null ? null : scale.height(v)));
  axis.ticks = scale.ticks;
  axis.about = (from, to) => `${number(scale.at(Math.max(0, from)))} to ${number(scale.at(Math.min(1, to)))}`;
  return axis;
}

function passes(axis, i) {
  if (!axis.range) return true;
  const height = axis.heights[i];
  return height === null ? axis.none : height >= axis.range[0] && height <= axis.range[1];
}

// Small charts, drawn as SVG: they take the colours of where they stand.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const figure = (width, height, label, ...children) =>
  svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label, preserveAspectRatio: "none" }, ...children);

/** The runs of numbers in `values`, as lists of [index, value]: a line has gaps where nothing was measured. */
function runs(values) {
  const found = [[]];
  values.forEach((value, index) => {
    if (value === null || value === undefined) found.push([]);
    else found.at(-1).push([index, value]);
  });
  return found.filter((run) => run.length);
}

/** A line through `values`, from 0 to their greatest; null is a gap, a lone value a dot, and zeros the ground line. */
export function sparkline(values, label, { width = 120, height = 24 } = {}) {
  const top = Math.max(...values.filter((value) => value !== null), 1e-9);
  const x = (index) => 1 + (index / Math.max(1, values.length - 1)) * (width - 2);
  const y = (value) => height - 2 - (value / top) * (height - 4);
  const lines = (values.some(Boolean) ? runs(values) : []).map((run) => {
    const points = run.length > 1 ? run : [run[0], run[0]];
    return svg("path", { class: "line", d: `M${points.map(([index, value]) => `${x(index).toFixed(1)} ${y(value).toFixed(1)}`).join("L")}` });
  });
  const base = svg("path", { class: "base", d: `M0 ${height - 1}H${width}` });
  return figure(width, height, label, base, ...lines);
}

/** A bar for each of `values` over the whole width; `marked` is the one that is looked at. */
export function bars(values, label, { width = 600, height = 40 } = {}) {
  const top = Math.max(...values, 1e-9);
  const slot = width / values.length;
  const all = values.map((value, index) => {
    const tall = Math.max(1, (value / top) * (height - 2));
    return svg("rect", { x: (index * slot + 1).toFixed(2), y: (height - tall).toFixed(2), width: Math.max(1, slot - 2).toFixed(2), height: tall.toFixed(2) });
  });
  const element = figure(width, height, label, ...all);
  element.mark = (marked) => all.forEach((bar, index) => bar.classList.toggle("marked", index === marked));
  return element;
}

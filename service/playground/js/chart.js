// Small SVG charts; CSS sets their colours.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const figure = (width, height, label, ...children) =>
  svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      class: "chart",
      role: "img",
      "aria-label": label,
      preserveAspectRatio: "none",
    },
    ...children,
  );

/** A bar for each of `values` (from 0; none for null). `mark(index)` highlights one. */
export function bars(values, label, { width = 600, height = 40 } = {}) {
  const top = Math.max(...values, 1e-9);
  const slot = width / values.length;
  const all = values.map((value, index) => {
    const tall = (value / top) * (height - 2);
    return svg("rect", {
      x: (index * slot + 1).toFixed(2),
      y: (height - tall).toFixed(2),
      width: Math.max(1, slot - 2).toFixed(2),
      height: tall.toFixed(2),
    });
  });
  const ground = svg("path", { class: "ground", d: `M0 ${height - 0.5}H${width}` });
  const element = figure(width, height, label, ground, ...all);
  element.mark = (marked) => all.forEach((bar, index) => bar.classList.toggle("marked", index === marked));
  return element;
}

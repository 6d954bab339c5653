// Draws the timeline of one load.

import { milliseconds } from "./dom.js";

export const WHAT = { validation: "check the token", token: "wait for the token", call: "call" };

/** What a span is, in words. */
export const describe = ({ kind, failed }) => WHAT[kind] + (failed ? ", failed" : "");

function draw(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Return the distance of the ticks on an axis: 1, 2 or 5 times a power of ten. */
function tickDistance(scale, most) {
  const power = 10 ** Math.floor(Math.log10(scale / most));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => scale / step <= most);
}

/** Draw one row for each lane; the lane's name stands left of its bars, or above if it is narrow. */
export function picture(spans, { width, scale, title }) {
  const isNarrow = width < 560;
  const left = isNarrow ? 0 : 180;
  const [rowHeight, barTop, barHeight] = isNarrow ? [48, 20, 20] : [30, 5, 20];
  const x = (time) => left + (time / scale) * (width - left - 1);
  const lanes = [...new Set(spans.map((span) => span.lane))];
  const bottom = lanes.length * rowHeight;
  const height = bottom + 20;
  const svg = draw("svg", { role: "img", viewBox: `0 0 ${width} ${height}`, height });
  const spoken = spans.map((span) =>
    `${span.lane}, ${describe(span)}: ${span.start} to ${span.end} ms`);
  svg.append(draw("title", {}, title), draw("desc", {}, spoken.join("; ")));

  const step = tickDistance(scale, isNarrow ? 4 : 8);
  for (let time = 0; time <= scale; time += step) {
    const anchor = time === 0 ? "start" : x(time) > width - 24 ? "end" : "middle";
    svg.append(
      draw("line", { class: "grid", x1: x(time), x2: x(time), y1: 0, y2: bottom + 4 }),
      draw("text", { class: "tick", x: x(time), y: height - 3, "text-anchor": anchor }, `${time}`));
  }
  lanes.forEach((lane, row) => {
    const y = row * rowHeight;
    svg.append(draw("text", { x: 0, y: y + (isNarrow ? 15 : 20) }, lane));
    for (const span of spans.filter((candidate) => candidate.lane === lane)) {
      const barWidth = Math.max(x(span.end) - x(span.start), 1.5);
      const took = milliseconds(span.end - span.start);
      const bar = draw("rect", { class: `bar ${span.failed ? "failed" : span.kind}`,
        x: x(span.start), y: y + barTop, width: barWidth, height: barHeight,
        rx: Math.min(3, barWidth / 3) });
      bar.append(draw("title", {}, `${describe(span)}: ${took}`));
      svg.append(bar);
      if (barWidth > 46) {
        svg.append(draw("text", { class: "amount", x: x(span.start) + barWidth / 2,
          y: y + barTop + 14, "text-anchor": "middle" }, took));
      }
    }
  });
  return svg;
}

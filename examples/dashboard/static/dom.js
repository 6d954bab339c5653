// Finding and making elements.

export const find = (id) => document.getElementById(id);

/** Make an element; texts become text nodes, so nothing that an API says is read as HTML. */
export function make(name, className = "", ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

export const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;
export const milliseconds = (value) =>
  `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

// Making elements and telling numbers. Text goes in as text nodes only, never as markup: names,
// reasons and answers come from outside.

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

const digits = (value, most) => value.toLocaleString("en", { maximumFractionDigits: most });

export function tellNumber(value) {
  if (value >= 1e9) return `${digits(value / 1e9, 1)}G`;
  if (value >= 1e6) return `${digits(value / 1e6, 1)}M`;
  if (value >= 1e4) return `${digits(value / 1e3, 1)}k`;
  return digits(value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

export function tellSeconds(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 1e-3) return `${digits(seconds * 1e6, 0)} µs`;
  if (seconds < 1) return `${digits(seconds * 1e3, seconds < 0.01 ? 2 : seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 120) return `${digits(seconds, seconds < 10 ? 2 : 1)} s`;
  if (seconds < 7200) return `${digits(seconds / 60, 1)} min`;
  if (seconds < 172800) return `${digits(seconds / 3600, 1)} h`;
  return `${digits(seconds / 86400, 1)} d`;
}

export function tellBytes(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit + 1 < units.length) {
    bytes /= 1024;
    unit += 1;
  }
  return `${digits(bytes, bytes < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

export function tellShare(share) {
  return `${digits(share * 100, share < 0.1 ? 1 : 0)} %`;
}

// Three significant digits, for amounts of cents and of millions alike.
export function tellMoney(amount, currency) {
  if (amount > 0 && amount < 1e-5) return `< ${currency} 0.00001`;
  const text = amount.toLocaleString(
    "en", amount >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 });
  return `${currency} ${text}`;
}

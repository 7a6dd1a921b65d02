"""The script of a dashboard's page: search, sort, and one latent's details, from the data in the page alone."""

# Data lie in the page as base64 of gzip of JSON: "index" has columns of all latents, "part-N" the records of PART
# latents, which are unpacked when one of them is shown.
SCRIPT = """
const $ = (id) => document.getElementById(id);
const make = (tag, text, kind) => {
  const each = document.createElement(tag);
  if (text !== undefined) each.textContent = text;
  if (kind) each.className = kind;
  return each;
};
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob($(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
};
const parts = new Map();
const record = async (latent) => {
  const part = Math.floor(latent / PART);
  if (!parts.has(part)) parts.set(part, unpack("part-" + part));
  return (await parts.get(part))[latent % PART];
};
const show = (value) => value === 0 ? "0" : Math.abs(value) < 0.001 || Math.abs(value) >= 1e5
  ? value.toExponential(1) : String(+value.toPrecision(3));
let index, order = [], shown = 0, sorted = {column: 1, down: true};

const search = () => {
  const words = $("search").value.toLowerCase().split(/\\s+/).filter(Boolean);
  const fits = (latent) => words.every((word) => /^#?\\d+$/.test(word)
    ? String(latent) === word.replace("#", "") : index.text[latent].toLowerCase().includes(word));
  const values = index.columns[sorted.column].values, sign = sorted.down ? -1 : 1;
  const compare = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  order = values.map((_, latent) => latent).filter(fits).sort((a, b) =>
    (values[a] === "") - (values[b] === "") || sign * compare(values[a], values[b]) || a - b);
  shown = 0;
  $("rows").replaceChildren();
  $("count").textContent = order.length.toLocaleString("en") + " of " + values.length.toLocaleString("en") + " latents";
  more();
};
const more = () => {
  for (const latent of order.slice(shown, shown + 50)) {
    const row = $("rows").insertRow();
    index.columns.forEach((column, place) => {
      const cell = row.insertCell();
      if (place) cell.textContent = typeof column.values[latent] === "number"
        ? show(column.values[latent]) : column.values[latent];
      else cell.append(link(latent));
    });
  }
  shown += 50;
  $("more").hidden = shown >= order.length;
};
const link = (latent) => {
  const each = make("a", latent);
  each.href = "#" + latent;
  return each;
};
const head = () => {
  $("head").replaceChildren(...index.columns.map((column, place) => {
    const cell = make("th"), button = make("button", column.name + (place === sorted.column
      ? sorted.down ? " ▼" : " ▲" : ""));
    cell.setAttribute("aria-sort", place === sorted.column ? sorted.down ? "descending" : "ascending" : "none");
    button.title = column.title;
    button.onclick = () => {
      sorted = {column: place, down: place === sorted.column ? !sorted.down : place > 0};
      head();
      search();
    };
    cell.append(button);
    return cell;
  }));
};
const table = (title, names, rows) => {
  if (!rows || !rows.length) return [];
  const box = make("div", undefined, "scroll"), body = make("table"), row = body.createTHead().insertRow();
  box.tabIndex = 0;
  names.forEach((name) => row.append(make("th", name)));
  const inner = body.createTBody();
  for (const cells of rows) {
    const line = inner.insertRow();
    for (const cell of cells) line.insertCell().append(cell instanceof Node ? cell
      : typeof cell === "number" ? show(cell) : cell);
  }
  box.append(body);
  return [make("h3", title), box];
};
const context = (each, most) => {
  const line = make("p", undefined, "letters");
  line.append(make("small", each.sequence + " " + (each.start + 1) + "  "));
  each.letters.forEach((letters, place) => {
    const value = each.values[place], item = make(value ? "i" : "span", letters);
    if (value) {
      item.style.background = "rgba(0,114,178," + (0.1 + 0.6 * value / most).toFixed(2) + ")";
      item.title = "token " + (each.start + place + 1) + ": " + show(value);
    }
    line.append(item);
  });
  return line;
};
const bars = (histogram) => {
  const draw = (tag, values) => {
    const each = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(values).forEach(([name, value]) => each.setAttribute(name, value));
    return each;
  };
  const most = Math.max(...histogram.counts), count = histogram.counts.length;
  const svg = draw("svg", {viewBox: "0 0 400 90", role: "img", "aria-label": "histogram of activations"});
  histogram.counts.forEach((number, place) => {
    const height = number && 3 + 82 * number / most, width = 400 / count;
    const bar = draw("rect", {x: place * width + 1, y: 90 - height, width: width - 2, height, fill: "#0072B2"});
    const text = draw("title", {});
    text.textContent = show(histogram.width * place) + " to " + show(histogram.width * (place + 1)) + ": " + number;
    bar.append(text);
    svg.append(bar);
  });
  return svg;
};
const names = (rows, what) => (rows || []).map((each) => [each.name, each.both + " of " + each.active,
  100 * each.both / each.active, 100 * each.having / each.total, each.p, each.p_holm]);
const detail = async (latent) => {
  const each = await record(latent), out = $("detail"), figure = make("figure");
  out.replaceChildren(make("h2", "Latent " + latent));
  if (!each.tokens) {
    out.append(make("p", "Not active on any of the tokens."));
  } else {
    out.append(make("p", "Active on " + each.tokens.toLocaleString("en") + " tokens (" + show(100 * each.density) +
      " %) in " + each.sequences.toLocaleString("en") + " sequences; mean " + show(each.mean) + ", largest " +
      show(each.max) + "." + Object.entries(each.stability || {}).map(([name, cosine]) =>
        " Cosine in " + name + ": " + show(cosine) + ".").join("")));
    figure.append(bars(each.histogram), make("figcaption", "Tokens by activation, 0 to " + show(each.max)));
    out.append(figure, make("h3", "Highest activations"), ...each.top.map((one) => context(one, each.max)));
    out.append(make("h3", "Random activations"));
    each.quarters.slice().reverse().forEach((band, place) => {
      if (band.contexts.length) out.append(make("p", ["top", "third", "second", "lowest"][place] + " quarter, " +
        show(band.low) + " to " + show(band.high), "note"), ...band.contexts.map((one) => context(one, each.max)));
    });
  }
  out.append(
    ...table("Labels of its sequences", ["label", "sequences", "% of its", "% of all", "p", "p (Holm)"],
      names(each.labels)),
    ...table("Annotations of its tokens", ["annotation", "tokens", "% of its", "% of all", "p", "p (Holm)"],
      names(each.annotations)),
    ...table("Active on the same tokens", ["latent", "tokens", "lift", "PMI", "phi"],
      each.together.map((one) => [link(one.latent), one.tokens, one.lift, one.pmi, one.phi])),
    ...table("Similar decoder rows", ["latent", "cosine"],
      each.neighbours.map((one) => [link(one.latent), one.cosine])),
    ...table("Logits raised", ["class", "change"], each.logits && each.logits.raised.map((one) =>
      [one.class, one.effect])),
    ...table("Logits lowered", ["class", "change"], each.logits && each.logits.lowered.map((one) =>
      [one.class, one.effect])));
};
const choose = async (scroll) => {
  const latent = Number(location.hash.slice(1) || order[0] || 0);
  if (!(latent >= 0 && latent < index.text.length)) return;
  await detail(latent);
  if (scroll) $("detail").scrollIntoView();
};
(async () => {
  if (!window.DecompressionStream) {
    $("count").textContent = "This browser cannot unpack the page's data: use one of 2023 or later.";
    return;
  }
  index = await unpack("index");
  head();
  search();
  $("search").oninput = search;
  $("more").onclick = more;
  window.onhashchange = () => choose(true);
  await choose(Boolean(location.hash));
  document.body.dataset.ready = "yes";
})();
"""

// The page: tabs, forms, pictures, and the socket on which work is asked for and reported. Nothing is loaded from elsewhere.
import { Board } from "./board.js";

const $ = (selector, inside = document) => inside.querySelector(selector);
const $$ = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const KINDS = ["walk", "reconstruct", "edit", "drag"];
const panels = Object.fromEntries(KINDS.map(kind => [kind, $(`#${kind}`)]));
const pictures = Object.fromEntries(KINDS.map(kind => [kind, {}])); // tab -> name of a field -> id of the picture
let hello = null, running = null, board = null, socket = null;

function make(tag, properties = {}, ...inside) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
}
const address = name => `result/${hello.session}/${name}`;
const send = message => socket.send(JSON.stringify(message));

// Tabs ------------------------------------------------------------------------------------------------------------------------------

function show(kind, focus = false) {
  for (const one of KINDS) {
    const tab = $(`#tab-${one}`), chosen = one === kind;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    panels[one].hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  if (kind === "drag") board?.draw();
}
$("[role=tablist]").addEventListener("click", event => event.target.role === "tab" && show(event.target.getAttribute("aria-controls")));
$("[role=tablist]").addEventListener("keydown", event => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const now = KINDS.findIndex(kind => $(`#tab-${kind}`).getAttribute("aria-selected") === "true");
  show(KINDS[(now + step + KINDS.length) % KINDS.length], true);
  event.preventDefault();
});

// Pictures --------------------------------------------------------------------------------------------------------------------------

function refuse(kind, sentence) {
  $(".refused", panels[kind]).textContent = sentence;
}

async function upload(kind, name, file) {
  refuse(kind, "");
  if (file.size > hello.max_bytes) {
    return refuse(kind, `${file.name} has ${(file.size / 1e6).toFixed(1)} MB, but must have at most ${hello.max_bytes / 1e6} MB.`);
  }
  try {
    const answer = await fetch(`upload/${hello.session}`, { method: "POST", body: file, headers: { "X-Name": encodeURIComponent(file.name) } });
    const found = await answer.json();
    if (found.sentence) refuse(kind, found.sentence);
    else setPicture(kind, name, found.picture, file.name);
  } catch {
    refuse(kind, `${file.name} could not be sent: is the app still running?`);
  }
}

function setPicture(kind, name, id, title) {
  pictures[kind][name] = id;
  const place = $(`.picture[data-name="${name}"]`, panels[kind]), holder = $(".board, .plain", place);
  $("img", holder)?.remove();
  holder.prepend(make("img", { src: address(id), alt: `${place.dataset.title}: ${title}` }));
  holder.hidden = false;
  $(".name", place).textContent = title;
  if (place.dataset.board) board.reset();
}

function fitPictures() {
  for (const place of $$(".picture")) {
    const kind = place.closest("section").id, name = place.dataset.name;
    const input = make("input", { type: "file", accept: "image/png,image/jpeg,image/webp,image/gif,image/bmp" });
    input.addEventListener("change", () => { if (input.files[0]) upload(kind, name, input.files[0]); input.value = ""; });
    const holder = make("div", { className: place.dataset.board ? "board" : "plain", hidden: true });
    place.append(make("label", { className: "file" }, `${place.dataset.title}: choose a file`, input), make("p", { className: "note name" }), holder);
    if (place.dataset.board) {
      board = new Board(holder, hello.size, { tool: () => $("[name=tool]:checked").value, brush: $("#brush"), list: $("#points") });
      $("#clear-points").addEventListener("click", () => board.clearPoints());
      $("#clear-mask").addEventListener("click", () => board.clearMask());
    }
  }
}

// Forms -----------------------------------------------------------------------------------------------------------------------------

function fields(kind) {
  const found = {};
  for (const input of $("form", panels[kind]).elements) {
    if (!input.name || input.name === "tool" || (input.type === "radio" && !input.checked)) continue;
    found[input.name] = input.type === "number" ? (input.value === "" ? null : Number(input.value)) : input.value;
  }
  for (const place of $$(".picture", panels[kind])) found[place.dataset.name] = pictures[kind][place.dataset.name] ?? null;
  if (kind === "drag") Object.assign(found, board.request());
  return found;
}

function fill(kind, values) {
  for (const [name, value] of Object.entries(values)) {
    const inputs = $$(`[name="${name}"]`, panels[kind]);
    for (const input of inputs) input.type === "radio" ? (input.checked = input.value === value) : (input.value = value);
  }
  if (kind === "drag") board.fill(values);
  adapt();
}

function adapt() { // what the other choices make useless is not shown
  const between = $("[name=between]:checked").value;
  for (const element of $$("[data-only]")) element.hidden = element.dataset.only !== between;
  const panel = panels.edit, method = hello.methods.find(one => one.name === $("[name=method]", panel).value);
  $("[name=inversion]", panel).closest("label").hidden = method.own;
  $("[name=strength]", panel).closest("label").hidden = method.fixed;
  $("#strength-note").textContent = method.fixed ? "" : `Published strength of ${method.title}: ${method.strength}. ${method.rises ? "Larger" : "Smaller"} values change the picture more.`;
}

function fitForms() {
  $("#models").textContent = `Model ${hello.model}, adapter ${hello.adapter}, ${hello.size} × ${hello.size} pixels. Nothing leaves this machine.`;
  for (const input of $$(".guidance")) input.value = hello.guidance_scale;
  const methods = $("#edit [name=method]"), inversions = $("#edit [name=inversion]");
  methods.append(...hello.methods.map(one => make("option", { value: one.name, textContent: one.title })));
  const shared = ["ddim", "null_text", "direct", "fixed_point"];
  inversions.append(...shared.map(name => make("option", { value: name, textContent: hello.inversions[name] })));
  const byMethod = () => { $("#edit [name=strength]").value = hello.methods.find(one => one.name === methods.value).strength; adapt(); };
  methods.addEventListener("change", byMethod);
  for (const input of $$("[name=between]")) input.addEventListener("change", adapt);
  for (const kind of KINDS) {
    const panel = panels[kind], form = $("form", panel);
    const controls = $("#controls").content.cloneNode(true);
    form.append(controls.children[0]);
    panel.append(controls.children[0]);
    form.noValidate = true; // the app's own sentences say more
    form.addEventListener("submit", event => { event.preventDefault(); ask(kind); });
    $(".stop", form).addEventListener("click", () => send({ action: "cancel" }));
    $(".frame input", panel).addEventListener("input", event => frame(kind, Number(event.target.value)));
    $(".examples", panel).append(...(hello.examples[kind] ?? []).map((title, number) => {
      const button = make("button", { type: "button", textContent: title });
      button.addEventListener("click", () => send({ action: "example", tab: kind, number }));
      return button;
    }));
  }
  byMethod();
}

// Work ------------------------------------------------------------------------------------------------------------------------------

function ask(kind) {
  refuse(kind, "");
  if (running) return refuse(kind, `The tab ${running} is at work: wait for it or cancel it.`);
  begin(kind);
  send({ action: "ask", kind, ...fields(kind) });
}

function begin(kind) {
  running = kind;
  const panel = panels[kind];
  for (const button of $$(".go")) button.disabled = true;
  $(".stop", panel).disabled = false;
  $(".download", panel).hidden = true;
  Object.assign($("progress", panel), { hidden: false, value: 0 });
  $(".state", panel).textContent = "Asked.";
}

function end(text) {
  if (!running) return;
  const panel = panels[running];
  for (const button of $$(".go")) button.disabled = false;
  $(".stop", panel).disabled = true;
  $("progress", panel).hidden = true;
  $(".state", panel).textContent = text;
  running = null;
}

function frame(kind, number) {
  const panel = panels[kind], slider = $(".frame input", panel);
  for (const figure of $$(".sides figure", panel)) $$("img", figure).forEach((image, i) => { image.hidden = i !== number; });
  slider.setAttribute("aria-valuetext", `Frame ${number + 1} of ${Number(slider.max) + 1}`);
  const cursor = $(".smooth-cursor", panel);
  cursor?.setAttribute("transform", `translate(${cursor.dataset.step * number} 0)`);
}

function result(message) {
  const { kind, sides, curve } = message, panel = panels[kind], shown = Date.now();
  const count = sides[hello.sides[0].key].files.length;
  $(".sides", panel).replaceChildren(...hello.sides.map(side => make("figure", { className: side.key },
    make("h2", { textContent: side.title }),
    ...sides[side.key].files.map((name, i) =>
      make("img", { src: `${address(name)}?${shown}`, alt: count > 1 ? `${side.title}, frame ${i + 1}` : `${side.title}, ${kind}` })),
    make("figcaption", { textContent: sides[side.key].facts.join("; ") }))));
  $(".curve", panel).innerHTML = curve.drawing + hello.sides.map((side, i) => curve.lines[i] ?? "").join(""); // drawn by the app itself
  $$(".smooth-sample", panel).forEach((line, i) => line.replaceWith(make("p", { className: "legend" }, line.cloneNode(true), ` ${hello.sides[i].title}`)));
  const slider = $(".frame", panel);
  slider.hidden = count < 2;
  Object.assign($("input", slider), { max: count - 1, value: 0 });
  frame(kind, 0);
  $(".result", panel).hidden = false;
  Object.assign($(".download", panel), { hidden: false, href: address("result.zip") });
  end("Done.");
}

const ON = {
  hello(message) {
    hello = message;
    fitPictures();
    fitForms();
    document.body.dataset.ready = "yes";
  },
  example({ tab, fields: values, pictures: brought }) {
    refuse(tab, "");
    for (const [name, id] of Object.entries(brought)) setPicture(tab, name, id, values.prompt ?? values.source_prompt ?? values[`${name}_prompt`]);
    fill(tab, values);
  },
  waiting: ({ ahead }) => { if (running && ahead) $(".state", panels[running]).textContent = `Waiting: ${ahead} ahead.`; },
  started: () => { if (running) $(".state", panels[running]).textContent = "At work."; },
  progress({ share, text }) {
    if (!running) return;
    $("progress", panels[running]).value = share;
    $(".state", panels[running]).textContent = `${Math.round(100 * share)} %. ${text}`;
  },
  cancelled: () => end("Cancelled."),
  refused({ sentence }) {
    const kind = running ?? KINDS.find(one => !panels[one].hidden);
    end("");
    refuse(kind, sentence);
  },
  done: result,
};

socket = new WebSocket(`ws://${location.host}/work`);
socket.addEventListener("message", event => { const message = JSON.parse(event.data); ON[message.type](message); });
socket.addEventListener("close", () => {
  end("");
  $("#models").textContent = "The app has ended, or the connection to it was lost: reload this page.";
  for (const button of $$(".go")) button.disabled = true;
});

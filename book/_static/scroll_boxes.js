/* Boxes of a page that scroll sideways (code, wide tables) take the keyboard's focus, have a name, and say so to screen readers. */
(() => {
  const BOXES = "main pre, main div.comparison, main .pst-scrollable-table-container, main .cell_output, main .output, main .text_html, main .math";
  const NAMES = [["pre", "Code or text"], [".math", "Formula"], ["div.comparison, .pst-scrollable-table-container, :has(table)", "Table"]];
  const scrolls = e => e.scrollWidth > e.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  function mark() {
    for (const e of document.querySelectorAll(BOXES)) {
      if (scrolls(e)) {
        if ("scrolls" in e.dataset) continue;
        e.dataset.scrolls = "";
        if (!e.hasAttribute("tabindex")) e.tabIndex = 0;
        if (!e.hasAttribute("role")) e.setAttribute("role", "group");
        if (!e.hasAttribute("aria-label")) {
          const name = (NAMES.find(([kind]) => e.matches(kind)) || [0, "Box"])[1];
          e.setAttribute("aria-label", `${name}, scrolls sideways`);
        }
      } else if ("scrolls" in e.dataset) {
        delete e.dataset.scrolls;
        if (e.matches("pre, .math")) e.removeAttribute("tabindex");
      }
    }
  }
  // The theme's buttons have names that differ from the text that they show: voice control could not find them.
  function name() {
    for (const e of document.querySelectorAll(".search-button-field"))
      if (e.textContent.trim()) e.setAttribute("aria-label", e.textContent.replace(/\s+/g, " ").trim());
    for (const e of document.querySelectorAll(".theme-switch-button")) {
      const texts = [...e.querySelectorAll("title, [title]")].map(icon => icon.getAttribute("title") || icon.textContent);
      if (texts.length) e.setAttribute("aria-label", `Color mode: ${texts.join(" ")}`);
    }
  }
  let waiting;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(mark, 100); };
  addEventListener("load", () => { mark(); name(); });
  addEventListener("resize", soon);
  addEventListener("toggle", soon, true); // a folded part opens
  addEventListener("click", soon);
})();

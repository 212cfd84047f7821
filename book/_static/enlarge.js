// A click on a picture shows it in a dialog, at the size at which it was drawn or larger. Keyboard: Enter opens, + and - change the size,
// arrows scroll, Escape closes and leads back to the picture. Loads nothing.
(function () {
  "use strict";
  var dialog, image, said, view, zoom, opener;

  function element(name, className, parent) {
    var made = document.createElement(name);
    if (className) made.className = className;
    parent.appendChild(made);
    return made;
  }

  function button(text, parent, action) {
    var made = element("button", "", parent);
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", action);
  }

  function build() {
    dialog = element("dialog", "enlarged dark-light", document.body);
    dialog.setAttribute("aria-label", "Enlarged picture");
    var bar = element("div", "bar", dialog);
    button("Close", bar, function () { dialog.close(); });
    button("Smaller", bar, function () { show(zoom - 1); });
    button("Larger", bar, function () { show(zoom + 1); });
    said = element("span", "said", bar);
    said.setAttribute("role", "status");
    view = element("div", "view", dialog);
    view.tabIndex = 0;
    view.setAttribute("role", "region");
    view.setAttribute("aria-label", "Picture, scrolls");
    image = element("img", "dark-light", view);
    dialog.addEventListener("keydown", function (event) {
      if (event.key === "+" || event.key === "=") show(zoom + 1);
      if (event.key === "-") show(zoom - 1);
      if (event.key === "Escape") dialog.close();  // whatever has the focus
    });
    dialog.addEventListener("click", function (event) { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", function () { if (opener) opener.focus(); });
  }

  // Whole factors alone: each pixel of the file becomes a square of equal pixels.
  function show(factor) {
    zoom = Math.min(Math.max(factor, 1), 8);
    image.style.width = zoom * image.naturalWidth + "px";
    image.style.imageRendering = zoom > 1 ? "pixelated" : "auto";
    said.textContent = "The picture as stored, " + image.naturalWidth + " × " + image.naturalHeight + " pixels, " +
      (zoom > 1 ? "each shown as " + zoom + " × " + zoom + " (nearest, nothing smoothed)." : "not scaled.");
  }

  function open(source, from) {
    if (!dialog) build();
    opener = from;
    image.alt = source.alt;
    image.className = source.classList.contains("plot") ? "dark-light plot" : "dark-light";
    image.src = source.currentSrc || source.src;
    image.decode().then(function () {
      dialog.showModal();
      show(Math.floor(view.clientWidth / image.naturalWidth));
      view.scrollTo(0, 0);
      view.focus();
    }, function () { /* a picture that cannot be read is not enlarged */ });
  }

  document.addEventListener("DOMContentLoaded", function () {
    document.querySelectorAll(".bd-article .cell_output img, .bd-article figure img, .bd-article img.enlarge").forEach(function (picture) {
      if (picture.closest(".smooth-widget, a, button, .no-enlarge")) return;
      var around = document.createElement("button");
      around.type = "button";
      around.className = "enlarge";
      around.setAttribute("aria-label", "Enlarge: " + picture.alt);
      around.title = "Enlarge";
      picture.parentNode.insertBefore(around, picture);
      around.appendChild(picture);
      around.addEventListener("click", function () { open(picture, around); });
    });
    // Folds open for print and close again after it, but for those with code: `@media print` leaves these out.
    var opened = [];
    window.addEventListener("beforeprint", function () {
      opened = Array.from(document.querySelectorAll(".bd-article details:not([open]):not(.hide)"));
      opened.forEach(function (fold) { fold.open = true; });
    });
    window.addEventListener("afterprint", function () { opened.forEach(function (fold) { fold.open = false; }); });
  });
})();

// Equations that are wider than the screen scroll in their box; let the keyboard reach those boxes, and only those.
function reachWideEquations() {
  for (const box of document.querySelectorAll('mjx-container[display="true"], div.math')) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
window.addEventListener("load", () => window.MathJax?.startup?.promise.then(reachWideEquations));
window.addEventListener("resize", reachWideEquations);

// Columns of prose keep a width that can be read; on a phone the table then scrolls in its box.
window.addEventListener("DOMContentLoaded", () => {
  for (const cell of document.querySelectorAll(".bd-content td")) cell.classList.toggle("prose", cell.textContent.trim().length > 40);
});

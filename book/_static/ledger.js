// The ledger: show the rows of one verdict, of firm or of shaky ones, or with words in them; order a table by a column.
window.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("ledger-filter");
  const rows = [...document.querySelectorAll(".ledger tbody tr")];
  const verdict = (row) => row.querySelector(".verdict").textContent;
  const firm = (row) => row.querySelector(".seeds")?.dataset.firm;

  for (const name of new Set(rows.map(verdict))) form.elements.verdict.add(new Option(name));
  form.hidden = false;

  function filter() {
    const [wanted, seeds, words] = ["verdict", "seeds", "words"].map((name) => form.elements[name].value);
    for (const row of rows) {
      row.hidden = !(!wanted || verdict(row) === wanted) || !(!seeds || firm(row) === seeds)
        || !row.textContent.toLowerCase().includes(words.trim().toLowerCase());
    }
    form.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} numbers`;
  }
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();

  for (const table of document.querySelectorAll(".ledger table")) {
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.ariaSort !== "ascending";
        for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
        head.ariaSort = up ? "ascending" : "descending";
        const plain = (power) => `e${[...power].map((sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(sign)).join("").replace("-1", "-")}`;
        const key = (row) => row.cells[column].textContent.trim().replaceAll("−", "-").replaceAll(",", "").replace(/ × 10([⁻⁰¹²³⁴-⁹]+)/, (_, power) => plain(power));
        const number = (row) => Number.parseFloat(key(row).replace(/^[^\d-]*= /, ""));
        const compare = (a, b) => (number(a) - number(b)) || key(a).localeCompare(key(b));
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => (up ? 1 : -1) * compare(a, b)));
      });
    }
  }
});

// Boxes that ask for a number before they show one, exercises that check one, and the page that lists them all. What a reader answers
// stays in this browser; where it may keep nothing, an answer lasts as long as the page.
window.addEventListener("DOMContentLoaded", () => {
  const name = (key) => `featint-answer-${key}`;
  const lost = new Map();
  const kept = {
    get: (key) => { try { return localStorage.getItem(name(key)); } catch { return lost.get(key) ?? null; } },
    set: (key, text) => { try { localStorage.setItem(name(key), text); } catch { lost.set(key, text); } },
    drop: (key) => { try { localStorage.removeItem(name(key)); } catch { lost.delete(key); } },
  };

  function number(text) { // "1,500", "0,5", "−3 %"; NaN if it is none
    const plain = text.trim().replace("−", "-").replace(/\s*%$/, "");
    const thousands = /^[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$/.test(plain);
    return plain ? Number(thousands ? plain.replaceAll(",", "") : plain.replace(",", ".")) : NaN;
  }
  const written = (x) => x.toLocaleString("en", { maximumSignificantDigits: 3 }).replace("-", "−");

  function said(text, { value }) { // of a prediction, in words
    if (value === "") return `You said ${text}. Compare it with what you measure.`;
    const off = number(text) - Number(value);
    const how = Math.abs(off) <= Math.abs(value) / 200 ? "as measured" : `${written(Math.abs(off))} too ${off < 0 ? "low" : "high"}`;
    return `You said ${text}: ${how}.`;
  }

  function judged(text, { value, tolerance, wrong }) { // of an exercise: as `companion.exercises.check` does
    const near = (x) => Math.abs(number(text) - x) <= Number(tolerance) * Math.abs(x);
    if (near(Number(value))) return "Right.";
    const known = JSON.parse(wrong).find(([x]) => near(x));
    return known ? known[1] : `Not yet: ${text} is too ${number(text) < Number(value) ? "small" : "large"}.`;
  }
  const reply = (text, data) => (data.tolerance ? judged(text, data) : said(text, data));

  for (const form of document.querySelectorAll("form.answer")) {
    const [input, output] = [form.elements.answer, form.querySelector("output")];
    const hints = form.dataset.hints ? JSON.parse(form.dataset.hints) : [];
    const more = form.elements.hint;
    more.hidden = !hints.length;
    more.addEventListener("click", () => {
      output.textContent = `Hint: ${hints.shift()}`;
      more.disabled = !hints.length;
    });
    const measured = form.parentElement.querySelector(".measured");
    function show(text) {
      output.textContent = text === null ? "" : reply(text, form.dataset);
      if (measured) measured.classList.toggle("shown", text !== null);
    }
    form.hidden = false;
    input.value = kept.get(form.dataset.key) ?? "";
    show(kept.get(form.dataset.key));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = input.value.trim();
      input.ariaInvalid = Number.isNaN(number(text));
      if (Number.isNaN(number(text))) {
        output.textContent = "A number, please, such as 12 or 0.5.";
        return;
      }
      kept.set(form.dataset.key, text);
      show(text);
    });
    form.addEventListener("reset", () => {
      kept.drop(form.dataset.key);
      show(null);
    });
  }

  const list = document.getElementById("answers");
  if (!list) return;
  const rows = [...list.querySelectorAll("li")];
  const form = list.querySelector("form");
  function fill() {
    for (const row of rows) {
      const text = kept.get(row.dataset.key);
      const measured = row.dataset.shown ? ` Measured: ${row.dataset.shown}.` : "";
      row.querySelector("span").textContent = text === null ? "not answered yet" : reply(text, row.dataset) + measured;
    }
    const n = rows.filter((row) => kept.get(row.dataset.key) !== null).length;
    form.querySelector("output").textContent = `${n} of ${rows.length} answered`;
  }
  form.hidden = false;
  form.elements.print.addEventListener("click", () => window.print());
  form.elements.save.addEventListener("click", () => {
    const lines = rows.map((row) => [...row.children].map((part) => part.textContent).join("\n  "));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${document.title}\n\n${lines.join("\n\n")}\n`], { type: "text/plain" }));
    link.download = "my-answers.txt";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  });
  form.addEventListener("reset", () => {
    for (const row of rows) kept.drop(row.dataset.key);
    fill();
  });
  fill();
});

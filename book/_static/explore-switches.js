// Turn the switches yourself: the joint model's gain under any combination of the protocol's switches, its interval and what each seed gives.
{
  const REFERENCES = [
    ["own path", "its own SAE path", "what is left of itself when the rest is switched off"],
    ["sae", "an SAE trained alone", "an SAE trained alone at the same learning rate"],
    ["sae_tuned", "an SAE at its own best learning rate", "an SAE trained alone at its own best learning rate"],
    ["joint_no_interaction", "itself without interactions", "itself trained without the interaction path"],
  ];
  const TEXTS = [
    ["first training windows", "the first training windows"], ["training split", "the whole training split"], ["test articles", "held-out articles"],
  ];
  const FIRST = [["keep", "kept"], ["drop", "left out"]];
  const PUBLISHED = "own path/first training windows keep";

  const number = (x) => x.toFixed(Math.abs(x) < 1 ? 2 : 1).replace("-", "−");
  const interval = ([value, lo, hi]) => `${number(value)} %${lo === null ? "" : ` [${number(lo)}, ${number(hi)}]`}`;

  function bars(rows) { // a bar with its interval, and a dot per seed
    const ends = rows.flatMap(([, { gain, seeds }]) => [...gain, ...seeds]).map(Number);
    const low = Math.min(0, ...ends), x = (gain) => 12 + (270 * (gain - low)) / (Math.max(0, ...ends) - low);
    const row = ([label, { gain: [value, lo, hi], seeds }], i) => {
      const y = 34 + 56 * i, arm = lo === null ? "" : `<path d="M${x(lo)} ${y}H${x(hi)}"/>`;
      const dots = seeds.map((gain) => `<circle cx="${x(gain)}" cy="${y + 15}" r="2.5"/>`).join("");
      return `<text x="16" y="${y - 14}">${label}: ${number(value)} %</text>
        <rect class="bar" x="${Math.min(x(0), x(value))}" y="${y - 9}" width="${Math.max(1, Math.abs(x(value) - x(0)))}" height="18"/>${arm}${dots}`;
    };
    return `<svg viewBox="0 0 300 120" aria-hidden="true">${rows.map(row).join("")}<path class="faint" d="M${x(0)} 4V116"/></svg>`;
  }

  explore("switches", [
    { name: "reference", label: "Compared with", options: REFERENCES },
    { name: "text", label: "Measured on", options: TEXTS },
    { name: "first", label: "First positions", options: FIRST },
  ], ({ reference, text, first }, data) => {
    const key = `${reference}/${text} ${first}`, found = data[key];
    if (!found) return { html: "", said: "This combination was not measured." };
    const against = REFERENCES.find(([name]) => name === reference)[2];
    const on = TEXTS.find(([name]) => name === text)[1], kept = FIRST.find(([name]) => name === first)[1];
    const fewer = data[PUBLISHED].gain[0] - found.gain[0];
    const change = key === PUBLISHED ? "This is the published protocol."
      : `That is ${number(Math.abs(fewer))} points ${fewer < 0 ? "more" : "less"} than as published.`;
    const alone = found.seeds.length ? ` Each seed alone: from ${number(Math.min(...found.seeds))} to ${number(Math.max(...found.seeds))} %.` : "";
    return {
      html: bars([["as published", data[PUBLISHED]], ["with these switches", found]]),
      said: `The joint model removes ${interval(found.gain)} of the error of ${against}, measured on ${on}, first positions ${kept} (${found.of}). ${change}${alone}`,
    };
  });
}

// Split it yourself: any share of the summed decoder in the linear path, the gain that is then published, and the error, which does not move.
{
  const number = (x, digits) => x.toFixed(digits).replace("-", "−");
  const interval = ([value, lo, hi], digits) => number(value, digits) + (lo === null ? "" : ` [${number(lo, digits)}, ${number(hi, digits)}]`);
  const x = (share) => 40 + 130 * share, y = (gain) => 160 - 1.4 * gain;

  function curve(shares, gains, at, paper) {
    const points = shares.map((share, i) => `${x(share)} ${y(gains[i][0])}`);
    const ticks = [0, 50, 100].map((gain) => `<text x="32" y="${y(gain) + 4}" text-anchor="end">${gain}</text>`).join("")
      + [0, 0.5, 1, 1.5, 2].map((share) => `<text x="${x(share)}" y="178" text-anchor="middle">${100 * share}</text>`).join("");
    return `<svg viewBox="0 0 320 200" aria-hidden="true"><path class="faint" d="M40 ${y(100)}V160H300M40 ${y(paper)}H300"/><path d="M${points.join("L")}"/>
      <circle cx="${x(shares[at])}" cy="${y(gains[at][0])}" r="5"/>${ticks}<text x="300" y="${y(paper) - 4}" text-anchor="end">the paper's ${paper} %</text>
      <text x="170" y="196" text-anchor="middle">% of the decoder in the linear path</text></svg>`;
  }

  explore("split", [
    { name: "model", label: "Whose decoder is cut in two", options: [["sae", "an SAE, trained alone"], ["joint", "the joint model"]] },
    { name: "share", label: "Put into the linear path", min: 0, max: 2, step: 0.1, value: 0.5, text: (s) => `${(100 * s).toFixed(0)} %` },
  ], ({ model, share }, { shares, paper, models }) => {
    const at = shares.findIndex((s) => Math.abs(s - share) < 1e-9), { gains, fvu } = models[model];
    const own = fvu[0] / (1 - gains[at][0] / 100), bar = (error) => `<td class="share" style="--share: ${Math.min(100, 100 * error)}%">${number(error, 3)}</td>`;
    const rows = [["whole model", bar(fvu[0])], ["own path", bar(own)], ["gain as published", `<td class="share">${number(gains[at][0], 1)} %</td>`]];
    const told = `Gain as published: ${interval(gains[at], 1)} %. Error of the whole model: ${interval(fvu, 4)} of the variance, whatever the split.`;
    return { html: curve(shares, gains, at, paper) + explore.table(["", "error, share of the variance"], rows), said: told };
  });
}

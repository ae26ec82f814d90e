// Design an experiment: how often a right and a pseudo-replicated test find an interaction, exactly, by adding up over what their errors can be.
{
  const ALPHA = 0.05;

  function normal(x) { // P(Z < x): Numerical Recipes' erfc, relative error below 1.2e-7
    const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + z / 2);
    const terms = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223];
    const tail = (t * Math.exp(-z * z + terms.reduce((sum, term) => sum * t + term, 0))) / 2;
    return x < 0 ? tail : 1 - tail;
  }

  function chi2(df, n) { // its values and their probabilities, on an even grid of square roots
    const middle = Math.sqrt(df), low = Math.max(0, middle - 6), step = (middle + 6 - low) / n;
    const roots = Array.from({ length: n }, (_, i) => low + (i + 0.5) * step);
    const mode = Math.sqrt(Math.max(df - 1, 1e-9));
    const density = roots.map((u) => Math.exp((df - 1) * Math.log(u / mode) - (u * u - mode * mode) / 2));
    const total = density.reduce((a, b) => a + b);
    return roots.map((u, i) => [u * u, density[i] / total]);
  }

  // How often |t| > c, where the estimate has standard deviation 1 about `shift` and its error² is estimated by a sum of chi², each [weight, df].
  function rejected(c, shift, parts) {
    let errors = [[0, 1]];
    for (const [weight, df] of parts.filter((part) => part[1] > 0)) {
      const values = chi2(df, parts.length > 1 ? 100 : 300);
      errors = errors.flatMap(([sum, p]) => values.map(([x, q]) => [sum + weight * x, p * q]).filter((e) => e[1] > 1e-12));
    }
    return errors.reduce((sum, [x, p]) => sum + p * (normal(shift - c * Math.sqrt(x)) + normal(-shift - c * Math.sqrt(x))), 0);
  }

  function critical(df) { // of Student's t, two-sided
    let [low, high] = [1, 15];
    while (high - low > 1e-6) {
      const c = (low + high) / 2;
      if (rejected(c, 0, [[1 / df, df]]) > ALPHA) low = c; else high = c;
    }
    return low;
  }

  function rates({ cells, topics: n, sentences: r, noise, clustering }) {
    const effect = cells[0] - cells[1] - cells[2] + cells[3];
    const shift = effect / Math.sqrt((4 * (clustering ** 2 + noise ** 2 / r)) / n);
    const tests = { // its degrees of freedom; the chi² that its error² is made of
      topics: [n - 1, [[1 / (n - 1), n - 1]]],
      sentences: [4 * (n * r - 1), [
        [1 / (4 * (n * r - 1)), 4 * (n - 1)],
        [noise ** 2 / (r * clustering ** 2 + noise ** 2) / (4 * (n * r - 1)), 4 * n * (r - 1)]]],
    };
    const found = { effect };
    for (const [name, [df, parts]] of Object.entries(tests)) {
      const c = critical(df);
      found[name] = { nothing: rejected(c, 0, parts), effect: rejected(c, shift, parts) };
    }
    return found;
  }

  function lines(cells) { // the four means, drawn as two lines
    const [x, y] = [[70, 190], (value) => 125 - 22 * value];
    const line = ([a, b], name, dash, dy) => `<path d="M${x[0]} ${y(a)}L${x[1]} ${y(b)}" stroke-dasharray="${dash}"/><text x="${x[1] + 8}" y="${y(b) + dy}">${name}</text>`;
    const [casual, formal] = [cells.slice(0, 2), cells.slice(2)];
    const apart = Math.abs(casual[1] - formal[1]) < 0.7 ? (casual[1] > formal[1] ? [-4, 12] : [12, -4]) : [4, 4];
    return `<svg viewBox="0 0 250 150" aria-hidden="true">${line(casual, "casual", "5 4", apart[0])}${line(formal, "formal", "none", apart[1])}
      <text x="45" y="146">neutral</text><text x="160" y="146">emotional</text></svg>`;
  }

  const mean = (name, label, value) => ({ name, label, min: 0, max: 5, step: 0.1, value, text: (x) => x.toFixed(1) });
  const controls = [
    mean("cn", "Casual, neutral", 1), mean("ce", "Casual, emotional", 2), mean("fn", "Formal, neutral", 3), mean("fe", "Formal, emotional", 4.8),
    { name: "topics", label: "Topics", min: 3, max: 64, step: 1, value: 12 },
    { name: "sentences", label: "Sentences per topic and cell", min: 1, max: 32, step: 1, value: 8 },
    { name: "noise", label: "Sentences differ by (sd)", min: 0.1, max: 2, step: 0.1, value: 1, text: (x) => x.toFixed(1) },
    { name: "clustering", label: "Topics differ by (sd)", min: 0, max: 2, step: 0.1, value: 0.6, text: (x) => x.toFixed(1) },
  ];

  explore("experiment", controls, ({ cn, ce, fn, fe, ...design }) => {
    design.cells = [cn, ce, fn, fe];
    const found = rates(design), { percent, share } = explore;
    const more = (what) => percent(rates({ ...design, [what]: 2 * design[what] }).topics.effect);
    const row = (label, { nothing, effect }) => [label, share(nothing), share(effect)];
    const html = lines(design.cells) + explore.table(["counted as observations", "finds one where there is none", "finds yours"], [
      row("topics (right)", found.topics), row("sentences (pseudo-replicated)", found.sentences)]);
    const size = found.effect.toFixed(1).replace("-", "−").replace("−0.0", "0.0");
    const none = Math.abs(found.effect) < 1e-9;
    return { html, said: none ? "The interaction is 0.0: there is nothing to find, and whatever is found is a false positive."
      : `The interaction is ${size}. The right test would find it in ${more("topics")} of experiments with twice the topics, in ${more("sentences")} with twice the sentences for the same topics.` };
  });
}

// Read any splice: a sentence, a model and a token; how far the splice moves the prediction after each token, and what is predicted there, before and after.
{
  const TOP = 3;
  const numbers = (text) => text.split(" ").map((digits) => parseInt(digits, 36)); // see book/_ext/featint_explore.py
  const nats = (kl) => kl.toFixed(2);
  const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  const quoted = (word) => `“${explore.text(word)}”`;

  let words; // all that occur; sentences refer to them
  function opened({ sentences, ...data }, { sentence }) {
    words ??= data.words.split("\n");
    const [title, tokens, kl, top] = sentences[sentence], n = Object.keys(data.models).length;
    const thousandths = numbers(kl);
    const predicted = numbers(top).map((both) => ({ word: words[Math.floor(both / 101)], share: (both % 101) / 100 }));
    return {
      title,
      tokens: numbers(tokens).map((word) => words[word]),
      kl: (place, model) => thousandths[place * n + model] / 1000,
      top: (place, condition) => predicted.slice(TOP * (place * (n + 1) + condition)).slice(0, TOP),
    };
  }

  const controls = (data) => [
    { name: "sentence", label: "Sentence", wide: true, options: data.sentences.map((_, i) => {
      const { title, tokens } = opened(data, { sentence: i });
      return [i, `${title}: ${tokens.join("")}`];
    }) },
    { name: "model", label: "Spliced in", options: Object.values(data.models).map((name, i) => [i, name]) },
    { name: "token", label: "Prediction after", min: 1, max: 99, step: 1, value: 4, last: (values) => opened(data, values).tokens.length,
      text: (token, values) => `${opened(data, values).tokens[token - 1].trim()} (${token})` },
  ];

  explore("splice", controls, (values, data) => {
    const { title, tokens, kl, top } = opened(data, values), model = Number(values.model), place = values.token - 1;
    const names = Object.values(data.models), all = names.map((_, m) => tokens.map((_, i) => kl(i, m)));
    const strip = tokens.map((token, i) => `<li class="${i === place ? "chosen" : ""}" data-token="${i + 1}" style="--share: ${
      Math.min(50, 30 * Math.sqrt(all[model][i])).toFixed(0)}%">${explore.text(token.trim())} <small>${nats(all[model][i])}</small></li>`);
    const cell = ({ word, share }) => explore.share(share, `${quoted(word)} ${share ? (100 * share).toFixed(0) : "<\u00a01"}\u00a0%`);
    const [before, after] = [top(place, 0), top(place, 1 + model)];
    const likeliest = before.map((guess, i) => [i + 1, cell(guess), cell(after[i])]);
    const most = Math.max(...all.map((row) => Math.max(row[place], mean(row))), 1);
    const bar = (value) => explore.share(value / most, nats(value));
    const compared = names.map((name, m) => [name, bar(all[m][place]), bar(mean(all[m]))]);
    return {
      html: `<ol class="strip">${strip.join("")}</ol>${explore.table(["likeliest", "as it was", "after the splice"], likeliest)}${
        explore.table(["KL, nats", "here", "mean of the sentence"], compared)}`,
      said: `After “${tokens[place].trim()}”, token ${place + 1} of ${tokens.length}, the prediction moves by ${nats(all[model][place])} nats; on average over the sentence (${
        title}) by ${nats(mean(all[model]))}.`,
    };
  });
}

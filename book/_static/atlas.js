// The interaction atlas: search, order and show the features of window.FEATINT_ATLAS. Text comes from data and is only ever set as text.
(() => {
  const { about, features } = window.FEATINT_ATLAS;
  const root = document.getElementById("atlas");
  const [query, topic, sort] = ["input", "select[name=topic]", "select[name=sort]"].map((s) => root.querySelector(s));
  const [count, list, more] = [".atlas-count", ".atlas-list", ".atlas-more"].map((s) => root.querySelector(s));
  const byId = new Map(features.map((f) => [f.id, f]));
  const typicalLength = Math.sqrt(about.d_in); // of x, whose numbers have variance 1
  const PAGE = 20;
  let index = null, found = [], shown = 0;

  const keys = {
    interaction: (f) => -(f.partners[0]?.[1] ?? 0), rate: (f) => -f.rate, norm: (f) => -f.norm, lift: (f) => -f.lift, id: (f) => f.id,
  };

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  function link(id) {
    const a = make("a", `feature ${id}`);
    a.href = `#f${id}`;
    return a;
  }

  function search(words) {
    index ??= (() => {
      const made = new MiniSearch({
        fields: ["text", "titles", "topic", "promoted"],
        searchOptions: { prefix: true, fuzzy: (t) => (t.length > 4 ? 0.2 : false), combineWith: "AND", boost: { promoted: 2, titles: 1.5 } },
      });
      made.addAll(features.map((f) => ({
        id: f.id, topic: about.topics[f.topic], promoted: f.promoted.join(" "),
        text: f.contexts.map(([before, token, after]) => before + token + after).join(" "), titles: f.contexts.map((c) => c[3]).join(" "),
      })));
      return made;
    })();
    return index.search(words).map((hit) => byId.get(hit.id));
  }

  function context([before, token, after, title]) {
    const item = make("li");
    const quote = make("q");
    quote.append("…", before, make("mark", token), after, "…");
    const source = make("a", title);
    source.href = `https://en.wikipedia.org/wiki/${encodeURIComponent(title.replaceAll(" ", "_"))}`;
    item.append(quote, " ", source);
    return item;
  }

  function card(f) {
    const item = make("li");
    item.id = `f${f.id}`;
    item.append(make("h3", `Feature ${f.id}`));
    const facts = make("dl");
    for (const [name, value] of [
      ["fires on", `${(100 * f.rate).toPrecision(3)} % of tokens`],
      ["decoder norm", f.norm.toPrecision(3)],
      ["main topic", `${about.topics[f.topic]}, ${f.lift.toFixed(1)} times its usual rate`],
      ["promotes", f.promoted.join(" · ") || "–"],
    ]) {
      const pair = make("div");
      pair.append(make("dt", name), make("dd", value));
      facts.append(pair);
    }
    item.append(facts, make("h4", "Fires most on"));
    const contexts = make("ul");
    contexts.append(...f.contexts.map(context));
    item.append(contexts, make("h4", "Interacts most with"));
    const partners = make("ul");
    for (const [id, effect, together] of f.partners) {
      const partner = make("li");
      const tokens = byId.get(id).contexts.map((c) => c[1].trim());
      partner.append(link(id), `: ${((100 * effect) / typicalLength).toPrecision(2)} % of x; both active on ${together.toLocaleString("en")} tokens; fires on `,
        make("em", [...new Set(tokens)].join(", ")));
      partners.append(partner);
    }
    item.append(f.partners.length ? partners : make("p", "None that could be measured."));
    return item;
  }

  function showMore() {
    list.append(...found.slice(shown, shown + PAGE).map(card));
    shown = Math.min(shown + PAGE, found.length);
    more.hidden = shown === found.length;
  }

  function update() {
    const words = query.value.trim();
    const one = /^\d+$/.test(words) ? byId.get(Number(words)) : undefined;
    found = one ? [one] : words ? search(words) : [...features];
    if (topic.value) found = found.filter((f) => f.topic === Number(topic.value));
    const key = keys[sort.value || (words ? "" : "interaction")];
    if (key) found.sort((a, b) => key(a) - key(b));
    count.textContent = `${found.length.toLocaleString("en")} ${found.length === 1 ? "feature" : "features"}`;
    list.replaceChildren();
    shown = 0;
    showMore();
  }

  function follow() {
    const id = /^#f(\d+)$/.exec(location.hash)?.[1];
    if (id === undefined || !byId.has(Number(id))) return;
    query.value = id;
    topic.value = "";
    update();
    root.scrollIntoView();
  }

  about.topics.forEach((name, i) => topic.append(new Option(name, i)));
  let waiting;
  query.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 150); });
  for (const select of [topic, sort]) select.addEventListener("change", update);
  more.addEventListener("click", showMore);
  root.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); update(); });
  window.addEventListener("hashchange", follow);
  update();
  follow();
})();

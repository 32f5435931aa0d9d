"use strict";
// One page, no framework. Stories become text nodes only: nothing a model wrote is ever parsed.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const page = JSON.parse($("#page").textContent);
  const control = $("#control"), filters = $("#filters"), tip = $("#tip");
  const BATCH = 8;                       // stories put on the page at a time
  const STEPS = [10, 50, 150, 400];      // tints begin at these differences, hundredths of a nat

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  async function inflate(id) {
    const text = atob($("#" + id).textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // ---- theme -------------------------------------------------------------------------------
  const theme = $("#theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = (value) => {            // storage may be denied to a file opened from disk
    try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; }
  };
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
  if (["light", "dark"].includes(stored())) document.documentElement.dataset.theme = stored();
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    stored(document.documentElement.dataset.theme);
    nameTheme();
  });
  dark.addEventListener("change", nameTheme);
  nameTheme();

  // ---- the control: figures, tables and stories follow it together --------------------------
  const chosen = () => ({
    factor: control.elements.factor.value,
    variant: control.elements.variant.value,
    seed: control.elements.seed.value,
    group: control.elements.group.value,
  });
  function showFactor({ factor, variant }) {
    for (const figure of $$("[data-factor], [data-variant]"))
      figure.classList.toggle("chosen",
        [factor, undefined].includes(figure.dataset.factor) && [variant, undefined].includes(figure.dataset.variant));
    const place = (element, key, mark) => {
      element.classList.toggle(mark, key === `${variant}/${factor}`);
      element.classList.toggle("not-shown", key.includes("/") && !key.startsWith(`${variant}/`));
    };
    for (const cell of $$("[data-column]")) place(cell, cell.dataset.column, "chosen-column");
    // no policy is its own rival
    for (const cell of $$("[data-rival]")) cell.classList.toggle("not-shown", cell.dataset.rival === variant);
    for (const row of $$("[data-row]")) place(row, row.dataset.row, "chosen-row");
  }
  showFactor(chosen());
  // on paper nothing can be opened: what concerns the chosen policy is open there
  let unfolded = [];
  addEventListener("beforeprint", () => {
    const { factor, variant } = chosen();
    const name = $$("#broke thead [data-column]").find((th) => th.dataset.column === `${variant}/${factor}`)?.textContent;
    const own = (details) => details.classList.contains("chosen") ||
      (name && details.querySelector("summary").textContent.trim().startsWith(`${name} against`));
    unfolded = $$("details:not([open])").filter(own);
    for (const details of unfolded) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of unfolded) details.open = false; });
  for (const form of [control, filters]) form.addEventListener("submit", (event) => event.preventDefault());

  // ---- stories -------------------------------------------------------------------------------
  let stories = null;                    // columns, one entry a story
  let shown = [];                        // numbers of the stories that pass the filter, in order
  let drawn = 0;                         // how many of them are on the page
  let step = 0;                          // story of the side-by-side

  function unpack(bytes) {
    const size = new DataView(bytes.buffer).getUint32(0, true);
    const S = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + size)));
    const total = S.length.reduce((sum, n) => sum + n, 0);
    let at = 4 + size;
    const column = (width) => {
      const found = new Int32Array(total), shift = 32 - 8 * width;
      for (let plane = 0; plane < width; plane++, at += total)
        for (let i = 0; i < total; i++) found[i] |= bytes[at + i] << (8 * plane);
      if (width < 3) for (let i = 0; i < total; i++) found[i] = (found[i] << shift) >> shift;
      return found;
    };
    [S.token, S.policy, S.base] = [column(3), column(2), column(2)];
    S.start = new Uint32Array(S.length.length);
    for (let i = 1; i < S.start.length; i++) S.start[i] = S.start[i - 1] + S.length[i - 1];
    S.concept = new RegExp(S.mention, "giu");
    return S;
  }

  const number = (value, digits = 2) =>
    (value < 0 && Number(value.toFixed(digits)) !== 0 ? "−" : "") + Math.abs(value).toFixed(digits);
  const signed = (hundredths) => (hundredths > 0 ? "+" : "") + number(hundredths / 100);
  function score(name, value) {
    if (value === null || value === undefined) return "–";
    if (page.shares.includes(name)) return Math.round(100 * value) + " %";
    return Number.isInteger(value) ? String(value) : number(value, Math.abs(value) < 10 ? 2 : 1);
  }
  const label = (name) => page.labels[name] ?? name.replaceAll("_", " ");

  function tokens(i) {
    const S = stories, story = element("p", "story"), from = S.start[i];
    const prompt = S.prompts[S.prompt[i]].text;
    const pieces = Array.from({ length: S.length[i] }, (_, t) => S.pieces[S.token[from + t]]);
    const text = pieces.join("");
    const mentions = [...text.matchAll(S.concept)].map((m) => [m.index, m.index + m[0].length]);
    story.tabIndex = 0;
    story.setAttribute("role", "group");
    story.setAttribute("aria-label", `Story ${S.index[i] + 1}, ${S.names[S.model[i]]}: arrow keys move along its tokens`);
    story.dataset.story = i;
    story.append(element("span", "prompt", prompt));
    let at = 0, next = 0;
    pieces.forEach((piece, t) => {
      const difference = S.policy[from + t] - S.base[from + t];
      let level = 0;
      while (level < 4 && Math.abs(difference) >= STEPS[level]) level++;
      const span = element("span", level ? `d${difference < 0 ? "-" : ""}${level}` : "");
      const end = at + piece.length;
      while (next < mentions.length && mentions[next][1] <= at) next++;
      let done = at;
      for (let m = next; m < mentions.length && mentions[m][0] < end; m++) {
        const [start, stop] = [Math.max(at, mentions[m][0]), Math.min(end, mentions[m][1])];
        span.append(text.slice(done, start), element("span", "concept", text.slice(start, stop)));
        done = stop;
      }
      span.append(text.slice(done, end));
      if (end <= S.forced[i]) span.classList.add("forced");
      if (S.ended[i] && t === pieces.length - 1) { span.classList.add("end"); span.textContent = " ■"; }
      span.dataset.t = t;
      story.append(span);
      at = end;
    });
    return story;
  }

  function scoresLine(i) {
    const names = ["completion_reward", "story_reward", "perplexity_under_base", "mentions_per_100_words", "distinct_2"];
    const parts = names.filter((n) => stories.scores[n]).map((n) => `${label(n)} ${score(n, stories.scores[n][i])}`);
    return element("p", "scores-line", parts.join(" · "));
  }

  function card(i) {
    const S = stories, article = element("article", "told"), who = element("p", "who");
    who.append(element("b", "", S.names[S.model[i]]),
      ` · seed ${S.seed[i]} · ${S.prompts[S.prompt[i]].group.replaceAll("_", " ")} · story ${S.index[i] + 1}`);
    article.append(who, tokens(i), scoresLine(i));
    return article;
  }

  const policy = ({ variant, factor }) => stories.models.indexOf(`${variant}/${factor}`);
  const all = () => stories.model.keys();

  function filter() {
    const S = stories, now = chosen(), form = filters.elements;
    const told = form.model.value === "chosen" ? policy(now) : form.model.value === "" ? null : S.models.indexOf(form.model.value);
    const mention = S.scores.mentions_concept;
    shown = [...all()].filter((i) =>
      (told === null || S.model[i] === told) &&
      (now.seed === "" || S.seed[i] === Number(now.seed)) &&
      (now.group === "" || S.prompts[S.prompt[i]].group === now.group) &&
      (form.mention.value === "" || mention[i] === Number(form.mention.value)));
    const by = form.sort.value, down = $("#direction").getAttribute("aria-pressed") === "true" ? -1 : 1;
    if (by) {
      const values = S.scores[by];
      shown.sort((a, b) => (values[a] === null) - (values[b] === null) || down * (values[a] - values[b]) || a - b);
    }
    $("#direction").disabled = !by;
    const picked = by || form.mention.value;
    $("#count").textContent = `${shown.length.toLocaleString("en")} of ${S.model.length.toLocaleString("en")} stories, ` +
      (by ? `sorted by ${label(by)}` : "in the order drawn") + (picked ? ". This is a selection." : ", not cherry-picked.");
    $("#list").replaceChildren();
    drawn = 0;
    more();
  }

  function more() {
    $("#list").append(...shown.slice(drawn, drawn + BATCH).map(card));
    drawn = Math.min(drawn + BATCH, shown.length);
    $("#more").hidden = drawn >= shown.length;
    $("#more").textContent = `Show more (${(shown.length - drawn).toLocaleString("en")} left)`;
  }

  function sideBySide() {
    const S = stories, now = chosen();
    const factor = now.factor === "0" && $(`#control input[value="${page.default_factor}"]`) ? page.default_factor : now.factor;
    const seed = now.seed === "" ? Math.min(...S.seed) : Number(now.seed);
    const models = [...new Set([S.models.indexOf("base"), S.models.indexOf("prompted"),
      policy({ ...now, factor: "0" }), policy({ ...now, factor })])].filter((m) => m >= 0);
    const mine = [...all()].filter((i) => S.seed[i] === seed && (now.group === "" || S.prompts[S.prompt[i]].group === now.group));
    const numbers = [...new Set(mine.map((i) => S.index[i]))];
    step = (step + numbers.length) % (numbers.length || 1);
    $("#which").textContent = numbers.length ? `story ${step + 1} of ${numbers.length}, seed ${seed}` : "no stories";
    $("#columns").replaceChildren(...models.flatMap((m) => {
      const i = mine.find((i) => S.model[i] === m && S.index[i] === numbers[step]);
      if (i === undefined) return [];
      const article = element("article", "told");
      article.append(element("h3", "", S.names[m]), tokens(i), scoresLine(i));
      return [article];
    }));
  }

  // ---- the number behind a token --------------------------------------------------------------
  function percent(hundredths) {
    const value = 100 * Math.exp(hundredths / 100);
    if (value < 0.01) return "< 0.01 %";
    return (value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2)) + " %";
  }
  function describe(span) {
    const i = Number(span.closest(".story").dataset.story), at = stories.start[i] + Number(span.dataset.t);
    const [p, r] = [stories.policy[at], stories.base[at]];
    tip.textContent = `${JSON.stringify(stories.pieces[stories.token[at]])}\n${percent(p)}, base ${percent(r)}   (log π − log p_base: ${signed(p - r)} nats)`;
    tip.hidden = false;
    const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const top = box.top - tip.offsetHeight - 6;
    tip.style.left = Math.max(6, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 6)) + "px";
    tip.style.top = (top > 4 ? top : box.bottom + 6) + "px";
  }
  const token = (event) => event.target.closest?.("span[data-t]");
  const hide = () => { tip.hidden = true; };
  function focusToken(span) {
    span.tabIndex = -1;
    span.setAttribute("aria-describedby", "tip");
    span.focus({ preventScroll: false });
  }
  document.addEventListener("pointerover", (event) => { const span = token(event); if (span) describe(span); else hide(); });
  document.addEventListener("click", (event) => { const span = token(event); if (span) describe(span); });
  document.addEventListener("focusin", (event) => { const span = token(event); if (span) describe(span); else hide(); });
  // The box stays with a focused token while the arrow keys scroll the page.
  document.addEventListener("scroll", () => {
    const span = token({ target: document.activeElement });
    if (span && !tip.hidden) describe(span); else hide();
  }, { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const way = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    const story = event.target.closest?.(".story[data-story]");
    if (!way || !story) return;
    const spans = $$("span[data-t]", story), now = token(event);
    const to = Math.max(0, Math.min(spans.length - 1, (now ? Number(now.dataset.t) : -1) + way));
    if (!spans.length) return;
    event.preventDefault();
    focusToken(spans[to]);
  });

  // ---- a figure as large as the window ----------------------------------------------------------
  function enlarge(figure, large) {
    for (const other of $$("figure.large")) if (other !== figure) enlarge(other, false);
    figure.classList.toggle("large", large);
    const button = $(".enlarge", figure);
    button.textContent = large ? "Close" : "Enlarge";
    button.setAttribute("aria-expanded", String(large));
    document.documentElement.classList.toggle("enlarged", large);
    if (large) button.focus({ preventScroll: true });
  }
  document.addEventListener("click", (event) => {
    const figure = event.target.closest?.(".enlarge, .drawing")?.closest("figure");
    if (figure) enlarge(figure, !figure.classList.contains("large"));
  });
  document.addEventListener("keydown", (event) => {
    const figure = event.key === "Escape" && $("figure.large");
    if (figure) { enlarge(figure, false); $(".enlarge", figure).focus({ preventScroll: true }); }
  });

  // ---- data tables ------------------------------------------------------------------------------
  let tables = null;
  const rowsOf = (csv) => {              // RFC 4180: quoted fields may hold commas, quotes, breaks
    const rows = [[]];
    for (const [, quoted, plain, stop] of csv.matchAll(/(?:"((?:[^"]|"")*)"|([^,"\n]*))(,|\n|$)/g)) {
      rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
      if (stop === "\n") rows.push([]);
      if (stop === "") break;
    }
    if (rows.at(-1).join("") === "") rows.pop();
    return rows;
  };
  function fillTable(details, csv, limit) {
    const [head, ...rows] = rowsOf(csv), table = element("table", "plain"), body = element("tbody");
    const line = (cells, tag) => { const tr = element("tr"); tr.append(...cells.map((c) => element(tag, "", c))); return tr; };
    const top = element("thead");
    top.append(line(head, "th"));
    for (const th of top.querySelectorAll("th")) th.scope = "col";
    body.append(...rows.slice(0, limit).map((row) => line(row, "td")));
    table.append(top, body);
    const bar = element("p", "note"), link = element("a", "", "Download CSV");
    link.download = details.dataset.table.replaceAll("/", "-");
    link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
    bar.append(`${rows.length.toLocaleString("en")} rows. `, link);
    if (rows.length > limit) {
      const rest = element("button", "", `Show all ${rows.length.toLocaleString("en")} rows`);
      rest.type = "button";
      rest.addEventListener("click", () => fillTable(details, csv, Infinity));
      bar.append(" ", rest);
    }
    $$(":scope > .note", details).forEach((old) => old.remove());
    $(".scroll", details).replaceChildren(table);
    $(".scroll", details).before(bar);
  }
  const readTables = async () => (tables ??= JSON.parse(new TextDecoder().decode(await inflate("pack-tables"))));
  async function openTable(details) {
    if ($("table", details)) return;
    await readTables();
    fillTable(details, tables[details.dataset.table], 100);
  }
  for (const details of $$("details[data-table]"))
    details.addEventListener("toggle", () => { if (details.open) openTable(details); });
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a.data");
    const details = link && document.getElementById(link.getAttribute("href").slice(1));
    if (details) { details.open = true; $("summary", details).focus({ preventScroll: true }); }
  });

  // ---- watch it learn: the most frequent completions, step by step --------------------------------
  const learning = $("#learning");
  let learnt = null;                     // variant, factor, seed → rows by step
  async function readSteps() {
    const csv = (await readTables())["tables/top_completions.csv"];
    const [head, ...rows] = rowsOf(csv), at = Object.fromEntries(head.map((name, i) => [name, i]));
    learnt = new Map();
    for (const row of rows) {
      const key = [row[at.variant], row[at.kl_factor], row[at.seed]].join("/");
      if (!learnt.has(key)) learnt.set(key, new Map());
      const steps = learnt.get(key), step = Number(row[at.step]);
      if (!steps.has(step)) steps.set(step, []);
      // an apostrophe guards a text that a spreadsheet would take for a formula
      steps.get(step).push([row[at.text].replace(/^'(?=[=+\-@\t\r'])/, ""), Number(row[at.share]), Number(row[at.reward])]);
    }
    learning.dataset.ready = "true";
    showSteps();
  }
  function showSteps() {
    if (!learnt) return;
    const { variant, factor, seed } = chosen();
    const key = seed === "" ? [...learnt.keys()].find((k) => k.startsWith(`${variant}/${factor}/`)) : `${variant}/${factor}/${seed}`;
    const steps = learnt.get(key) ?? new Map(), at = $("#at");
    at.max = Math.max(1, ...steps.keys());
    $("#at-step").textContent = `${at.value} of ${at.max}`;
    const rows = steps.get(Number(at.value)) ?? [];
    $("tbody", learning).replaceChildren(...rows.map(([text, share, reward]) => {
      const tr = element("tr"), bar = element("td", "share", percent(100 * Math.log(share)));
      bar.style.setProperty("--share", `${100 * share}%`);
      const what = element("th", "", JSON.stringify(text).slice(1, -1));
      what.scope = "row";
      tr.append(what, bar, element("td", "", number(reward)));
      return tr;
    }));
  }
  if (learning) {
    learning.hidden = false;
    const at = $("#at"), play = $("#play");
    let timer = 0;
    const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); };
    at.addEventListener("input", showSteps);
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (at.value === at.max) at.value = 1;
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      timer = setInterval(() => { at.value = Number(at.value) + 1; showSteps(); if (at.value === at.max) stop(); }, 150);
    });
  }

  // ---- start --------------------------------------------------------------------------------------
  async function start() {
    if (typeof DecompressionStream === "undefined") {
      $("#count").textContent = "This browser is too old to unpack the stories (it lacks DecompressionStream).";
      return;
    }
    stories = unpack(await inflate("pack-stories"));
    const sort = filters.elements.sort;
    sort.append(new Option("as drawn", ""), ...Object.keys(stories.scores).map((name) => new Option(label(name), name)));
    control.addEventListener("change", () => { step = 0; showFactor(chosen()); sideBySide(); showSteps(); filter(); });
    filters.addEventListener("change", filter);
    $("#direction").addEventListener("click", ({ currentTarget }) => {
      currentTarget.setAttribute("aria-pressed", String(currentTarget.getAttribute("aria-pressed") !== "true"));
      filter();
    });
    $("#more").addEventListener("click", more);
    $("#previous").addEventListener("click", () => { step--; sideBySide(); });
    $("#next").addEventListener("click", () => { step++; sideBySide(); });
    sideBySide();
    filter();
    document.documentElement.dataset.ready = "true";
    if (learning) readSteps();
  }
  // The script comes before the packs, so that controls work while they are still being read.
  document.addEventListener("DOMContentLoaded", start);
})();

// The page of the playground. Text becomes text nodes only: nothing typed or generated is ever parsed.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const STEPS = [0.1, 0.5, 1.5, 4];      // tints begin at these differences, nats, as in the report
  const ALTERNATIVES = 5;

  // ---- theme: as in report.js ----------------------------------------------------------------
  const theme = $("#theme"), dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const stored = (value) => {            // storage may be denied to a file opened from disk
    try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; }
  };
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    stored(root.dataset.theme);
    nameTheme();
  });
  dark.addEventListener("change", nameTheme);
  nameTheme();
  if (!$("#about")) { root.dataset.ready = "true"; return; }

  // ---- models --------------------------------------------------------------------------------
  const about = JSON.parse($("#about").textContent), { config, factors } = about;
  const tokenizer = new Tokenizer(about);
  const loaded = [];                     // by number: 0 the base, then the policies, once asked for
  async function loadModel(number) {
    loaded[number] ??= (async () => {
      const base = number ? (await loadModel(0)).weights : null;
      const weights = unpackWeights(await readPack(`pack-${number}`), about, base);
      return new GptNeo(config, weights, about.matrices[0][1]);
    })();
    return loaded[number];
  }

  // ---- controls -----------------------------------------------------------------
  const form = $("#ask"), tip = $("#tip"), buttons = { tell: $("#tell"), step: $("#step"), next: $("#next") };
  const panels = ["left", "right"].map((name) => ({
    name, dial: $(`#${name}-model`), heading: $(`#${name}-name`), story: $(`#${name}-story`), count: $(`#${name}-count`), card: $(`#${name}`),
  }));
  const numberOf = (panel) => (Number(panel.dial.value) + 1) % (factors.length + 1);   // last of the dial: the base
  const nameOf = (number) => (number ? `KL ${factors[number - 1]}` : "base");
  const shownPanels = () => (form.elements.two.checked ? panels : panels.slice(0, 1));
  const asked = () => {
    const seed = Math.trunc(Number(form.elements.seed.value)) >>> 0;
    return {
      prompt: form.elements.prompt.value, temperature: Number(form.elements.temperature.value), seed,
      models: shownPanels().map(numberOf),
    };
  };
  const number = (value, digits = 2) =>
    (value < 0 && Number(value.toFixed(digits)) !== 0 ? "−" : "") + Math.abs(value).toFixed(digits);
  const signed = (value, digits = 2) => (value > 0 ? "+" : "") + number(value, digits);
  const percent = (logP) => {
    const p = 100 * Math.exp(logP);
    return (p >= 10 ? p.toFixed(0) : p >= 0.1 ? p.toFixed(1) : p >= 0.001 ? p.toFixed(3) : "< 0.001") + " %";
  };
  const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
  const nameToken = (id) => (id === config.end ? "■ end" : visible(new TextDecoder().decode(tokenizer.bytes[id])));
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  function showControls() {
    form.elements.temperature.ariaValueText = $("#temperature-shown").textContent = Number(form.elements.temperature.value).toFixed(1);
    for (const panel of panels) {
      const model = numberOf(panel);
      panel.heading.textContent = model ? `KL ${factors[model - 1]}` : "base model";
      panel.dial.ariaValueText = model ? `KL factor ${factors[model - 1]}` : "base model";
      [...$(".ticks", panel.card).children].forEach((tick, i) => tick.classList.toggle("chosen", i === Number(panel.dial.value)));
    }
    panels[1].card.hidden = !form.elements.two.checked;
    $("#sides").classList.toggle("alone", !form.elements.two.checked);
    const size = tokenizer.encode(form.elements.prompt.value).length;
    $("#prompt-note").textContent = size === 0 ? "Type at least one character."
      : size >= config.context ? `${size} tokens; the models read at most ${config.context - 1}, and write the rest.`
      : `${size} token${size === 1 ? "" : "s"} of at most ${config.context - 1}`;
    $("#prompt-note").classList.toggle("wrong", size === 0 || size >= config.context);
    return size > 0 && size < config.context;
  }

  // ---- writing -------------------------------------------------------------------------------
  let session = null;                    // the stories on the page: what was asked, one side a panel
  let current = 0;                       // number of the run in progress; another number stops it
  let running = false;
  const channel = new MessageChannel(), waiting = [];
  channel.port1.onmessage = () => waiting.shift()();
  const pause = () => new Promise((go) => { waiting.push(go); channel.port2.postMessage(0); });   // lets the page draw
  const announce = (text) => { $("#status").textContent = text; };

  function showButtons() {
    const open = session && session.sides.some((side) => !side.ended) && session.told > 0;
    buttons.tell.textContent = running ? "Stop" : open ? "Continue" : "Write the story";
  }

  async function prepare(run) {
    const wishes = asked(), ids = tokenizer.encode(wishes.prompt), made = { ...wishes, told: 0, seconds: 0, random: randomNumbers(wishes.seed) };
    announce("Unpacking the models.");
    const base = await loadModel(0), sides = [];
    for (const [i, model] of wishes.models.entries()) {
      const policy = await loadModel(model);
      sides.push({
        panel: panels[i], number: model, policy, base, cache: policy.newCache(), baseCache: model ? base.newCache() : null,
        logPolicy: new Float64Array(policy.vocabulary), logBase: model ? new Float64Array(policy.vocabulary) : null,
        tokens: [], text: new TextDecoder(), ended: false, sum: 0,
      });
    }
    for (const [t, id] of ids.entries())
      for (const side of sides) {
        if (run !== current) return null;
        const last = t === ids.length - 1;
        side.policy.read(side.cache, id, last ? side.logPolicy : null);
        if (side.baseCache) side.base.read(side.baseCache, id, last ? side.logBase : null);
        await pause();
      }
    for (const side of sides) {
      logSoftmax(side.logPolicy);
      if (side.logBase) logSoftmax(side.logBase);
      side.panel.story.replaceChildren(element("span", "prompt", wishes.prompt));
      side.panel.count.textContent = "\u00a0";
    }
    return run === current ? { ...made, sides } : null;
  }

  // Draw a token, put it on the page, and read it for the next.
  function advance(side, temperature, u) {
    const { logPolicy, logBase } = side;
    const id = draw(logPolicy, temperature, u);
    const others = largestOf(logPolicy, ALTERNATIVES + 1).filter((other) => other !== id).slice(0, ALTERNATIVES);
    const entry = (token) => ({ token, policy: logPolicy[token], base: logBase ? logBase[token] : logPolicy[token] });
    const token = { ...entry(id), u, temperature, others: others.map(entry) };
    side.tokens.push(token);
    side.sum += token.policy - token.base;
    append(side, token);
    side.ended = id === config.end || side.cache.length === config.context;
    if (side.ended) return;
    side.policy.read(side.cache, id, logPolicy);
    logSoftmax(logPolicy);
    if (!logBase) return;
    side.base.read(side.baseCache, id, logBase);
    logSoftmax(logBase);
  }

  function append(side, token) {
    const difference = token.policy - token.base;
    let level = 0;
    while (level < 4 && Math.abs(difference) >= STEPS[level]) level++;
    const span = element("span", level ? `d${difference < 0 ? "-" : ""}${level}` : "");
    // Bytes of an unfinished character wait for the token that completes it.
    span.textContent = token.token === config.end ? " ■" : side.text.decode(tokenizer.bytes[token.token], { stream: true });
    if (token.token === config.end) span.classList.add("end");
    span.dataset.t = side.tokens.length - 1;
    side.panel.story.append(span);
  }

  function showCounts() {
    const speed = session.seconds > 0 ? session.told / session.seconds : 0;
    for (const side of session.sides) {
      const size = side.tokens.length;
      side.panel.count.textContent = [`${size} token${size === 1 ? "" : "s"}`,
        ...(side.number ? [`log π − log p_base ${signed(side.sum, 1)} nats in all`] : []),
        ...(session.told > 20 ? [`${speed.toFixed(0)} tokens a second`] : [])].join(" · ");
    }
  }

  async function tell(limit) {
    if (!showControls()) { stop(); form.elements.prompt.focus(); return; }
    const run = ++current;
    running = true;
    showButtons();
    if (!session || !session.sides.some((side) => !side.ended)) {
      session = null;
      const made = await prepare(run);
      if (!made) return;
      session = made;
    }
    const mine = session;
    if (limit > 1) announce("Writing.");
    for (; limit > 0 && run === current && mine.sides.some((side) => !side.ended); limit--) {
      const from = performance.now(), u = mine.random();      // one number for both sides
      for (const side of mine.sides) if (!side.ended) advance(side, mine.temperature, u);
      mine.told++;
      mine.seconds += (performance.now() - from) / 1000;
      showCounts();
      await pause();
    }
    if (run !== current) return;
    running = false;
    showButtons();
    announce(mine.sides.map((side) => {
      const last = side.tokens.at(-1);
      const state = side.ended ? `${side.tokens.length} tokens, ${last.token === config.end ? "ended" : "context full"}`
        : `${nameToken(last.token)}, ${percent(last.policy)}`;
      return `${side.panel.name}, ${nameOf(side.number)}: ${state}.`;
    }).join(" "));
  }

  function stop() {
    current++;
    running = false;
    showButtons();
    announce("Stopped.");
  }
  // Other settings: the stories on the page are of the past, and are written again.
  function changed(again) {
    const had = session !== null || running;
    current++;
    running = false;
    session = null;
    const good = showControls();
    showButtons();
    hide();
    if (again && had && good) tell(Infinity);
  }

  // ---- the numbers behind a token --------------------------------------------------------------
  const tokenOf = (event) => event.target.closest?.("span[data-t]");
  const hide = () => { tip.hidden = true; };

  function describe(span) {
    const side = session?.sides.find(({ panel }) => panel.story === span.parentNode);
    if (!side) { hide(); return; }
    const token = side.tokens[Number(span.dataset.t)], table = element("table"), head = element("tr");
    const note = token.temperature === 0 ? "the likeliest" : `u = ${token.u.toFixed(4)}`;
    const columns = side.number ? [`π, ${nameOf(side.number)}`, "base", "log π/p"] : ["base"];
    head.append(...["token", ...columns].map((name) => { const cell = element("th", "", name); cell.scope = "col"; return cell; }));
    const line = (entry, drawn) => {
      const row = element("tr", drawn ? "drawn" : ""), name = element("th", "", nameToken(entry.token));
      name.scope = "row";
      row.append(name);
      for (const value of side.number ? [entry.policy, entry.base] : [entry.policy]) {
        const cell = element("td", "p", percent(value));
        cell.style.setProperty("--p", Math.exp(value));
        row.append(cell);
      }
      if (side.number) row.append(element("td", "", signed(entry.policy - entry.base)));
      return row;
    };
    const body = element("tbody"), between = element("tr", "between"), cell = element("td", "", "likeliest others");
    cell.colSpan = columns.length + 1;
    between.append(cell);
    body.append(line(token, true), between, ...token.others.map((other) => line(other, false)));
    const top = element("thead");
    top.append(head);
    table.append(top, body);
    tip.replaceChildren(element("p", "", `Token ${Number(span.dataset.t) + 1}, ${note}`), table);
    tip.hidden = false;
    const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const above = box.top - tip.offsetHeight - 8, width = root.clientWidth;
    tip.style.left = Math.max(6, Math.min(box.left, width - tip.offsetWidth - 6)) + "px";
    tip.style.top = (above > 4 ? above : Math.min(box.bottom + 8, innerHeight - tip.offsetHeight - 4)) + "px";
  }

  for (const kind of ["pointerover", "click", "focusin"])
    document.addEventListener(kind, (event) => { const span = tokenOf(event); if (span) describe(span); else hide(); });
  document.addEventListener("scroll", () => {
    const span = tokenOf({ target: document.activeElement });
    if (span && !tip.hidden) describe(span); else hide();
  }, { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === form.elements.prompt) form.requestSubmit();
    const way = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    const story = event.target.closest?.(".story");
    if (!way || !story) return;
    const spans = [...story.querySelectorAll("span[data-t]")], now = tokenOf(event);
    if (!spans.length) return;
    event.preventDefault();
    const to = spans[Math.max(0, Math.min(spans.length - 1, (now ? Number(now.dataset.t) : -1) + way))];
    to.tabIndex = -1;
    to.setAttribute("aria-describedby", "tip");
    to.focus();
  });

  // ---- start ---------------------------------------------------------------------------------
  form.addEventListener("submit", (event) => { event.preventDefault(); if (running) stop(); else tell(Infinity); });
  buttons.step.addEventListener("click", () => tell(1));
  buttons.next.addEventListener("click", () => {
    form.elements.seed.value = (asked().seed + 1) >>> 0;
    session = null;
    tell(Infinity);
  });
  form.elements.prompt.addEventListener("input", () => changed(false));
  form.elements.temperature.addEventListener("input", showControls);
  for (const name of ["temperature", "seed", "two"]) form.elements[name].addEventListener("change", () => changed(true));
  for (const panel of panels) {
    panel.dial.addEventListener("input", showControls);
    panel.dial.addEventListener("change", () => changed(true));
  }
  showControls();
  if (typeof DecompressionStream === "undefined") {
    $("#prompt-note").textContent = "This browser is too old to unpack the models (it lacks DecompressionStream).";
    return;
  }
  for (const button of Object.values(buttons)) button.disabled = false;
  // For tests: what the page computes, by model number.
  window.playground = {
    tokenizer,
    async logProbs(number, ids) {
      const model = await loadModel(number), cache = model.newCache();
      return ids.map((id) => Array.from(logSoftmax(model.read(cache, id, new Float64Array(model.vocabulary)))));
    },
    session: () => session,
  };
  Promise.all([0, ...panels.map(numberOf)].map(loadModel)).then(() => { root.dataset.ready = "true"; });
})();

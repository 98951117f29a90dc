'use strict';
(async () => {
  const at = id => document.getElementById(id),
    HEIGHT = 48;
  const make = (tag, text, cls) => {
    const n = document.createElement(tag);
    if (text !== undefined) n.textContent = text;
    if (cls) n.className = cls;
    return n;
  };
  if (!window.DecompressionStream) {
    at('tv-count').textContent =
      'This browser is too old to unpack the samples; they are in rows.parquet beside this page.';
    return;
  }
  const bytes = Uint8Array.from(atob(at('tv-data').content.textContent.trim()), c => c.charCodeAt(0));
  const data = JSON.parse(
    await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text(),
  );
  const { runs, cases, rows, kinds } = data,
    total = rows.run.length;
  const word = v => (v === 1 ? 'right' : v === -1 ? 'unscored' : v === 0 ? 'wrong' : 'partly right');
  const sign = v => (v === 1 ? '\u2713' : v === -1 ? '\u2013' : '\u2717');
  const lower = rows.text.map(t => t.toLowerCase());
  const drawn = i => (rows.sample.length ? ', sample ' + rows.sample[i] : '');
  const asked = cases.map(c => [c.id, c.q, ...c.a, ...c.c].join('\n').toLowerCase());
  const others = cases.map(() => []);
  rows.case.forEach((c, i) => others[c].push(i));
  let shown = [],
    current = -1;

  const fields = [
    ['data set', i => runs[rows.run[i]][0]],
    ['model', i => runs[rows.run[i]][1]],
    ['condition', i => runs[rows.run[i]][2]],
    ['seed', i => String(runs[rows.run[i]][3])],
    ['answer', i => word(rows.answer[i])],
    ['label step', i => word(rows.label[i])],
    ['any gold fact quoted', i => word(rows.any[i])],
    ['exactly the gold facts', i => word(rows.exact[i])],
    ['third step', i => word(rows.work[i])],
  ];
  const selects = fields.map(([name, value]) => {
    const values = new Set();
    for (let i = 0; i < total; i++) values.add(value(i));
    const box = make('label', name),
      select = make('select');
    for (const v of ['all', ...values]) {
      const o = make('option', v);
      o.value = v === 'all' ? '' : v;
      select.append(o);
    }
    box.append(select);
    if (values.size > 1) at('tv-filters').append(box);
    select.addEventListener('change', filter);
    return select;
  });
  const search = make('input'),
    searchBox = make('label', 'text');
  search.type = 'search';
  search.placeholder = 'in question, context, output';
  let waiting;
  search.addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  searchBox.append(search);
  at('tv-filters').append(searchBox);
  function filter() {
    const words = search.value.toLowerCase(),
      hit = asked.map(t => t.includes(words)),
      tests = [];
    selects.forEach((s, k) => {
      if (s.value) tests.push(i => fields[k][1](i) === s.value);
    });
    shown = [];
    for (let i = 0; i < total; i++)
      if ((!words || hit[rows.case[i]] || lower[i].includes(words)) && tests.every(t => t(i))) shown.push(i);
    const questions = new Map(); // of each run: answers read, right ones
    for (const i of shown) {
      const key = rows.run[i] + ' ' + rows.case[i],
        q = questions.get(key) ?? [0, 0];
      questions.set(key, [q[0] + 1, q[1] + (rows.answer[i] === 1)]);
    }
    const right = [...questions.values()].reduce((sum, q) => sum + q[1] / q[0], 0);
    at('tv-count').textContent =
      shown.length.toLocaleString('en') +
      ' of ' +
      total.toLocaleString('en') +
      ' rows' +
      (questions.size < shown.length
        ? ' (' + questions.size.toLocaleString('en') + ' pairs of run and question, samples averaged)'
        : '') +
      (shown.length ? '; answer exact in ' + ((100 * right) / questions.size).toFixed(1) + ' %' : '');
    at('tv-list').scrollTop = 0;
    if (shown.length) pick(shown[0]);
    else {
      current = -1;
      at('tv-one').replaceChildren(make('p', 'No row fits.', 'note'));
      draw();
    }
  }

  function draw() {
    const list = at('tv-list'),
      first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 6),
      last = Math.min(shown.length, first + Math.ceil(list.clientHeight / HEIGHT) + 12);
    at('tv-space').style.height = shown.length * HEIGHT + 'px';
    at('tv-space').replaceChildren(
      ...shown.slice(first, last).map((i, k) => {
        const line = make('div', undefined, 'tv-line' + (i === current ? ' tv-current' : '')),
          run = runs[rows.run[i]];
        line.style.top = (first + k) * HEIGHT + 'px';
        line.setAttribute('role', 'option');
        line.setAttribute('aria-selected', i === current);
        line.id = 'tv-row-' + i;
        const head = make('div', run[2] + ', seed ' + run[3] + drawn(i) + ' ', 'tv-head');
        for (const [name, v] of [
          ['answer', rows.answer[i]],
          ['label', rows.label[i]],
          ['facts', rows.exact[i]],
          ['third step', rows.work[i]],
        ])
          if (v !== -1) head.append(make('span', name + ' ' + sign(v), v === 1 ? 'tv-good' : 'tv-bad'));
        line.append(head, make('div', cases[rows.case[i]].q, 'tv-question'));
        line.addEventListener('click', () => pick(i));
        return line;
      }),
    );
    if (current >= 0) list.setAttribute('aria-activedescendant', 'tv-row-' + current);
  }
  let asleep = false;
  at('tv-list').addEventListener('scroll', () => {
    if (!asleep) {
      asleep = true;
      requestAnimationFrame(() => {
        asleep = false;
        draw();
      });
    }
  });
  window.addEventListener('resize', draw);
  at('tv-list').addEventListener('keydown', e => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[e.key];
    if (!step || !shown.length) return;
    e.preventDefault();
    const k = Math.min(shown.length - 1, Math.max(0, shown.indexOf(current) + step)),
      list = at('tv-list');
    if (k * HEIGHT < list.scrollTop) list.scrollTop = k * HEIGHT;
    if ((k + 1) * HEIGHT > list.scrollTop + list.clientHeight)
      list.scrollTop = (k + 1) * HEIGHT - list.clientHeight;
    pick(shown[k]);
  });

  const fold = (name, text) => {
    const d = make('details');
    d.append(make('summary', name), make('pre', text));
    return d;
  };
  function colored(i) {
    const text = rows.text[i],
      m = rows.marks[i],
      box = make('div', undefined, 'tv-text');
    let done = 0;
    for (let k = 0; k < m.length; k += 3) {
      box.append(text.slice(done, m[k]));
      const span = make('span', text.slice(m[k], m[k + 1]), 'tv-k' + m[k + 2]);
      span.title = kinds[m[k + 2]];
      box.append(span);
      done = m[k + 1];
    }
    box.append(text.slice(done));
    return box;
  }

  function strip(i) {
    const [text, m] = rows.strip[i],
      box = make('details'),
      body = make('div', undefined, 'tv-text'),
      top = Math.max(100, ...m.filter((_, k) => k % 3 === 2).map(Math.abs));
    let done = 0;
    for (let k = 0; k < m.length; k += 3) {
      body.append(text.slice(done, m[k]));
      const span = make('span', text.slice(m[k], m[k + 1])),
        gain = m[k + 2];
      span.style.backgroundColor = `rgba(${gain > 0 ? '213, 94, 0' : '0, 114, 178'}, ${Math.abs(gain) / top / 2})`;
      span.title = (gain / 100).toFixed(2) + ' nats';
      body.append(span);
      done = m[k + 1];
    }
    body.append(text.slice(done));
    box.append(
      make('summary', 'What each token of the correct trace adds to the log-probability of gold'),
      make('p', 'Orange raises it, blue lowers it. The trace was forced on the model.', 'note'),
      body,
    );
    return box;
  }

  function pick(i) {
    current = i;
    draw();
    const c = cases[rows.case[i]],
      run = runs[rows.run[i]],
      one = at('tv-one'),
      list = make('ol', undefined, 'tv-context'),
      marked = make('p', undefined, 'note');
    c.c.forEach((item, k) => {
      const li = make('li', item, c.g.includes(k) ? 'tv-gold' : '');
      if (c.g.includes(k)) li.append(make('span', 'gold', 'tv-tag'));
      if (rows.quoted[i].includes(k)) li.append(make('span', 'quoted', 'tv-tag tv-quoted'));
      list.append(li);
    });
    const seen = new Set(rows.marks[i].filter((_, k) => k % 3 === 2));
    for (const k of [...seen].sort()) marked.append(make('span', kinds[k], 'tv-k' + k), ' ');
    const same = make('p', undefined, 'tv-same');
    for (const j of others[rows.case[i]].slice(0, 60)) {
      const r = runs[rows.run[j]],
        b = make('button', r.slice(1, 3).join(', ') + ', seed ' + r[3] + drawn(j) + ' ' + sign(rows.answer[j]));
      b.type = 'button';
      b.disabled = j === i;
      b.addEventListener('click', () => pick(j));
      same.append(b);
    }
    const links = make('p', 'From: ', 'note');
    for (const file of ['generations.jsonl', 'scores.jsonl', 'run.json']) {
      const a = make('a', file);
      a.href = run[4].split('/').map(encodeURIComponent).join('/') + '/' + file;
      links.append(a, ' ');
    }
    const verdicts = [
      ['answer', rows.answer[i]],
      ['label step', rows.label[i]],
      ['retrieval (any gold fact quoted)', rows.any[i]],
      ['retrieval (exactly these)', rows.exact[i]],
      ['third step', rows.work[i]],
    ]
      .filter(v => v[1] !== -1)
      .map(v => v[0] + ' ' + word(v[1]))
      .join('; ');
    one.replaceChildren(
      make('p', run.slice(0, 3).join(', ') + ', seed ' + run[3] + drawn(i) + ' \u00b7 ' + c.id, 'note'),
      make('h3', c.q),
      make('p', 'Gold answer: ' + c.a.join(', ') + ' \u00b7 gold label: ' + c.l),
      ...(c.w.length ? [make('p', 'Gold third step: ' + c.w.join('; '))] : []),
      make('p', verdicts),
      make(
        'h4',
        'What the model wrote (' +
          rows.tokens[i] +
          ' tokens' +
          (rows.end[i] === 'stop' ? '' : ', ended by ' + rows.end[i]) +
          ')',
      ),
      colored(i),
      marked,
      ...(rows.strip[i] ? [strip(i)] : []),
      make('h4', 'Context'),
      list,
      fold('Prompt', data.systems[rows.run[i]] + '\n\n' + c.p),
      fold('Raw output', rows.text[i]),
      make('h4', 'The same question in every run'),
      same,
      links,
    );
    one.scrollTop = 0;
  }
  filter();
})();

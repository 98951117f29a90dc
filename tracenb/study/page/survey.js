'use strict';
// The survey's page. jsPsych walks through the steps; the server says which there are,
// and has stored every answer before the page goes on.
// Whatever comes from the study or a model is set as text, never as HTML.

// --- small things

const $ = id => document.getElementById(id);

const SAY = JSON.parse($('words').textContent); // the study's words for buttons, headings and what is said in passing

function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (hole, name) => values[name] ?? hole);
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children); // strings become text nodes
  return element;
}

function bold(line) {
  return line.split(/\*\*(.+?)\*\*/).map((part, i) => (i % 2 ? make('strong', {}, part) : part));
}

function prose(text) {
  // "## heading", "- item", **bold** and paragraphs; all else is text
  const out = document.createDocumentFragment();
  let open = null; // the paragraph or list that the next line may go on
  for (const line of text.split('\n').map(l => l.trim())) {
    const kind = !line ? '' : line.startsWith('## ') ? 'H2' : line.startsWith('- ') ? 'UL' : 'P';
    if (kind === 'H2') out.append(make('h2', {}, ...bold(line.slice(3))));
    if (kind === 'UL') {
      if (open?.tagName !== kind) out.append((open = make('ul')));
      open.append(make('li', {}, ...bold(line.slice(2))));
    } else if (kind === 'P' && open?.tagName === kind) open.append(' ', ...bold(line));
    else if (kind === 'P') out.append((open = make('p', {}, ...bold(line))));
    else open = null;
  }
  return out;
}

function storable(text) {
  // Without null characters and halves of surrogate pairs, which nobody can see and no file can hold
  return text.replace(/\0|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, '');
}

function uuid() {
  // version 4; crypto.randomUUID is missing where the page came without TLS
  const b = crypto.getRandomValues(new Uint8Array(16));
  b[6] = (b[6] & 15) | 64;
  b[8] = (b[8] & 63) | 128;
  return [...b].map((x, i) => ([4, 6, 8, 10].includes(i) ? '-' : '') + x.toString(16).padStart(2, '0')).join('');
}

// --- what this browser remembers: the token, and of each step that is not stored yet what was chosen so far

const shelf = {
  name: 'tracenb-survey',
  held: {},
  open: false, // whether what is held is lost when the tab is closed
  load() {
    try {
      this.held = JSON.parse(localStorage.getItem(this.name)) || {};
    } catch {
      // no storage: the tab's name survives a reload, but not the tab
      this.open = true;
      if (window.name.startsWith(this.name)) this.held = JSON.parse(window.name.slice(this.name.length)) || {};
    }
  },
  save() {
    try {
      localStorage.setItem(this.name, JSON.stringify(this.held));
    } catch {
      this.open = true;
      window.name = this.name + JSON.stringify(this.held);
    }
  },
  draft(step) {
    return ((this.held.drafts ??= {})[step] ??= {attempt: uuid(), seconds: 0, fields: {}});
  },
  drop(step) {
    delete this.held.drafts?.[step];
    this.save();
  },
  forget() {
    this.held = {};
    this.save();
  },
};

const clock = {
  // seconds that a step was on the screen, in the foreground, over reloads
  since: null,
  sum: 0,
  start(sum) {
    this.sum = sum;
    this.since = document.hidden ? null : performance.now();
  },
  read() {
    return Math.round(10 * (this.sum + (this.since === null ? 0 : (performance.now() - this.since) / 1000))) / 10;
  },
  turn() {
    this.sum = this.read();
    this.since = document.hidden ? null : performance.now();
  },
};

// --- talking to the server

class Refused extends Error {
  constructor(status, body) {
    super(body?.message || `status ${status}`);
    Object.assign(this, {status, body});
  }
}

let wake = () => {}; // ends a wait early
const pause = seconds =>
  new Promise(done => {
    const timer = setTimeout(done, 1000 * seconds);
    wake = () => {
      clearTimeout(timer);
      done();
    };
  });

function say(text, retry = false) {
  text ||= shelf.open ? SAY.no_storage : '';
  if ($('said').textContent !== text) $('said').textContent = text;
  $('status').hidden = !text;
  $('retry').hidden = !retry;
}

function idle() {
  // No blank page while waiting
  const content = $('jspsych-content');
  if (content && !content.hasChildNodes()) content.append(make('p', {class: 'idle'}, shelf.open ? SAY.idle_open : SAY.idle));
}

async function ask(method, path, body) {
  // Until the server has answered; `Refused` where it says no
  const busy = setTimeout(() => say(body ? SAY.saving : SAY.loading), 700);
  try {
    for (let tries = 0; ; tries++) {
      let response = null,
        said = null;
      try {
        response = await fetch(path, {
          method,
          cache: 'no-store',
          credentials: 'omit',
          signal: AbortSignal.timeout(20000),
          body: body && JSON.stringify(body),
          headers: {
            ...(body && {'Content-Type': 'application/json'}),
            ...(shelf.held.token && {Authorization: `Bearer ${shelf.held.token}`}),
          },
        });
        said = await response.json();
      } catch {
        /* no network, or it broke off: once more */
      }
      clearTimeout(busy);
      if (response?.ok && said) {
        say('');
        return said;
      }
      if (response && response.status < 500 && response.status !== 429 && !response.ok) {
        say('');
        throw new Refused(response.status, said);
      }
      const waits = response?.status === 429 || response?.status === 503 ? SAY.busy : SAY.offline;
      say(method === 'PUT' ? (shelf.open ? SAY.unsaved_open : SAY.unsaved) : waits, true);
      idle();
      await pause(Number(response?.headers.get('Retry-After')) || Math.min(30, 2 ** tries) * (0.5 + Math.random()));
    }
  } finally {
    clearTimeout(busy);
  }
}

const query = new URLSearchParams(location.search);
const panel = Object.fromEntries(
  ['PROLIFIC_PID', 'STUDY_ID', 'SESSION_ID'].filter(k => query.get(k)).map(k => [k, query.get(k)]),
);

async function enter() {
  // The participant's state; one who was here before goes on
  shelf.load();
  if (shelf.held.token && shelf.held.panel === JSON.stringify(panel)) {
    try {
      const me = await ask('GET', 'api/me');
      if (me.state !== 'expired') return me;
    } catch (e) {
      if (!(e instanceof Refused)) throw e;
    }
  }
  const old = shelf.held.panel === JSON.stringify(panel) ? shelf.held : {};
  delete shelf.held.token;
  const me = await ask('POST', 'api/enter', {panel});
  shelf.held = {panel: JSON.stringify(panel), token: me.token, drafts: me.token ? old.drafts : {}};
  shelf.save();
  return me;
}

// --- one step on the screen

let page = null; // what the server told about the step
let texts = {}; // of the study
let note = ''; // shown above the step: why it is asked again
let state = 'active';
const done = new Set(); // steps that are stored

function head(title) {
  const h = make('h1', {tabindex: '-1', id: 'heading'}, title);
  return note ? [h, make('p', {class: 'note', role: 'alert'}, note)] : [h];
}

function card(kind, title, ...children) {
  return make('section', {class: `card ${kind}`, 'aria-label': title}, make('h2', {}, title), ...children);
}

function context(sentences) {
  return make(
    'details',
    {class: 'context'},
    make('summary', {}, SAY.context),
    make('div', {class: 'sheet', dir: 'auto'}, ...sentences.map(s => make('p', {}, s))),
  );
}

const SHEETS = {
  consent: () => [...head(document.title), prose(page.text)],
  instructions: () => [
    ...head(SAY.heading_instructions),
    prose(page.text),
    ...(page.example ? [card('example', SAY.example, prose(page.example))] : []),
  ],
  comprehension: () => [
    ...head(SAY.heading_comprehension),
    make(
      'details',
      {},
      make('summary', {}, SAY.instructions_again),
      make('div', {class: 'sheet'}, prose(texts.instructions || '')),
    ),
  ],
  trial: () => [
    ...head(filled(SAY.heading_trial, {n: page.trial, total: page.trials})),
    card('question', SAY.question, make('p', {dir: 'auto'}, page.question), context(page.context)),
    card('answer', SAY.answer, make('p', {dir: 'auto'}, page.answer)),
    card('trace', SAY.trace, make('div', {class: 'reasoning', dir: 'auto'}, page.trace)),
  ],
  pair: () => {
    const same = page.sides[0].answer === page.sides[1].answer,
      told = side => make('p', {dir: 'auto'}, side.answer);
    return [
      ...head(filled(SAY.heading_pair, {n: page.trial, total: page.trials})),
      card('question', SAY.question, make('p', {dir: 'auto'}, page.question), context(page.context)),
      ...(same ? [card('answer', SAY.answer, told(page.sides[0]))] : []),
      ...page.sides.map((side, i) =>
        card(
          'trace',
          filled(SAY.trace_n, {n: i + 1}),
          make('div', {class: 'reasoning', dir: 'auto'}, side.trace),
          ...(same ? [] : [make('h3', {}, filled(SAY.answer_n, {n: i + 1})), told(side)]),
        ),
      ),
    ];
  },
  attention: () => head(SAY.heading_attention),
  free: () => head(SAY.heading_free),
  demographics: () => head(SAY.heading_demographics),
  debrief: () => [...head(SAY.heading_debrief), prose(page.text)],
};

function group(prompt, box, extra = {}) {
  // A plug-in's question becomes a group that a screen reader names
  const set = make('fieldset', extra, make('legend', {}, prompt));
  box.replaceWith(set);
  set.append(box);
  return set;
}

function slider(scale, i) {
  // A range input that has no value until it is moved; the hidden field holds the answer
  const [low, high] = scale.slider;
  const range = make('input', {
      type: 'range',
      min: low,
      max: high,
      step: 1,
      class: 'unset',
      'aria-label': scale.prompt,
      'aria-valuetext': SAY.slider_unset,
      'aria-describedby': `ends-${i}`,
    }),
    held = make('input', {type: 'hidden', name: `slider-${scale.name}`, value: ''}),
    shown = make('output', {'aria-hidden': 'true'}, '\u2013');
  held.required = true;
  held.restored = () => {
    if (!held.value) return;
    range.value = held.value;
    range.classList.remove('unset');
    range.setAttribute('aria-valuetext', held.value);
    shown.textContent = held.value;
  };
  const set = () => {
    held.value = range.value;
    held.restored();
    held.dispatchEvent(new Event('change', {bubbles: true}));
  };
  range.addEventListener('input', set);
  range.addEventListener('click', set); // also where the pointer is on the middle already
  range.addEventListener('keydown', event => {
    if (held.value || !['Enter', ' '].includes(event.key)) return;
    event.preventDefault(); // takes the middle
    set();
  });
  const ends = [make('span', {}, scale.low), make('span', {}, scale.high)];
  return [make('div', {class: 'anchors', id: `ends-${i}`}, ends[0], ' ', ends[1]), range, shown, held];
}

function dressLikert(content) {
  for (const statement of content.querySelectorAll('.jspsych-survey-likert-statement')) statement.remove();
  [...content.querySelectorAll('.jspsych-survey-likert-opts')].forEach((list, i) => {
    const scale = page.scales[i],
      set = group(scale.prompt, list, {class: 'likert'});
    list.setAttribute('role', 'presentation');
    const labels = scale.labels || [];
    if (scale.slider) {
      list.replaceChildren();
      list.hidden = true;
      set.classList.add('slider');
      set.append(...slider(scale, i));
    } else if (!labels.length)
      list.before(
        make('div', {class: 'anchors', 'aria-hidden': 'true'}, make('span', {}, scale.low), make('span', {}, scale.high)),
      );
    if (scale.points > 7 || labels.length) set.classList.add('many');
    [...list.children].forEach((item, j) => {
      item.setAttribute('role', 'presentation');
      const anchor = {0: scale.low, [scale.points - 1]: scale.high}[j];
      item.firstElementChild.append(
        make('span', {}, String(j + 1)),
        ...(labels[j] ? [make('span', {class: 'label'}, labels[j])] : []),
        ...(anchor && !labels.length ? [make('span', {class: 'unseen'}, ` ${anchor}`)] : []),
      );
    });
    set.append(make('p', {class: 'wrong', id: `wrong-${i}`}));
  });
}

function dressChoices(content, questions) {
  [...content.querySelectorAll('.jspsych-survey-multi-choice-question')].forEach((box, i) => {
    box.querySelector('p').remove();
    const set = group(questions[i].prompt, box, {class: 'choices'});
    box
      .querySelectorAll('label')
      .forEach((label, j) =>
        label.replaceChildren(label.querySelector('input'), make('span', {}, questions[i].options[j])),
      );
    set.append(make('p', {class: 'wrong', id: `wrong-${i}`}));
  });
}

function dressWords(content, questions) {
  [...content.querySelectorAll('.jspsych-survey-text-question')].forEach((box, i) => {
    const field = box.querySelector('input, textarea'),
      q = questions[i];
    box
      .querySelector('p')
      .replaceWith(
        make(
          'label',
          {for: field.id},
          q.prompt,
          ...(q.required ? [] : [make('span', {class: 'optional'}, ` ${SAY.optional}`)]),
        ),
      );
    field.placeholder = '';
    field.maxLength = 5000;
    field.dir = 'auto';
    box.append(make('p', {class: 'wrong', id: `wrong-${i}`}));
  });
}

function fieldsOf(form) {
  return Object.fromEntries(new FormData(form));
}

function restore(form, fields) {
  for (const element of form.elements) {
    if (element.type === 'radio') element.checked = fields[element.name] === element.value;
    else if (element.name in fields) element.value = fields[element.name];
    element.restored?.();
  }
}

function missing(form) {
  // Groups and fields that still need an answer
  const needs = [...form.elements].filter(e => e.required);
  return [
    ...new Set(
      needs
        .filter(e => (e.type === 'radio' ? !form.querySelector(`input[name="${e.name}"]:checked`) : !e.value.trim()))
        .map(e => e.closest('fieldset') || e),
    ),
  ];
}

function mark(form) {
  const left = missing(form);
  for (const box of form.querySelectorAll('fieldset, input[type=text], textarea')) {
    const wrong = (box.tagName === 'FIELDSET' ? box : box.parentElement).querySelector('.wrong'),
      bad = left.includes(box);
    if (!wrong) continue;
    const option = box.classList.contains('slider') ? SAY.missing_slider : SAY.missing_option;
    wrong.textContent = bad ? (box.tagName === 'FIELDSET' ? option : SAY.missing_text) : '';
    box.toggleAttribute('data-missing', bad);
    if (bad) box.setAttribute('aria-describedby', wrong.id);
    else box.removeAttribute('aria-describedby');
  }
  return left;
}

function watchForm(form, step, part) {
  const draft = shelf.draft(step);
  form.noValidate = true;
  restore(form, draft.fields[part] || {});
  let tried = false;
  const keep = () => {
    draft.fields[part] = fieldsOf(form);
    draft.seconds = clock.read();
    shelf.save();
    if (tried && !mark(form).length) say('');
  };
  form.addEventListener('input', keep);
  form.addEventListener('change', keep);
  form.addEventListener(
    'submit',
    event => {
      // before the plug-in hears of it
      tried = true;
      const left = mark(form);
      if (!left.length) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      say(left.length === 1 ? SAY.missing_one : filled(SAY.missing_many, {n: left.length}));
      (left[0].tagName === 'FIELDSET' ? left[0].querySelector('input:not([type=hidden])') : left[0]).focus();
      left[0].scrollIntoView({block: 'center'});
    },
    true,
  );
}

function show(step, part, words, dress) {
  // What every step does once its plug-in has drawn it
  const content = jsPsych.getDisplayElement(),
    kind = page.kind;
  content.className = `jspsych-content kind-${kind}`;
  const sheet = SHEETS[kind] ? SHEETS[kind]() : head('');
  $('sheet').replaceChildren(...sheet);
  dress?.(content);
  const more = $('sheet').querySelector('.context');
  more?.addEventListener('toggle', () => {
    if (more.open) {
      shelf.draft(step).opened = true;
      shelf.save();
    }
  }); // stored with the trial's answer
  $('top').hidden = false;
  $('progress').max = page.places;
  $('progress').value = page.place - 1;
  $('place').textContent = filled(SAY.place, {n: page.place, total: page.places});
  const form = content.querySelector('form');
  clock.start(shelf.draft(step).seconds);
  if (form) watchForm(form, step, part);
  const buttons = content.querySelectorAll('.jspsych-btn');
  buttons.forEach((b, i) => {
    if (b.tagName === 'INPUT') b.value = words[i];
    else b.textContent = words[i];
  });
  for (const b of buttons) b.disabled = true; // a second tap may be meant for the page before
  setTimeout(() => {
    for (const b of buttons) b.disabled = false;
  }, 200);
  $('survey').removeAttribute('tabindex');
  scrollTo(0, 0);
  $('heading').focus({preventScroll: true});
}

// --- the timeline

const jsPsych = initJsPsych({
  display_element: 'survey',
  on_trial_start: () => withoutInlineStyles(jsPsych.getDisplayElement()),
});

function withoutInlineStyles(element) {
  // The plug-ins' own styles fit neither a dark screen nor a phone, and the content policy forbids them.
  // No data passes here.
  const native = Object.getOwnPropertyDescriptor(Element.prototype, 'innerHTML');
  Object.defineProperty(element, 'innerHTML', {
    ...native,
    set(html) {
      native.set.call(
        this,
        html
          .replace(/<style[\s>][^]*?<\/style>/g, '')
          .replace(/ style="[^"]*"/g, '')
          .replaceAll(' autofocus', ''),
      );
    },
  });
}

const SHEET = '<div id="sheet"></div>';
const questions = words => (page?.questions || []).filter(q => !q.options?.length === words);

function wait(work) {
  return {
    type: jsPsychCallFunction,
    async: true,
    func: done => {
      work().then(done, trouble);
    },
  };
}

function buttons(step, words, collect) {
  return {
    type: jsPsychHtmlButtonResponse,
    stimulus: SHEET,
    choices: words.map(() => ''),
    button_html: () => '<button type="button" class="jspsych-btn"></button>',
    on_load: () => show(step, 'buttons', words),
    on_finish: data => collect(data.response),
  };
}

function asked(step, kind, collect) {
  // The trials of jsPsych that show a step
  if (kind === 'consent') return [buttons(step, [SAY.agree, SAY.decline], choice => collect({agree: choice === 0}))];
  if (kind === 'instructions' || kind === 'debrief')
    return [buttons(step, [kind === 'debrief' ? SAY.finish : SAY.continue], () => collect({}))];
  if (kind === 'trial')
    return [
      {
        type: jsPsychSurveyLikert,
        preamble: SHEET,
        button_label: '',
        on_load: () => show(step, 'likert', [SAY.send], dressLikert),
        questions: () =>
          page.scales.map(s => ({
            prompt: '',
            name: s.name,
            labels: Array(s.slider ? 2 : s.points).fill(''),
            required: true,
          })),
        on_finish: data => {
          const own = shelf.draft(step).fields.likert || {}; // where a slider keeps its value
          const value = s => (s.slider ? Number(own[`slider-${s.name}`]) : data.response[s.name] + 1);
          collect(Object.fromEntries(page.scales.map(s => [s.name, value(s)])));
        },
      },
    ];
  const choices = {
    type: jsPsychSurveyMultiChoice,
    preamble: SHEET,
    button_label: '',
    on_load: () => show(step, 'choices', [kind === 'pair' ? SAY.send : SAY.continue], c => dressChoices(c, questions(false))),
    questions: () =>
      questions(false).map(q => ({
        prompt: '',
        name: q.name,
        options: q.options.map((_, i) => String(i)),
        required: q.required ?? true,
      })),
    on_finish: data =>
      collect(
        Object.fromEntries(
          questions(false)
            .map((q, i) => [q.name, data.response_index[i]])
            .filter(([, index]) => index >= 0),
        ),
      ),
  };
  const words = {
    type: jsPsychSurveyText,
    preamble: SHEET,
    button_label: '',
    on_load: () => show(step, 'words', [SAY.continue], c => dressWords(c, questions(true))),
    questions: () =>
      questions(true).map(q => ({
        prompt: '',
        name: q.name,
        rows: q.options ? 1 : 4,
        columns: 40,
        required: q.required,
      })),
    on_finish: data => collect(Object.fromEntries(
          Object.entries(data.response)
            .map(([name, text]) => [name, storable(text)])
            .filter(([, text]) => text.trim()),
        ),
      ),
  };
  return [
    {timeline: [choices], conditional_function: () => questions(false).length > 0},
    {timeline: [words], conditional_function: () => questions(true).length > 0},
  ];
}

function node(step) {
  // Load, show, save; once more where the server asks for it
  const kind = step.split(':')[0];
  let again = false;
  const collect = values => {
    const draft = shelf.draft(step);
    draft.values = {...draft.values, ...values};
    draft.seconds = clock.read();
    clock.start(draft.seconds);
    shelf.save();
  };
  const load = async () => {
    again = false;
    page = await ask('GET', `api/steps/${encodeURIComponent(step)}`);
    const draft = shelf.draft(step);
    if (!draft.sent) draft.values = {};
    shelf.save();
  };
  const save = async () => {
    const draft = shelf.draft(step);
    draft.sent = true;
    shelf.save();
    note = '';
    let said;
    try {
      said = await ask('PUT', `api/answers/${encodeURIComponent(step)}`, {
        values: draft.values,
        seconds: draft.seconds,
        attempt: draft.attempt,
        ...(['trial', 'pair'].includes(kind) && {context_opened: Boolean(draft.opened)}),
        ...(kind === 'consent' && Object.keys(panel).length && {panel}),
      });
    } catch (e) {
      if (!(e instanceof Refused)) throw e;
      if (e.status === 409 && e.body?.error === 'stored')
        (said = await ask('GET', 'api/me')).done.forEach(s => done.add(s)); // another tab was first
      else if (e.status === 422) {
        console.warn(e.body?.problems || e.message);
        note = SAY.not_taken;
        again = true;
        Object.assign(draft, {sent: false, attempt: uuid()});
        shelf.save();
        return;
      } else throw e;
    }
    state = said.state;
    shelf.drop(step);
    if (said.right === false && state === 'active') {
      note = said.left === 1 ? SAY.wrong_one : filled(SAY.wrong_many, {left: said.left});
      again = true;
    }
  };
  return {
    timeline: [
      wait(load),
      {timeline: asked(step, kind, collect), conditional_function: () => !shelf.draft(step).sent},
      wait(save),
    ],
    conditional_function: () => state === 'active' && !done.has(step),
    loop_function: () => again,
  };
}

// --- the end

function closing(title, ...children) {
  const content = make(
    'div',
    {class: 'jspsych-content closing'},
    make('h1', {tabindex: '-1', id: 'heading'}, title),
    ...children,
  );
  $('survey').replaceChildren(content);
  scrollTo(0, 0);
  $('heading').focus({preventScroll: true});
}

function wayBack(said) {
  const parts = []; // first the way back, which is the last step; the code is for those whose panel does not take it
  if (/^https?:\/\//.test(said.url || ''))
    parts.push(
      make(
        'p',
        {},
        make('a', {class: 'jspsych-btn', href: said.url, rel: 'noreferrer', id: 'return'}, SAY.back_to_panel),
      ),
    );
  if (said.code) {
    const copy = make('button', {type: 'button', class: 'jspsych-btn'}, SAY.copy);
    copy.addEventListener('click', () =>
      navigator.clipboard?.writeText(said.code).then(
        () => say(SAY.copied),
        () => {},
      ),
    );
    parts.push(
      make(
        'p',
        {class: 'code'},
        `${SAY.code} `,
        make('code', {id: 'code', dir: 'ltr'}, said.code),
        ' ',
        ...(navigator.clipboard ? [copy] : []),
      ),
    );
  }
  return parts;
}

function ending(said) {
  shelf.open = false; // nothing is left that could be lost
  say('');
  const text =
    said.text ||
    texts[{complete: 'thanks', screened_out: 'screened_out', declined: 'declined', full: 'full'}[said.state]] ||
    SAY.trouble;
  const [first, ...rest] = text.trim().split('\n'),
    titled = first.startsWith('## ');
  if (said.state === 'complete') {
    $('progress').value = $('progress').max;
    $('place').textContent = '';
  }
  $('top').hidden = said.state !== 'complete';
  closing(
    titled ? first.slice(3) : document.title,
    prose((titled ? rest : [first, ...rest]).join('\n')),
    ...wayBack(said),
    ...nextPerson(),
  );
}

function nextPerson() {
  // Without a panel the same link serves everybody: a second person may use this browser
  if (Object.keys(panel).length) return [];
  const next = make('button', {type: 'button', class: 'jspsych-btn plain', id: 'next-person'}, SAY.next_person);
  next.addEventListener('click', () => {
    shelf.forget();
    location.reload();
  });
  return [make('p', {}, next)];
}

function trouble(error) {
  console.warn(error);
  const reload = make('button', {type: 'button', class: 'jspsych-btn'}, SAY.reload);
  reload.addEventListener('click', () => location.reload());
  const known = {full: SAY.place_lost, panel: SAY.no_id}[error?.body?.error];
  closing(
    document.title,
    make('p', {}, known || (error?.status === 409 ? SAY.stale : SAY.trouble)),
    // only the researcher, who tries the link, can do something about ids that were not filled in
    ...(error?.body?.error === 'panel' ? error.body.problems || [] : []).map(text => make('p', {lang: 'en'}, text)),
    make('p', {}, reload),
  );
}

// --- reload, back, tabs, network

history.pushState({survey: true}, '');
addEventListener('popstate', () => {
  history.pushState({survey: true}, '');
  say(SAY.no_back);
});
addEventListener('online', () => wake());
addEventListener(
  'click',
  event => {
    // the second half of a double click
    if (event.detail > 1 && event.target.closest?.('.jspsych-btn')) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  },
  true,
);
$('retry').addEventListener('click', () => wake());
$('again').addEventListener('click', () => {
  shelf.forget();
  location.reload();
});
document.addEventListener('visibilitychange', () => clock.turn());
addEventListener('pagehide', () => {
  const draft = shelf.held.drafts?.[page?.step];
  if (draft && !draft.sent) {
    draft.seconds = clock.read();
    shelf.save();
  }
});
addEventListener('beforeunload', event => {
  if (Object.values(shelf.held.drafts || {}).some(d => d.sent)) event.preventDefault();
}); // an answer that is not stored yet

async function main() {
  const me = await enter();
  document.title = me.title || document.title;
  texts = me.texts || {};
  state = me.state;
  if (state === 'full' && !shelf.held.token) return ending(me);
  me.done?.forEach(step => done.add(step));
  const left = (me.steps || []).filter(step => !done.has(step));
  if (left.length) say('');
  if (state === 'active' && left.length) await jsPsych.run(left.map(node));
  if (state === 'expired') return location.reload();
  ending(await ask('POST', 'api/finish', {}));
}

main().catch(trouble);

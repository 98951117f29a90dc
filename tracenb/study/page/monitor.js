'use strict';
// The researcher's page: the numbers of `tracenb study status`, asked for again every ten seconds.

const SECONDS = 10;
const ROWS = {
  entered: 'entered',
  consented: 'consented',
  done: 'done',
  places_in_all: 'places in all',
  active: 'active now',
  left: 'left, place free again',
  screened_out: 'screened out',
  declined: 'did not consent',
  returned: 'returned to the panel',
  withdrawn: 'withdrew',
  excluded: 'excluded',
  simulated: 'simulated',
  median_minutes: 'median minutes of those done',
  pay_each: 'pay of each, at 9 an hour',
  pay_due: 'pay due, without the fee',
};
const $ = id => document.getElementById(id);
let timer = 0;

function row(name, value) {
  const tr = document.createElement('tr');
  const th = document.createElement('th');
  const td = document.createElement('td');
  th.scope = 'row';
  th.textContent = name;
  td.textContent = value ?? '-';
  tr.append(th, td);
  return tr;
}

function show(status) {
  $('name').textContent = status.name;
  $('counts').replaceChildren(...Object.entries(ROWS).map(([key, name]) => row(name, status[key])));
  $('places').replaceChildren(...Object.entries(status.places).map(([group, free]) => row(group, free)));
}

async function refresh() {
  clearTimeout(timer);
  const token = sessionStorage.getItem('tracenb-monitor');
  $('ask').hidden = Boolean(token);
  $('shown').hidden = !token;
  if (!token) return;
  try {
    const reply = await fetch('api/status', {cache: 'no-store', headers: {Authorization: `Bearer ${token}`}});
    const said = await reply.json();
    if (!reply.ok) throw Object.assign(new Error(said.message), {status: reply.status});
    show(said);
    $('said').textContent = `As of ${new Date().toLocaleTimeString()}, asked for again every ${SECONDS} seconds.`;
  } catch (e) {
    $('said').textContent = e.status ? e.message : 'The server cannot be reached; trying again.';
    if (e.status === 401 || e.status === 403) return forget();
  }
  timer = setTimeout(refresh, 1000 * SECONDS);
}

function forget() {
  sessionStorage.removeItem('tracenb-monitor');
  return refresh();
}

$('ask').addEventListener('submit', event => {
  event.preventDefault();
  sessionStorage.setItem('tracenb-monitor', $('token').value.trim());
  $('token').value = '';
  refresh();
});
$('forget').addEventListener('click', forget);
document.addEventListener('visibilitychange', () => (document.hidden ? clearTimeout(timer) : refresh()));
refresh();

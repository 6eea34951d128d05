// Keeps a page live, and gives it keys. Every page is complete without it.
import { morph, hold } from './morph.js'

const base = document.body.dataset.base ?? ''
const fragment = 'text/vnd.offstage.fragment'
const $ = (selector, root = document) => root.querySelector(selector)
const main = () => $('#main')
const store = {
  get(key) { try { return localStorage.getItem(key) } catch { return null } },
  set(key, value) { try { value === null ? localStorage.removeItem(key) : localStorage.setItem(key, value) } catch { /* then not */ } },
}
const parse = (html) => new DOMParser().parseFromString(html, 'text/html')

/* Times */

// Agrees with relative() of the server.
function relative(ms) {
  const ahead = ms < 0, d = Math.abs(ms) / 1000
  if (d < 1) return ahead ? 'now' : 'just now'
  const whole = (unit) => Math.floor(d / unit + .5)
  const two = (n, per, a, b) => n % per ? `${Math.floor(n / per)} ${a} ${n % per} ${b}` : `${n / per} ${a}`
  const text = whole(1) < 100 ? `${whole(1)} s` : whole(60) < 100 ? `${whole(60)} min` : whole(60) < 600 ? two(whole(60), 60, 'h', 'min')
    : whole(3600) < 48 ? `${whole(3600)} h` : whole(3600) < 240 ? two(whole(3600), 24, 'days', 'h')
      : whole(86400) < 1000 ? `${whole(86400)} days` : `${(d / 86400 / 365.25).toFixed(1)} years`
  return ahead ? `in ${text}` : `${text} ago`
}

const pad = (n) => String(n).padStart(2, '0')
const stamp = (t) => `${t.getFullYear()}-${pad(t.getMonth() + 1)}-${pad(t.getDate())} ${pad(t.getHours())}:${pad(t.getMinutes())}:${pad(t.getSeconds())}`

function times() {
  const now = Date.now()
  for (const el of document.querySelectorAll('time[data-time]')) {
    const t = new Date(el.dateTime)
    const kind = el.dataset.time
    const text = kind === 'at' ? stamp(t) : kind === 'age' ? relative(Math.max(now - t, 0)).replace('just now', '0 s').replace(' ago', '') : relative(now - t)
    if (el.textContent !== text) el.textContent = text
    if (!el.dataset.local) {
      el.dataset.local = '1'
      el.title = `${stamp(t)} here, ${el.title}`
    }
  }
}

/* What the page shows */

let pending = null // the page as it is, while selected rows hold it

function show(next, all = false) {
  const now = main()
  let left = 0
  if (!all) {
    const whole = next.cloneNode(true)
    for (const list of now.querySelectorAll('[data-rows]')) {
      if (!$('input[type="checkbox"]:checked', list)) continue
      const other = next.querySelector(`[data-rows="${CSS.escape(list.dataset.rows)}"]`)
      if (other) left += hold(list, other)
    }
    pending = left > 0 ? whole : null
  } else {
    pending = null
  }
  document.title = next.dataset.title ?? document.title
  const topic = now.dataset.live
  morph(now, next)
  pill(left)
  enhance()
  if (now.dataset.live !== topic) connect()
  document.dispatchEvent(new CustomEvent('offstage:update'))
}

function pill(n) {
  let el = $('#newer')
  if (n === 0) return el?.remove()
  if (!el) {
    el = Object.assign(document.createElement('button'), { id: 'newer', type: 'button', className: 'pill' })
    el.addEventListener('click', () => pending && show(pending, true))
    main().before(el)
  }
  el.textContent = `${n} newer`
}

/* Live */

let source = null, busy = false, again = false, waiting = 0, lostTimer = 0

const enabled = () => store.get('offstage-live') !== 'off'

function connect() {
  source?.close()
  source = null
  clearTimeout(waiting)
  const topic = main()?.dataset.live
  $('#live').hidden = !topic
  if (!topic || !enabled() || document.hidden) return
  source = new EventSource(`${base}/live/${topic}`)
  source.addEventListener('open', () => { clearTimeout(lostTimer); lostTimer = 0 })
  source.addEventListener('changed', refresh)
  source.addEventListener('gone', () => banner('The database does not answer. This page goes on when it is back.'))
  source.addEventListener('error', () => {
    if (source?.readyState === EventSource.CLOSED) { // it was answered, and not with a stream: find out why
      waiting = setTimeout(() => { refresh(); connect() }, 3000)
      refresh()
    } else if (!lostTimer) {
      lostTimer = setTimeout(() => { lostTimer = 0; lost() }, 1500)
    }
  })
}

async function refresh() {
  if (busy) { again = true; return }
  busy = true
  try {
    const answer = await fetch(location.href, { headers: { Accept: fragment }, cache: 'no-store' })
    if (expired(answer)) return
    if (answer.status >= 500) return banner('The server cannot make this page now. Trying again…', 'retry')
    const next = $('#main', parse(await answer.text()))
    if (next) {
      calm()
      show(next)
      const dot = $('.live-dot')
      dot?.classList.remove('beat')
      requestAnimationFrame(() => dot?.classList.add('beat'))
    }
  } catch {
    lost()
  } finally {
    busy = false
    if (again) { again = false; refresh() }
  }
}

function expired(answer) {
  if (answer.status !== 401 && !(answer.redirected && new URL(answer.url).pathname === `${base}/login`)) return false
  source?.close()
  banner('Your session has ended.', 'login')
  return true
}

const lost = () => banner('The connection is lost. Trying again…', 'retry')

function banner(text, what = '') {
  const el = $('#banner')
  $('.banner-text', el).textContent = text
  const link = $('.banner-link', el)
  link.hidden = what !== 'login'
  link.href = `${base}/login?next=${encodeURIComponent(location.pathname.slice(base.length) + location.search)}`
  $('.banner-retry', el).hidden = what !== 'retry'
  el.hidden = false
  $('#live').classList.add('lost')
}

function calm() {
  $('#banner').hidden = true
  $('#live').classList.remove('lost')
}

/* Forms that do something: what went wrong is said here, and what was typed stays. */

async function submit(form, button) {
  const body = new URLSearchParams(new FormData(form, button ?? undefined))
  const action = button?.hasAttribute('formaction') ? button.formAction : form.action
  button?.setAttribute('disabled', '')
  try {
    const answer = await fetch(action, { method: 'POST', body })
    if (expired(answer)) return
    const text = await answer.text()
    const page = parse(text)
    const fault = $('.fail', page)
    if (!answer.ok || fault) {
      let detail = ''
      try { detail = JSON.parse(text).detail } catch { /* it is a page */ }
      say(detail || fault ? detail || ['h1', 'h1 + p', '.fail-next'].map((s) => $(s, fault)?.textContent).filter(Boolean).join(' · ') : `The server answers ${answer.status}.`, true)
      return
    }
    const next = $('#main', page)
    form.reset()
    const kept = $('input[name="once"]', form) // this form may add something else now
    if (kept) kept.value = $('input[name="once"]', page)?.value ?? ''
    for (const open of document.querySelectorAll('dialog[open]')) open.close()
    if (new URL(answer.url).pathname !== location.pathname) {
      history.pushState(null, '', answer.url)
      main().replaceWith(next)
      document.title = page.title
      enhance()
      connect()
      scrollTo(0, 0)
    } else {
      if (answer.url !== location.href) history.replaceState(null, '', answer.url)
      show(next, true)
    }
    const word = $('#flash', page).children
    if (word.length > 0) $('#flash').replaceChildren(...word) // else a form that was sent at the same time has got it
  } catch {
    say('The server does not answer. Nothing is known to have changed; try again.', true)
  } finally {
    button?.removeAttribute('disabled')
  }
}

function say(text, bad = false) {
  const p = Object.assign(document.createElement('p'), { className: bad ? 'flash bad' : 'flash', textContent: text })
  $('#flash').replaceChildren(p)
  p.scrollIntoView({ block: 'nearest' })
}

document.addEventListener('submit', (event) => {
  const form = event.target
  if (event.defaultPrevented || form.method !== 'post' || 'native' in form.dataset) return
  event.preventDefault()
  const question = event.submitter?.dataset.confirm ?? form.dataset.confirm
  if (question && !confirm(question)) return
  submit(form, event.submitter)
})

/* Copy */

document.addEventListener('click', async (event) => {
  const button = event.target.closest?.('[data-copy]')
  if (!button) {
    for (const open of document.querySelectorAll('details.copy[open]')) if (!open.contains(event.target)) open.open = false
    return
  }
  let word = 'Copied'
  try {
    await navigator.clipboard.writeText(button.dataset.copy)
  } catch { // not over plain http, except on this machine
    const code = $('code', button.parentElement)
    if (code) getSelection().selectAllChildren(code)
    word = 'Selected'
  }
  const before = button.dataset.word ??= button.textContent
  button.textContent = word
  setTimeout(() => { button.textContent = before }, 1200)
})

/* Keys */

const go = { o: '', j: 'jobs', e: 'errors', t: 'tasks', q: 'queues', s: 'schedules', w: 'workers', a: 'audit' }
let gAt = 0

const typing = (el) => el?.matches?.('input:not([type="checkbox"], [type="radio"]), textarea, select, [contenteditable]')

function row(step) {
  const rows = [...main().querySelectorAll('tbody tr[data-key]')]
  if (rows.length === 0) return
  const here = rows.findIndex((r) => r.contains(document.activeElement))
  const next = rows[Math.min(rows.length - 1, Math.max(0, here < 0 ? 0 : here + step))]
  const target = $('a[href], button', next)
  target?.focus()
  next.scrollIntoView({ block: 'nearest' })
}

document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && typing(document.activeElement)) return document.activeElement.blur()
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || $('dialog[open]')) return
  const key = event.key
  if (Date.now() - gAt < 1500 && key in go) {
    gAt = 0
    event.preventDefault()
    location.href = `${base}/${go[key]}`
    return
  }
  gAt = key === 'g' ? Date.now() : 0
  switch (key) {
    case '/': { event.preventDefault(); const box = $('#search') ?? $('#find'); box?.focus(); box?.select(); break }
    case '?': event.preventDefault(); $('#keys').showModal(); break
    case 'j': row(1); break
    case 'k': row(-1); break
    case 'x': {
      const box = $('input[type="checkbox"]', document.activeElement?.closest('tr') ?? document.createElement('p'))
      box?.click()
      break
    }
    case 'l': toggleLive(); break
    case 'd': nextTheme(); break
  }
})

/* Switches */

function toggleLive() {
  store.set('offstage-live', enabled() ? 'off' : null)
  paintTools()
  connect()
}

function nextTheme() {
  const now = store.get('offstage-theme') ?? 'auto'
  const next = { auto: 'light', light: 'dark', dark: 'auto' }[now] ?? 'auto'
  store.set('offstage-theme', next === 'auto' ? null : next)
  if (next === 'auto') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = next
  paintTools()
}

function paintTools() {
  const live = $('#live')
  live.setAttribute('aria-pressed', String(enabled()))
  $('.live-word', live).textContent = enabled() ? 'Live' : 'Still'
  const theme = store.get('offstage-theme') ?? 'auto'
  $('.theme-word').textContent = theme[0].toUpperCase() + theme.slice(1)
}

function enhance() {
  times()
  // A box that chooses all rows of its table.
  for (const all of document.querySelectorAll('input[data-all]')) {
    if (all.dataset.ready) continue
    all.dataset.ready = '1'
    all.addEventListener('change', () => {
      for (const box of all.closest('table').querySelectorAll('tbody input[type="checkbox"]')) box.checked = all.checked
      document.dispatchEvent(new CustomEvent('offstage:select'))
    })
  }
}

// How many rows are chosen.
function chosen() {
  for (const el of document.querySelectorAll('[data-selected]')) {
    const n = el.closest('form').querySelectorAll('tbody input[type="checkbox"]:checked').length
    el.textContent = n > 0 ? `${n} selected` : ''
  }
}
for (const event of ['change', 'offstage:select', 'offstage:update']) document.addEventListener(event, chosen)
addEventListener('pageshow', chosen)

$('#live').addEventListener('click', toggleLive)
$('#theme').addEventListener('click', nextTheme)
$('#help').addEventListener('click', () => $('#keys').showModal())
$('.banner-retry').addEventListener('click', () => { refresh(); connect() })
document.addEventListener('visibilitychange', connect)
addEventListener('online', () => { refresh(); connect() })
addEventListener('pageshow', (event) => { if (event.persisted) { refresh(); connect() } })
addEventListener('popstate', () => location.reload())
addEventListener('pagehide', () => source?.close())
setInterval(times, 1000)
paintTools()
enhance()
for (const here of document.querySelectorAll('.top nav [aria-current], .tabs [aria-current]')) {
  const bar = here.closest('nav'), a = here.getBoundingClientRect(), b = bar.getBoundingClientRect()
  bar.scrollLeft += a.left + a.width / 2 - b.left - b.width / 2
}
connect()

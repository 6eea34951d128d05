// Makes one tree look like another without replacing what stays: so focus, selections, scroll positions, typed text, checked
// boxes and opened details outlive an update. Elements that are the same thing have the same data-key (or id).

const keyOf = (node) => node.nodeType === 1 ? node.getAttribute('data-key') || node.id || '' : ''

const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b)

/** Changes the element `from` to what `to` is. `to` is used up. */
export function morph(from, to) {
  const focused = document.activeElement
  let range = null
  if (focused && from.contains(focused)) {
    try { range = [focused.selectionStart, focused.selectionEnd, focused.selectionDirection] } catch { /* has none */ }
  }
  element(from, to)
  if (focused && focused !== document.activeElement && focused.isConnected && from.contains(focused)) {
    focused.focus({ preventScroll: true })
    if (range && range[0] !== null) try { focused.setSelectionRange(...range) } catch { /* has none */ }
  }
}

function element(from, to) {
  if (from.isEqualNode(to)) return
  if (from.hasAttribute('data-keep')) return // the module's own
  attributes(from, to)
  // What somebody has typed or chosen is a property; attributes and children are what it was at first.
  children(from, to)
}

function attributes(from, to) {
  const mine = from.nodeName === 'DETAILS' || from.nodeName === 'DIALOG' ? ['open'] : []
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && !mine.includes(name)) from.removeAttribute(name)
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value && !mine.includes(name)) from.setAttribute(name, value)
}

function children(from, to) {
  const keyed = new Map()
  for (const c of from.childNodes) if (keyOf(c)) keyed.set(keyOf(c), c)
  let at = from.firstChild // what stands before it is done
  for (const want of [...to.childNodes]) {
    const key = keyOf(want)
    let have = null
    if (key) {
      have = keyed.get(key) ?? null
      if (have && have.nodeName !== want.nodeName) have = null
      keyed.delete(key)
    } else {
      for (let c = at; c; c = c.nextSibling) if (alike(c, want)) { have = c; break }
    }
    if (!have) {
      from.insertBefore(want, at)
      continue
    }
    if (have === at) at = at.nextSibling
    else if (from.moveBefore) from.moveBefore(have, at)
    else from.insertBefore(have, at)
    if (have.nodeType === 1) element(have, want)
    else if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue
  }
  while (at) {
    const next = at.nextSibling
    at.remove()
    at = next
  }
}

/**
 * Lets the rows of a list stand still: `to` gets the rows of `from`, in their order, with what is new about each. Answers how
 * many rows were left out because `from` does not have them. Lists are elements with data-rows, rows have a data-key.
 */
export function hold(from, to) {
  const news = new Map([...to.children].map((row) => [keyOf(row), row]))
  const rows = [...from.children].map((row) => {
    const fresh = news.get(keyOf(row))
    news.delete(keyOf(row))
    return fresh ?? row.cloneNode(true)
  })
  to.replaceChildren(...rows)
  return news.size
}

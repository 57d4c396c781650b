"""The report on the committed runs in a browser (`make test-browser`).

Needs Debian's Chromium: `apt-get install chromium`. Screenshots are saved in
the folder $SCREENSHOTS, if it is set.
"""

import os
import pathlib
import re
import shutil

import pytest
from playwright.sync_api import sync_playwright

from alexnet_jax.report import __main__ as report
from alexnet_jax.report import claims, page

RESULTS = pathlib.Path(__file__).parent.parent / 'results'
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')

# Width and height in pixels, light or dark mode, and whether it is a phone.
VIEWS = {
  'desktop-light': (1200, 900, 'light', False),
  'desktop-dark': (1200, 900, 'dark', False),
  'phone-light': (390, 844, 'light', True),
  'phone-dark': (390, 844, 'dark', True),
}

# The contrast of each text to the nearest opaque background, by WCAG 2's
# relative luminance.
_CONTRASTS = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const luminance = c => {
    const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(
      v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !e.checkVisibility()) continue;
    if (['SCRIPT', 'STYLE'].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const ink = e.closest('svg') ? style.fill : style.color;
    if (ink === 'none') continue;
    const a = luminance(parse(ink)), b = luminance(ground(e));
    found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05),
                walk.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope='module')
def address(tmp_path_factory):
  out = tmp_path_factory.mktemp('report')
  report.main([str(RESULTS), f'--out={out}'])
  # The page must need no other file.
  alone = tmp_path_factory.mktemp('alone') / 'page.html'
  shutil.copyfile(out / 'index.html', alone)
  return alone.as_uri()


@pytest.fixture(scope='module')
def browser():
  assert CHROMIUM, 'no chromium on the PATH: apt-get install chromium'
  with sync_playwright() as playwright:
    # Chromium's sandbox refuses root, which is the user in containers.
    arguments = ['--no-sandbox'] if os.geteuid() == 0 else []
    yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture(params=VIEWS)
def view(request, browser, address):
  """The page in one of the views, its requests, and its errors."""
  width, height, scheme, is_mobile = VIEWS[request.param]
  context = browser.new_context(
    viewport={'width': width, 'height': height},
    color_scheme=scheme,
    is_mobile=is_mobile,
    has_touch=is_mobile,
    device_scale_factor=2 if is_mobile else 1,
  )
  opened = context.new_page()
  requests, errors = [], []
  opened.on('request', lambda request: requests.append(request.url))
  opened.on('console', lambda message: errors.append(message.text))
  opened.on('pageerror', lambda error: errors.append(str(error)))
  opened.goto(address)
  opened.wait_for_load_state('networkidle')
  yield request.param, opened, requests, errors
  context.close()


def test_the_page(view, address):
  name, opened, requests, errors = view
  # It fetches only the file itself.
  assert [u for u in requests if not u.startswith('data:')] == [address]
  assert errors == []

  # Every section has content, and a link at the top.
  for section, _ in page.SECTIONS:
    assert opened.locator(f'nav a[href="#{section}"]').count() == 1
    box = opened.locator(f'#{section}').bounding_box()
    assert box['height'] > 40
  # The first screen has the answered claims, with their verdicts.
  answered = opened.locator('#claims .answer')
  assert answered.count() >= 4
  box = answered.nth(1).bounding_box()
  assert box['y'] + box['height'] < VIEWS[name][1]
  for answer in answered.all():
    words = answer.locator('.verdict').inner_text()
    assert re.match('agrees|differs|cannot tell', words)
    # The interval and the published number are within the plot.
    plot = answer.locator('.plot').bounding_box()
    for mark in answer.locator('.plot i').all():
      at = mark.bounding_box()
      assert at['x'] >= plot['x'] - 8
      assert at['x'] + at['width'] <= plot['x'] + plot['width'] + 8
  assert not opened.locator('#claims table').first.is_visible()
  opened.evaluate(
    "document.querySelectorAll('details').forEach(d => d.open = true)"
  )
  rows = opened.locator('#claims tr:has(a)')
  # A claim has a row for each dataset and number of epochs that answers it.
  named = {row.locator('td').first.inner_text() for row in rows.all()}
  assert named == {claim.what.replace('`', '') for claim in claims.CLAIMS}
  for row in rows.all():
    # Each number has its runs and seeds; a claim without one has a command.
    if not re.search(r'seeds? \d', row.locator('td').last.inner_text()):
      link = row.locator('a')
      assert link.inner_text() == 'command'
      how = opened.locator(link.get_attribute('href'))
      assert how.is_visible()
      assert re.search(r'python -m|not possible here', how.inner_text())
  for cell in rows.locator('td').all_inner_texts():
    assert len(cell.split()) <= 14, 'a sentence in a table'
  # Each run has its seeds or members, and each finished one its command.
  runs = opened.locator('#runs tbody tr[id]')
  assert runs.count() > 3
  commands = opened.locator('#runs pre').all_text_contents()
  assert len(commands) == runs.count()
  for row, command in zip(runs.all(), commands, strict=True):
    cells = row.locator('td').all_inner_texts()
    assert re.match(r'\d|of \w', cells[5])
    if cells[6].strip() not in ('excluded', 'stopped'):
      assert 'python -m alexnet_jax.main --config=' in command
  for caption in opened.locator('#figure4 figcaption').all():
    assert 'python -m alexnet_jax.figures' in caption.inner_text()
  # Every link leads to a place in the page.
  dead = opened.evaluate(
    """() => [...document.querySelectorAll('a')]
      .map(a => a.getAttribute('href'))
      .filter(h => h[0] != '#' || !document.getElementById(h.slice(1)))"""
  )
  assert dead == []

  # Nothing is wider than the screen: a phone scrolls only down.
  width = VIEWS[name][0]
  assert opened.evaluate('document.documentElement.scrollWidth') <= width
  too_wide = opened.evaluate(
    """w => [...document.querySelectorAll('main *')].filter(
      e => !e.closest('pre, svg') && e.getBoundingClientRect().right > w + 1
    ).map(e => e.outerHTML.slice(0, 80))""",
    width,
  )
  assert too_wide == []

  # Charts have units on their axes, in letters large enough to read.
  charts = opened.locator('#curves svg')
  assert charts.count() >= 2
  for chart, unit in (
    (charts.first, '(%)'),
    (opened.locator('#curves details').last.locator('svg').first, '(nats)'),
  ):
    assert 'epoch' in chart.text_content()
    assert unit in chart.text_content()
  heights = opened.evaluate(
    """() => [...document.querySelectorAll('svg text')]
      .map(t => t.getBoundingClientRect()).filter(b => b.width > b.height)
      .map(b => b.height)"""
  )
  assert min(heights) >= 7
  for image in opened.locator('img').all():
    assert image.evaluate('i => i.complete && i.naturalWidth > 0')
    assert image.get_attribute('alt')

  # Dark mode is dark, and text has contrast in both.
  ground = opened.evaluate('getComputedStyle(document.body).backgroundColor')
  red = int(ground.split('(')[1].split(',')[0])
  assert (red < 60) == ('dark' in name)
  faint = [entry for entry in opened.evaluate(_CONTRASTS) if entry[0] < 4.5]
  assert faint == []

  # A config folds, and unfolds.
  last = opened.locator('#configs details').last
  last.locator('summary').click()
  assert not last.locator('pre').is_visible()
  last.locator('summary').click()
  assert 'seed = ' in last.locator('pre').inner_text()

  if folder := os.environ.get('SCREENSHOTS'):
    opened.reload()  # Folds what was opened above.
    opened.evaluate('scrollTo(0, 0)')
    opened.screenshot(path=f'{folder}/{name}.png')
    opened.screenshot(path=f'{folder}/{name}-full.png', full_page=True)
    for section, _ in page.SECTIONS:
      part = opened.locator(f'#{section}')
      part.screenshot(path=f'{folder}/{name}-{section}.png')

// Returns the faults of the current page; each list is empty if there are none.
(width => {
  const all = (selector, where = document.body) => [...where.querySelectorAll(selector)];
  const shown = element => element.checkVisibility();
  const begin = element => element.outerHTML.slice(0, 140);
  const isNamed = element => Boolean(
    element.ariaLabel || element.ariaLabelledByElements?.length || element.querySelector('title'));
  // Check closed details too.
  all('details').forEach(details => { details.open = true; });

  const mayScroll = element => ['auto', 'scroll'].includes(getComputedStyle(element).overflowX);
  const isInScroller = element => element && (mayScroll(element) || isInScroller(element.parentElement));
  const tooWide = all(':not(svg *)')
    .filter(shown)
    .filter(element => !isInScroller(element.parentElement))
    .filter(element => element.getBoundingClientRect().right > width + 0.5);
  const unreachable = all('*')
    .filter(element => mayScroll(element) && element.scrollWidth > element.clientWidth + 1)
    .filter(element => !all('a[href], button', element).length)
    .filter(element => element.getAttribute('tabindex') !== '0' || !isNamed(element));

  const figures = all('figure');
  const undescribed = [
    ...figures.filter(figure => !all('svg', figure).length || !all('tbody td', figure).length),
    ...all('svg').filter(svg => svg.role !== 'img' || !isNamed(svg)),
    ...all('svg:not(figure svg), img, canvas, video'),
  ];

  // axe checks the colors of HTML only, not of SVG.
  const luminance = colour => colour.match(/[\d.]+/g).slice(0, 3)
    .map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  const contrast = colour => colour === 'none' ? 0
    : (Math.max(luminance(colour), paper) + 0.05) / (Math.min(luminance(colour), paper) + 0.05);
  const fill = element => contrast(getComputedStyle(element).fill);
  const stroke = element => contrast(getComputedStyle(element).stroke);
  const pale = [
    ...all('svg text').filter(shown).filter(text => fill(text) < 4.5),
    ...all('svg use').filter(shown).filter(mark => Math.max(fill(mark), stroke(mark)) < 3),
  ];

  return {
    'page scrolls horizontally': document.documentElement.scrollWidth > width,
    'too wide': tooWide.map(begin),
    'not scrollable by keyboard': unreachable.map(begin),
    'plot without text alternative': undescribed.map(begin),
    'low contrast': pale.map(begin),
  };
})

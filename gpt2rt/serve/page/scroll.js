/** Scrolling: the page follows a text that grows, unless whoever reads it has scrolled up. */

const NEAR = 120; // pixels from the end that count as the end

/**
 * Change the page, and stay at its end if that is where it was.
 *
 * @param {() => void} change now or in the next frame
 */
export function keepAtEnd(change) {
  const page = document.documentElement;
  const isAtEnd = page.scrollHeight - page.clientHeight - scrollY < NEAR;
  change();
  if (isAtEnd) requestAnimationFrame(() => scrollTo(0, page.scrollHeight));
}

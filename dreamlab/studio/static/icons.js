// SPDX-License-Identifier: Apache-2.0
// Our own icons on a 16 px grid, drawn by strokes of the text's colour. `icon('play')` is an <svg> for h().

const PATHS = {
  create: 'M8 2v12M2 8h12',
  watch: 'M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8zM8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4z',
  queue: 'M2 4h12M2 8h12M2 12h7',
  gallery: 'M2 2.5h5v5H2zM9 2.5h5v5H9zM2 9.5h5v4H2zM9 9.5h5v4H9z',
  lab: 'M6 1.5h4M6.75 1.5v4.7L2.6 13a1 1 0 0 0 .9 1.5h9a1 1 0 0 0 .9-1.5L9.25 6.2V1.5M4.7 10h6.6',
  export: 'M8 10V2M5 4.8 8 2l3 2.8M2.5 9.5v4h11v-4',
  compare: 'M2 3h5v10H2zM9 3h5v10H9z',
  download: 'M8 2v8M5 7.2 8 10l3-2.8M2.5 11.5v2h11v-2',
  play: 'M4.5 2.5v11l9-5.5z',
  pause: 'M5 3v10M11 3v10',
  stop: 'M3.5 3.5h9v9h-9z',
  retry: 'M13 8a5 5 0 1 1-1.6-3.7M13 2v3h-3',
  branch: 'M4.5 5v6M4.5 5a1.75 1.75 0 1 0 0-3.5 1.75 1.75 0 0 0 0 3.5zM4.5 14.5a1.75 1.75 0 1 0 0-3.5 1.75 1.75 0 0 0 0 3.5zM11.5 6.5a1.75 1.75 0 1 0 0-3.5 1.75 1.75 0 0 0 0 3.5zM11.5 6.5c0 3-7 2-7 4.5',
  star: 'M8 1.8l1.9 4 4.3.5-3.2 3 .9 4.3L8 11.5l-3.9 2.1.9-4.3-3.2-3 4.3-.5z',
  trash: 'M2.5 4h11M6 4V2.5h4V4M4 4l.6 9.5h6.8L12 4',
  close: 'M3.5 3.5l9 9M12.5 3.5l-9 9',
  check: 'M2.5 8.5l3.5 3.5 7.5-8',
  warn: 'M8 2 1.5 13.5h13zM8 6.5v3.2M8 11.6v.2',
  info: 'M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM8 7.5V11M8 5v.2',
  search: 'M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10zM10.7 10.7 14 14',
  copy: 'M5.5 5.5h8v8h-8zM3.5 10.5h-1v-8h8v1',
  dice: 'M2.5 2.5h11v11h-11zM5.5 5.5v.1M10.5 5.5v.1M8 8v.1M5.5 10.5v.1M10.5 10.5v.1',
  sun: 'M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1.1 1.1M11.9 11.9 13 13M13 3l-1.1 1.1M4.1 11.9 3 13',
  moon: 'M13.5 9.5A6 6 0 0 1 6.5 2.5a6 6 0 1 0 7 7z',
  leave: 'M9.5 2.5h-5a1 1 0 0 0-1 1v9a1 1 0 0 0 1 1h5M7 8h7M11.5 5.5 14 8l-2.5 2.5',
  brush: 'M13.8 2.2 7.5 9M7.5 9c-1.6-.9-3.4.2-3.6 2-.1 1.2-.8 1.8-1.9 2 2.6 1.4 6 .6 6.3-2 .1-.8-.2-1.5-.8-2z',
  erase: 'M6.5 13.5 2 9l6.5-6.5L14 8l-5.5 5.5zM5.2 5.8l5.5 5.5M6 13.5h8',
  crop: 'M4.5 1v10.5H15M1 4.5h10.5V15',
  cube: 'M8 1.5 14 5v6.5L8 14.5 2 11.5V5zM2 5l6 3 6-3M8 8v6.5',
  image: 'M2 2.5h12v11H2zM2 11l3.5-3.5 3 3L11 8l3 3M5.5 6v.1',
  text: 'M3 4V2.5h10V4M8 2.5v11M6 13.5h4',
  upload: 'M8 10V2.5M5 5l3-2.7L11 5M2.5 10v3.5h11V10',
  more: 'M3 8v.1M8 8v.1M13 8v.1',
  down: 'M3.5 6 8 10.5 12.5 6',
  right: 'M6 3.5 10.5 8 6 12.5',
  up: 'M3.5 10 8 5.5l4.5 4.5',
  plus: 'M8 3v10M3 8h10',
  minus: 'M3 8h10',
  undo: 'M5.5 3 2.5 6l3 3M2.5 6H10a3.5 3.5 0 0 1 0 7H6',
  redo: 'M10.5 3l3 3-3 3M13.5 6H6a3.5 3.5 0 0 0 0 7h4',
  link: 'M6.5 9.5l3-3M5 7 3 9a2.8 2.8 0 0 0 4 4l2-2M11 9l2-2a2.8 2.8 0 0 0-4-4L7 5',
  expand: 'M9.5 2H14v4.5M6.5 14H2V9.5M14 2 9 7M2 14l5-5',
  wire: 'M8 1.5 14 5v6.5L8 14.5 2 11.5V5zM2 5l12 6.5M14 5 2 11.5M8 1.5v13',
  drag: 'M6 3.5v.1M10 3.5v.1M6 8v.1M10 8v.1M6 12.5v.1M10 12.5v.1',
  settings: 'M2 4.5h6M12 4.5h2M2 11.5h2M8 11.5h6M10 6.5a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM6 13.5a2 2 0 1 0 0-4 2 2 0 0 0 0 4z',
  clock: 'M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM8 4.5V8l2.5 1.5',
  log: 'M3 3.5h10M3 6.5h7M3 9.5h10M3 12.5h5',
  film: 'M2 3h12v10H2zM5 3v10M11 3v10M2 8h12',
};

const SVG = 'http://www.w3.org/2000/svg';

/** An icon by name; `size` in px. Decorative: the control that holds it has the label. */
export function icon(name, size = 16) {
  const svg = document.createElementNS(SVG, 'svg');
  const path = document.createElementNS(SVG, 'path');
  for (const [key, value] of Object.entries({ viewBox: '0 0 16 16', width: size, height: size })) {
    svg.setAttribute(key, value);
  }
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('class', 'dl-icon');
  path.setAttribute('d', PATHS[name] ?? PATHS.info);
  svg.append(path);
  return svg;
}

export const ICONS = Object.keys(PATHS);

// SPDX-License-Identifier: Apache-2.0
// In which lines two texts differ; no DOM, so that node can test it.

/** [{kind: ' ' | '-' | '+', text}], by the longest common run of lines. */
export function diffLines(before, after) {
  const a = before.split('\n');
  const b = after.split('\n');
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let [enda, endb] = [a.length, b.length];
  while (enda > start && endb > start && a[enda - 1] === b[endb - 1]) [enda, endb] = [enda - 1, endb - 1];
  const [rows, columns] = [enda - start, endb - start];
  const longest = Array.from({ length: rows + 1 }, () => new Uint32Array(columns + 1));
  for (let i = rows - 1; i >= 0; i -= 1) {
    for (let j = columns - 1; j >= 0; j -= 1) {
      longest[i][j] =
        a[start + i] === b[start + j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const found = a.slice(0, start).map((text) => ({ kind: ' ', text }));
  let [i, j] = [0, 0];
  while (i < rows || j < columns) {
    if (i < rows && j < columns && a[start + i] === b[start + j]) {
      found.push({ kind: ' ', text: a[start + i] });
      [i, j] = [i + 1, j + 1];
    } else if (j >= columns || (i < rows && longest[i + 1][j] >= longest[i][j + 1])) {
      found.push({ kind: '-', text: a[start + i] });
      i += 1;
    } else {
      found.push({ kind: '+', text: b[start + j] });
      j += 1;
    }
  }
  return [...found, ...a.slice(enda).map((text) => ({ kind: ' ', text }))];
}

/** Only what changed and `around` lines about it; a gap is {kind: '…', text: how many lines are left out}. */
export function hunks(lines, around = 2) {
  const near = lines.map(() => false);
  lines.forEach(({ kind }, at) => {
    if (kind === ' ') return;
    for (let i = Math.max(0, at - around); i <= Math.min(lines.length - 1, at + around); i += 1) near[i] = true;
  });
  const kept = [];
  let left = 0;
  lines.forEach((line, i) => {
    if (near[i]) {
      if (left > 0) kept.push({ kind: '…', text: String(left) });
      left = 0;
      kept.push(line);
    } else left += 1;
  });
  if (left > 0 && kept.length > 0) kept.push({ kind: '…', text: String(left) });
  return kept;
}

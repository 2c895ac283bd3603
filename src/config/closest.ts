/** The name that was probably meant, for “did you mean …?”. */

/** Edits (insert, delete, replace, swap of neighbours) from `a` to `b`: optimal string alignment distance. */
export function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  const at = (i: number, j: number): number => rows[i]?.[j] ?? Number.POSITIVE_INFINITY;
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    rows.push(row);
    for (let j = 1; j <= b.length; j++) {
      const replaced = at(i - 1, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      let least = Math.min(at(i - 1, j) + 1, (row[j - 1] ?? 0) + 1, replaced);
      if (a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) least = Math.min(least, at(i - 2, j - 2) + 1);
      row.push(least);
    }
  }
  return at(a.length, b.length);
}

const plain = (text: string): string => text.toLowerCase().replace(/[-_]/g, '');

/** The known name that needs the fewest edits, if they are few for its length; null otherwise. */
export function closest(name: string, known: readonly string[]): string | null {
  let best: string | null = null;
  let fewest = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const edits = editDistance(plain(name), plain(candidate));
    if (edits < fewest && edits <= Math.max(1, Math.floor(candidate.length / 3))) [best, fewest] = [candidate, edits];
  }
  return best;
}

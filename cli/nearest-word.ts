const MOST_EDITS = 2;

/** Which of `words` somebody may have meant who wrote `word`; undefined: none is near. */
export function nearest(word: string, words: string[]): string | undefined {
  const [best] = words
    .map((each) => ({ each, edits: editDistance(word, each) }))
    .filter(({ edits }) => edits <= MOST_EDITS && edits < word.length)
    .toSorted((a, b) => a.edits - b.edits);
  return best?.each;
}

/** How many letters must be added, removed or replaced to make `b` of `a` (Levenshtein). */
function editDistance(a: string, b: string): number {
  let above = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (const [i, letter] of [...a].entries()) {
    const row = [i + 1];
    for (let j = 0; j < b.length; j++) {
      const replaced = (above[j] as number) + (letter === b[j] ? 0 : 1);
      row.push(Math.min(replaced, (above[j + 1] as number) + 1, (row[j] as number) + 1));
    }
    above = row;
  }
  return above[b.length] as number;
}

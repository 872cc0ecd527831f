import type { Measured } from './mode.ts';

/** Two sides of a comparison that is about little: measured so close together that what disturbs one disturbs the other. */

export type Values = Record<string, number | undefined>;
type Pair<T> = readonly [T, T];

/** Measures A, B, B, A: what grows or shrinks meanwhile weighs on both alike. @returns each one's means. */
export async function inTurn<T>([a, b]: Pair<T>, measure: (side: T) => Promise<Values>): Promise<Pair<Values>> {
  const [firstA, firstB, secondB, secondA] = [await measure(a), await measure(b), await measure(b), await measure(a)];
  return [mean(firstA, secondA), mean(firstB, secondB)];
}

/** Two subjects of the bench whose rounds are measured together, when the first of them is asked for its own. */
export function paired(names: Pair<string>, round: () => Promise<Pair<Values>>): Measured[] {
  const rounds: Promise<Pair<Values>>[] = [];
  return ([0, 1] as const).map((side) => {
    let asked = 0;
    return {
      name: names[side],
      measure: async () => {
        const at = asked++;
        rounds[at] ??= round();
        return (await rounds[at])[side];
      },
      close: async () => {},
    };
  });
}

function mean(one: Values, other: Values): Values {
  const entries = Object.entries(one).map(([key, value]) => [
    key,
    ((value ?? Number.NaN) + (other[key] ?? Number.NaN)) / 2,
  ]);
  return Object.fromEntries(entries.filter(([, value]) => !Number.isNaN(value)));
}

import type { Json } from './kube.ts';

/** What the agent can't do without, where a container's limits give it less. */

/** Of memory, measured: bulk both ways and 200 connections; with 40Mi it ends. Of CPU: Node starts within seconds. */
const LEAST = { memory: '64Mi', cpu: '200m' } as const;

export type RaisedLimit = { resource: keyof typeof LEAST; was: string; now: string };

/** Those of a container's or pod's `limits` that are to be raised for the agent. */
export function raisedLimits(limits: Json): RaisedLimit[] {
  return (Object.keys(LEAST) as RaisedLimit['resource'][]).flatMap((resource) => {
    const was = limits?.[resource];
    const now = LEAST[resource];
    return was !== undefined && parseQuantity(`${was}`) < parseQuantity(now) ? [{ resource, was, now }] : [];
  });
}

const EXPONENTS: Record<string, number> = { n: -9, u: -6, m: -3, '': 0, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 };

/** A Kubernetes quantity as a number (apimachinery/pkg/api/resource/quantity.go); NaN when it is none. */
export function parseQuantity(text: string): number {
  const [, digits, binary, decimal, exponent] =
    /^([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE])i|([numkMGTPE]?)|[eE]([+-]?\d+))$/.exec(text) ?? [];
  if (digits === undefined) return Number.NaN;
  if (binary) return Number(digits) * 1024 ** ('KMGTPE'.indexOf(binary) + 1);
  return Number(digits) * 10 ** (exponent === undefined ? (EXPONENTS[decimal ?? ''] as number) : Number(exponent));
}
